//! Shell: one signed request to an S3-compatible server and its answer, over TLS of our own roots.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Address;
use super::answer::text;
use super::signature::{Call, Credentials};
use crate::object::time::format;
use crate::serve::wall_clock;

/// A server that does not take a connection, or send the next bytes, in this time is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// From the request to its answer; in it one part of [`super::PART_BYTES`] goes up, be the line ever so slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// The largest answer that is read whole: a page of a list.
const ANSWER_MAX_BYTES: usize = 2 << 20;
/// A part is sent so often before the upload fails, with a growing pause.
const ATTEMPTS: u32 = 3;
/// Where Linux distributions keep the authorities that a machine trusts.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Why a bucket did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Something on this machine is missing or wrong.
    #[error("{0}")]
    Setup(String),
    /// A file here could not be read or written.
    #[error("{}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No connection, or it broke.
    #[error("cannot reach {host}")]
    Unreachable {
        /// `host[:port]`.
        host: String,
        /// What the system or TLS said.
        source: std::io::Error,
    },
    /// It is not who it should be, or speaks no TLS.
    #[error("{host} is not trusted (--snapshot-s3-ca FILE names who signed its certificate)")]
    Tls {
        /// `host[:port]`.
        host: String,
        /// What TLS said.
        source: std::io::Error,
    },
    /// The server said no.
    #[error("{host} refused {what}: {status}{}{reason}", if .reason.is_empty() { "" } else { ", " })]
    Refused {
        /// `host[:port]`.
        host: String,
        /// Method and key.
        what: String,
        /// HTTP status.
        status: StatusCode,
        /// The server's code and message, and what to do.
        reason: String,
    },
    /// The answer was not what S3's API promises.
    #[error("{host} answers {what} without {missing}: is it an S3-compatible server?")]
    Answer {
        /// `host[:port]`.
        host: String,
        /// Method and key.
        what: String,
        /// What was looked for.
        missing: &'static str,
    },
}

/// An open way to a bucket: keys and roots as they were when it was opened.
pub(super) struct Wire {
    pub(super) address: Address,
    region: String,
    who: Credentials,
    tls: Option<TlsConnector>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Wire({})", self.address)
    }
}

/// What to ask of a key; an empty key is the bucket itself.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) method: &'a Method,
    pub(super) key: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
}

/// An answer that was read whole.
pub(super) struct Answer {
    pub(super) tag: Option<String>,
    pub(super) text: String,
}

impl Wire {
    pub(super) fn open(
        address: Address,
        region: &str,
        credentials: &Path,
        ca: Option<&Path>,
    ) -> Result<Wire, BucketError> {
        let file = |source| BucketError::File { path: credentials.into(), source };
        let who = Credentials::parse(&std::fs::read_to_string(credentials).map_err(file)?).ok_or_else(|| {
            let path = credentials.display();
            BucketError::Setup(format!("{path} lacks aws_access_key_id or aws_secret_access_key in [default]"))
        })?;
        let tls = if address.secure { Some(TlsConnector::from(trust(ca)?)) } else { None };
        Ok(Wire { address, region: region.to_owned(), who, tls })
    }

    /// Sends it until there is an answer of the server's own, and reads that whole.
    pub(super) async fn ask(&self, ask: Ask<'_>, body: Bytes) -> Result<Answer, BucketError> {
        let mut attempt = 1;
        let response = loop {
            match self.send(ask, body.clone()).await {
                Err(BucketError::Unreachable { .. }) if attempt < ATTEMPTS => {}
                Err(BucketError::Refused { status, .. }) if status.is_server_error() && attempt < ATTEMPTS => {}
                other => break other?,
            }
            tokio::time::sleep(Duration::from_secs(1) * 2_u32.pow(attempt)).await;
            attempt += 1;
        };
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Ok(Answer { tag, text: self.text(response).await? })
    }

    /// Sends it once; what is no success is an error in the server's words.
    pub(super) async fn send(&self, ask: Ask<'_>, body: Bytes) -> Result<Response<Incoming>, BucketError> {
        let Address { authority, bucket, .. } = &self.address;
        let path = if ask.key.is_empty() { format!("/{bucket}") } else { format!("/{bucket}/{}", ask.key) };
        let call = Call { method: ask.method.as_str(), host: authority, path: &path, query: ask.query, body: &body };
        let seconds = i64::try_from(wall_clock().as_secs()).unwrap_or(i64::MAX);
        let time = format(seconds).replace(['-', ':'], "");
        let mut request = Request::builder().method(ask.method).uri(call.target());
        for (name, value) in call.sign(&self.who, &self.region, &time) {
            request = request.header(name, value);
        }
        let request = request.header(header::USER_AGENT, "bramble").body(Full::new(body));
        let request = request.map_err(|error| BucketError::Setup(error.to_string()))?;
        let mut sender = self.connect().await?;
        let response = timeout(ANSWER_TIMEOUT, sender.send_request(request)).await.map_err(|_| self.stalled())?;
        let response = response.map_err(|error| self.broken(std::io::Error::other(error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let reason = reason(&self.text(response).await.unwrap_or_default());
        Err(BucketError::Refused { host: authority.clone(), what: what(ask), status, reason })
    }

    /// What an answer lacks.
    pub(super) fn lacks(&self, ask: Ask<'_>, missing: &'static str) -> BucketError {
        BucketError::Answer { host: self.address.authority.clone(), what: what(ask), missing }
    }

    /// The next bytes of a body that is not read whole.
    pub(super) async fn next(&self, body: &mut Incoming) -> Result<Option<Bytes>, BucketError> {
        loop {
            let frame = timeout(CONNECT_TIMEOUT, body.frame()).await.map_err(|_| self.stalled())?;
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(bytes) = frame.map_err(|error| self.broken(std::io::Error::other(error)))?.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    async fn text(&self, response: Response<Incoming>) -> Result<String, BucketError> {
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect();
        let body = timeout(ANSWER_TIMEOUT, body).await.map_err(|_| self.stalled())?;
        let body = body.map_err(|error| self.broken(std::io::Error::other(error)))?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, BucketError> {
        let (host, port) = self.address.endpoint();
        let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await.map_err(|_| self.stalled())?;
        let tcp = tcp.map_err(|source| self.broken(source))?;
        let Some(tls) = &self.tls else { return self.handshake(tcp).await };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| BucketError::Setup(error.to_string()))?;
        let secure = timeout(CONNECT_TIMEOUT, tls.connect(name, tcp)).await.map_err(|_| self.stalled())?;
        let untrusted = |source| BucketError::Tls { host: self.address.authority.clone(), source };
        self.handshake(secure.map_err(untrusted)?).await
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, BucketError> {
        let broken = |error| self.broken(std::io::Error::other(error));
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the one request that it carries.
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(super) fn broken(&self, source: std::io::Error) -> BucketError {
        BucketError::Unreachable { host: self.address.authority.clone(), source }
    }

    fn stalled(&self) -> BucketError {
        self.broken(std::io::ErrorKind::TimedOut.into())
    }
}

fn what(ask: Ask<'_>) -> String {
    let key = if ask.key.is_empty() { "the bucket" } else { ask.key };
    format!("{} of {key}", ask.method)
}

/// The server's code and message, with a cure where there is one.
fn reason(xml: &str) -> String {
    let code = text(xml, "Code").unwrap_or_default();
    let message = text(xml, "Message").unwrap_or_default();
    let cure = match code.as_str() {
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => " (look at --snapshot-s3-credentials)",
        "AuthorizationHeaderMalformed" | "PermanentRedirect" => " (look at --snapshot-s3-region)",
        "NoSuchBucket" => " (make the bucket first)",
        "RequestTimeTooSkewed" => " (set this machine's clock)",
        _ => "",
    };
    let parts: Vec<&str> = [code.as_str(), message.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(": ") + cure
}

/// Whom we believe: this machine's authorities and the given one.
fn trust(ca: Option<&Path>) -> Result<Arc<ClientConfig>, BucketError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists()) {
        // Of hundreds, one that cannot be read is no reason to trust none.
        for certificate in CertificateDer::pem_file_iter(path).into_iter().flatten().flatten() {
            let _ = roots.add(certificate);
        }
    }
    if let Some(path) = ca {
        let bad = |why: String| BucketError::Setup(format!("--snapshot-s3-ca {}: {why}", path.display()));
        let all = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
        let before = roots.len();
        for certificate in all {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(bad("no certificate in it".into()));
        }
    }
    if roots.is_empty() {
        return Err(BucketError::Setup("no CA certificates on this machine: install ca-certificates".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BucketError::Setup(error.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let xml = "<Error><Code>NoSuchBucket</Code><Message>The bucket &amp; all</Message></Error>";
        assert_eq!(reason(xml), "NoSuchBucket: The bucket & all (make the bucket first)");
        assert_eq!(reason("<html>"), "");
    }

    #[test]
    fn what_is_missing_here_is_told_before_anything_is_sent() {
        let dir = std::env::temp_dir().join(format!("bramble-wire-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let address = || Address::parse("https://localhost/b").unwrap();
        let keys = dir.join("keys");
        let open = |ca: Option<&Path>| Wire::open(address(), "r", &keys, ca).map(|_| ()).unwrap_err().to_string();
        assert!(open(None).contains("keys"));
        std::fs::write(&keys, "aws_access_key_id = a").unwrap();
        assert!(open(None).contains("lacks aws_access_key_id or aws_secret_access_key"));
        std::fs::write(&keys, "aws_access_key_id = a\naws_secret_access_key = s").unwrap();
        assert!(open(Some(&keys)).contains("no certificate in it"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
