//! Pure: what happened under one resource prefix, as far back as its bounds of bytes and age reach.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::record::{Revision, Version};

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It got a value; `previous` tells whether it is new.
    Put,
    /// It went.
    Delete,
}

/// A change of one key. Cloning shares key and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To which key.
    pub key: Arc<str>,
    /// The new value; of a deletion, the last one (empty where that was damaged at rest).
    pub value: Bytes,
    /// The revision of the change; all events of one batch share it.
    pub revision: Revision,
    /// The version before, where the key existed.
    pub previous: Option<(Revision, Bytes)>,
}

impl Event {
    /// The key's version after the event.
    pub(crate) fn after(&self) -> Option<Version> {
        match self.kind {
            EventKind::Put => Some(Version { revision: self.revision, value: self.value.clone() }),
            EventKind::Delete => None,
        }
    }

    /// The key's version before the event.
    pub(crate) fn before(&self) -> Option<Version> {
        self.previous.as_ref().map(|(revision, value)| Version { revision: *revision, value: value.clone() })
    }
}

/// Bytes that an entry takes beside key and values.
const ENTRY_BYTES: usize = size_of::<Event>() + 32;

#[derive(Debug)]
struct Entry {
    event: Event,
    cost: usize,
    at: Duration,
}

/// How far back history reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) bytes: usize,
    pub(crate) bytes_per_resource: usize,
    pub(crate) age: Duration,
}

/// The history ring of one resource prefix. Entries are numbered on and on; a reader keeps the number of the next one.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    first: u64,
    floor: Revision,
    bytes: usize,
}

impl Ring {
    /// A ring that knows everything after `floor`.
    pub(crate) fn new(floor: Revision) -> Ring {
        Ring { entries: VecDeque::new(), first: 0, floor, bytes: 0 }
    }

    /// The oldest revision from which this ring can be watched or listed.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// The newest revision that it knows of; what is watched from there on misses nothing, however late.
    pub(crate) fn newest(&self) -> Revision {
        self.entries.back().map_or(self.floor, |entry| entry.event.revision)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A value counts once: the previous one only where its own event is not here. What the event before has
    /// passed on when it is dropped stays uncounted, so a ring takes at most twice its budget.
    fn cost(&self, event: &Event) -> usize {
        let previous = match &event.previous {
            Some((revision, value)) if event.kind == EventKind::Put && *revision <= self.floor => value.len(),
            _ => 0,
        };
        ENTRY_BYTES + event.key.len() + event.value.len() + previous
    }

    /// An event that happened `at` this time; time never goes back.
    pub(crate) fn push(&mut self, event: Event, at: Duration) {
        let cost = self.cost(&event);
        self.bytes += cost;
        self.entries.push_back(Entry { event, cost, at });
    }

    /// Forgets what happened before a time.
    pub(crate) fn forget_before(&mut self, time: Duration) {
        while self.entries.front().is_some_and(|entry| entry.at < time) && self.forget() {}
    }

    /// Forgets the oldest batch, but never the newest one: that would cut off watchers who sleep. False when there is
    /// nothing to forget.
    pub(crate) fn forget(&mut self) -> bool {
        let (Some(front), Some(back)) = (self.entries.front(), self.entries.back()) else { return false };
        let revision = front.event.revision;
        if revision == back.event.revision {
            return false;
        }
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.event.revision == revision) {
            self.bytes -= entry.cost;
            self.first += 1;
        }
        self.floor = revision;
        if self.entries.capacity() > 4 * (self.entries.len() + 16) {
            self.entries.shrink_to(2 * (self.entries.len() + 16));
        }
        true
    }

    /// Knows nothing any more but what comes after `floor`; whoever reads here has lost events.
    #[cfg(feature = "etcd")]
    pub(crate) fn begin_again(&mut self, floor: Revision) {
        self.first = self.end() + 1;
        self.entries = VecDeque::new();
        self.bytes = 0;
        self.floor = floor;
    }

    /// The value that a key got at a revision, where it is remembered.
    #[cfg(feature = "etcd")]
    pub(crate) fn value(&self, key: &str, at: Revision) -> Option<Bytes> {
        let from = self.entries.partition_point(|entry| entry.event.revision < at);
        let batch = self.entries.range(from..).map(|entry| &entry.event).take_while(|event| event.revision == at);
        batch.filter(|event| event.kind == EventKind::Put && *event.key == *key).map(|event| event.value.clone()).next()
    }

    /// The number of the first entry after a revision that is not below the floor.
    pub(crate) fn position_after(&self, revision: Revision) -> u64 {
        self.first + self.entries.partition_point(|entry| entry.event.revision <= revision) as u64
    }

    /// The entries from a number on; none when some of them are forgotten.
    pub(crate) fn from(&self, position: u64) -> Option<impl DoubleEndedIterator<Item = &Event>> {
        let skip = usize::try_from(position.checked_sub(self.first)?).ok()?;
        Some(self.entries.range(skip.min(self.entries.len())..).map(|entry| &entry.event))
    }

    /// The number that the next entry will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: u64, key: &str, previous: Option<u64>) -> Event {
        let value = Bytes::from(revision.to_string());
        let previous = previous.map(|r| (Revision(r), Bytes::from(r.to_string())));
        Event { kind: EventKind::Put, key: key.into(), value, revision: Revision(revision), previous }
    }

    #[test]
    fn a_ring_forgets_whole_batches_and_says_so() {
        let mut ring = Ring::new(Revision(10));
        let at = Duration::from_secs;
        ring.push(put(11, "pods/a", None), at(1));
        ring.push(put(12, "pods/a", Some(11)), at(2));
        ring.push(put(12, "pods/b", None), at(2));
        ring.push(put(14, "pods/b", Some(12)), at(3));
        ring.forget_before(at(1));
        assert_eq!(ring.position_after(Revision(10)), 0);
        assert_eq!((Ring::new(Revision(10)).newest(), ring.newest()), (Revision(10), Revision(14)));
        assert_eq!(ring.position_after(Revision(13)), 3);
        assert!(ring.forget() && ring.forget());
        assert_eq!(ring.floor(), Revision(12));
        assert!(ring.from(1).is_none());
        assert_eq!(ring.from(3).map(Iterator::count), Some(1));
        assert_eq!(ring.position_after(Revision(12)), 3);
        assert!(!ring.forget());
        assert_eq!(ring.end(), 4);
    }
}
