//! Pure: records in memory, for tests and for whatever needs no disk.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::{Backing, BackingError, Commit, Meta, Snapshot, Visit};
use crate::write::resource;

/// One map a resource, so that a commit copies only the maps that it touches and a snapshot still holds.
type Maps = BTreeMap<String, Arc<BTreeMap<Arc<str>, Bytes>>>;

#[derive(Default)]
pub(crate) struct MemoryBacking {
    maps: Maps,
    meta: Meta,
}

struct MemorySnapshot(Maps);

impl Backing for MemoryBacking {
    fn meta(&self) -> Result<Meta, BackingError> {
        Ok(self.meta.clone())
    }

    fn snapshot(&mut self) -> Result<Arc<dyn Snapshot>, BackingError> {
        Ok(Arc::new(MemorySnapshot(self.maps.clone())))
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), BackingError> {
        for (key, raw) in &commit.records {
            let map = self.maps.entry(resource(key).unwrap_or_default().to_owned()).or_default();
            let map = Arc::make_mut(map);
            match raw {
                Some(raw) => map.insert(key.clone(), raw.clone()),
                None => map.remove(key),
            };
        }
        if let Some(meta) = &commit.meta {
            self.meta = meta.clone();
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<(), BackingError> {
        Ok(())
    }
}

impl Snapshot for MemorySnapshot {
    fn get(&self, key: &str, read: &mut dyn FnMut(&[u8])) -> Result<(), BackingError> {
        if let Some(raw) = self.0.get(resource(key).unwrap_or_default()).and_then(|map| map.get(key)) {
            read(raw);
        }
        Ok(())
    }

    fn scan(&self, prefix: &str, after: Option<&str>, visit: Visit<'_>) -> Result<(), BackingError> {
        // Maps are ordered by resource, keys by `resource/...`: these orders differ where a resource begins with
        // another one's name, so a prefix that spans resources is gathered first.
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let spans = |name: &str| match prefix.split_once('/') {
            Some((resource, _)) => name == resource,
            None => name.starts_with(prefix),
        };
        let mut found: Vec<_> = self
            .0
            .iter()
            .filter(|(name, _)| spans(name))
            .flat_map(|(_, map)| map.range::<str, _>((from, Bound::Unbounded)))
            .take_while(|(key, _)| prefix.contains('/') <= key.starts_with(prefix))
            .collect();
        found.sort_by(|a, b| a.0.cmp(b.0));
        for (key, raw) in found {
            if let ControlFlow::Break(()) = visit(key, raw) {
                break;
            }
        }
        Ok(())
    }
}
