//! Shell: connections that this board opens for an API server that cannot reach it, such as through a NAT.
//!
//! ```text
//!  a wish on the Node -> TLS to that server, `Upgrade: bramble-tunnel` -> HTTP/2, where the server is the client
//!                                                                         CONNECT kubelet     -> serve, with its own TLS
//!                                                                         CONNECT pod address -> that pod
//!  no stream for some minutes -> closed
//! ```
//! Nothing is open, and nothing is sent, as long as nobody asks.
//!
//! **Architecture invariant:** a tunnel leads to this board's kubelet, which asks for certificates as ever, and to its own pods.

mod counted;
mod wish;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::link::{Connection, NoUpgrade};
use crate::serve::Server;
use counted::Counted;
use wish::{Wanted, Wish};

/// What is spoken on it.
const PROTOCOL: &str = "bramble-tunnel";
/// A tunnel without a stream is closed after this time: kubectl often comes again soon.
const IDLE: Duration = Duration::from_secs(300);
/// Streams at a time: one for each kubectl that looks into this board's pods.
const STREAMS_MAX: usize = 32;
/// Tunnels at a time: one for each API server that wants one, and such as are dead and do not know it yet.
const TUNNELS_MAX: usize = 8;
/// Bytes in flight towards the board, of a stream and of a tunnel (all streams', so that no stalled one stops others), and those of
/// a stream that wait to be sent: a tunnel full of stalled streams takes 3 MB.
const STREAM_WINDOW: u32 = 64 << 10;
const TUNNEL_WINDOW: u32 = STREAMS_MAX as u32 * STREAM_WINDOW;
const SEND_BYTES: usize = 32 << 10;
/// The largest head of a request.
const HEAD_BYTES: u32 = 4 << 10;
/// Finds out that the server has gone. Only while a tunnel is open.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(15);
/// How long a pod may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What tunnels are made of.
#[derive(Clone)]
pub struct Tunnels {
    /// Knows the servers, and has this board's certificate.
    pub connection: Arc<Connection>,
    /// Who answers.
    pub kubelet: Arc<Server>,
    /// How it shows who it is, and whom it believes.
    pub tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    /// This board's node.
    pub node_name: String,
}

impl Tunnels {
    /// Opens a tunnel for each new wish that the Node carries. Runs for ever.
    pub async fn run(self, mut node: watch::Receiver<Arc<Value>>) {
        let mut open = JoinSet::new();
        let mut last = None;
        loop {
            let wish = wish::of_node(&node.borrow_and_update());
            if let Some(wish) = wish.filter(|wish| last.as_ref() != Some(&wish.text)) {
                last = Some(wish.text.clone());
                while open.try_join_next().is_some() {}
                if open.len() < TUNNELS_MAX {
                    open.spawn(self.clone().open(wish));
                }
            }
            if node.changed().await.is_err() {
                return;
            }
        }
    }

    async fn open(self, wish: Wish) {
        let path = wish.path(&self.node_name);
        let mut last = "it is none of those in --server".to_owned();
        for server in wish.order(self.connection.servers()) {
            match self.connection.upgrade(&server, &path, PROTOCOL).await {
                Ok(stream) => {
                    info!(server = %server.authority(), "opened a connection for requests to this board");
                    self.serve(stream).await;
                    info!(server = %server.authority(), "the connection for requests to this board ended");
                    return;
                }
                // An old wish, whose request gave up long ago.
                Err(NoUpgrade::Refused(StatusCode::CONFLICT)) => return,
                Err(NoUpgrade::Refused(StatusCode::MISDIRECTED_REQUEST)) => {}
                Err(error) => last = format!("{}: {error}", server.authority()),
            }
        }
        warn!(controller = %wish.controller, error = last, "no connection to an API server that cannot reach this board");
    }

    /// Until one side ends it, or nobody has used it for a while.
    async fn serve(self, stream: Upgraded) {
        let streams = Arc::new(watch::Sender::new(0));
        let mut used = streams.subscribe();
        let service = service_fn(move |request| {
            let (tunnels, streams) = (self.clone(), Arc::clone(&streams));
            async move {
                let status = tunnels.answer(request, streams).await.err().unwrap_or(StatusCode::OK);
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_WITHIN);
        builder.max_concurrent_streams(u32::try_from(STREAMS_MAX).unwrap_or(u32::MAX));
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(TUNNEL_WINDOW);
        builder.max_send_buf_size(SEND_BYTES).max_header_list_size(HEAD_BYTES);
        let mut serving = std::pin::pin!(builder.serve_connection(stream, service));
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = idle(&mut used) => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "tunnel");
        }
    }

    /// Begins one stream; the error is its answer.
    async fn answer(
        self,
        mut request: Request<Incoming>,
        streams: Arc<watch::Sender<usize>>,
    ) -> Result<(), StatusCode> {
        if request.method() != Method::CONNECT {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
        let wanted = wish::wanted(authority).ok_or(StatusCode::BAD_REQUEST)?;
        let counted = Counted::one_more(streams, STREAMS_MAX).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        let upgrade = hyper::upgrade::on(&mut request);
        match wanted {
            Wanted::Kubelet => drop(tokio::spawn(self.kubelet(upgrade, counted))),
            Wanted::Pod(address) if !self.kubelet.has_pod_at(address.ip()) => return Err(StatusCode::FORBIDDEN),
            Wanted::Pod(address) => {
                let pod = timeout(CONNECT, TcpStream::connect(address)).await;
                let pod = pod.map_err(|_| StatusCode::GATEWAY_TIMEOUT)?.map_err(|_| StatusCode::BAD_GATEWAY)?;
                tokio::spawn(to_pod(pod, upgrade, counted));
            }
        }
        Ok(())
    }

    async fn kubelet(self, upgrade: OnUpgrade, counted: Counted) {
        if let Ok(stream) = upgrade.await {
            let stream = counted.with(TokioIo::new(stream));
            let tls = self.tls.borrow().clone();
            self.kubelet.serve(stream, TlsAcceptor::from(tls)).await;
        }
    }
}

async fn to_pod(mut pod: TcpStream, upgrade: OnUpgrade, counted: Counted) {
    if let Ok(stream) = upgrade.await {
        // Whoever ends it first says all that there is to say.
        let _ = tokio::io::copy_bidirectional(&mut counted.with(TokioIo::new(stream)), &mut pod).await;
    }
}

/// Returns when there has been no stream for a while.
async fn idle(streams: &mut watch::Receiver<usize>) {
    loop {
        if streams.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        if timeout(IDLE, streams.changed()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_idle_only_when_no_stream_was_there_for_a_while() {
        let streams = Arc::new(watch::Sender::new(0));
        let mut used = streams.subscribe();
        let counted = Counted::one_more(Arc::clone(&streams), 1).unwrap();
        assert!(timeout(IDLE * 3, idle(&mut used)).await.is_err(), "a stream that says nothing is a stream");
        drop(counted);
        let before = tokio::time::Instant::now();
        idle(&mut used).await;
        assert_eq!(before.elapsed(), IDLE);
    }
}
