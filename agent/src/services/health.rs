//! Shell: `healthCheckNodePort`: a load balancer asks each board whether it has pods of a Service whose traffic must stay there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

/// Of a port: the service (`namespace/name`) and how many of its endpoints are ready here.
pub(crate) type Healths = BTreeMap<u16, (Arc<str>, usize)>;

/// Whoever asks has this long, and so many may ask at once on one port: anybody on the network can.
const PATIENCE: Duration = Duration::from_secs(5);
const ASKERS_MAX: usize = 16;
/// A port that is taken by somebody else is tried again after so long.
const RETRY: Duration = Duration::from_secs(30);

/// Answers on every port that is wanted, for ever. The protocol is plain HTTP, as load balancers ask for it.
pub(crate) async fn run(mut wanted: watch::Receiver<Healths>) {
    let mut held: BTreeMap<u16, AbortHandle> = BTreeMap::new();
    loop {
        let ports: Vec<u16> = wanted.borrow_and_update().keys().copied().collect();
        held.retain(|port, task| {
            ports.contains(port) || {
                task.abort();
                false
            }
        });
        for port in ports {
            held.entry(port).or_insert_with(|| tokio::spawn(answer_on(port, wanted.clone())).abort_handle());
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// For callers of both families, or of the one that the kernel has.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

async fn answer_on(port: u16, healths: watch::Receiver<Healths>) {
    let listener = loop {
        match listen(port).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(port, %error, "a Service's health is not told");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let slots = Arc::new(Semaphore::new(ASKERS_MAX));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let healths = healths.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, serve(stream, port, healths)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(port, %error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, port: u16, healths: watch::Receiver<Healths>) {
    let service = service_fn(move |_: Request<Incoming>| {
        let known = healths.borrow().get(&port).cloned();
        async move { Ok::<_, Infallible>(answer(known)) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).keep_alive(false).max_buf_size(8 << 10);
    // Who hangs up early has had enough.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// As kube-proxy answers.
fn answer(known: Option<(Arc<str>, usize)>) -> Response<Full<Bytes>> {
    let (service, count) = known.unwrap_or_else(|| ("/".into(), 0));
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let body = json!({"service": {"namespace": namespace, "name": name}, "localEndpoints": count, "serviceProxyHealthy": true});
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = if count == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(count));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_without_endpoints_wants_no_traffic() {
        let none = answer(Some(("d/web".into(), 0)));
        assert_eq!(none.status(), StatusCode::SERVICE_UNAVAILABLE);
        let two = answer(Some(("d/web".into(), 2)));
        assert_eq!(
            (two.status(), &two.headers()["x-load-balancing-endpoint-weight"]),
            (StatusCode::OK, &HeaderValue::from(2))
        );
    }
}
