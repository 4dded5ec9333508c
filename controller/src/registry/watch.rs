//! Shell: watches: the store's events as a client's selectors see them.

use bramble_store::{Event, EventKind, Revision, Watch, WatchError};
use bytes::Bytes;

use super::filter::Filter;
use super::{Answer, ApiError, Registry, Target, record};

/// What happened to an object, in the eyes of one watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It came into the watched set.
    Added,
    /// It changed within it.
    Modified,
    /// It left it, or is gone.
    Deleted,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The stored form: the new state, or for a deletion the last one.
    pub value: Bytes,
    /// The revision of the event.
    pub revision: u64,
}

/// A running watch.
pub struct Watcher {
    watch: Watch,
    filter: Filter,
    after: u64,
}

impl Registry {
    /// Watches from after a revision.
    pub async fn watch(&self, target: &Target, filter: Filter, after: u64) -> Answer<Watcher> {
        self.reach(Some(after)).await?;
        let mut prefix = target.key();
        if let Some(name) = filter.name().filter(|_| !target.kind.namespaced || !target.namespace.is_empty()) {
            prefix += name;
        }
        let watch = self.store.watch(&prefix, Revision(after)).map_err(|error| watch_error(&error, after))?;
        Ok(Watcher { watch, filter, after })
    }
}

impl Watcher {
    /// The next event that concerns this watcher. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Answer<Change> {
        loop {
            let event = self.watch.next().await.map_err(|error| watch_error(&error, self.after))?;
            self.after = event.revision.0;
            if let Some(change) = self.seen(event)? {
                return Ok(change);
            }
        }
    }

    /// Every event up to this revision has been told: what a bookmark says.
    pub fn reached(&self) -> u64 {
        self.watch.caught_up_to().0.max(self.after)
    }

    /// Whether a client that has been told of this revision may find it gone one day: something has happened since, if only to
    /// others than those that it watches.
    pub fn may_fall_behind(&self, told: u64) -> bool {
        self.watch.moved_since(Revision(told))
    }

    fn seen(&self, event: Event) -> Answer<Option<Change>> {
        let revision = event.revision.0;
        let change = |kind, value| Ok(Some(Change { kind, value, revision }));
        if self.filter.is_everything() {
            return match (event.kind, &event.previous) {
                (EventKind::Delete, _) => change(ChangeKind::Deleted, event.value),
                (EventKind::Put, None) => change(ChangeKind::Added, event.value),
                (EventKind::Put, Some(_)) => change(ChangeKind::Modified, event.value),
            };
        }
        let before = match &event.previous {
            Some((_, value)) => self.filter.wants(record::json(value))?,
            None => false,
        };
        let now = event.kind == EventKind::Put && self.filter.wants(record::json(&event.value))?;
        match (before, now) {
            (false, false) => Ok(None),
            (false, true) => change(ChangeKind::Added, event.value),
            (true, true) => change(ChangeKind::Modified, event.value),
            (true, false) => {
                let last = event.previous.map_or(event.value, |(_, value)| value);
                change(ChangeKind::Deleted, last)
            }
        }
    }
}

fn watch_error(error: &WatchError, after: u64) -> ApiError {
    match error {
        WatchError::Compacted { .. } | WatchError::SlowConsumer => {
            ApiError::expired(format!("too old resource version: {after}"))
        }
        other => ApiError::internal(other),
    }
}
