//! Shell: the loop that keeps the table as the cluster wants it.

use super::memory::Memory;
use super::proxy::{Error, Proxy, chain};
use crate::checkpoint::Checkpoint;
use crate::link::{Interest, Link};
use crate::netlink::socket::Socket;
use crate::platform;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// After a transaction the next waits so many times as long as that took, at most `LINGER_MAX`: a burst costs a
/// bounded share of the processor, a lone change waits for nothing.
const LINGER_FACTOR: u32 = 4;
const LINGER_MAX: Duration = Duration::from_millis(500);
/// What the kernel refused is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);

/// Watches Services and EndpointSlices and programs them for ever; also replaces the table when others change it. What
/// the checkpoint holds is programmed before the API server answers.
pub async fn run(link: Link, proxy: Proxy, checkpoint: Option<Checkpoint>) {
    let mut known_services = Memory::services(checkpoint.as_ref());
    let mut known_slices = Memory::slices(checkpoint.as_ref());
    drop(checkpoint);
    known_services.recall(&proxy).await;
    known_slices.recall(&proxy).await;
    let mut services = link.reflect(Interest::all("/api/v1/services"));
    let mut slices = link.reflect(Interest::all("/apis/discovery.k8s.io/v1/endpointslices"));
    let monitor = monitor();
    let mut due = Some(Instant::now());
    let mut earliest = Instant::now();
    loop {
        let at = due.unwrap_or(earliest);
        tokio::select! {
            biased;
            delta = services.next() => {
                known_services.take(&proxy, delta).await;
                due = due.or(Some(earliest.max(Instant::now())));
            }
            delta = slices.next() => {
                known_slices.take(&proxy, delta).await;
                due = due.or(Some(earliest.max(Instant::now())));
            }
            () = proxy.changed() => due = due.or(Some(earliest.max(Instant::now()))),
            () = hear(monitor.as_ref(), &proxy) => {}
            () = sleep_until(at), if due.is_some() => {
                let begun = Instant::now();
                due = (!sync(&proxy).await).then(|| Instant::now() + RETRY);
                earliest = Instant::now() + (begun.elapsed() * LINGER_FACTOR).min(LINGER_MAX);
            }
        }
    }
}

async fn sync(proxy: &Proxy) -> bool {
    let worker = proxy.clone();
    match tokio::task::spawn_blocking(move || worker.sync()).await {
        Ok(Ok(())) => true,
        Ok(Err(error @ Error::Table { .. })) => {
            tracing::error!(error = %chain(&error), "services are not programmed");
            false
        }
        Err(error) => {
            tracing::error!(%error, "services are not programmed");
            false
        }
    }
}

/// Hears of every change to a ruleset in our namespace.
fn monitor() -> Option<Arc<AsyncFd<Socket>>> {
    let registered = Socket::ruleset_changes().map_err(|error| chain(&error));
    let registered = registered.and_then(|socket| platform::pollable_socket(socket).map_err(|error| error.to_string()));
    match registered {
        Ok(monitor) => Some(Arc::new(monitor)),
        Err(error) => {
            tracing::warn!(error, "changes that others make to our table are not noticed");
            None
        }
    }
}

/// Resolves after each wake-up; what was heard makes [`Proxy::changed`] resolve, even if this is dropped meanwhile.
async fn hear(monitor: Option<&Arc<AsyncFd<Socket>>>, proxy: &Proxy) {
    let Some(monitor) = monitor else { return std::future::pending().await };
    let Ok(mut ready) = monitor.readable().await else { return std::future::pending().await };
    ready.clear_ready();
    let (monitor, proxy) = (monitor.clone(), proxy.clone());
    match tokio::task::spawn_blocking(move || proxy.hear(monitor.get_ref())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = %chain(&error), "changes to our table cannot be heard"),
        Err(error) => tracing::warn!(%error, "changes to our table cannot be heard"),
    }
}
