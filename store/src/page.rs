//! Pure: reading a view: the snapshot's records and what lies above them, merged in key order.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::error::ReadError;
use crate::record::{Record, Revision, Version};
use crate::stage::Current;
use crate::state::View;

/// A record of a view, not looked at yet.
enum Found<'a> {
    Above(Version),
    AtRest(&'a [u8]),
}

/// Visits the keys of a view under `prefix` after `after`, in order.
fn walk(
    view: &mut View,
    prefix: &str,
    after: Option<&str>,
    visit: &mut dyn FnMut(&str, Found<'_>) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let mut patch = std::mem::take(&mut view.patch).into_iter().peekable();
    let mut flow = ControlFlow::Continue(());
    let mut step = |key: &str, raw: &[u8]| {
        while let Some((above, version)) = patch.next_if(|(above, _)| **above <= *key) {
            let replaces = *above == *key;
            if let Some(version) = version {
                flow = visit(&above, Found::Above(version));
            }
            if replaces || flow.is_break() {
                return flow;
            }
        }
        flow = visit(key, Found::AtRest(raw));
        flow
    };
    view.snapshot.scan(prefix, after, &mut step).map_err(|error| ReadError::Backend { reason: error.to_string() })?;
    for (key, version) in patch {
        if flow.is_break() {
            break;
        }
        if let Some(version) = version {
            flow = visit(&key, Found::Above(version));
        }
    }
    Ok(())
}

/// Visits whole records; stops at a damaged one.
pub(crate) fn each(
    mut view: View,
    prefix: &str,
    after: Option<&str>,
    visit: &mut dyn FnMut(&str, Version) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let shown = view.shown.clone();
    let mut damaged = None;
    walk(&mut view, prefix, after, &mut |key, found| match found {
        Found::Above(version) => visit(key, version),
        Found::AtRest(raw) => match shown.current(key, raw) {
            Current::Version(version) => visit(key, version),
            Current::Absent => ControlFlow::Continue(()),
            Current::Damaged => {
                damaged = Some(key.to_owned());
                ControlFlow::Break(())
            }
        },
    })?;
    damaged.map_or(Ok(()), |key| Err(ReadError::Corrupt { key }))
}

/// The first `take` records of a view, and whether more keys follow.
pub(crate) fn first(
    view: View,
    prefix: &str,
    after: Option<&str>,
    take: usize,
) -> Result<(Vec<Record>, bool), ReadError> {
    let mut records = Vec::new();
    let mut more = false;
    each(view, prefix, after, &mut |key, version| {
        if records.len() == take {
            more = true;
            return ControlFlow::Break(());
        }
        records.push(Record { key: key.to_owned(), value: version.value, revision: version.revision });
        ControlFlow::Continue(())
    })?;
    Ok((records, more))
}

/// How many keys of a view follow; damaged ones count.
pub(crate) fn count(mut view: View, prefix: &str, after: Option<&str>) -> Result<u64, ReadError> {
    view.patch.retain(|key, _| after.is_none_or(|after| &**key > after));
    let mut keys = 0;
    walk(&mut view, prefix, after, &mut |_, _| {
        keys += 1;
        ControlFlow::Continue(())
    })?;
    Ok(keys)
}

/// Lists in progress that are remembered; a forgotten one counts its rest again.
const LISTS_MAX: usize = 256;

/// How many keys the lists in progress have left: the next page need not count them. The state at one revision never
/// changes, so neither do these numbers.
#[derive(Debug, Default)]
pub(crate) struct Unread(VecDeque<(String, Revision, String, u64)>);

impl Unread {
    pub(crate) fn take(&mut self, prefix: &str, at: Revision, after: &str) -> Option<u64> {
        let found = self.0.iter().position(|entry| entry.0 == prefix && entry.1 == at && entry.2 == after)?;
        self.0.remove(found).map(|entry| entry.3)
    }

    pub(crate) fn put(&mut self, prefix: &str, at: Revision, last: &str, left: u64) {
        if self.0.len() == LISTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((prefix.to_owned(), at, last.to_owned(), left));
    }
}
