//! Shell: logs, exec, attach, port-forward and a node's own paths: authorised here, then carried to the node's kubelet over
//! mutual TLS, through a tunnel where the node cannot be reached. Upgrades are a tunnel of raw bytes: the kubelet itself speaks WebSocket and SPDY.

mod location;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::tunnels::{Place, Stream, Tunnels, is_anothers};
use super::websocket::{self, Messages};
use super::{Api, Body, Request, answer, body};
use crate::kinds::Subresource;
use crate::object::Object;
use crate::registry::status::{Answer, ApiError};
use crate::registry::{Registry, Target};

/// How long a board may take to accept a connection before it is asked to open one itself. On a LAN it takes a millisecond.
const CONNECT: Duration = Duration::from_secs(2);
/// How long its TLS may take: a board may be busy, or somebody else may have its address.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// A board's kubelet, asked for through its tunnel.
const KUBELET: &str = "kubelet:10250";
/// How much of a kubelet's refusal is told.
const REFUSAL_BYTES: usize = 2048;
/// Headers that concern one connection only.
const HOP: [&str; 6] = ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "authorization"];

/// How kubelets are reached: our client certificate, their certificates by our authorities, as they are at the moment; straight,
/// or through a connection that the board opens.
#[derive(Clone)]
pub struct Kubelets {
    tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    tunnels: Tunnels,
}

impl Kubelets {
    /// With this client configuration; `advertised` is the address by which boards know this API server.
    pub fn new(tls: watch::Receiver<Arc<rustls::ClientConfig>>, advertised: SocketAddr) -> Self {
        Self { tls, tunnels: Tunnels::new(&advertised.to_string()) }
    }

    pub(super) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    async fn send(
        &self,
        registry: &Registry,
        node: &Object,
        request: http::Request<Body>,
    ) -> Answer<http::Response<Incoming>> {
        let (host, port) = location::of_node(node)?;
        let verb = if request.method() == http::Method::POST { "Post" } else { "Get" };
        let asked = format!("{verb} \"https://{host}:{port}{}\"", request.uri());
        let failed = |why: &dyn std::fmt::Display| ApiError::internal(format!("{asked}: {why}"));
        let unreached = |why: String| ApiError::unavailable(format!("{asked}: {why}"));
        let stream = self.connect(registry, node, &host, port).await.map_err(unreached)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // Ends with its one exchange: when the answer is read, or the tunnel closes.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| failed(&error))
    }

    /// A TLS connection to the board's kubelet.
    async fn connect(&self, registry: &Registry, node: &Object, host: &str, port: u16) -> Result<Secure, String> {
        let direct = async {
            // Whoever refuses, or shows another certificate, may be somebody else with that address.
            let stream = dial(host, port, CONNECT).await.map_err(|(why, _)| Failed::Unreached(why))?;
            self.secure(Box::new(stream), node, host).await.map_err(Failed::Unreached)
        };
        let through = async {
            let stream = self.tunnels.open(registry, node.name(), KUBELET).await?;
            self.secure(Box::new(stream), node, host).await
        };
        self.either(node, Place::Kubelet, (host, port), direct, through).await
    }

    /// A connection to a pod's own address, straight or through the tunnel of the board that the pod is on.
    pub(super) async fn reach(
        &self,
        registry: &Registry,
        node: &Object,
        to: SocketAddr,
    ) -> Result<Box<dyn Stream>, String> {
        let (host, authority) = (to.ip().to_string(), to.to_string());
        let direct = async {
            match dial(&host, to.port(), CONNECT).await {
                Ok(stream) => Ok::<Box<dyn Stream>, _>(Box::new(stream)),
                Err((why, std::io::ErrorKind::ConnectionRefused)) => Err(Failed::Refused(why)),
                Err((why, _)) => Err(Failed::Unreached(why)),
            }
        };
        let through = async {
            let stream = self.tunnels.open(registry, node.name(), &authority).await?;
            Ok::<Box<dyn Stream>, _>(Box::new(stream))
        };
        self.either(node, Place::Pods, (&host, to.port()), direct, through).await
    }

    /// The direct way, unless it is known to lead nowhere, and then the tunnel. The error names both.
    async fn either<T>(
        &self,
        node: &Object,
        place: Place,
        (host, port): (&str, u16),
        direct: impl Future<Output = Result<T, Failed>>,
        through: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let mut why = "not reachable a while ago".to_owned();
        let tries_direct = self.tunnels.tries_direct(node.name(), place);
        if tries_direct {
            match direct.await {
                Ok(stream) => return Ok(stream),
                Err(Failed::Refused(why)) => return Err(format!("dial tcp {host}:{port}: {why}")),
                Err(Failed::Unreached(error)) => why = error,
            }
            if location::is_lost(node) {
                return Err(format!("dial tcp {host}:{port}: {why}"));
            }
        }
        let found = through.await;
        match &found {
            Ok(_) if tries_direct => self.tunnels.unreached(node.name(), place),
            Ok(_) => {}
            Err(_) => self.tunnels.lost(node.name(), place),
        }
        found.map_err(|error| format!("dial tcp {host}:{port}: {why}; and by a connection of its own: {error}"))
    }

    /// TLS with the board's kubelet, and none other's.
    async fn secure(&self, stream: Box<dyn Stream>, node: &Object, host: &str) -> Result<Secure, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let tls = self.tls.borrow().clone();
        let stream = timeout(HANDSHAKE, TlsConnector::from(tls).connect(name, stream)).await;
        let stream = stream.map_err(|_| "TLS handshake timeout")?.map_err(|error| error.to_string())?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?));
        match shown.filter(|shown| is_anothers(shown, node.name())) {
            Some(shown) => Err(format!("{shown} answers there")),
            None => Ok(stream),
        }
    }
}

type Secure = TlsStream<Box<dyn Stream>>;

/// Why the direct way did not do.
enum Failed {
    /// Nobody is there, or somebody else.
    Unreached(String),
    /// Who was meant said no: no other way leads to another answer.
    Refused(String),
}

/// A plain connection; the error in the words of upstream's.
pub(super) async fn dial(host: &str, port: u16, within: Duration) -> Result<TcpStream, (String, std::io::ErrorKind)> {
    let connected = timeout(within, TcpStream::connect((host, port))).await;
    let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let connected = connected.and_then(|stream| {
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    connected.map_err(|error| match error.kind() {
        kind @ std::io::ErrorKind::TimedOut => ("i/o timeout".to_owned(), kind),
        kind @ std::io::ErrorKind::ConnectionRefused => ("connect: connection refused".to_owned(), kind),
        kind @ std::io::ErrorKind::HostUnreachable => ("connect: no route to host".to_owned(), kind),
        kind => (error.to_string(), kind),
    })
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    parsed.subject().iter_common_name().last()?.as_str().ok().map(str::to_owned)
}

impl Api {
    /// A pod's logs, processes and ports.
    pub(super) async fn at_kubelet(
        &self,
        request: &Request,
        body: Body,
        target: &Target,
        sub: Subresource,
    ) -> Answer<http::Response<Body>> {
        let pod = self.registry.object(target).await?;
        let values = |name: &str| request.query.all(name);
        let Some(path) = location::of_pod(&pod, sub, &values)? else {
            return websocket::told(request, answer::response(200, "text/plain", ""), Messages::Bytes);
        };
        let node = self.node(location::node_of(&pod)).await?;
        if sub != Subresource::Log {
            return self.carry(request, body, &node, &path).await;
        }
        let mut onward = http::Request::new(super::body::full(""));
        *onward.uri_mut() = path.parse().map_err(|_| ApiError::bad_request(format!("{path:?} is no path")))?;
        onward.headers_mut().insert(HOST, http::HeaderValue::from_static("kubelet"));
        let response = self.kubelets()?.send(&self.registry, &node, onward).await?;
        if response.status().is_success() {
            let response = answer::with_body(200, "text/plain", from_kubelet(response.into_body()));
            return websocket::told(request, response, Messages::Bytes);
        }
        let code = response.status().as_u16();
        let text = Limited::new(response.into_body(), REFUSAL_BYTES).collect().await;
        let text = text.map(|text| String::from_utf8_lossy(&text.to_bytes()).into_owned()).unwrap_or_default();
        Err(location::refused(&target.kind, &target.name, code, &text))
    }

    pub(super) async fn node(&self, name: &str) -> Answer<Object> {
        let kind = self.registry.kinds().find("", "v1", "nodes").cloned().ok_or_else(ApiError::no_such_path)?;
        self.registry.object(&Target { kind, namespace: String::new(), name: name.to_owned() }).await
    }

    pub(super) fn kubelets(&self) -> Answer<&Kubelets> {
        self.kubelets.as_ref().ok_or_else(|| ApiError::unavailable("no way to the nodes is configured"))
    }

    /// Carries a request to a kubelet and its answer back; after an upgrade, bytes both ways until one side ends.
    pub(super) async fn carry(
        &self,
        request: &Request,
        body: Body,
        node: &Object,
        path: &str,
    ) -> Answer<http::Response<Body>> {
        let upgrade = request.upgrade.clone().filter(|_| request.headers.contains_key(UPGRADE));
        let body = if upgrade.is_some() { body::full("") } else { body };
        let mut onward = request.onward(path, body)?;
        onward.headers_mut().insert(HOST, http::HeaderValue::from_static("kubelet"));
        hand_back(self.kubelets()?.send(&self.registry, node, onward).await?, upgrade)
    }
}

/// The answer of the other side as ours; after an upgrade, bytes both ways until one side ends.
pub(super) fn hand_back(
    mut response: http::Response<Incoming>,
    upgrade: Option<OnUpgrade>,
) -> Answer<http::Response<Body>> {
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = upgrade else {
            return Err(ApiError::internal("the other side switched protocols without being asked"));
        };
        tunnel(upgrade, hyper::upgrade::on(&mut response));
        return Ok(response.map(|_| body::full("")));
    }
    let (mut parts, body) = response.into_parts();
    drop_hop_headers(&mut parts.headers);
    Ok(http::Response::from_parts(parts, from_kubelet(body)))
}

/// Removes the headers that concern one connection only.
pub(super) fn drop_hop_headers(headers: &mut http::HeaderMap) {
    HOP.iter().for_each(|name| drop(headers.remove(*name)));
}

/// The address and port of a node's kubelet.
pub(super) fn address_of(node: &Object) -> Answer<(String, u16)> {
    location::of_node(node)
}

/// Copies bytes both ways. The task ends when either side closes.
fn tunnel(client: OnUpgrade, node: OnUpgrade) {
    tokio::spawn(async move {
        let (client, node): (Upgraded, Upgraded) = match tokio::try_join!(client, node) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "upgrade");
                return;
            }
        };
        let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node)).await;
        if let Err(error) = copied {
            tracing::debug!(%error, "tunnel ended");
        }
    });
}

fn from_kubelet(body: Incoming) -> Body {
    body.map_frame(|frame| frame.map_data(|data: Bytes| data)).map_err(std::io::Error::other).boxed_unsync()
}

impl Request {
    /// The same request for somebody behind us: no credentials of the client, its upgrade kept.
    pub(super) fn onward(&self, path: &str, body: Body) -> Answer<http::Request<Body>> {
        let mut onward = http::Request::new(body);
        *onward.method_mut() = self.method.clone();
        *onward.uri_mut() = path.parse().map_err(|_| ApiError::bad_request(format!("{path:?} is no path")))?;
        let upgrades = self.headers.contains_key(UPGRADE);
        for (name, value) in &self.headers {
            let own = HOP.contains(&name.as_str()) || name.as_str().starts_with("impersonate-");
            let bearer = name == HeaderName::from_static("sec-websocket-protocol");
            if bearer {
                onward.headers_mut().append(name.clone(), without_bearer(value));
            } else if !own || (upgrades && name == CONNECTION) {
                onward.headers_mut().append(name.clone(), value.clone());
            }
        }
        // Over HTTP/2 the host stands in the request's target only.
        if !onward.headers().contains_key(HOST) {
            onward.headers_mut().insert(HOST, http::HeaderValue::from_static("localhost"));
        }
        Ok(onward)
    }
}

/// WebSocket protocols without the one that carries a browser's token.
fn without_bearer(value: &http::HeaderValue) -> http::HeaderValue {
    let text = value.to_str().unwrap_or_default();
    let kept: Vec<&str> = text.split(',').map(str::trim).filter(|one| !one.starts_with("base64url.bearer.")).collect();
    http::HeaderValue::try_from(kept.join(", ")).unwrap_or_else(|_| http::HeaderValue::from_static(""))
}
