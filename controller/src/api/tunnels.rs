//! Shell: connections that boards behind a NAT open, so that they can be asked all the same.
//!
//! ```text
//!  request -> dial the board: no way -> wish on the Node -> the board connects, `Upgrade: bramble-tunnel`
//!                                                             |
//!  request -- CONNECT kubelet | pod address, over h2 in it <--+   and TLS as over any other way
//! ```
//! A tunnel carries bytes and no trust: both ends show their certificates inside it as they would outside.
//!
//! **Architecture invariant:** a board opens tunnels to itself only, with its certificate, and loses them when it is shut out.

mod way;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};

use super::{Api, Body, Request, answer};
use crate::authn::PeerCertificate;
use crate::identity::Identity;
use crate::registry::status::{Answer, ApiError};
use crate::registry::{Call, Part, Patch, Registry, Target};
use way::Ways;

pub(super) use way::{Place, is_anothers};

/// Below this path a board asks for its tunnel.
pub(super) const PREFIX: &str = "/bramble/v1/tunnel/";
/// What is spoken on it.
const PROTOCOL: &str = "bramble-tunnel";
/// The annotation of a Node that says who wants a tunnel.
const WISH: &str = "bramble.dev/tunnel";

/// How long a request waits for a board to open its tunnel, and for the board's answer through it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keeps the NAT's memory of the connection, and finds out that the board has gone. Only while a tunnel is open.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WITHIN: Duration = Duration::from_secs(15);
/// Bytes in flight towards us, of a stream and of a tunnel: all streams that a board allows, so that no stalled one stops others.
const STREAM_WINDOW: u32 = 64 << 10;
const TUNNEL_WINDOW: u32 = 32 * STREAM_WINDOW;
/// Bytes of a stream that wait to be sent.
const SEND_BYTES: usize = 64 << 10;

/// A connection, whichever way it takes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Sender = SendRequest<Empty<Bytes>>;

/// The tunnels that boards hold open; clones share them.
#[derive(Clone)]
pub(super) struct Tunnels {
    /// This API server, as it stands in wishes.
    controller: Arc<str>,
    boards: Arc<Mutex<HashMap<String, Board>>>,
    /// Wakes who waits for one.
    opened: Arc<watch::Sender<()>>,
    /// Tells one from the next of the same board.
    count: Arc<AtomicU64>,
}

#[derive(Default)]
struct Board {
    ways: Ways,
    /// The tunnel and its number.
    tunnel: Option<(u64, Sender)>,
}

/// Somebody waits for a tunnel of a board, until this is dropped.
struct Waiting<'a>(&'a Tunnels, &'a str);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.change(self.1, |board| board.ways.waiting = board.ways.waiting.saturating_sub(1));
    }
}

impl Tunnels {
    /// None open yet; `controller` is the address that this API server advertises.
    pub(super) fn new(controller: &str) -> Self {
        Self { controller: controller.into(), boards: Arc::default(), opened: Arc::default(), count: Arc::default() }
    }

    fn boards(&self) -> MutexGuard<'_, HashMap<String, Board>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of a board; what is not worth knowing goes.
    fn change<T>(&self, node: &str, change: impl FnOnce(&mut Board) -> T) -> T {
        let mut boards = self.boards();
        let board = boards.entry(node.to_owned()).or_default();
        let changed = change(board);
        board.ways.open = board.tunnel.is_some();
        let now = Instant::now();
        boards.retain(|_, board| !board.ways.is_forgotten(now));
        changed
    }

    fn ways(&self, node: &str) -> Ways {
        self.boards().get(node).map(|board| board.ways).unwrap_or_default()
    }

    /// Whether a request dials the place itself first.
    pub(super) fn tries_direct(&self, node: &str, place: Place) -> bool {
        self.sender(node).is_none() && self.ways(node).tries_direct(place, Instant::now())
    }

    /// Remembers that the direct way led nowhere where the tunnel did.
    pub(super) fn unreached(&self, node: &str, place: Place) {
        self.change(node, |board| board.ways.failed[place as usize] = Some(Instant::now()));
    }

    /// No way led anywhere: the next request tries all of them, for the board may be back, or be one that opens no tunnels.
    pub(super) fn lost(&self, node: &str, place: Place) {
        self.change(node, |board| board.ways.failed[place as usize] = None);
    }

    fn sender(&self, node: &str) -> Option<(u64, Sender)> {
        let (number, sender) = self.boards().get(node)?.tunnel.clone()?;
        // One that has ended is known by its sender before its task has told.
        if sender.is_closed() {
            self.forget(node, number);
            return None;
        }
        Some((number, sender))
    }

    fn forget(&self, node: &str, number: u64) {
        self.change(node, |board| drop(board.tunnel.take_if(|(own, _)| *own == number)));
    }

    /// A stream to the board's kubelet, or to the address of a pod of its, through its tunnel; the board is asked for one where
    /// there is none. The error is for the user.
    pub(super) async fn open(&self, registry: &Registry, node: &str, to: &str) -> Result<TokioIo<Upgraded>, String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut opened = self.opened.subscribe();
            opened.borrow_and_update();
            let Some((number, sender)) = self.sender(node) else {
                let _waiting = self.wish(registry, node).await?;
                while self.sender(node).is_none() {
                    let waited = timeout_at(deadline, opened.changed()).await;
                    waited.map_err(|_| format!("the board opened no connection within {} s", PATIENCE.as_secs()))?.ok();
                }
                continue;
            };
            match timeout_at(deadline, connect(sender, to)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(Failure::Refused(why))) => return Err(why),
                // It had just been closed, or the board has gone.
                Ok(Err(Failure::Broken)) => self.forget(node, number),
                Err(_) => return Err(format!("the board did not answer within {} s", PATIENCE.as_secs())),
            }
        }
    }

    /// Asks a board for a tunnel, by its Node, which it watches: one small write for all who wait.
    async fn wish<'a>(&'a self, registry: &Registry, node: &'a str) -> Result<Waiting<'a>, String> {
        let first = self.change(node, |board| {
            board.ways.waiting += 1;
            board.ways.waiting == 1
        });
        let waiting = Waiting(self, node);
        if first {
            let kind = registry.kinds().find("", "v1", "nodes").cloned().ok_or("there is no kind Node")?;
            let target = Target { kind, namespace: String::new(), name: node.to_owned() };
            let identity = Identity::user("system:apiserver", &["system:masters"]);
            let mut call = Call { identity, field_manager: "bramble-tunnel".to_owned(), ..Call::default() };
            let wish = way::wish(&self.controller, &crate::serve::micro_time());
            let patch = Patch::Merge(json!({"metadata": {"annotations": {WISH: wish}}}));
            let wished = registry.patch(&mut call, &target, Part::Whole, &patch).await;
            wished.map_err(|error| format!("the board cannot be asked for a connection: {}", error.message))?;
        }
        Ok(waiting)
    }

    /// Takes a tunnel into use until it ends or the board is shut out.
    async fn serve(self, node: String, stream: Upgraded, shut_out: impl Future<Output = ()>) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_WITHIN);
        builder.keep_alive_while_idle(true).max_send_buf_size(SEND_BYTES);
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(TUNNEL_WINDOW);
        let Ok(Ok((sender, driver))) = timeout(PATIENCE, builder.handshake(stream)).await else { return };
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.change(&node, |board| board.tunnel = Some((number, sender)));
        self.opened.send_replace(());
        tracing::info!(node, "a board opened a connection to be asked through");
        let ended = tokio::select! {
            ended = driver => ended,
            () = shut_out => Ok(()),
        };
        tracing::info!(node, error = ended.err().map(tracing::field::display), "a board's connection ended");
        self.forget(&node, number);
    }
}

/// Why there is no stream through a tunnel.
enum Failure {
    /// The tunnel is no more.
    Broken,
    /// The board says no.
    Refused(String),
}

async fn connect(mut sender: Sender, to: &str) -> Result<TokioIo<Upgraded>, Failure> {
    let uri: http::Uri = to.parse().map_err(|error| Failure::Refused(format!("{to:?}: {error}")))?;
    let mut request = http::Request::new(Empty::new());
    *request.method_mut() = http::Method::CONNECT;
    *request.uri_mut() = uri;
    let mut response = sender.send_request(request).await.map_err(|_| Failure::Broken)?;
    let why = match response.status().as_u16() {
        200 => {
            let upgraded = hyper::upgrade::on(&mut response).await.map_err(|_| Failure::Broken)?;
            return Ok(TokioIo::new(upgraded));
        }
        403 => "address not allowed: no pod of that board has it",
        503 => "the board serves as many streams as it can; end some, and try again",
        504 => "i/o timeout",
        _ => "connect: connection refused",
    };
    Err(Failure::Refused(why.to_owned()))
}

impl Api {
    /// A board's request for its tunnel: `for=` names the API server that it means.
    pub(super) fn tunnel(&self, request: &Request, node: &str) -> Answer<http::Response<Body>> {
        let refused = |why: &str| Err(ApiError::new(403, "Forbidden", format!("a tunnel is for its own node: {why}")));
        if request.identity.node_name() != Some(node) {
            return refused("only the board itself, with its certificate, may open it");
        }
        let Some(peer) = request.peer.clone() else { return refused("it takes the board's certificate") };
        let kubelets = self.kubelets()?;
        let tunnels = kubelets.tunnels().clone();
        if request.query.text("for") != &*tunnels.controller {
            let message = format!("this is {}, and no other API server", tunnels.controller);
            return Err(ApiError::new(421, "MisdirectedRequest", message));
        }
        if !tunnels.ways(node).takes_tunnel() {
            return Err(ApiError::new(409, "Conflict", "nobody waits for this board"));
        }
        let asked = request.header(UPGRADE).eq_ignore_ascii_case(PROTOCOL);
        let Some(upgrade) = request.upgrade.clone().filter(|_| asked) else {
            return Err(ApiError::bad_request(format!("a tunnel is opened with Upgrade: {PROTOCOL}, over HTTP/1.1")));
        };
        let (node, authenticator) = (node.to_owned(), self.authenticator.clone());
        tokio::spawn(async move {
            match upgrade.await {
                Ok(stream) => tunnels.serve(node, stream, shut_out(authenticator, peer)).await,
                Err(error) => tracing::debug!(%error, "a tunnel did not come to be"),
            }
        });
        let mut response = answer::response(101, "text/plain", "");
        response.headers_mut().clear();
        response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(PROTOCOL));
        Ok(response)
    }
}

/// Returns when that board is not to be asked any more.
async fn shut_out(authenticator: Option<crate::authn::Authenticator>, peer: PeerCertificate) {
    match authenticator {
        Some(authenticator) => authenticator.shut_out(&peer).await,
        None => std::future::pending().await,
    }
}
