//! Shell: a collection as a stream of changes: list, watch, resume, list again only when the server says so.
//!
//! ```text
//!           +--------- 410 / Expired ----------+
//!           v                                  |
//!  start -> Listing (pages) -> Synced -> Watching <--+ ended, or broken: resume from the last version
//!             ^   |                            |     |
//!             +---+ error: back off            +-----+
//! ```

use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::backoff::Backoff;
use super::{Link, LinkError, Object};

/// Changes that wait for a slow reader; the reader's slowness then reaches the server through flow control.
const WAITING_DELTAS: usize = 16;

/// One event of a watch may not be larger than an object may be (etcd's 1.5 MiB, with room for JSON).
const MAX_EVENT_BYTES: usize = 8 << 20;

/// Objects in one page of a list.
const PAGE_LIMIT: usize = 100;

/// A watch ends by itself after three to six hours: to begin again costs half a kilobyte, and pings find a dead connection.
const WATCH_SECONDS: (f64, f64) = (10_800.0, 10_800.0);

/// What to reflect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Interest {
    /// The collection, e.g. `/api/v1/pods` or `/api/v1/namespaces/a/secrets`.
    pub path: String,
    /// e.g. `spec.nodeName=pi-1`; empty is all.
    pub field_selector: String,
    /// e.g. `!service.kubernetes.io/headless`; empty is all.
    pub label_selector: String,
}

impl Interest {
    /// Everything in a collection.
    #[must_use]
    pub fn all(path: &str) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }

    /// One object of a collection, by its name.
    #[must_use]
    pub fn named(path: &str, name: &str) -> Self {
        Self { field_selector: format!("metadata.name={name}"), ..Self::all(path) }
    }

    fn query(&self) -> String {
        let mut query = String::new();
        for (key, value) in [("fieldSelector", &self.field_selector), ("labelSelector", &self.label_selector)] {
            if !value.is_empty() {
                query.push_str(&format!("{key}={}&", escape(value)));
            }
        }
        query
    }
}

/// A change of the reflected collection.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// A list begins: what is not applied before [`Delta::Synced`] is gone.
    Restarted,
    /// The object is there, new or changed.
    Applied(Object),
    /// The object is gone; its last state.
    Deleted(Object),
    /// The list is complete.
    Synced,
}

/// A running list and watch.
#[derive(Debug)]
pub struct Reflection {
    deltas: mpsc::Receiver<Delta>,
    task: JoinHandle<()>,
}

impl Drop for Reflection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reflection {
    pub(super) fn start(link: Link, interest: Interest) -> Self {
        let (sender, deltas) = mpsc::channel(WAITING_DELTAS);
        let task = tokio::spawn(async move {
            let mut run =
                Run { link, interest, sender, version: String::new(), is_absent: false, backoff: Backoff::reflector() };
            run.forever().await;
        });
        Self { deltas, task }
    }

    /// The next change; cancel-safe. Never ends while the runtime lives.
    pub async fn next(&mut self) -> Delta {
        match self.deltas.recv().await {
            Some(delta) => delta,
            None => std::future::pending().await,
        }
    }
}

/// A page of a list; its items are still text.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    metadata: PageMetadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMetadata {
    r#continue: Option<String>,
    resource_version: Option<String>,
}

/// A line of a watch.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The reader is gone.
struct Unread;

struct Run {
    link: Link,
    interest: Interest,
    sender: mpsc::Sender<Delta>,
    version: String,
    /// The server does not have the collection, and the reader knows that it is empty.
    is_absent: bool,
    backoff: Backoff,
}

impl Run {
    async fn forever(&mut self) {
        loop {
            let ended = if self.version.is_empty() { self.list().await } else { self.watch().await };
            let error = match ended {
                Err(Unread) => return,
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
            };
            if error.is_gone() {
                debug!(path = %self.interest.path, "the server no longer has this version, listing again");
                self.version.clear();
                continue;
            }
            let pause = self.backoff.advance(random());
            warn!(path = %self.interest.path, %error, pause_ms = pause.as_millis(), "watch");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.link.reconnected() => {}
            }
        }
    }

    async fn list(&mut self) -> Result<Result<(), LinkError>, Unread> {
        let mut token = String::new();
        let mut begun = false;
        loop {
            let path = format!(
                "{}?{}limit={PAGE_LIMIT}{}",
                self.interest.path,
                self.interest.query(),
                if token.is_empty() { String::new() } else { format!("&continue={}", escape(&token)) }
            );
            let bytes = match self.link.bytes(&path).await {
                Ok(bytes) => bytes,
                Err(error) if error.is_not_found() && self.interest.path.starts_with("/apis/") && !begun => {
                    // A server older than this board: nobody can have made any. It is asked again, since it may be updated.
                    if !std::mem::replace(&mut self.is_absent, true) {
                        self.send(Delta::Restarted).await?;
                        self.send(Delta::Synced).await?;
                    }
                    return Ok(Err(error));
                }
                Err(error) => return Ok(Err(error)),
            };
            self.is_absent = false;
            let page: Page<'_> = match serde_json::from_slice(&bytes) {
                Ok(page) => page,
                Err(error) => return Ok(Err(LinkError::Malformed { path, error })),
            };
            if !begun {
                self.send(Delta::Restarted).await?;
                begun = true;
            }
            for item in page.items.into_iter().flatten() {
                self.send(Delta::Applied(item.into())).await?;
            }
            token = page.metadata.r#continue.unwrap_or_default();
            if token.is_empty() {
                self.version = page.metadata.resource_version.unwrap_or_else(|| "0".to_owned());
                self.send(Delta::Synced).await?;
                return Ok(Ok(()));
            }
        }
    }

    async fn watch(&mut self) -> Result<Result<(), LinkError>, Unread> {
        let seconds = WATCH_SECONDS.0 + WATCH_SECONDS.1 * random();
        let path = format!(
            "{}?{}watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={seconds:.0}",
            self.interest.path,
            self.interest.query(),
            self.version
        );
        let began = Instant::now();
        let mut body = match self.link.open(&path).await {
            Ok(body) => body,
            Err(error) => return Ok(Err(error)),
        };
        let mut pending = BytesMut::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = self.sender.closed() => return Err(Unread),
            };
            let data = match frame {
                None => break,
                Some(Err(error)) => return Ok(Err(LinkError::Unreachable(format!("the watch broke: {error}")))),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end);
                pending.advance(1);
                if let Err(error) = self.event(&line).await? {
                    return Ok(Err(error));
                }
                self.backoff.reset();
            }
            if pending.len() > MAX_EVENT_BYTES {
                return Ok(Err(LinkError::Unreachable("an event of the watch is too large".to_owned())));
            }
        }
        // A server that ends each watch at once must not be asked in a tight loop.
        if began.elapsed() < Duration::from_secs(1) {
            return Ok(Err(LinkError::Unreachable("the watch ended at once".to_owned())));
        }
        Ok(Ok(()))
    }

    async fn event(&mut self, line: &[u8]) -> Result<Result<(), LinkError>, Unread> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(Ok(()));
        }
        let malformed = |error| LinkError::Malformed { path: self.interest.path.clone(), error };
        let event: Event<'_> = match serde_json::from_slice(line) {
            Ok(event) => event,
            Err(error) => return Ok(Err(malformed(error))),
        };
        let object = Object::from(event.object);
        if event.kind == "ERROR" {
            return Ok(Err(LinkError::from_status(&object.value(), None)));
        }
        let version = object.identity().resource_version;
        if !version.is_empty() {
            self.version = version;
        }
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => self.send(Delta::Applied(object)).await?,
            "DELETED" => self.send(Delta::Deleted(object)).await?,
            _ => {}
        }
        Ok(Ok(()))
    }

    async fn send(&self, delta: Delta) -> Result<(), Unread> {
        self.sender.send(delta).await.map_err(|_| Unread)
    }
}

/// Percent-encodes a query value.
pub(crate) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// A number in 0..1 for jitter.
pub(crate) fn random() -> f64 {
    f64::from(random_number()) / f64::from(u32::MAX)
}

/// Where the system has no randomness (yet), half of all.
pub(crate) fn random_number() -> u32 {
    use ring::rand::SecureRandom;
    let mut bytes = [0_u8; 4];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(_) => u32::MAX / 2,
    }
}

#[cfg(test)]
mod tests;
