//! Shell: a reader of one resource's history ring: it holds a position, never an event.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::error::WatchError;
use crate::history::Event;
use crate::record::Revision;
use crate::store::Shared;
use crate::write::resource;

/// Events under a prefix, in order, each once.
pub struct Watch {
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    prefix: Box<str>,
    position: u64,
    seen: Revision,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, wake: Arc<Notify>, prefix: &str, position: u64, after: Revision) -> Watch {
        Watch { shared, wake, prefix: prefix.into(), position, seen: after }
    }

    /// The next event. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        loop {
            let wake = self.wake.clone();
            let woken = wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            woken.await;
        }
    }

    /// The next event, if it is there already.
    pub fn try_next(&mut self) -> Result<Option<Event>, WatchError> {
        let shared = self.shared.clone();
        let mut state = shared.state();
        if state.closed {
            return Err(WatchError::Closed);
        }
        let published = state.published;
        let ring = &state.resource(resource(&self.prefix).unwrap_or_default()).ring;
        let unread = ring.from(self.position).ok_or(WatchError::SlowConsumer)?;
        for (passed, event) in unread.enumerate() {
            if event.key.starts_with(&*self.prefix) {
                self.position += passed as u64 + 1;
                self.seen = event.revision;
                return Ok(Some(event.clone()));
            }
        }
        self.position = ring.end();
        self.seen = published;
        Ok(None)
    }

    /// Whether anything happened to the resource after `revision`. Where nothing did, a watch that goes on from there misses
    /// nothing, however long ago it was.
    pub fn moved_since(&self, revision: Revision) -> bool {
        self.shared.state().resource(resource(&self.prefix).unwrap_or_default()).ring.newest() > revision
    }

    /// The last revision up to which this watch has given everything: what a bookmark may say.
    pub fn caught_up_to(&self) -> Revision {
        let mut state = self.shared.state();
        let published = state.published;
        let ring = &state.resource(resource(&self.prefix).unwrap_or_default()).ring;
        let Some(mut unread) = ring.from(self.position) else { return Revision(self.seen.0.saturating_sub(1)) };
        let next = unread.find(|event| event.key.starts_with(&*self.prefix));
        next.map_or(published, |event| Revision(event.revision.0 - 1))
    }
}
