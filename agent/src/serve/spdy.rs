//! Shell: a SPDY/3.1 connection, and exec or attach over it (kubectl up to 1.30, and whoever falls back).

mod frame;
mod headers;

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) use frame::Frame;
use frame::{Decoder, Encoder};

use super::remote::{CHUNKS, Input, Output, Remote, Wanted, Wire, pair, parse_resize};

/// Upstream's `streamCreationTimeout`.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// Peers open at most five streams for an exec, two for each forwarded connection.
const STREAMS_MAX: usize = 512;

/// Both directions of a connection; when `frames` ends, the peer is gone.
pub(crate) struct Connection {
    pub(crate) frames: mpsc::Receiver<Frame>,
    pub(crate) send: mpsc::Sender<Frame>,
}

impl Connection {
    /// Starts the tasks that read and write `io`; they end with the peer or with this value.
    pub(crate) fn start(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(io);
        let (deliver, frames) = mpsc::channel(CHUNKS);
        let (send, outgoing) = mpsc::channel(CHUNKS);
        tokio::spawn(write_frames(write, outgoing));
        tokio::spawn(read_frames(read, deliver, send.clone()));
        Self { frames, send }
    }

    pub(crate) async fn put(&self, frame: Frame) -> bool {
        self.send.send(frame).await.is_ok()
    }
}

async fn read_frames(mut read: impl AsyncRead + Unpin, deliver: mpsc::Sender<Frame>, send: mpsc::Sender<Frame>) {
    let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::with_capacity(8 * 1024));
    loop {
        match decoder.next(&mut buffer) {
            Ok(Some(Frame::Ping(number))) => drop(send.send(Frame::Ping(number)).await),
            Ok(Some(frame)) => {
                if deliver.send(frame).await.is_err() {
                    return;
                }
            }
            Ok(None) => match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(error) => return tracing::debug!(%error, "stream ended"),
        }
    }
}

async fn write_frames(mut write: impl AsyncWrite + Unpin, mut outgoing: mpsc::Receiver<Frame>) {
    let (mut encoder, mut buffer) = (Encoder::new(), BytesMut::new());
    while let Some(frame) = outgoing.recv().await {
        let last = frame == Frame::GoAway;
        encoder.put(&frame, &mut buffer);
        if write.write_all_buf(&mut buffer).await.is_err() {
            return;
        }
        if last {
            break;
        }
    }
    let _ = write.shutdown().await;
}

/// Serves an exec or attach; `start` gets the container's side once the client has opened its streams.
pub(crate) async fn exec(io: impl AsyncRead + AsyncWrite + Send + 'static, wanted: Wanted, start: impl FnOnce(Remote)) {
    let mut connection = Connection::start(io);
    let streams = timeout(STREAMS_TIMEOUT, open(&mut connection, wanted)).await;
    let Ok(Some(streams)) = streams else {
        return tracing::debug!("the client did not open its streams");
    };
    let (remote, wire) = pair();
    start(remote);
    pump(connection, &streams, wire).await;
}

/// Stream numbers by what they carry.
type Streams = HashMap<String, u32>;

async fn open(connection: &mut Connection, wanted: Wanted) -> Option<Streams> {
    let mut missing = vec!["error"];
    missing.extend(wanted.stdin.then_some("stdin"));
    missing.extend(wanted.stdout.then_some("stdout"));
    missing.extend((wanted.stderr && !wanted.tty).then_some("stderr"));
    missing.extend(wanted.tty.then_some("resize"));
    let mut streams = Streams::new();
    while !missing.is_empty() {
        let Frame::Open { stream, headers, .. } = connection.frames.recv().await? else { continue };
        let kind = headers.get("streamtype").unwrap_or_default().to_owned();
        missing.retain(|name| *name != kind);
        connection.put(Frame::Reply { stream }).await;
        if streams.len() >= STREAMS_MAX {
            return None;
        }
        streams.insert(kind, stream);
    }
    Some(streams)
}

/// Both directions at once: a process that is not read does not read either, so neither may wait for the other.
async fn pump(connection: Connection, streams: &Streams, wire: Wire) {
    let Connection { frames, send } = connection;
    tokio::select! {
        () = deliver(&send, streams, wire.output) => {}
        () = feed(frames, streams, wire.input) => {}
    }
}

/// Passes the client's frames on. The container hears of the client's end; its own end is for `deliver` to tell.
async fn feed(mut frames: mpsc::Receiver<Frame>, streams: &Streams, client: mpsc::Sender<Input>) {
    let (stdin, resize) = (streams.get("stdin").copied(), streams.get("resize").copied());
    while let Some(frame) = frames.recv().await {
        let messages = match frame {
            Frame::GoAway => break,
            Frame::Data { stream, bytes, fin } if Some(stream) == stdin => stdin_message(bytes, fin),
            Frame::Reset { stream, .. } if Some(stream) == stdin => vec![Input::StdinEnd],
            Frame::Data { stream, bytes, .. } if Some(stream) == resize => parse_resize(&bytes).into_iter().collect(),
            _ => continue,
        };
        for message in messages {
            let _ = client.send(message).await;
        }
    }
    drop(client);
    std::future::pending().await
}

async fn deliver(send: &mpsc::Sender<Frame>, streams: &Streams, mut output: mpsc::Receiver<Output>) {
    while let Some(output) = output.recv().await {
        match output {
            Output::Stdout(bytes) => data(send, streams.get("stdout"), bytes, false).await,
            Output::Stderr(bytes) => data(send, streams.get("stderr"), bytes, false).await,
            Output::Status(status) => return finish(send, streams, &status).await,
        }
    }
}

fn stdin_message(bytes: Bytes, fin: bool) -> Vec<Input> {
    let mut messages = Vec::new();
    if !bytes.is_empty() {
        messages.push(Input::Stdin(bytes));
    }
    if fin {
        messages.push(Input::StdinEnd);
    }
    messages
}

async fn data(send: &mpsc::Sender<Frame>, stream: Option<&u32>, bytes: Bytes, fin: bool) {
    if let Some(stream) = stream {
        let _ = send.send(Frame::Data { stream: *stream, bytes, fin }).await;
    }
}

async fn finish(send: &mpsc::Sender<Frame>, streams: &Streams, status: &Value) {
    for kind in ["stdout", "stderr"] {
        data(send, streams.get(kind), Bytes::new(), true).await;
    }
    data(send, streams.get("error"), Bytes::from(status.to_string()), true).await;
    let _ = send.send(Frame::GoAway).await;
    // The writer still owns what is queued; it ends once the queue is empty and this sender is gone.
}
