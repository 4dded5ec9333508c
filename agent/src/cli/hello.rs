//! Shell: what the demonstration's container runs: an HTTP server that says where it is.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// More header bytes than any browser sends; a longer request is cut off.
const REQUEST_MAX_BYTES: u64 = 16 * 1024;
/// A client that dawdles is cut off.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn hello(port: u16) -> anyhow::Result<ExitCode> {
    super::admin::block_on(async {
        // The kernel ignores signals of the first process of a container, unless it asks for them.
        let mut terminate = signal(SignalKind::terminate())?;
        let listener = listen(port).await.with_context(|| format!("cannot listen on port {port}"))?;
        println!("hello listens on {port}");
        loop {
            tokio::select! {
                client = listener.accept() => {
                    let (client, _) = client?;
                    tokio::spawn(async move {
                        if let Ok(Err(error)) = timeout(CLIENT_TIMEOUT, answer(client)).await {
                            println!("client: {error}");
                        }
                    });
                }
                _ = terminate.recv() => {
                    println!("hello ends");
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    })
}

/// The IPv6 wildcard takes IPv4 clients too; a kernel without IPv6 has only the other.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

async fn answer(mut client: TcpStream) -> std::io::Result<()> {
    let peer = client.peer_addr()?;
    let (read, mut write) = client.split();
    let mut lines = BufReader::new(read.take(REQUEST_MAX_BYTES)).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let pod = rustix::system::uname().nodename().to_string_lossy().into_owned();
    println!("{first} from {peer}");
    let body = format!("Hello from {pod}\n");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n", body.len());
    write.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await
}
