//! Shell: watches: one JSON line per event, made when the client reads.
//!
//! ```text
//! Initial --page by page--> Initial --last page--> Live --timeout--> End
//!    |                                               |
//!    '------------------- error: one ERROR line -----'--> End
//! ```

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Body;
use super::answer;
use super::body::unfold;
use super::negotiate::{Form, Shape};
use super::table::{self, Include};
use crate::kinds::Kind;
use crate::registry::status::{Answer, ApiError};
use crate::registry::{Change, ChangeKind, Lister, Watcher, view};

/// How often a watcher that asked for bookmarks gets one, when there is a newer revision to tell and it matters: where nothing
/// at all happened to a resource its clients can go on from where they are, and an idle board's line stays quiet.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// What to watch, and how to tell it.
pub(crate) struct Watching {
    /// Tells the present state first.
    pub(crate) initial: Option<Lister>,
    /// Opens at the revision of `initial`, or where the client left off.
    pub(crate) watcher: Watcher,
    pub(crate) kind: Arc<Kind>,
    pub(crate) form: Form,
    pub(crate) include: Include,
    pub(crate) bookmarks: bool,
    /// End the initial events with the annotated bookmark.
    pub(crate) initial_end: bool,
    pub(crate) deadline: Instant,
    /// The first page of `initial`.
    pub(crate) page: Option<Vec<bramble_store::Record>>,
    pub(crate) now: fn() -> Duration,
    pub(crate) told: u64,
    pub(crate) next_bookmark: Instant,
}

/// When the next bookmark is due: all watches' bookmarks share one beat, so that an idle board wakes once.
pub(crate) fn next_beat(start: Instant) -> Instant {
    start + BOOKMARK_EVERY
}

/// Answers a watch.
pub(crate) fn respond(watching: Watching) -> http::Response<Body> {
    answer::with_body(200, "application/json", unfold(Some(watching), step))
}

/// Answers a watch that cannot begin: upstream says so in the stream.
pub(crate) fn refuse(error: &ApiError) -> http::Response<Body> {
    let line = format!("{}\n", json!({"type": "ERROR", "object": error.status()}));
    answer::response(200, "application/json", line)
}

async fn step(watching: Option<Watching>) -> std::io::Result<Option<(Bytes, Option<Watching>)>> {
    let Some(mut watching) = watching else { return Ok(None) };
    match watching.next().await {
        Ok(Some(piece)) => Ok(Some((piece, Some(watching)))),
        Ok(None) => Ok(None),
        Err(error) => {
            let line = format!("{}\n", json!({"type": "ERROR", "object": error.status()}));
            Ok(Some((line.into(), None)))
        }
    }
}

impl Watching {
    async fn next(&mut self) -> Answer<Option<Bytes>> {
        if let Some(lister) = &mut self.initial {
            let page = match self.page.take() {
                Some(page) => Some(page),
                None => lister.next().await?,
            };
            let revision = lister.revision();
            let Some(page) = page else {
                self.initial = None;
                self.told = revision;
                if self.initial_end {
                    return Ok(Some(self.bookmark(revision, true)));
                }
                return Ok(Some(Bytes::new()));
            };
            let mut out = Vec::new();
            for record in page {
                let change = Change { kind: ChangeKind::Added, value: record.value, revision: record.revision.0 };
                self.line(&change, &mut out)?;
            }
            return Ok(Some(out.into()));
        }
        loop {
            tokio::select! {
                biased;
                change = self.watcher.next() => {
                    let change = change?;
                    self.told = change.revision;
                    let mut out = Vec::with_capacity(change.value.len() + 64);
                    self.line(&change, &mut out)?;
                    return Ok(Some(out.into()));
                }
                () = tokio::time::sleep_until(self.deadline) => return Ok(None),
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = next_beat(self.next_bookmark);
                    let revision = self.watcher.reached();
                    if revision > self.told && self.watcher.may_fall_behind(self.told) {
                        self.told = revision;
                        return Ok(Some(self.bookmark(revision, false)));
                    }
                }
            }
        }
    }

    fn line(&self, change: &Change, out: &mut Vec<u8>) -> Answer<()> {
        let name = match change.kind {
            ChangeKind::Added => "ADDED",
            ChangeKind::Modified => "MODIFIED",
            ChangeKind::Deleted => "DELETED",
        };
        write!(out, "{{\"type\":\"{name}\",\"object\":").expect("memory takes every byte");
        let shown = match self.form.shape {
            Shape::Whole => {
                view::emit(&self.kind, &change.value, change.revision, out)?;
                None
            }
            Shape::Partial(version) => {
                Some(table::partial(view::object(&self.kind, &change.value, change.revision)?, version))
            }
            Shape::Table(version) => {
                let object = view::object(&self.kind, &change.value, change.revision)?;
                let now = i64::try_from((self.now)().as_secs()).unwrap_or(i64::MAX);
                let row = table::row(&self.kind, object, self.include, version, now);
                Some(table::table(&self.kind, vec![row], &change.revision.to_string(), version))
            }
        };
        if let Some(shown) = shown {
            serde_json::to_writer(&mut *out, &shown).map_err(ApiError::internal)?;
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object: Value = match self.form.shape {
            Shape::Whole => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
            Shape::Partial(version) => json!({"kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata}),
            Shape::Table(version) => {
                let mut table = table::table(&self.kind, Vec::new(), "", version);
                table["metadata"] = metadata;
                table
            }
        };
        format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into()
    }
}
