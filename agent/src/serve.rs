//! Shell: the kubelet's own HTTP server on port 10250: logs, exec, attach, port-forward, what runs here.
//!
//! ```text
//! TLS with a client certificate -> route (pure) -> log | websocket, spdy -> session | port_forward
//! ```
//! **Architecture invariant:** nothing is served before the client's certificate is verified and its name is allowed.

mod log;
mod log_line;
mod port_forward;
mod remote;
mod route;
mod session;
mod spdy;
mod websocket;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bramble_runtime::{ExecConfig, Runtime, Session, Size};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::join::{Authorities, Kept};
use crate::link::Identity;
use crate::pods::time::parse_rfc3339;
use crate::pods::{ContainerInstance, InstanceState, LookupError, PodEntry, Table};
use log_line::Selection;
use remote::{Output, Remote, Wanted, failure_status};
use route::{LogQuery, Route, Target};
use websocket::{Channels, Dialect};

/// A client that does not finish its handshake or its headers in this time is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Each costs 24-29 kB; the API server and a few monitors are the only clients.
const CONNECTIONS_MAX: usize = 256;
/// Chunks of a log between file and client.
const LOG_CHUNKS: usize = 4;
/// The API server's client certificate carries this name.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// Administrators of the whole cluster may also ask a board directly.
const MASTERS: &str = "system:masters";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a connection is made of.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Everything that requests need.
pub struct Server {
    table: Table,
    runtime: Arc<Runtime>,
    now_ms: Box<dyn Fn() -> i64 + Send + Sync>,
}

/// The TLS configuration of the server: where the board's serving certificate comes from, and who signs the clients'.
///
/// # Errors
/// Words for the log: an unusable authority.
pub fn tls(
    certificate: watch::Receiver<Option<Kept>>,
    authorities: &[CertificateDer<'static>],
) -> Result<Arc<rustls::ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| format!("cluster CA: {error}"))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| format!("cluster CA: {error}"))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Newest(certificate)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The same, made anew whenever the authorities change. Must be called within a tokio runtime.
///
/// # Errors
/// As [`tls`].
pub fn follow_tls(
    certificate: watch::Receiver<Option<Kept>>,
    mut authorities: watch::Receiver<Authorities>,
) -> Result<watch::Receiver<Arc<rustls::ServerConfig>>, String> {
    let first = authorities.borrow_and_update().clone();
    let (current, follower) = watch::channel(tls(certificate.clone(), &first)?);
    tokio::spawn(async move {
        while authorities.changed().await.is_ok() {
            let of_today = authorities.borrow_and_update().clone();
            match tls(certificate.clone(), &of_today) {
                Ok(config) => _ = current.send_replace(config),
                Err(error) => tracing::error!(error, "clients of the cluster's new authorities are not let in"),
            }
        }
    });
    Ok(follower)
}

/// The newest serving certificate; a renewed one takes effect with the next handshake.
#[derive(Debug)]
struct Newest(watch::Receiver<Option<Kept>>);

impl ResolvesServerCert for Newest {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Identity::Certificate(chain, key) = self.0.borrow().as_ref()?.identity() else { return None };
        let key = any_supported_type(&key).ok()?;
        Some(Arc::new(CertifiedKey::new(chain, key)))
    }
}

impl Server {
    /// A server over what runs here; `now_ms` is the board's trusted time in unix milliseconds.
    pub fn new(table: Table, runtime: Arc<Runtime>, now_ms: impl Fn() -> i64 + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { table, runtime, now_ms: Box::new(now_ms) })
    }

    /// Serves until the task is dropped.
    pub async fn run(self: Arc<Self>, listener: TcpListener, tls: watch::Receiver<Arc<rustls::ServerConfig>>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Descriptors ran out, most likely: a pause lets others give some back.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(tls.borrow().clone());
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                let _slot = slot;
                server.serve(stream, acceptor).await;
            });
        }
    }

    /// Serves one connection, whichever way it came.
    pub(crate) async fn serve(self: Arc<Self>, stream: impl Stream, acceptor: TlsAcceptor) {
        let Ok(Ok(stream)) = timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await else { return };
        let allowed = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).is_some_and(allowed);
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request, allowed)) }
        });
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    }

    /// Whether a pod of this board has that address.
    pub(crate) fn has_pod_at(&self, address: IpAddr) -> bool {
        self.table.pods().iter().any(|pod| pod.ips.contains(&address))
    }

    fn answer(self: Arc<Self>, request: Request<Incoming>, allowed: bool) -> Response<Body> {
        if !allowed {
            return text(StatusCode::FORBIDDEN, "Forbidden: this certificate may not use the kubelet's API");
        }
        let route = match route::parse(request.uri().path(), request.uri().query()) {
            Ok(route) => route,
            Err(message) => return text(StatusCode::BAD_REQUEST, message),
        };
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        }
        match route {
            Route::Health => text(StatusCode::OK, "ok"),
            Route::Pods => self.pods(),
            Route::Summary => text(StatusCode::NOT_FOUND, "404 page not found"),
            Route::Unknown => text(StatusCode::NOT_FOUND, "404 page not found"),
            Route::Log(target, query) => self.log(&target, query),
            Route::Exec(target, wanted, command) => self.stream(request, target, wanted, Some(command)),
            Route::Attach(target, wanted) => self.stream(request, target, wanted, None),
            Route::PortForward(target, ports) => self.port_forward(request, &target, ports),
        }
    }

    /// The pod and the container's newest (or previous) run.
    fn instance(&self, target: &Target, previous: bool) -> Result<(Arc<PodEntry>, ContainerInstance), LookupError> {
        let pod = self.table.pod(&target.namespace, &target.pod, target.uid.as_deref())?;
        let instance = self.table.instance(&target.namespace, &target.pod, &target.container, previous)?;
        Ok((pod, instance))
    }

    fn pods(&self) -> Response<Body> {
        let items: Vec<_> = self.table.pods().iter().map(|pod| pod.whole()).collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        let mut response = text(StatusCode::OK, list.to_string());
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }

    fn log(self: Arc<Self>, target: &Target, query: LogQuery) -> Response<Body> {
        let instance = match self.instance(target, query.previous) {
            Ok((_, instance)) => instance,
            Err(error) => return lookup_failure(&error),
        };
        let since = match (&query.since_seconds, &query.since_time) {
            (Some(seconds), _) => Some((self.now_ms)() - i64::try_from(*seconds).unwrap_or(i64::MAX / 2000) * 1000),
            (None, Some(time)) => match parse_rfc3339(time) {
                Some(time) => Some(time),
                None => return text(StatusCode::BAD_REQUEST, format!("invalid sinceTime {time:?}")),
            },
            (None, None) => None,
        };
        let stream = match query.stream.as_deref() {
            Some("Stdout") => Some(&b"stdout"[..]),
            Some("Stderr") => Some(&b"stderr"[..]),
            _ => None,
        };
        let selection =
            Selection { since, timestamps: query.timestamps, limit: query.limit_bytes, stream, continued: false };
        let request = log::Request {
            path: instance.log_path.clone(),
            selection,
            tail_lines: query.tail_lines,
            follow: query.follow,
        };
        let (client, chunks) = mpsc::channel(LOG_CHUNKS);
        let ended = self.has_ended(target.clone(), instance);
        tokio::spawn(async move {
            if let Err(error) = log::send(request, ended, client.clone()).await {
                let _ = client.send(Bytes::from(format!("failed to open the log: {error}\n"))).await;
            }
        });
        let mut response = Response::new(streamed(chunks));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        response
    }

    /// Whether an instance will write no more: it is over, or another has taken its place.
    fn has_ended(self: Arc<Self>, target: Target, instance: ContainerInstance) -> impl Fn() -> bool + Send + 'static {
        move || {
            !self.instance(&target, false).is_ok_and(|(_, now)| {
                now.id == instance.id && matches!(now.state, InstanceState::Created | InstanceState::Running)
            })
        }
    }

    /// Exec (with a command) or attach.
    fn stream(
        self: Arc<Self>,
        request: Request<Incoming>,
        target: Target,
        wanted: Wanted,
        command: Option<Vec<String>>,
    ) -> Response<Body> {
        let (pod, instance) = match self.instance(&target, false) {
            Ok(found) => found,
            Err(error) => return lookup_failure(&error),
        };
        if instance.state != InstanceState::Running {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({:?})", target.container));
        }
        // An attach gets the terminal that the container was made with; its client opens the streams that it asked for.
        let tty = pod.container(&target.container).is_some_and(|container| container.tty);
        let asked = wanted;
        let wanted = if command.is_none() { Wanted { tty, stderr: wanted.stderr && !tty, ..wanted } } else { wanted };
        let attached = command.is_none();
        let start = move |remote: Remote| {
            let open = Arc::clone(&self);
            tokio::spawn(async move {
                let opened = tokio::task::spawn_blocking(move || open.open(&instance.id, wanted, command)).await;
                match opened {
                    Ok(Ok(opened)) => session::run(opened, remote, attached).await,
                    Ok(Err(error)) => drop(remote.output.send(Output::Status(failure_status(&error))).await),
                    Err(_) => {}
                }
            });
        };
        upgrade(request, asked, start)
    }

    fn open(&self, id: &str, wanted: Wanted, command: Option<Vec<String>>) -> Result<Session, String> {
        match command {
            Some(args) => {
                // The client tells its window's size as soon as the stream stands.
                let tty = wanted.tty.then_some(Size { width: 80, height: 24 });
                let config = ExecConfig { args, tty, stdin: wanted.stdin, env: Vec::new(), timeout_ms: None };
                self.runtime.exec(id, &config).map_err(|error| chain(&error))
            }
            None => self.runtime.attach(id, wanted.stdin).map_err(|error| chain(&error)),
        }
    }

    fn port_forward(&self, mut request: Request<Incoming>, target: &Target, ports: Vec<u16>) -> Response<Body> {
        let pod = match self.table.pod(&target.namespace, &target.pod, target.uid.as_deref()) {
            Ok(pod) => pod,
            Err(error) => return lookup_failure(&error),
        };
        if pod.netns_path.is_none() && !pod.host_network {
            return text(StatusCode::NOT_FOUND, format!("pod {:?} is not running", target.pod));
        }
        let netns = pod.netns_path.clone();
        if websocket::is_upgrade(request.headers()) {
            let answer = websocket_answer(request.headers(), &websocket::FORWARD_PROTOCOLS);
            let Some((response, protocol)) = answer else {
                return text(StatusCode::BAD_REQUEST, "unable to negotiate a WebSocket protocol");
            };
            let tunnels = protocol == websocket::TUNNEL_PROTOCOL;
            if ports.is_empty() && !tunnels {
                return text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required");
            }
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let Ok(io) = upgraded.await else { return };
                if tunnels {
                    port_forward::serve(websocket::tunnel(TokioIo::new(io)), netns).await;
                } else {
                    let channels = Channels::start(TokioIo::new(io), Dialect::of(protocol));
                    port_forward::serve_channels(channels, &ports, netns).await;
                }
            });
            return response;
        }
        match spdy_answer(request.headers(), "portforward.k8s.io") {
            Ok(response) => {
                let upgraded = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    if let Ok(io) = upgraded.await {
                        port_forward::serve(TokioIo::new(io), netns).await;
                    }
                });
                response
            }
            Err(response) => *response,
        }
    }
}

/// Answers 101 and runs the stream on the connection.
fn upgrade(
    mut request: Request<Incoming>,
    wanted: Wanted,
    start: impl FnOnce(Remote) + Send + 'static,
) -> Response<Body> {
    if websocket::is_upgrade(request.headers()) {
        let Some((response, protocol)) = websocket_answer(request.headers(), &websocket::EXEC_PROTOCOLS) else {
            return text(StatusCode::BAD_REQUEST, "unable to negotiate a WebSocket protocol");
        };
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(io) = upgraded.await {
                websocket::exec(TokioIo::new(io), Dialect::of(protocol), wanted.stdout, start).await;
            }
        });
        return response;
    }
    match spdy_answer(request.headers(), "v4.channel.k8s.io") {
        Ok(response) => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(io) = upgraded.await {
                    spdy::exec(TokioIo::new(io), wanted, start).await;
                }
            });
            response
        }
        Err(response) => *response,
    }
}

fn switching(protocol: &'static str) -> http::response::Builder {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, protocol)
}

fn websocket_answer(headers: &HeaderMap, protocols: &[&'static str]) -> Option<(Response<Body>, &'static str)> {
    let protocol = websocket::choose(headers, protocols)?;
    let mut response = switching("websocket").header(header::SEC_WEBSOCKET_ACCEPT, websocket::accept_key(headers)?);
    if !protocol.is_empty() {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Some((response.body(empty()).ok()?, protocol))
}

/// The header with which clients offer their versions of the streaming protocol over SPDY.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

fn spdy_answer(headers: &HeaderMap, protocol: &'static str) -> Result<Response<Body>, Box<Response<Body>>> {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        let message = "unable to upgrade: missing upgrade headers in request";
        return Err(Box::new(text(StatusCode::BAD_REQUEST, message)));
    }
    let offered: Vec<&str> = headers
        .get_all(STREAM_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    if !offered.contains(&protocol) {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts [{protocol:?}]"
        );
        return Err(Box::new(text(StatusCode::FORBIDDEN, message)));
    }
    let response = switching("SPDY/3.1").header(STREAM_PROTOCOL, protocol).body(empty());
    response.map_err(|error| Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

/// The API server and the cluster's masters; whoever else has a certificate of the cluster may not look into pods.
fn allowed(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let subject = parsed.subject();
    let is = |value: &x509_parser::x509::AttributeTypeAndValue<'_>, wanted| value.as_str().is_ok_and(|it| it == wanted);
    subject.iter_common_name().any(|name| is(name, API_SERVER))
        || subject.iter_organization().any(|group| is(group, MASTERS))
}

fn lookup_failure(error: &LookupError) -> Response<Body> {
    let status = match error {
        LookupError::PodNotFound(..) | LookupError::ContainerNotFound { .. } => StatusCode::NOT_FOUND,
        LookupError::Waiting { .. } | LookupError::NoPrevious { .. } => StatusCode::BAD_REQUEST,
    };
    text(status, error.to_string())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}

fn empty() -> Body {
    Full::new(Bytes::new()).boxed_unsync()
}

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(message.into())).boxed_unsync());
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn streamed(chunks: mpsc::Receiver<Bytes>) -> Body {
    Chunks(chunks).boxed_unsync()
}

/// A channel as a response's body.
struct Chunks(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}
