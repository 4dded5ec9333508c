//! Shell: `grpc.health.v1.Health/Check` over plain HTTP/2; the two messages have one field each.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::http::Driver;
use super::run::errno;

/// An answer is a few bytes.
const MAX_ANSWER_BYTES: usize = 4096;

pub(super) async fn check(to: SocketAddr, service: &str) -> Result<(), String> {
    let tcp = TcpStream::connect(to)
        .await
        .map_err(|error| format!("failed to connect service \"{to}\": connect: {}", errno(&error)))?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await;
    let (mut sender, driver) = handshake.map_err(|error| error.to_string())?;
    let request = Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.35")
        .body(Full::new(Bytes::from(encode(service))))
        .map_err(|error| error.to_string())?;
    let _driver = Driver(tokio::spawn(async move {
        // How the connection ends is told to whoever waits for the answer.
        let _ = driver.await;
    }));
    let (head, body) = sender.send_request(request).await.map_err(|error| error.to_string())?.into_parts();
    let collected = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| error.to_string())?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let code = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status")).cloned();
    let body = collected.to_bytes();
    match code.as_ref().and_then(|code| code.to_str().ok()) {
        Some("0") => {}
        Some("12") => {
            return Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()
            );
        }
        other => return Err(format!("error: health rpc failed: rpc error: code = {}", other.unwrap_or("unknown"))),
    }
    match status(&body) {
        Some(1) => Ok(()),
        Some(2) => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        Some(3) => Err("service unhealthy (responded with \"SERVICE_UNKNOWN\")".to_owned()),
        _ => Err("service unhealthy (responded with \"UNKNOWN\")".to_owned()),
    }
}

/// A gRPC frame around `HealthCheckRequest { string service = 1; }`.
fn encode(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend(message);
    frame
}

/// `HealthCheckResponse { ServingStatus status = 1; }` in a frame.
fn status(frame: &[u8]) -> Option<u8> {
    match frame.get(5..)? {
        [] => Some(0),
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_these_bytes() {
        assert_eq!(encode(""), [0, 0, 0, 0, 0]);
        assert_eq!(encode("db"), [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0]), None);
    }
}
