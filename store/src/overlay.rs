//! Pure: published records that are not at rest (yet): volatile and deferred writes, above the backing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::record::{Revision, Version};

/// A key's state above the backing.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// None: deleted, and still at rest below.
    pub(crate) version: Option<Version>,
    /// The revision of the oldest deferred write that no commit has carried; none where all is volatile.
    pub(crate) deferred: Option<Revision>,
}

/// The records above the backing.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    held: BTreeMap<Arc<str>, Held>,
    bytes: usize,
}

/// What an entry takes beside key and value.
const ENTRY_BYTES: usize = size_of::<Held>() + 48;

fn cost(key: &str, held: &Held) -> usize {
    ENTRY_BYTES + key.len() + held.version.as_ref().map_or(0, |version| version.value.len())
}

impl Overlay {
    pub(crate) fn get(&self, key: &str) -> Option<&Held> {
        self.held.get(key)
    }

    /// To change how it is kept, never its value.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Held> {
        self.held.get_mut(key)
    }

    pub(crate) fn insert(&mut self, key: Arc<str>, held: Held) {
        self.remove(&key);
        self.bytes += cost(&key, &held);
        self.held.insert(key, held);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        if let Some(held) = self.held.remove(key) {
            self.bytes -= cost(key, &held);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Held)> {
        self.held.iter()
    }

    /// The entries that begin with `prefix` and come after `after`.
    pub(crate) fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Held)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.held.range::<str, _>((from, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
    }
}
