//! Shell: what the demonstration's container runs: an HTTP server that says where it is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

/// More header bytes than any browser sends; a longer request is cut off.
const REQUEST_MAX_BYTES: u64 = 16 * 1024;
/// One client at a time is enough for a demonstration, if none can hold the line.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn hello(port: u16) -> anyhow::Result<ExitCode> {
    // The IPv6 wildcard takes IPv4 clients too; a kernel without IPv6 has only the other.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .with_context(|| format!("cannot listen on port {port}"))?;
    println!("hello listens on {port}");
    for client in listener.incoming() {
        if let Err(error) = client.and_then(answer) {
            println!("client: {error}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(mut client: TcpStream) -> std::io::Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut request = BufReader::new(client.try_clone()?.take(REQUEST_MAX_BYTES));
    let mut line = String::new();
    let mut first = String::new();
    while request.read_line(&mut line)? > 2 {
        if first.is_empty() {
            first.clone_from(&line);
        }
        line.clear();
    }
    let pod = rustix::system::uname().nodename().to_string_lossy().into_owned();
    println!("{} from {}", first.trim_end(), client.peer_addr()?);
    let body = format!("Hello from {pod}\n");
    write!(client, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n", body.len())?;
    write!(client, "Connection: close\r\n\r\n{body}")
}
