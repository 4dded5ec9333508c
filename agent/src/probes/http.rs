//! Shell: an HTTP probe: one request on one connection, no redirects followed, no certificate checked (as upstream).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::run::errno;
use crate::pods::spec::HttpAction;

pub(super) async fn get(to: SocketAddr, action: &HttpAction, limit: Duration) -> Result<(), String> {
    let scheme = if action.scheme.eq_ignore_ascii_case("https") { "https" } else { "http" };
    let path = if action.path.starts_with('/') { action.path.clone() } else { format!("/{}", action.path) };
    let url = format!("{scheme}://{to}{path}");
    let answered = async {
        let tcp = TcpStream::connect(to)
            .await
            .map_err(|error| format!("Get \"{url}\": dial tcp {to}: connect: {}", errno(&error)))?;
        let failed = |error: &dyn std::fmt::Display| format!("Get \"{url}\": {error}");
        if scheme == "https" {
            let name = ServerName::IpAddress(to.ip().into());
            let connector = tokio_rustls::TlsConnector::from(Arc::new(crate::link::unverified_tls()));
            let tls = connector.connect(name, tcp).await.map_err(|error| failed(&error))?;
            send(tls, to, &path, action).await.map_err(|error| failed(&error))
        } else {
            send(tcp, to, &path, action).await.map_err(|error| failed(&error))
        }
    };
    match tokio::time::timeout(limit, answered).await {
        Ok(Ok(code)) if (200..400).contains(&code) => Ok(()),
        Ok(Ok(code)) => Err(format!("HTTP probe failed with statuscode: {code}")),
        Ok(Err(message)) => Err(message),
        Err(_) => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    to: SocketAddr,
    path: &str,
    action: &HttpAction,
) -> Result<u16, String> {
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut request = Request::builder().uri(path);
    let custom = |name: &str| action.http_headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if custom("host").is_none() {
        request = request.header("host", to.to_string());
    }
    if custom("user-agent").is_none() {
        request = request.header("user-agent", "kube-probe/1.35");
    }
    if custom("accept").is_none() {
        request = request.header("accept", "*/*");
    }
    request = request.header("connection", "close");
    for header in &action.http_headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    // The connection is driven here, so that it ends with the probe.
    tokio::select! {
        answer = sender.send_request(request) => {
            answer.map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
        }
        ended = driver => Err(ended.map_or_else(|error| error.to_string(), |()| "EOF".to_owned())),
    }
}
