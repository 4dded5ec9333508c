//! Shell: WebSocket as Kubernetes uses it (RFC 6455): channels in one byte (`channel.k8s.io` and its versions, in binary or
//! base64), or a tunnel of bytes (`SPDY/3.1+portforward.k8s.io`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fastwebsockets::{FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocket, WebSocketError, WebSocketWrite};
use http::{HeaderMap, header};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::remote::{CHUNKS, Input, Output, Remote, pair, parse_resize};

/// The protocols of exec and attach, best first.
pub(crate) const EXEC_PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// The protocols of port-forward, best first.
pub(crate) const FORWARD_PROTOCOLS: [&str; 3] = [TUNNEL_PROTOCOL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// kubectl's own way to forward ports.
pub(crate) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// `v5` only: the byte behind it names the channel that the client has closed.
const CLOSE: u8 = 255;

/// Clients send 32 KiB at a time.
const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// Bytes of a tunnel in flight, each way.
const TUNNEL_BYTES: usize = 64 * 1024;

/// Whether the request wants a WebSocket.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let is = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    is(header::CONNECTION, "upgrade") && is(header::UPGRADE, "websocket")
}

/// The first of `ours` that the client offers; empty when it offers none at all, which stands for the oldest.
pub(crate) fn choose<'a>(headers: &HeaderMap, ours: &[&'a str]) -> Option<&'a str> {
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Some("");
    }
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    ours.iter().copied().find(|protocol| offered.contains(protocol))
}

/// The answer to the client's key (RFC 6455 §4.2.2).
pub(crate) fn accept_key(headers: &HeaderMap) -> Option<String> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Some(STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes())))
}

/// How a protocol writes its channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// The channel is a digit and the bytes are base64, in text messages.
    base64: bool,
    /// The end is a whole `Status`; before `v4` it was the text of a failure, or nothing.
    status: bool,
}

impl Dialect {
    /// The dialect of a protocol.
    pub(crate) fn of(protocol: &str) -> Self {
        Self { base64: protocol.contains("base64"), status: protocol.starts_with('v') }
    }

    fn frame(self, channel: u8, bytes: &[u8]) -> Frame<'static> {
        if self.base64 {
            let message = format!("{channel}{}", STANDARD.encode(bytes));
            return Frame::text(Payload::Owned(message.into_bytes()));
        }
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        Frame::binary(Payload::Owned(message))
    }

    /// Channel and bytes of a message; what cannot be read is nothing.
    fn read(self, mut message: Bytes) -> Option<(u8, Bytes)> {
        if message.is_empty() {
            return None;
        }
        let channel = message.split_to(1)[0];
        if self.base64 {
            return Some((channel.checked_sub(b'0')?, STANDARD.decode(message).ok()?.into()));
        }
        Some((channel, message))
    }
}

type Reader<S> = FragmentCollectorRead<ReadHalf<S>>;
type Writer<S> = WebSocketWrite<WriteHalf<S>>;

fn split<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> (Reader<S>, Writer<S>) {
    let mut socket = WebSocket::after_handshake(io, Role::Server);
    // Answers to pings and closes go through the one writer, so the reader must not write.
    socket.set_auto_pong(false);
    socket.set_auto_close(false);
    socket.set_max_message_size(MESSAGE_MAX_BYTES);
    let (read, write) = socket.split(tokio::io::split);
    (FragmentCollectorRead::new(read), write)
}

/// What the reading half hears; pings have a way of their own, since the writing half answers them.
struct Heard {
    messages: mpsc::Receiver<Bytes>,
    pings: mpsc::Receiver<Bytes>,
    listening: tokio::task::JoinHandle<()>,
}

impl Heard {
    fn start<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(reader: Reader<S>) -> Self {
        let (deliver, messages) = mpsc::channel(CHUNKS);
        let (ping, pings) = mpsc::channel(1);
        Self { messages, pings, listening: tokio::spawn(listen(reader, deliver, ping)) }
    }
}

async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
    mut reader: Reader<S>,
    messages: mpsc::Sender<Bytes>,
    pings: mpsc::Sender<Bytes>,
) {
    loop {
        // Nothing is ever owed, since neither pongs nor closes are automatic.
        let frame = reader.read_frame(&mut |_| async { Ok::<_, WebSocketError>(()) }).await;
        let to = match &frame {
            Ok(frame) if matches!(frame.opcode, OpCode::Binary | OpCode::Text) => &messages,
            Ok(frame) if frame.opcode == OpCode::Ping => &pings,
            Ok(frame) if frame.opcode == OpCode::Pong => continue,
            Ok(_) | Err(_) => return,
        };
        let payload = frame.map(|frame| Bytes::copy_from_slice(&frame.payload)).unwrap_or_default();
        if to.send(payload).await.is_err() {
            return;
        }
    }
}

/// Serves an exec or attach; `start` gets the container's side.
pub(crate) async fn exec<S>(io: S, dialect: Dialect, stdout: bool, start: impl FnOnce(Remote))
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (reader, mut writer) = split(io);
    let Heard { messages, pings, listening } = Heard::start(reader);
    // An empty message tells the client that the connection stands, as upstream does it.
    if writer.write_frame(dialect.frame(if stdout { STDOUT } else { ERROR }, &[])).await.is_ok() {
        let (remote, wire) = pair();
        start(remote);
        // Both directions at once: a process that is not read does not read either, so neither may wait for the other.
        tokio::select! {
            () = deliver(&mut writer, dialect, wire.output, pings) => {}
            () = feed(messages, dialect, wire.input) => {}
        }
        let _ = writer.write_frame(Frame::close(1000, b"")).await;
        let _ = writer.flush().await;
    }
    listening.abort();
}

/// Passes the client's messages on. The container hears of the client's end; its own end is for `deliver` to tell.
async fn feed(mut messages: mpsc::Receiver<Bytes>, dialect: Dialect, client: mpsc::Sender<Input>) {
    while let Some(message) = messages.recv().await {
        if let Some(input) = dialect.read(message).and_then(input) {
            let _ = client.send(input).await;
        }
    }
    drop(client);
    std::future::pending().await
}

async fn deliver<S: AsyncRead + AsyncWrite + Unpin>(
    writer: &mut Writer<S>,
    dialect: Dialect,
    mut output: mpsc::Receiver<Output>,
    mut pings: mpsc::Receiver<Bytes>,
) {
    loop {
        let frame = tokio::select! {
            Some(bytes) = pings.recv() => Frame::pong(Payload::Owned(bytes.to_vec())),
            output = output.recv() => match output {
                Some(Output::Stdout(bytes)) => dialect.frame(STDOUT, &bytes),
                Some(Output::Stderr(bytes)) => dialect.frame(STDERR, &bytes),
                Some(Output::Status(status)) => {
                    if let Some(text) = ending(dialect, &status) {
                        let _ = writer.write_frame(dialect.frame(ERROR, text.as_bytes())).await;
                    }
                    return;
                }
                None => return,
            },
        };
        // A client that is gone is noticed by the reading half; what is still written for it is dropped.
        let _ = writer.write_frame(frame).await;
    }
}

/// What the error channel says at the end.
fn ending(dialect: Dialect, status: &Value) -> Option<String> {
    if dialect.status {
        return Some(status.to_string());
    }
    (status["status"] != "Success").then(|| status["message"].as_str().unwrap_or_default().to_owned())
}

fn input((channel, bytes): (u8, Bytes)) -> Option<Input> {
    match channel {
        STDIN if bytes.is_empty() => None,
        STDIN => Some(Input::Stdin(bytes)),
        RESIZE => parse_resize(&bytes),
        CLOSE if bytes.first() == Some(&STDIN) => Some(Input::StdinEnd),
        _ => None,
    }
}

/// A WebSocket as channels: what the client sends, and where to send to it. It closes when the sender is dropped.
pub(crate) struct Channels {
    /// Channel and bytes.
    pub(crate) received: mpsc::Receiver<(u8, Bytes)>,
    /// Channel and bytes.
    pub(crate) send: mpsc::Sender<(u8, Bytes)>,
}

impl Channels {
    /// Starts the task that reads and writes `io`; it ends with the client or with the last sender.
    pub(crate) fn start<S>(io: S, dialect: Dialect) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (deliver, received) = mpsc::channel(CHUNKS);
        let (send, outgoing) = mpsc::channel(CHUNKS);
        tokio::spawn(run_channels(io, dialect, deliver, outgoing));
        Self { received, send }
    }
}

async fn run_channels<S>(
    io: S,
    dialect: Dialect,
    client: mpsc::Sender<(u8, Bytes)>,
    mut outgoing: mpsc::Receiver<(u8, Bytes)>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (reader, mut writer) = split(io);
    let Heard { mut messages, mut pings, listening } = Heard::start(reader);
    let feed = async {
        while let Some(message) = messages.recv().await {
            if let Some(message) = dialect.read(message)
                && client.send(message).await.is_err()
            {
                return;
            }
        }
    };
    let deliver = async {
        loop {
            let frame = tokio::select! {
                Some(bytes) = pings.recv() => Frame::pong(Payload::Owned(bytes.to_vec())),
                message = outgoing.recv() => match message {
                    Some((channel, bytes)) => dialect.frame(channel, &bytes),
                    None => return,
                },
            };
            if writer.write_frame(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = feed => {}
        () = deliver => {}
    }
    let _ = writer.write_frame(Frame::close(1000, b"")).await;
    let _ = writer.flush().await;
    listening.abort();
}

/// A WebSocket whose binary messages are one stream of bytes.
pub(crate) fn tunnel<S>(io: S) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(TUNNEL_BYTES);
    tokio::spawn(carry(io, theirs));
    ours
}

async fn carry<S>(io: S, stream: DuplexStream)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (reader, mut writer) = split(io);
    let Heard { mut messages, mut pings, listening } = Heard::start(reader);
    let (mut from, mut to) = tokio::io::split(stream);
    let upload = async {
        while let Some(bytes) = messages.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let download = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let frame = tokio::select! {
                Some(bytes) = pings.recv() => Frame::pong(Payload::Owned(bytes.to_vec())),
                count = from.read(&mut buffer) => match count {
                    Ok(0) | Err(_) => return,
                    Ok(count) => Frame::binary(Payload::Borrowed(&buffer[..count])),
                },
            };
            if writer.write_frame(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = upload => {}
        () = download => {}
    }
    let _ = writer.write_frame(Frame::close(1000, b"")).await;
    let _ = writer.flush().await;
    listening.abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_answered_as_in_the_rfc() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        assert_eq!(accept_key(&headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io, v5.channel.k8s.io".parse().unwrap());
        assert_eq!(choose(&headers, &EXEC_PROTOCOLS), Some("v5.channel.k8s.io"));
        assert_eq!(choose(&headers, &[TUNNEL_PROTOCOL]), None);
    }

    #[test]
    fn messages_go_to_their_channel() {
        let of =
            |bytes: &'static [u8]| Dialect::of("v5.channel.k8s.io").read(Bytes::from_static(bytes)).and_then(input);
        assert_eq!(of(b"\x00abc"), Some(Input::Stdin(Bytes::from_static(b"abc"))));
        assert_eq!(of(b"\xff\x00"), Some(Input::StdinEnd));
        assert_eq!(of(b"\x04{\"Width\":2,\"Height\":3}"), Some(Input::Resize(2, 3)));
        assert_eq!(of(b"\x00"), None);
        assert_eq!(of(b""), None);
    }

    #[test]
    fn older_clients_read_their_own_dialect() {
        let old = Dialect::of("base64.channel.k8s.io");
        assert_eq!(old.read(Bytes::from_static(b"0YWJj")), Some((STDIN, Bytes::from_static(b"abc"))));
        let frame = old.frame(STDOUT, b"abc");
        assert!(matches!(frame.opcode, OpCode::Text) && &frame.payload[..] == b"1YWJj");
        let failure = serde_json::json!({"status": "Failure", "message": "so it is"});
        assert_eq!(ending(old, &failure).as_deref(), Some("so it is"));
        assert_eq!(ending(Dialect::of(""), &serde_json::json!({"status": "Success"})), None);
        assert!(ending(Dialect::of("v4.channel.k8s.io"), &failure).is_some_and(|text| text.starts_with('{')));
        assert_eq!(choose(&HeaderMap::new(), &EXEC_PROTOCOLS), Some(""));
    }
}
