//! Shell: TLS connections to requests: HTTP/1.1 and HTTP/2, bounded in number, size and time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::api::Body;
use crate::authn::PeerCertificate;

/// Connections at a time: each costs 25 kB; an agent needs one, kubectl a few.
const CONNECTIONS_MAX: usize = 1000;
/// Streams of one h2 connection: an agent watches every Secret and ConfigMap that its pods mount.
const STREAMS_MAX: u32 = 1000;
/// How long a client may take for the TLS handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// An idle h2 connection is asked for a sign of life, so that clients that lost power do not stay for ever. A board that renews its
/// Lease is never idle for so long.
const PING_EVERY: Duration = Duration::from_secs(180);
const PING_WITHIN: Duration = Duration::from_secs(20);
/// The largest head of a request.
const HEAD_BYTES: usize = 64 << 10;

/// Who answers: a request and the client's certificate in, a response out.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn answer(
        self: Arc<Self>,
        request: http::Request<Body>,
        peer: Option<PeerCertificate>,
    ) -> impl Future<Output = http::Response<Body>> + Send;

    /// Returns when a client is not to be served any more.
    fn shut_out(self: Arc<Self>, peer: PeerCertificate) -> impl Future<Output = ()> + Send;
}

/// Accepts connections for ever.
pub(crate) async fn listen<H: Handler>(listener: TcpListener, tls: Arc<ServerConfig>, handler: Arc<H>) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, or the client was gone before it was accepted: nothing of ours is lost.
                tracing::warn!(error = &error as &dyn std::error::Error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        tokio::spawn(async move {
            if let Err(error) = serve(stream, acceptor, handler).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
}

async fn serve<H: Handler>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    handler: Arc<H>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let (_, session) = stream.get_ref();
    let h2 = session.alpn_protocol() == Some(b"h2");
    let chain = session.peer_certificates().filter(|chain| !chain.is_empty());
    let peer = chain.map(|chain| PeerCertificate::new(chain.iter().map(|one| one.clone().into_owned()).collect()));
    let ends = {
        let (handler, peer) = (handler.clone(), peer.clone());
        async move {
            match peer {
                Some(peer) => handler.shut_out(peer).await,
                None => std::future::pending().await,
            }
        }
    };
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (handler, peer) = (handler.clone(), peer.clone());
        async move {
            let request = request.map(from_wire);
            Ok::<_, std::convert::Infallible>(handler.answer(request, peer).await)
        }
    });
    let stream = TokioIo::new(stream);
    let serving = async move {
        if h2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
            builder.max_header_list_size(HEAD_BYTES as u32);
            builder.keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_WITHIN);
            builder.serve_connection(stream, service).await
        } else {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
            builder.serve_connection(stream, service).with_upgrades().await
        }
    };
    tokio::select! {
        served = serving => served?,
        () = ends => tracing::info!("a client that is shut out was connected"),
    }
    Ok(())
}

fn from_wire(body: Incoming) -> Body {
    body.map_frame(|frame| frame.map_data(|data: Bytes| data)).map_err(std::io::Error::other).boxed_unsync()
}
