//! Shell: an answer that goes on, told as messages of a WebSocket (RFC 6455): logs and watches for clients in browsers.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{Body, Request, body};
use crate::registry::status::{Answer, ApiError};

/// The protocols of streams of bytes; a client that names none gets the first one's messages.
const PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];
/// RFC 6455: what a control frame carries at most.
const CONTROL_BYTES_MAX: u64 = 125;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What one message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Messages {
    /// Bytes as they come, in the protocol that the client asks for.
    Bytes,
    /// One line, as text.
    Lines,
}

/// Turns an answer into messages if the client asked for a WebSocket; refusals and all other requests stay as they are.
pub(super) fn told(
    request: &Request,
    response: http::Response<Body>,
    messages: Messages,
) -> Answer<http::Response<Body>> {
    let headers = &request.headers;
    let wanted = headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let (Some(upgrade), true, true) = (request.upgrade.clone(), wanted, response.status().is_success()) else {
        return Ok(response);
    };
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let key = key.ok_or_else(|| ApiError::bad_request("Sec-WebSocket-Key is missing"))?;
    let protocol = match messages {
        Messages::Bytes => choose(headers)?,
        Messages::Lines => None,
    };
    let mut answer = http::Response::new(body::full(""));
    *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let accepted = HeaderValue::try_from(accept(key)).map_err(ApiError::internal)?;
    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accepted);
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let text = protocol == Some(PROTOCOLS[1]);
    tokio::spawn(async move {
        if let Ok(io) = upgrade.await {
            run(TokioIo::new(io), response.into_body(), messages, text).await;
        }
    });
    Ok(answer)
}

fn choose(headers: &HeaderMap) -> Answer<Option<&'static str>> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|value| value.split(',').map(str::trim)).collect();
    match PROTOCOLS.into_iter().find(|protocol| offered.contains(protocol)) {
        None if !offered.is_empty() => Err(ApiError::bad_request("unable to negotiate a WebSocket protocol")),
        found => Ok(found),
    }
}

/// The answer to the client's key (RFC 6455 §4.2.2).
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Until the body ends or the client goes.
async fn run(io: impl AsyncRead + AsyncWrite + Send + 'static, body: Body, messages: Messages, base64: bool) {
    let (read, write) = tokio::io::split(io);
    let (pong, pongs) = mpsc::channel(1);
    tokio::select! {
        _ = listen(read, pong) => {}
        _ = tell(write, body, pongs, (messages, base64)) => {}
    }
}

/// Hears pings and the end; what the client says otherwise is of no interest.
async fn listen(mut read: impl AsyncRead + Unpin, pong: mpsc::Sender<Vec<u8>>) -> std::io::Result<()> {
    loop {
        let opcode = read.read_u8().await? & 0x0f;
        let length = match read.read_u8().await? & 0x7f {
            126 => u64::from(read.read_u16().await?),
            127 => read.read_u64().await?,
            length => u64::from(length),
        };
        let mut mask = [0; 4];
        read.read_exact(&mut mask).await?;
        match opcode {
            CLOSE => return Ok(()),
            PING if length <= CONTROL_BYTES_MAX => {
                let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
                read.read_exact(&mut payload).await?;
                payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
                let _ = pong.send(payload).await;
            }
            _ => drop(tokio::io::copy(&mut (&mut read).take(length), &mut tokio::io::sink()).await?),
        }
    }
}

async fn tell(
    mut write: impl AsyncWrite + Unpin,
    mut body: Body,
    mut pongs: mpsc::Receiver<Vec<u8>>,
    (messages, base64): (Messages, bool),
) -> std::io::Result<()> {
    loop {
        tokio::select! {
            Some(payload) = pongs.recv() => write.write_all(&frame(PONG, &payload)).await?,
            piece = body.frame() => match piece {
                Some(Ok(piece)) => {
                    if let Ok(bytes) = piece.into_data() {
                        write.write_all(&written(&bytes, messages, base64)).await?;
                    }
                }
                Some(Err(_)) | None => break,
            },
        }
        write.flush().await?;
    }
    // 1000: a normal end.
    write.write_all(&frame(CLOSE, &1000_u16.to_be_bytes())).await?;
    write.shutdown().await
}

/// The frames of one piece of the body. A watch's piece is whole lines.
fn written(bytes: &Bytes, messages: Messages, base64: bool) -> Vec<u8> {
    match messages {
        Messages::Lines => {
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.flat_map(|line| frame(TEXT, line)).collect()
        }
        Messages::Bytes if base64 => frame(TEXT, BASE64_STANDARD.encode(bytes).as_bytes()),
        Messages::Bytes => frame(BINARY, bytes),
    }
}

/// A whole message in one frame; servers do not mask.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_three_lengths() {
        assert_eq!(frame(TEXT, b"ab"), [0x81, 2, b'a', b'b']);
        assert_eq!(frame(BINARY, &[0; 126])[..4], [0x82, 126, 0, 126]);
        assert_eq!(frame(BINARY, &[0; 65536])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        let lines = written(&Bytes::from_static(b"{}\n{1}\n"), Messages::Lines, false);
        assert_eq!(lines, [&[0x81, 2][..], b"{}", &[0x81, 3], b"{1}"].concat());
    }

    #[tokio::test]
    async fn a_ping_is_answered_and_the_end_is_told() {
        let (client, server) = tokio::io::duplex(1024);
        let serving = tokio::spawn(run(server, body::full("log"), Messages::Bytes, false));
        let (mut read, mut write) = tokio::io::split(client);
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [&[0x82, 3][..], b"log", &[0x88, 2, 3, 232]].concat());
        let _ = write.shutdown().await;
        serving.await.unwrap();

        let (pong, mut pongs) = mpsc::channel(1);
        let ping: &[u8] = &[0x89, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2, 0x88, 0x80, 0, 0, 0, 0];
        listen(ping, pong).await.unwrap();
        assert_eq!(pongs.recv().await.unwrap(), b"hi");
    }
}
