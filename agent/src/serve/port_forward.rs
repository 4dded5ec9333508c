//! Shell: port-forward: each client connection is a data and an error stream; bytes go to the pod's loopback.
//!
//! kubectl opens streams of SPDY, one pair a connection. Other clients have a WebSocket with one pair of channels a port.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rustix::thread::LinkNameSpaceType;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::remote::CHUNKS;
use super::spdy::{Connection, Frame};
use super::websocket::Channels;

/// Upstream waits as long for a dial into the pod.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Forwarded connections of one client at a time.
const REQUESTS_MAX: usize = 256;

/// The two streams of one forwarded connection.
#[derive(Default)]
struct Request {
    data: Option<u32>,
    error: Option<u32>,
    port: u16,
}

/// Serves one client until it goes. `netns` is the pod's; none for pods of the host's network.
pub(crate) async fn serve(io: impl AsyncRead + AsyncWrite + Send + 'static, netns: Option<PathBuf>) {
    let mut connection = Connection::start(io);
    let mut requests: HashMap<String, Request> = HashMap::new();
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    while let Some(frame) = connection.frames.recv().await {
        match frame {
            Frame::Open { stream, headers, .. } => {
                connection.put(Frame::Reply { stream }).await;
                let id = headers.get("requestid").unwrap_or_default().to_owned();
                if requests.len() >= REQUESTS_MAX && !requests.contains_key(&id) {
                    connection.put(Frame::Reset { stream, status: REFUSED }).await;
                    continue;
                }
                let request = requests.entry(id.clone()).or_default();
                request.port = headers.get("port").and_then(|port| port.parse().ok()).unwrap_or(0);
                match headers.get("streamtype") {
                    Some("data") => request.data = Some(stream),
                    _ => request.error = Some(stream),
                }
                if let Request { data: Some(data), error: Some(error), port } = *request {
                    requests.remove(&id);
                    let (send, bytes) = mpsc::channel(CHUNKS);
                    open.insert(data, send);
                    tokio::spawn(forward(data, error, port, netns.clone(), bytes, connection.send.clone()));
                }
            }
            Frame::Data { stream, bytes, fin } => {
                if let Some(pipe) = open.get(&stream)
                    && !bytes.is_empty()
                    && pipe.send(bytes).await.is_err()
                {
                    open.remove(&stream);
                }
                if fin {
                    open.remove(&stream);
                }
            }
            Frame::Reset { stream, .. } => drop(open.remove(&stream)),
            Frame::GoAway => return,
            _ => {}
        }
    }
}

/// `REFUSED_STREAM`.
const REFUSED: u32 = 3;

async fn forward(
    data: u32,
    error: u32,
    port: u16,
    netns: Option<PathBuf>,
    mut from_client: mpsc::Receiver<Bytes>,
    send: mpsc::Sender<Frame>,
) {
    let told = match dial(port, netns).await {
        Err(failure) => failure.to_string(),
        Ok(stream) => {
            let (mut read, mut write) = stream.into_split();
            let upload = async move {
                while let Some(bytes) = from_client.recv().await {
                    if write.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                let _ = write.shutdown().await;
            };
            let uploading = tokio::spawn(upload);
            let mut buffer = vec![0; 16 * 1024];
            loop {
                match read.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        let bytes = Bytes::copy_from_slice(&buffer[..count]);
                        if send.send(Frame::Data { stream: data, bytes, fin: false }).await.is_err() {
                            break;
                        }
                    }
                }
            }
            uploading.abort();
            String::new()
        }
    };
    let _ = send.send(Frame::Data { stream: error, bytes: Bytes::from(told), fin: true }).await;
    let _ = send.send(Frame::Data { stream: data, bytes: Bytes::new(), fin: true }).await;
}

/// Serves a WebSocket's channels: of port `n` the data are channel `2n`, the errors `2n + 1`; each begins with the port's
/// number, little end first. Every port is dialled once, at the start.
pub(crate) async fn serve_channels(channels: Channels, ports: &[u16], netns: Option<PathBuf>) {
    let Channels { mut received, send } = channels;
    let mut pipes = Vec::new();
    for (port, data) in ports.iter().zip((0_u8..=253).step_by(2)) {
        for channel in [data, data + 1] {
            let _ = send.send((channel, Bytes::copy_from_slice(&port.to_le_bytes()))).await;
        }
        let (pipe, bytes) = mpsc::channel(CHUNKS);
        pipes.push(pipe);
        tokio::spawn(forward_channel(data, *port, netns.clone(), bytes, send.clone()));
    }
    // The last port that ends closes the connection.
    drop(send);
    while let Some((channel, bytes)) = received.recv().await {
        if channel % 2 == 0
            && let Some(pipe) = pipes.get(usize::from(channel / 2))
        {
            let _ = pipe.send(bytes).await;
        }
    }
}

async fn forward_channel(
    data: u8,
    port: u16,
    netns: Option<PathBuf>,
    mut from_client: mpsc::Receiver<Bytes>,
    send: mpsc::Sender<(u8, Bytes)>,
) {
    let stream = match dial(port, netns).await {
        Ok(stream) => stream,
        Err(failure) => {
            let told = format!("error forwarding port {port} to pod: {failure}");
            let _ = send.send((data + 1, Bytes::from(told))).await;
            return;
        }
    };
    let (mut read, mut write) = stream.into_split();
    let uploading = tokio::spawn(async move {
        while let Some(bytes) = from_client.recv().await {
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = read.read(&mut buffer).await {
        if send.send((data, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
            break;
        }
    }
    uploading.abort();
}

/// A connection to the pod's loopback. The socket belongs to the namespace in which it is made, so only the thread that
/// makes it enters the pod.
async fn dial(port: u16, netns: Option<PathBuf>) -> std::io::Result<TcpStream> {
    let (answer, dialled) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("dial".into()).stack_size(128 * 1024).spawn(move || {
        let _ = answer.send(dial_blocking(port, netns.as_deref()));
    })?;
    let stream = dialled.await.map_err(std::io::Error::other)??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn dial_blocking(port: u16, netns: Option<&Path>) -> std::io::Result<StdStream> {
    if let Some(path) = netns {
        let namespace = std::fs::File::open(path)?;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )?;
    }
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    StdStream::connect_timeout(&v4, DIAL_TIMEOUT).or_else(|error| {
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        // The first error is the one that means something to people.
        StdStream::connect_timeout(&v6, DIAL_TIMEOUT).map_err(|_| error)
    })
}
