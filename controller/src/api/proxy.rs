//! Shell: `proxy` below pods, services and nodes: any HTTP request, carried to the pod's or node's own address.
//!
//! A page's links and redirects are led back through the proxy. A node's kubelet is reached as for logs, over mutual TLS.

mod location;
mod rewrite;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION, UPGRADE};
use http::{HeaderValue, Method};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::kubelet::{address_of, dial, hand_back};
use super::path::ResourcePath;
use super::tunnels::Stream;
use super::{Api, Body, Request, answer, body};
use crate::object::Object;
use crate::pki;
use crate::registry::Target;
use crate::registry::status::{Answer, ApiError};
use location::{Location, Named, named};
use rewrite::Behind;

/// How long a pod may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// The largest page whose links are rewritten: it is held whole in memory.
const PAGE_BYTES: usize = 4 << 20;
/// Tells a pod the path under which its client sees it.
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

impl Api {
    /// Carries a request on; the answer is the other side's.
    pub(super) async fn proxy(
        &self,
        request: &Request,
        body: Body,
        target: &Target,
        path: &ResourcePath,
    ) -> Answer<http::Response<Body>> {
        let (prefix, rest) = split(&request.path, path);
        let upgrades = request.headers.contains_key(UPGRADE);
        let query = request.query.raw();
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        if rest.is_empty() && !upgrades && matches!(request.method, Method::GET | Method::HEAD) {
            // Relative links of a page need the slash.
            return Ok(redirect(&format!("{prefix}/{query}")));
        }
        let onward = format!("{}{query}", if rest.is_empty() { "/" } else { rest });
        let asked = named(&target.kind.singular, &target.name)?;
        let location = match target.kind.plural.as_ref() {
            "nodes" => {
                let node = self.proxied(target, "nodes", asked.name).await?;
                let (host, kubelet) = address_of(&node)?;
                if asked.port.is_empty() || asked.port == kubelet.to_string() {
                    return self.carry(request, body, &node, &onward).await;
                }
                location::of_node(&asked, host)?
            }
            "pods" => location::of_pod(&asked, &self.proxied(target, "pods", asked.name).await?)?,
            _ => self.behind_service(&asked, target).await?,
        };
        let mut wanted = request.onward(&onward, if upgrades { body::full("") } else { body })?;
        wanted.headers_mut().remove(ACCEPT_ENCODING);
        if let Ok(uri) = HeaderValue::from_str(&format!("{prefix}{rest}")) {
            wanted.headers_mut().insert(FORWARDED_URI, uri);
        }
        let failed = |why: String| ApiError::unavailable(format!("error trying to reach service: {why}"));
        let stream = self.reach(&location).await.map_err(failed)?;
        let response = exchange(stream, &location, wanted)
            .await
            .map_err(|why| failed(format!("dial tcp {}:{}: {why}", location.host, location.port)))?;
        let upgrade = request.upgrade.clone().filter(|_| upgrades);
        let Location { host, port, .. } = &location;
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let behind = Behind { prefix, authority: &authority };
        lead_back(response, upgrade, &behind).await
    }

    /// A connection to where a request goes on: a pod's address also through its board's tunnel.
    async fn reach(&self, location: &Location) -> Result<Box<dyn Stream>, String> {
        let Location { host, port, node, .. } = location;
        if let (Some(kubelets), Ok(ip), Ok(node)) = (&self.kubelets, host.parse(), self.node(node).await) {
            return kubelets.reach(&self.registry, &node, SocketAddr::new(ip, *port)).await;
        }
        let failed = |why: String| format!("dial tcp {host}:{port}: {why}");
        Ok(Box::new(dial(host, *port, CONNECT).await.map_err(|(why, _)| failed(why))?))
    }

    async fn proxied(&self, target: &Target, plural: &str, name: &str) -> Answer<Object> {
        let kind = self.registry.kinds().find("", "v1", plural).cloned().ok_or_else(ApiError::no_such_path)?;
        let namespace = if kind.namespaced { target.namespace.clone() } else { String::new() };
        self.registry.object(&Target { kind, namespace, name: name.to_owned() }).await
    }

    /// A ready pod behind a service, any of them.
    async fn behind_service(&self, asked: &Named<'_>, target: &Target) -> Answer<Location> {
        let service = self.proxied(target, "services", asked.name).await?;
        let port = location::port_of_service(asked, &service)?;
        let endpoints = self.proxied(target, "endpoints", asked.name).await?;
        if endpoints.items(&["subsets"]).is_empty() {
            return Err(ApiError::unavailable(format!("no endpoints available for service {:?}", asked.name)));
        }
        let found = location::of_endpoints(asked, &port, &endpoints);
        let start = draw(found.len());
        for (location, reference) in found.iter().cycle().skip(start).take(found.len()) {
            let pod = self.proxied(target, "pods", reference["name"].as_str().unwrap_or_default()).await;
            if let Some(pod) = pod.ok().filter(|pod| location::is_of(location, reference, pod)) {
                return Ok(Location { node: pod.text(&["spec", "nodeName"]).to_owned(), ..location.clone() });
            }
        }
        Err(ApiError::unavailable(format!("no endpoints available for service {:?}", target.name)))
    }
}

/// The path up to the subresource, and what follows it as it came.
fn split<'a>(path: &'a str, below: &ResourcePath) -> (&'a str, &'a str) {
    let root = if below.group.is_empty() { 2 } else { 3 };
    let segments = root + 3 + if below.namespace.is_empty() { 0 } else { 2 };
    let end = path.match_indices('/').nth(segments).map_or(path.len(), |(at, _)| at);
    path.split_at(end)
}

fn draw(below: usize) -> usize {
    let mut byte = [0; 1];
    match SystemRandom::new().fill(&mut byte) {
        Ok(()) if below > 0 => usize::from(byte[0]) % below,
        _ => 0,
    }
}

fn redirect(to: &str) -> http::Response<Body> {
    let mut response = answer::response(301, "text/plain", "");
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// One request over a connection. Pods' certificates are their own affair: whoever wants TLS gets it unverified, as upstream's.
async fn exchange(
    stream: Box<dyn Stream>,
    location: &Location,
    request: http::Request<Body>,
) -> Result<http::Response<Incoming>, String> {
    if !location.tls {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(location.host.clone()).map_err(|error| error.to_string())?;
    let tls = pki::unverified_client().map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(|error| error.to_string())?;
    send(stream, request).await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Body>,
) -> Result<http::Response<Incoming>, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends with its one exchange: when the answer is read, or the tunnel closes.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// The answer, its links and redirects led through the proxy.
async fn lead_back(
    mut response: http::Response<Incoming>,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    behind: &Behind<'_>,
) -> Answer<http::Response<Body>> {
    if let Some(link) =
        response.headers().get(LOCATION).and_then(|link| link.to_str().ok()).map(|link| behind.link(link))
        && let Ok(link) = HeaderValue::try_from(link)
    {
        response.headers_mut().insert(LOCATION, link);
    }
    let text = |response: &http::Response<Incoming>, name: HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let length = text(&response, CONTENT_LENGTH).parse::<usize>().unwrap_or_default();
    if !text(&response, CONTENT_TYPE).starts_with("text/html") || length > PAGE_BYTES {
        return hand_back(response, upgrade);
    }
    let (parts, page) = response.into_parts();
    let page = Limited::new(page, PAGE_BYTES).collect().await;
    let page =
        page.map_err(|error| ApiError::unavailable(format!("error trying to reach service: {error}")))?.to_bytes();
    let page = match std::str::from_utf8(&page) {
        Ok(text) => behind.page(text).into(),
        Err(_) => page,
    };
    let mut response = http::Response::from_parts(parts, body::full(page.clone()));
    super::kubelet::drop_hop_headers(response.headers_mut());
    // A HEAD has a length and no page.
    if !page.is_empty() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(page.len()));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::super::path::{Route, parse};
    use super::*;

    #[test]
    fn what_follows_goes_on_as_it_came() {
        for (path, prefix, rest) in [
            ("/api/v1/namespaces/a/pods/web:80/proxy", "/api/v1/namespaces/a/pods/web:80/proxy", ""),
            ("/api/v1/namespaces/a/pods/web:80/proxy/", "/api/v1/namespaces/a/pods/web:80/proxy", "/"),
            ("/api/v1/nodes/pi/proxy/a%2Fb//c/", "/api/v1/nodes/pi/proxy", "/a%2Fb//c/"),
        ] {
            let Route::Resource(found) = parse(path) else { panic!("{path}") };
            assert_eq!(split(path, &found), (prefix, rest));
        }
    }
}
