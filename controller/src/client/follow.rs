//! Shell: a watch as a stream of events, and list-then-watch that resumes by itself.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{Body, Client, ClientError, ListOptions, Resource};

/// The longest line of a watch: an object of the largest size that a server takes, twice.
const MAX_LINE_BYTES: usize = 8 << 20;
/// How many objects one page of a list holds: bounds what both sides hold at a time.
const PAGE: usize = 250;
/// First and last pause between attempts when a server cannot be reached or answers with errors.
const PAUSE_MS: (u64, u64) = (50, 5_000);

/// One line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// New in the watched set.
    Added(Value),
    /// Changed within it.
    Modified(Value),
    /// Gone from it; the last state.
    Deleted(Value),
    /// Nothing older than this revision will follow; `true` ends the initial events.
    Bookmark(String, bool),
}

/// A running watch.
pub struct WatchStream {
    body: Body,
    buffer: BytesMut,
    scanned: usize,
}

impl WatchStream {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), scanned: 0 }
    }

    /// The next event; `None` when the server ended the watch in good order: watch again from the last revision.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.scanned + at);
                self.buffer.advance(1);
                self.scanned = 0;
                return event(&line).map(Some);
            }
            self.scanned = self.buffer.len();
            if self.scanned > MAX_LINE_BYTES {
                return Err(ClientError::Answer("a watch event is too long".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Transport(error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// Reads one line.
fn event(line: &[u8]) -> Result<WatchEvent, ClientError> {
    let mut value: Value = serde_json::from_slice(line).map_err(|error| ClientError::Answer(error.to_string()))?;
    let object = value["object"].take();
    match value["type"].as_str() {
        Some("ADDED") => Ok(WatchEvent::Added(object)),
        Some("MODIFIED") => Ok(WatchEvent::Modified(object)),
        Some("DELETED") => Ok(WatchEvent::Deleted(object)),
        Some("BOOKMARK") => {
            let initial_end = &object["metadata"]["annotations"]["k8s.io/initial-events-end"];
            Ok(WatchEvent::Bookmark(revision_of(&object), initial_end == "true"))
        }
        _ => Err(ClientError::Status {
            code: object["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(500),
            reason: object["reason"].as_str().unwrap_or_default().to_owned(),
            message: object["message"].as_str().unwrap_or_default().to_owned(),
            status: object,
        }),
    }
}

fn revision_of(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

/// What [`Follow`] tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A fresh list begins: whatever is not told again before [`Step::Synced`] is gone.
    Reset,
    /// The object exists in this state.
    Applied(Value),
    /// The object is gone; its last state.
    Deleted(Value),
    /// The list is complete as of this revision.
    Synced(String),
    /// The view has reached this revision although nothing in it changed.
    Reached(String),
}

/// List, then watch, for ever.
///
/// ```text
/// Start --list--> Listing --last page--> Watch --ends--> Watch (from the last revision)
///   ^                |                     |
///   '---- 410 -------'-------- 410 --------'        other errors: pause, then the same state again
/// ```
pub struct Follow {
    client: Client,
    of: Resource,
    namespace: Option<String>,
    options: ListOptions,
    state: State,
    pause_ms: u64,
}

enum State {
    Start,
    Listing { items: std::vec::IntoIter<Value>, continue_token: String, resource_version: String },
    Watch { resource_version: String, stream: Option<WatchStream> },
}

impl Follow {
    pub(super) fn new(client: Client, of: Resource, namespace: Option<String>, options: ListOptions) -> Self {
        Self { client, of, namespace, options, state: State::Start, pause_ms: 0 }
    }

    /// The next step. Errors are logged and retried with growing pauses: this returns only news.
    /// Dropping the future between steps loses nothing.
    pub async fn next(&mut self) -> Step {
        loop {
            match self.advance().await {
                Ok(Some(step)) => {
                    self.pause_ms = 0;
                    return step;
                }
                Ok(None) => {}
                Err(error) if error.is_expired() => self.state = State::Start,
                Err(error) => {
                    tracing::warn!(resource = %self.of.plural, error = &error as &dyn std::error::Error, "watch interrupted");
                    if let State::Watch { stream, .. } = &mut self.state {
                        *stream = None;
                    }
                    self.pause_ms = (self.pause_ms * 2).clamp(PAUSE_MS.0, PAUSE_MS.1);
                    tokio::time::sleep(Duration::from_millis(self.pause_ms)).await;
                }
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<Step>, ClientError> {
        match &mut self.state {
            State::Start => {
                self.page(String::new()).await?;
                Ok(Some(Step::Reset))
            }
            State::Listing { items, continue_token, resource_version } => {
                if let Some(item) = items.next() {
                    return Ok(Some(Step::Applied(item)));
                }
                if !continue_token.is_empty() {
                    let token = continue_token.clone();
                    self.page(token).await?;
                    return Ok(None);
                }
                let resource_version = std::mem::take(resource_version);
                self.state = State::Watch { resource_version: resource_version.clone(), stream: None };
                Ok(Some(Step::Synced(resource_version)))
            }
            State::Watch { resource_version, stream: None } => {
                let options = ListOptions { resource_version: resource_version.clone(), ..self.options.clone() };
                let opened = self.client.watch(&self.of, self.namespace.as_deref(), &options).await?;
                if let State::Watch { stream, .. } = &mut self.state {
                    *stream = Some(opened);
                }
                Ok(None)
            }
            State::Watch { resource_version, stream: Some(running) } => {
                let step = match running.next().await? {
                    None => {
                        self.state = State::Watch { resource_version: std::mem::take(resource_version), stream: None };
                        return Ok(None);
                    }
                    Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Step::Applied(object),
                    Some(WatchEvent::Deleted(object)) => Step::Deleted(object),
                    Some(WatchEvent::Bookmark(revision, _)) => Step::Reached(revision),
                };
                match &step {
                    Step::Applied(object) | Step::Deleted(object) => *resource_version = revision_of(object),
                    Step::Reached(revision) => resource_version.clone_from(revision),
                    Step::Reset | Step::Synced(_) => {}
                }
                Ok(Some(step))
            }
        }
    }

    async fn page(&mut self, continue_token: String) -> Result<(), ClientError> {
        let options = ListOptions { limit: PAGE, continue_token, ..self.options.clone() };
        let list = self.client.list(&self.of, self.namespace.as_deref(), &options).await?;
        self.state = State::Listing {
            items: list.items.into_iter(),
            continue_token: list.continue_token,
            resource_version: list.resource_version,
        };
        Ok(())
    }
}
