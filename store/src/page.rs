//! Pure: reading a view: the snapshot's records and what lies above them, merged in key order.

use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::ReadError;
use crate::record::{Record, Version};
use crate::stage::Current;
use crate::state::{Shown, View};

struct Merge<'a> {
    shown: &'a Shown,
    patch: Peekable<btree_map::IntoIter<Arc<str>, Option<Version>>>,
    take: usize,
    records: Vec<Record>,
    left: u64,
    damaged: Option<String>,
}

impl Merge<'_> {
    fn put(&mut self, key: &str, version: Version) {
        if self.records.len() < self.take {
            self.records.push(Record { key: key.to_owned(), value: version.value, revision: version.revision });
        } else {
            self.left += 1;
        }
    }

    /// Whether a record with these bytes at rest may be followed by another.
    fn visit(&mut self, key: &str, raw: &[u8]) -> ControlFlow<()> {
        while let Some((above, version)) = self.patch.next_if(|(above, _)| **above <= *key) {
            let replaces = *above == *key;
            if let Some(version) = version {
                self.put(&above, version);
            }
            if replaces {
                return ControlFlow::Continue(());
            }
        }
        if self.records.len() >= self.take {
            self.left += 1;
            return ControlFlow::Continue(());
        }
        match self.shown.current(key, raw) {
            Current::Version(version) => self.put(key, version),
            Current::Absent => {}
            Current::Damaged => {
                self.damaged = Some(key.to_owned());
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// The first `take` records of a view, and how many more there are.
pub(crate) fn merge(
    view: View,
    prefix: &str,
    after: Option<&str>,
    take: usize,
) -> Result<(Vec<Record>, u64), ReadError> {
    let mut merge = Merge {
        shown: &view.shown,
        patch: view.patch.into_iter().peekable(),
        take,
        records: Vec::new(),
        left: 0,
        damaged: None,
    };
    view.snapshot
        .scan(prefix, after, &mut |key, raw| merge.visit(key, raw))
        .map_err(|error| ReadError::Backend { reason: error.to_string() })?;
    if let Some(key) = merge.damaged {
        return Err(ReadError::Corrupt { key });
    }
    while let Some((key, version)) = merge.patch.next() {
        if let Some(version) = version {
            merge.put(&key, version);
        }
    }
    Ok((merge.records, merge.left))
}
