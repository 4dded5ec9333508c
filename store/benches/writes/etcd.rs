//! Debian's etcd, alone on loopback, over gRPC: one HTTP/2 connection, a stream a write.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{Figures, Load, Meter};

/// Stopped whatever happens.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> (Server, String) {
    // Both at once, so that they differ.
    let ports: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let urls: Vec<String> = ports.iter().map(|port| format!("http://{}", port.local_addr().unwrap())).collect();
    let address = ports[0].local_addr().unwrap().to_string();
    drop(ports);
    let server = Command::new("etcd")
        .arg("--data-dir")
        .arg(dir)
        .args(["--listen-client-urls", &urls[0], "--advertise-client-urls", &urls[0]])
        .args(["--listen-peer-urls", &urls[1], "--initial-advertise-peer-urls", &urls[1]])
        .args(["--initial-cluster", &format!("default={}", urls[1])])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's etcd is needed: apt-get install etcd-server");
    (Server(server), address)
}

/// A protobuf field of bytes.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut left = bytes.len();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend_from_slice(bytes);
}

async fn put(sender: &mut SendRequest<Full<Bytes>>, key: &str, value: &[u8]) -> Result<(), String> {
    let mut message = Vec::new();
    field(1, key.as_bytes(), &mut message);
    field(2, value, &mut message);
    let mut body = vec![0];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(&message);
    let request = Request::post("http://etcd/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.into()))
        .unwrap();
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let early = answer.headers().get("grpc-status").cloned();
    let answer = answer.into_body().collect().await.map_err(|error| error.to_string())?;
    let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()).or(early);
    if status.as_ref().is_some_and(|status| status == "0") { Ok(()) } else { Err(format!("{status:?}")) }
}

async fn connect(address: &str) -> SendRequest<Full<Bytes>> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(stream) = tokio::net::TcpStream::connect(address).await {
            stream.set_nodelay(true).unwrap();
            let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            if put(&mut sender, "ready", b"yes").await.is_ok() {
                return sender;
            }
        }
        assert!(Instant::now() < until, "etcd does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn run(dir: &Path, load: Load) -> Figures {
    let dir = dir.join("etcd");
    fs::create_dir_all(&dir).unwrap();
    let (server, address) = start(&dir);
    let sender = connect(&address).await;
    if load.filled {
        let mut fillers = tokio::task::JoinSet::new();
        for first in 0..load.clients {
            let mut sender = sender.clone();
            fillers.spawn(async move {
                for number in (first..load.keys).step_by(load.clients) {
                    put(&mut sender, &load.key(number), &load.value(number)).await.unwrap();
                }
            });
        }
        fillers.join_all().await;
    }
    let meter = Meter::start(server.0.id(), &dir);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..load.clients {
        let mut sender = sender.clone();
        clients.spawn(async move {
            let mut latencies = Vec::new();
            for index in 0..load.writes_per_client {
                let (key, value) = load.write(client, index);
                let start = Instant::now();
                put(&mut sender, &key, &value).await.unwrap();
                latencies.push(start.elapsed());
            }
            latencies
        });
    }
    let latencies = clients.join_all().await.concat();
    let figures = meter.figures(latencies, meter.answered());
    drop(server);
    fs::remove_dir_all(&dir).unwrap();
    figures
}
