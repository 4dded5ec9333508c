//! Shell: one image's conversation with its registry (OCI distribution specification, "Pull").

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bramble_runtime::content::BLOB_MAX_BYTES;
use bramble_runtime::image::ImageError;
use bramble_runtime::pull::{Layer, MANIFEST_ACCEPT};
use bramble_runtime::reference::{Digest, Reference};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::challenge::{self, Challenge};
use super::mirrors::Endpoint;
use super::registries::Registries;
use super::stream::Feed;
use crate::pods::Credential;

/// A registry that does not answer in this time is unreachable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A transfer that stands still this long is taken up again from where it was.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Registries redirect blobs once, to their storage.
const REDIRECTS_MAX: usize = 5;
/// How often one layer is taken up again, with a growing pause, before the pull fails.
const RESUMES_MAX: u32 = 5;

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("failed to do request: {host}")]
    Unreachable { host: String, source: std::io::Error },
    #[error("failed to do request: {host} does not answer as a TLS server (--insecure-registry lists those without)")]
    Tls { host: String, source: std::io::Error },
    #[error("pull access denied, repository does not exist or may require authorization{0}")]
    Denied(String),
    #[error("{0}: not found")]
    NotFound(String),
    #[error("unexpected status from GET request to {url}: {status}")]
    Status { url: String, status: StatusCode },
    #[error("{0}")]
    Protocol(String),
    #[error(transparent)]
    Store(#[from] ImageError),
}

type Sender = SendRequest<Full<Bytes>>;

/// One conversation.
pub(super) struct Registry {
    registries: Arc<Registries>,
    endpoint: Endpoint,
    reference: Reference,
    credential: Option<Credential>,
    authorization: Option<String>,
    connections: HashMap<String, Sender>,
}

impl Registry {
    pub(super) fn new(
        registries: Arc<Registries>,
        endpoint: Endpoint,
        reference: Reference,
        credential: Option<Credential>,
    ) -> Self {
        Self { registries, endpoint, reference, credential, authorization: None, connections: HashMap::new() }
    }

    fn url(&self, rest: &str) -> Result<Uri, FetchError> {
        let text = self.endpoint.url(&self.reference.repository, rest);
        text.parse().map_err(|_| FetchError::Protocol(format!("{text} is no URL")))
    }

    pub(super) async fn manifest(&mut self, selector: &str) -> Result<Bytes, FetchError> {
        let url = self.url(&format!("manifests/{selector}"))?;
        let response = self.get(&url, Some(MANIFEST_ACCEPT), 0).await?;
        document(response).await
    }

    pub(super) async fn document(&mut self, digest: &Digest) -> Result<Bytes, FetchError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self.get(&url, None, 0).await?;
        document(response).await
    }

    /// Feeds a layer's bytes; after a break it goes on at the byte where it stopped.
    pub(super) async fn layer(&mut self, layer: &Layer, feed: Feed) -> Result<(), FetchError> {
        let url = self.url(&format!("blobs/{}", layer.digest))?;
        let (mut received, mut resumes) = (0, 0);
        let error = loop {
            match self.stretch(&url, layer, &feed, &mut received).await {
                Ok(()) => return Ok(()),
                Err(error @ (FetchError::Unreachable { .. } | FetchError::Status { .. })) if resumes < RESUMES_MAX => {
                    resumes += 1;
                    tracing::info!(%error, digest = %layer.digest, received, "layer is taken up again");
                    self.connections.clear();
                    tokio::time::sleep(Duration::from_millis(250) * 2_u32.pow(resumes)).await;
                }
                Err(error) => break error,
            }
        };
        feed.fail(error.to_string()).await;
        Err(error)
    }

    /// One uninterrupted part of a layer.
    async fn stretch(&mut self, url: &Uri, layer: &Layer, feed: &Feed, received: &mut u64) -> Result<(), FetchError> {
        let host = self.endpoint.host.clone();
        let response = self.get(url, None, *received).await?;
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *received };
        let mut body = response.into_body();
        while *received < layer.size {
            let frame = timeout(STALL_TIMEOUT, body.frame()).await.map_err(|_| stalled(&host))?;
            let Some(frame) = frame else { return Err(cut(&host)) };
            let frame = frame.map_err(|error| broken(&host, error))?;
            let Ok(mut chunk) = frame.into_data() else { continue };
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= passed as u64;
            chunk = chunk.slice(passed..);
            *received += chunk.len() as u64;
            if *received > layer.size {
                return Err(FetchError::Protocol(format!("{} is larger than its manifest says", layer.digest)));
            }
            if !chunk.is_empty() && !feed.send(chunk).await {
                // The unpacker gave up and tells why.
                return Ok(());
            }
        }
        Ok(())
    }

    async fn get(&mut self, url: &Uri, accept: Option<&str>, from: u64) -> Result<Response<Incoming>, FetchError> {
        let mut asked = false;
        loop {
            let response = self.follow(url, accept, from).await?;
            let status = response.status();
            match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if !asked => {
                    asked = true;
                    let challenge =
                        response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
                    let challenge = challenge.and_then(challenge::parse);
                    let challenge = challenge.ok_or_else(|| FetchError::Denied(String::new()))?;
                    self.authorize(challenge).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(FetchError::Denied(String::new())),
                StatusCode::NOT_FOUND => return Err(FetchError::NotFound(self.reference.to_string())),
                status => return Err(FetchError::Status { url: url.to_string(), status }),
            }
        }
    }

    /// Follows redirects; credentials stay with the registry's own host.
    async fn follow(&mut self, url: &Uri, accept: Option<&str>, from: u64) -> Result<Response<Incoming>, FetchError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::get(at.path_and_query().map_or("/", http::uri::PathAndQuery::as_str));
            if let Some(accept) = accept {
                request = request.header(header::ACCEPT, accept);
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = self.authorization.as_ref().filter(|_| at.authority() == url.authority()) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let response = self.send(&at, request, Bytes::new()).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            at = join(&at, location.unwrap_or_default())?;
            if url.scheme_str() == Some("https") && at.scheme_str() != Some("https") {
                return Err(FetchError::Protocol(format!("{url} redirects to a place without TLS")));
            }
        }
        Err(FetchError::Protocol(format!("{url} redirects in circles")))
    }

    async fn authorize(&mut self, challenge: Challenge) -> Result<(), FetchError> {
        let basic = self
            .credential
            .as_ref()
            .filter(|credential| !credential.username.is_empty())
            .map(|found| format!("Basic {}", STANDARD.encode(format!("{}:{}", found.username, found.password))));
        let (realm, service, scope) = match challenge {
            Challenge::Basic => {
                self.authorization =
                    Some(basic.ok_or_else(|| FetchError::Denied(": no basic auth credentials".into()))?);
                return Ok(());
            }
            Challenge::Bearer { realm, service, scope } => (realm, service, scope),
        };
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
        let query = challenge::query(service.as_deref(), &scope);
        let separator = if realm.contains('?') { '&' } else { '?' };
        let identity = self.credential.as_ref().map(|found| found.identity_token.clone()).filter(|t| !t.is_empty());
        let url: Uri = match &identity {
            Some(_) => realm.parse(),
            None => format!("{realm}{separator}{query}").parse(),
        }
        .map_err(|_| FetchError::Protocol(format!("the registry's token realm {realm:?} is no URL")))?;
        if url.scheme_str() != Some("https") && !self.endpoint.plain {
            return Err(FetchError::Protocol(format!("the registry's token realm {realm:?} is without TLS")));
        }
        let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let (request, body) = match (identity, basic) {
            (Some(token), _) => {
                let form = format!("grant_type=refresh_token&client_id=bramble&{query}&refresh_token={token}");
                let request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                (request, Bytes::from(form))
            }
            (None, Some(basic)) => (Request::get(path).header(header::AUTHORIZATION, basic), Bytes::new()),
            (None, None) => (Request::get(path), Bytes::new()),
        };
        let response = self.send(&url, request, body).await?;
        if !response.status().is_success() {
            return Err(FetchError::Denied(format!(": the token server answered {}", response.status())));
        }
        let answer: serde_json::Value = serde_json::from_slice(&document(response).await?)
            .map_err(|_| FetchError::Protocol("the token server's answer is no JSON".into()))?;
        let token = ["token", "access_token"].iter().find_map(|name| answer.get(name)?.as_str());
        let token = token.ok_or_else(|| FetchError::Protocol("the token server sent no token".into()))?;
        self.authorization = Some(format!("Bearer {token}"));
        Ok(())
    }

    async fn send(
        &mut self,
        url: &Uri,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, FetchError> {
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        let length = body.len();
        let mut request = request.header(header::HOST, &authority).header(header::USER_AGENT, "bramble");
        if request.method_ref() == Some(&Method::POST) {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let request = request.body(Full::new(body)).map_err(|error| FetchError::Protocol(error.to_string()))?;
        let kept = match self.connections.remove(&authority) {
            // A server may have closed it meanwhile.
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect(url, &authority).await?,
        };
        let response = timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        let response = response.map_err(|_| stalled(&authority))?.map_err(|error| broken(&authority, error))?;
        self.connections.insert(authority, sender);
        Ok(response)
    }

    async fn connect(&self, url: &Uri, authority: &str) -> Result<Sender, FetchError> {
        let unreachable = |source| FetchError::Unreachable { host: authority.to_owned(), source };
        let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = url.scheme_str() != Some("http");
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = timeout(ANSWER_TIMEOUT, TcpStream::connect((host.as_str(), port))).await;
        let tcp = tcp.map_err(|_| stalled(authority))?.map_err(unreachable)?;
        if !secure {
            return handshake(tcp, authority).await;
        }
        let name = ServerName::try_from(host).map_err(|error| FetchError::Protocol(error.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(self.registries.tls(authority)?);
        let tls = timeout(ANSWER_TIMEOUT, connector.connect(name, tcp)).await;
        let untrusted = |source| FetchError::Tls { host: authority.to_owned(), source };
        handshake(tls.map_err(|_| stalled(authority))?.map_err(untrusted)?, authority).await
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
) -> Result<Sender, FetchError> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(authority, error))?;
    tokio::spawn(connection);
    Ok(sender)
}

fn stalled(host: &str) -> FetchError {
    FetchError::Unreachable { host: host.to_owned(), source: std::io::ErrorKind::TimedOut.into() }
}

fn cut(host: &str) -> FetchError {
    FetchError::Unreachable { host: host.to_owned(), source: std::io::ErrorKind::UnexpectedEof.into() }
}

fn broken(host: &str, error: hyper::Error) -> FetchError {
    FetchError::Unreachable { host: host.to_owned(), source: std::io::Error::other(error) }
}

/// A manifest, configuration or token: bounded before it is read.
async fn document(response: Response<Incoming>) -> Result<Bytes, FetchError> {
    let limit = usize::try_from(BLOB_MAX_BYTES).unwrap_or(usize::MAX);
    let collected = timeout(STALL_TIMEOUT, Limited::new(response.into_body(), limit).collect()).await;
    let collected = collected.map_err(|_| stalled("a document"))?;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| FetchError::Protocol(error.to_string()))
}

/// A redirect's target, absolute or relative to where it came from.
fn join(base: &Uri, location: &str) -> Result<Uri, FetchError> {
    let absolute = if location.starts_with('/') {
        let (scheme, authority) = (base.scheme_str().unwrap_or("https"), base.authority());
        format!("{scheme}://{}{location}", authority.map(ToString::to_string).unwrap_or_default())
    } else {
        location.to_owned()
    };
    match absolute.parse::<Uri>() {
        Ok(uri) if uri.host().is_some() => Ok(uri),
        _ => Err(FetchError::Protocol(format!("{base} redirects to {location:?}"))),
    }
}
