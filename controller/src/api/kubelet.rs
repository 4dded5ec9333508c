//! Shell: logs, exec, attach, port-forward and a node's own paths: authorised here, then carried to the node's kubelet over
//! mutual TLS. Upgrades are a tunnel of raw bytes: the kubelet itself speaks WebSocket and SPDY.

mod location;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::websocket::{self, Messages};
use super::{Api, Body, Request, answer, body};
use crate::kinds::Subresource;
use crate::object::Object;
use crate::registry::Target;
use crate::registry::status::{Answer, ApiError};

/// How long a kubelet may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How much of a kubelet's refusal is told.
const REFUSAL_BYTES: usize = 2048;
/// Headers that concern one connection only.
const HOP: [&str; 6] = ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "authorization"];

/// How kubelets are reached: our client certificate, their certificates by our authorities, as they are at the moment.
#[derive(Clone)]
pub struct Kubelets {
    tls: watch::Receiver<Arc<rustls::ClientConfig>>,
}

impl Kubelets {
    /// With this client configuration.
    pub fn new(tls: watch::Receiver<Arc<rustls::ClientConfig>>) -> Self {
        Self { tls }
    }

    async fn send(&self, node: &Object, request: http::Request<Body>) -> Answer<http::Response<Incoming>> {
        let (host, port) = location::of_node(node)?;
        let verb = if request.method() == http::Method::POST { "Post" } else { "Get" };
        let asked = format!("{verb} \"https://{host}:{port}{}\"", request.uri());
        let failed = |why: &dyn std::fmt::Display| ApiError::internal(format!("{asked}: {why}"));
        let unreached = |why: &str| failed(&format_args!("dial tcp {host}:{port}: {why}"));
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect((host.as_str(), port)));
        let stream = stream.await.map_err(|_| unreached("i/o timeout"))?.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => unreached("connect: connection refused"),
            std::io::ErrorKind::HostUnreachable => unreached("connect: no route to host"),
            _ => unreached(&error.to_string()),
        })?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
        let tls = self.tls.borrow().clone();
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // Ends with its one exchange: when the answer is read, or the tunnel closes.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| failed(&error))
    }
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
        let response = self.kubelets()?.send(&node, onward).await?;
        if response.status().is_success() {
            let response = answer::with_body(200, "text/plain", from_kubelet(response.into_body()));
            return websocket::told(request, response, Messages::Bytes);
        }
        let code = response.status().as_u16();
        let text = Limited::new(response.into_body(), REFUSAL_BYTES).collect().await;
        let text = text.map(|text| String::from_utf8_lossy(&text.to_bytes()).into_owned()).unwrap_or_default();
        Err(location::refused(&target.kind, &target.name, code, &text))
    }

    async fn node(&self, name: &str) -> Answer<Object> {
        let kind = self.registry.kinds().find("", "v1", "nodes").cloned().ok_or_else(ApiError::no_such_path)?;
        self.registry.object(&Target { kind, namespace: String::new(), name: name.to_owned() }).await
    }

    fn kubelets(&self) -> Answer<&Kubelets> {
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
        hand_back(self.kubelets()?.send(node, onward).await?, upgrade)
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
