//! Pure: what a journal holds and redb not yet: immutable layers, so that a snapshot costs nothing.
//!
//! The newest layer is last. Each is at least twice as long as the one after it, so a record is copied only a few
//! times, and a look-up asks only a few maps.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::{BackingError, Snapshot, Visit};

type Map = BTreeMap<Arc<str>, Option<Bytes>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Layers(Vec<Arc<Layer>>);

#[derive(Clone, Debug, Default)]
struct Layer {
    map: Map,
    bytes: usize,
}

/// What an entry takes beside key and bytes at rest.
const ENTRY_BYTES: usize = 96;

fn cost(key: &str, raw: Option<&Bytes>) -> usize {
    ENTRY_BYTES + key.len() + raw.map_or(0, Bytes::len)
}

/// What the records of a commit will take here.
pub(crate) fn bytes(records: &Map) -> usize {
    records.iter().map(|(key, raw)| cost(key, raw.as_ref())).sum()
}

impl Layer {
    fn extend(&mut self, newer: &Map) {
        for (key, raw) in newer {
            self.bytes += cost(key, raw.as_ref());
            if let Some(old) = self.map.insert(key.clone(), raw.clone()) {
                self.bytes -= cost(key, old.as_ref());
            }
        }
    }
}

impl Layers {
    /// Puts the records of a commit above all others.
    pub(crate) fn push(&mut self, records: &Map) {
        let mut top = Layer { map: records.clone(), bytes: bytes(records) };
        while let Some(below) = self.0.pop_if(|below| below.map.len() < 2 * top.map.len()) {
            let mut below = Arc::unwrap_or_clone(below);
            below.extend(&top.map);
            top = below;
        }
        if !top.map.is_empty() {
            self.0.push(Arc::new(top));
        }
    }

    /// Puts all of them above `older` ones, which stay as they are.
    pub(crate) fn above(&self, older: &Layers) -> Layers {
        Layers(older.0.iter().chain(&self.0).cloned().collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What all of it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|layer| layer.bytes).sum()
    }

    /// The newest state of every key.
    pub(crate) fn merged(&self) -> Map {
        let mut merged = Map::new();
        for layer in &self.0 {
            merged.extend(layer.map.iter().map(|(key, raw)| (key.clone(), raw.clone())));
        }
        merged
    }

    fn get(&self, key: &str) -> Option<&Option<Bytes>> {
        self.0.iter().rev().find_map(|layer| layer.map.get(key))
    }

    fn range<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Merge<'a> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let ranges =
            self.0.iter().map(|layer| layer.map.range::<str, _>((from, Bound::Unbounded)).peekable()).collect();
        Merge { prefix, ranges }
    }
}

/// The newest state of each key of a range, in order.
struct Merge<'a> {
    prefix: &'a str,
    ranges: Vec<Peekable<Range<'a, Arc<str>, Option<Bytes>>>>,
}

impl<'a> Merge<'a> {
    fn peek(&mut self) -> Option<&'a Arc<str>> {
        let prefix = self.prefix;
        let keys = self.ranges.iter_mut().filter_map(|range| range.peek().map(|(key, _)| *key));
        keys.min().filter(|key| key.starts_with(prefix))
    }

    fn take(&mut self, key: &str) -> Option<&'a Bytes> {
        let mut newest = None;
        for range in &mut self.ranges {
            if let Some((_, raw)) = range.next_if(|(found, _)| ***found == *key) {
                newest = raw.as_ref();
            }
        }
        newest
    }
}

/// Layers above a snapshot.
pub(crate) struct Layered {
    pub(crate) layers: Layers,
    pub(crate) below: Arc<dyn Snapshot>,
}

impl Snapshot for Layered {
    fn get(&self, key: &str, read: &mut dyn FnMut(&[u8])) -> Result<(), BackingError> {
        match self.layers.get(key) {
            Some(Some(raw)) => read(raw),
            Some(None) => {}
            None => self.below.get(key, read)?,
        }
        Ok(())
    }

    fn scan(&self, prefix: &str, after: Option<&str>, visit: Visit<'_>) -> Result<(), BackingError> {
        let mut above = self.layers.range(prefix, after);
        let mut flow = ControlFlow::Continue(());
        self.below.scan(prefix, after, &mut |key, raw| {
            while let Some(next) = above.peek().filter(|next| ***next <= *key) {
                if let Some(raw) = above.take(next) {
                    flow = visit(next, raw);
                }
                if **next == *key || flow.is_break() {
                    return flow;
                }
            }
            flow = visit(key, raw);
            flow
        })?;
        while let Some(next) = above.peek().filter(|_| flow.is_continue()) {
            if let Some(raw) = above.take(next) {
                flow = visit(next, raw);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::MemoryBacking;
    use crate::backend::{Backing, Commit};

    #[test]
    fn layers_above_a_snapshot_read_like_one_map() {
        let mut below = MemoryBacking::default();
        let mut layers = Layers::default();
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut seed = 7u64;
        let mut roll = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for step in 0..600u64 {
            let mut commit = Commit::default();
            for _ in 0..1 + roll(4) {
                let key = format!("{}/{:02}", ["pods", "pods.x"][roll(2) as usize], roll(60));
                let value = (roll(3) > 0).then(|| step.to_string().into_bytes());
                commit.records.insert(key.as_str().into(), value.clone().map(Into::into));
            }
            for (key, raw) in &commit.records {
                match raw {
                    Some(raw) => model.insert(key.to_string(), raw.to_vec()),
                    None => model.remove(&**key),
                };
            }
            if step < 100 {
                below.commit(&commit).unwrap()
            } else {
                layers.push(&commit.records)
            }
            assert!(layers.0.windows(2).all(|pair| pair[0].map.len() >= 2 * pair[1].map.len()));
            let snapshot = Layered { layers: layers.clone(), below: below.snapshot().unwrap() };
            let prefix = ["pods/", "pods.x/", "", "pods/1"][roll(4) as usize];
            let after = (roll(2) == 0).then(|| format!("pods/{:02}", roll(60)));
            let mut found = Vec::new();
            let mut visit = |key: &str, raw: &[u8]| {
                found.push((key.to_owned(), raw.to_vec()));
                if found.len() == 40 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            snapshot.scan(prefix, after.as_deref(), &mut visit).unwrap();
            let expected: Vec<_> = model
                .iter()
                .filter(|(key, _)| key.starts_with(prefix) && after.as_ref().is_none_or(|after| *key > after))
                .take(40)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            assert_eq!(found, expected);
            let key = format!("pods/{:02}", roll(60));
            let mut got = None;
            snapshot.get(&key, &mut |raw| got = Some(raw.to_vec())).unwrap();
            assert_eq!(got.as_ref(), model.get(&key));
        }
        assert_eq!(layers.bytes(), layers.0.iter().map(|layer| bytes(&layer.map)).sum());
    }
}
