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

/// The task that drives a connection; it ends with the probe.
pub(super) struct Driver(pub(super) tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
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
    let _driver = Driver(tokio::spawn(async move {
        // How the connection ends is told to whoever waits for the answer.
        let _ = driver.await;
    }));
    sender.send_request(request).await.map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection with these bytes and closes it at once.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn an_answer_counts_even_if_the_connection_ends_with_it() {
        let limit = Duration::from_secs(5);
        let good = server("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        let bad = server("HTTP/1.0 503 No\r\n\r\n").await;
        for _ in 0..20 {
            assert_eq!(get(good, &HttpAction::default(), limit).await, Ok(()));
        }
        let error = get(bad, &HttpAction::default(), limit).await.unwrap_err();
        assert_eq!(error, "HTTP probe failed with statuscode: 503");
    }
}
