//! Pure: reads redb's file as of one commit, and believes no page that is not what it was when it was written.
//!
//! redb checks its pages only when it repairs. A flipped bit in an inner page would hide records, one in the key of a
//! record too: a key that is not found is only absent if every page on the way to it is sound.

use std::io;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use ::redb::StorageBackend;

use super::tree::{Layout, Page, Pointer, RECORDS, Tree, parse_any};
use super::{BackingError, Records, Visit};
use crate::record::parse;

/// No tree is deeper.
const DEPTH_MAX: usize = 24;

/// The records of a commit. Whoever keeps it keeps redb from using its pages for something else.
pub(super) struct Checked {
    file: Arc<dyn StorageBackend>,
    len: u64,
    layout: Layout,
    root: Option<Pointer>,
}

/// A page of the tree, and where it lies.
#[derive(Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) begin: u64,
    pub(super) bytes: u64,
    /// Its keys come after this one.
    pub(super) after: Option<&'a [u8]>,
}

fn corrupt(what: &str, after: Option<&[u8]>, upto: Option<&[u8]>) -> BackingError {
    let key =
        |key: Option<&[u8]>, end: &str| key.map_or(end.to_owned(), |key| String::from_utf8_lossy(key).into_owned());
    let (after, upto) = (key(after, "the beginning"), key(upto, "the end"));
    BackingError::Corrupt(format!(
        "{what} after {after} up to {upto} is damaged; `bramble store salvage` writes the rest into a new store"
    ))
}

fn failed(error: io::Error) -> BackingError {
    match error.kind() {
        io::ErrorKind::InvalidData => BackingError::Corrupt(error.to_string()),
        _ => BackingError::Failed(error.to_string()),
    }
}

/// A place in the tree, and the keys that belong there.
#[derive(Clone, Copy)]
struct Part<'a> {
    pointer: Pointer,
    after: Option<&'a [u8]>,
    upto: Option<&'a [u8]>,
    depth: usize,
}

impl<'a> Part<'a> {
    /// The child with this number of a branch page.
    fn child(&self, children: &[Pointer], keys: &[&'a [u8]], index: usize) -> Part<'a> {
        let after = index.checked_sub(1).map(|before| keys[before]).or(self.after);
        let upto = keys.get(index).copied().or(self.upto);
        Part { pointer: children[index], after, upto, depth: self.depth + 1 }
    }

    fn corrupt(&self, what: &str) -> BackingError {
        corrupt(what, self.after, self.upto)
    }
}

impl Checked {
    /// The newest commit; redb must not be writing.
    pub(super) fn newest(file: Arc<dyn StorageBackend>) -> Result<Checked, BackingError> {
        let (layout, root) = Tree::open(&*file).and_then(|tree| tree.root_of(RECORDS)).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        Ok(Checked { file, len, layout, root })
    }

    /// Whether both are the same pages.
    pub(super) fn is(&self, other: &Checked) -> bool {
        self.root == other.root
    }

    fn root(&self) -> Option<Part<'static>> {
        self.root.map(|pointer| Part { pointer, after: None, upto: None, depth: 0 })
    }

    fn page(&self, part: &Part<'_>) -> Result<Vec<u8>, BackingError> {
        let raw = if part.depth < DEPTH_MAX {
            self.layout.read(&*self.file, self.len, part.pointer.page()).map_err(failed)?
        } else {
            None
        };
        raw.ok_or_else(|| part.corrupt("a page that leads to the records"))
    }

    /// The bytes at rest of a key, handed to `read`. A record in a damaged page is handed out if it is there; its own
    /// checksum tells about it.
    pub(super) fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<(), BackingError> {
        let Some(root) = self.root() else { return Ok(()) };
        self.get_below(&root, key, read)
    }

    fn get_below(&self, part: &Part<'_>, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<(), BackingError> {
        let raw = self.page(part)?;
        let page = parse_any(&raw);
        let sound = page.as_ref().is_some_and(|page| part.pointer.is_sound(&raw, page));
        match page {
            Some(Page::Leaf { entries, .. }) => match entries.iter().find(|(found, _)| *found == key) {
                Some((_, value)) => read(value),
                None if sound => {}
                None => return Err(part.corrupt("a page of records")),
            },
            Some(Page::Branch { children, keys, .. }) if sound => {
                let index = keys.partition_point(|upto| *upto < key);
                return self.get_below(&part.child(&children, &keys, index), key, read);
            }
            _ => return Err(part.corrupt("a page that leads to the records")),
        }
        Ok(())
    }

    /// Visits the records from a key on. Of a damaged page the records are visited, then it is an error.
    pub(super) fn scan(&self, from: Bound<&str>, visit: Visit<'_>) -> Result<(), BackingError> {
        let Some(root) = self.root() else { return Ok(()) };
        let from = from.map(str::as_bytes);
        self.scan_below(&root, from, visit).map(|_| ())
    }

    fn scan_below(
        &self,
        part: &Part<'_>,
        from: Bound<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>, BackingError> {
        let raw = self.page(part)?;
        let page = parse_any(&raw);
        let sound = page.as_ref().is_some_and(|page| part.pointer.is_sound(&raw, page));
        let before = |key: &[u8]| match from {
            Bound::Included(from) => key < from,
            Bound::Excluded(from) => key <= from,
            Bound::Unbounded => false,
        };
        match page {
            Some(Page::Leaf { entries, .. }) => {
                let mut flow = ControlFlow::Continue(());
                for (key, value) in entries.iter().filter(|(key, _)| !before(key)) {
                    let Ok(key) = std::str::from_utf8(key) else { return Err(part.corrupt("a page of records")) };
                    flow = visit(key, value);
                    if flow.is_break() {
                        break;
                    }
                }
                // Whoever reads has passed over a damaged record: something newer lies above it. That somebody has read
                // enough says nothing here: a flipped key looks like the end of what was asked for.
                let passed = |key: &str, raw: &[u8]| parse(key, raw).is_err();
                if sound || is_all(part, &entries, &passed) {
                    return Ok(flow);
                }
                Err(part.corrupt("a page of records"))
            }
            Some(Page::Branch { children, keys, .. }) if sound => {
                for index in keys.partition_point(|upto| before(upto))..children.len() {
                    if self.scan_below(&part.child(&children, &keys, index), from, visit)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            _ => Err(part.corrupt("a page that leads to the records")),
        }
    }

    /// Looks at every page that redb reads and copies when it writes these records: it would give a damaged one a
    /// checksum that holds. Damaged records may be written over if nothing else of their page is damaged.
    pub(super) fn check(&self, records: &Records) -> Result<(), BackingError> {
        let keys: Vec<&[u8]> = records.keys().map(|key| key.as_bytes()).collect();
        let deletes = records.values().any(Option::is_none);
        match self.root() {
            Some(root) if !keys.is_empty() => self.check_below(&root, &keys, deletes, records),
            _ => Ok(()),
        }
    }

    fn check_below(
        &self,
        part: &Part<'_>,
        keys: &[&[u8]],
        deletes: bool,
        records: &Records,
    ) -> Result<(), BackingError> {
        let raw = self.page(part)?;
        let page = parse_any(&raw);
        let sound = page.as_ref().is_some_and(|page| part.pointer.is_sound(&raw, page));
        match page {
            Some(Page::Leaf { .. }) if sound => Ok(()),
            Some(Page::Leaf { entries, .. }) if is_all(part, &entries, &|key, _| records.contains_key(key)) => Ok(()),
            Some(Page::Branch { children, keys: ends, .. }) if sound => {
                let (mut left, mut checked) = (keys, 0);
                for index in 0..children.len() {
                    let count = ends.get(index).map_or(left.len(), |upto| left.partition_point(|key| key <= upto));
                    let (here, rest) = left.split_at(count);
                    left = rest;
                    if here.is_empty() {
                        continue;
                    }
                    // What gets too small is joined with what is beside it.
                    if deletes {
                        for beside in [index.wrapping_sub(2), index.wrapping_sub(1), index + 1, index + 2] {
                            if beside < children.len() && beside >= checked {
                                self.check_below(&part.child(&children, &ends, beside), &[], false, records)?;
                            }
                        }
                    }
                    self.check_below(&part.child(&children, &ends, index), here, deletes, records)?;
                    checked = index + 1;
                }
                Ok(())
            }
            Some(Page::Leaf { .. }) => Err(part.corrupt("a page of records")),
            _ => Err(part.corrupt("a page that leads to the records")),
        }
    }

    /// Where every page of the tree lies; reads only those that lead to others.
    pub(super) fn pages(&self, visit: &mut dyn FnMut(Placed<'_>)) -> Result<(), BackingError> {
        let Some(root) = self.root() else { return Ok(()) };
        let (mut height, mut part) = (0, root);
        let mut raw = self.page(&part)?;
        while let Some(Page::Branch { children, .. }) = parse_any(&raw) {
            part = Part { pointer: children[0], depth: part.depth + 1, ..root };
            raw = self.page(&part)?;
            height += 1;
        }
        self.pages_below(&root, height, visit)
    }

    fn pages_below(
        &self,
        part: &Part<'_>,
        height: usize,
        visit: &mut dyn FnMut(Placed<'_>),
    ) -> Result<(), BackingError> {
        if let Some((begin, bytes)) = self.layout.place(part.pointer.page()) {
            visit(Placed { begin, bytes, after: part.after });
        }
        if part.depth == height {
            return Ok(());
        }
        let raw = self.page(part)?;
        match parse_any(&raw) {
            Some(page) if part.pointer.is_sound(&raw, &page) => {
                let Page::Branch { children, keys, .. } = page else { return Ok(()) };
                (0..children.len())
                    .try_for_each(|index| self.pages_below(&part.child(&children, &keys, index), height, visit))
            }
            _ => Err(part.corrupt("a page that leads to the records")),
        }
    }
}

/// Whether what can be read of a damaged page is surely all that it held: the damage lies in records that are let pass.
fn is_all(part: &Part<'_>, entries: &[(&[u8], &[u8])], pass: &dyn Fn(&str, &[u8]) -> bool) -> bool {
    let within = |key: &[u8]| part.after.is_none_or(|after| key > after) && part.upto.is_none_or(|upto| key <= upto);
    let ascending = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let mut located = false;
    ascending
        && entries.iter().all(|(key, raw)| {
            let Ok(text) = std::str::from_utf8(key) else { return false };
            let whole = parse(text, raw).is_ok();
            located |= !whole;
            within(key) && (whole || pass(text, raw))
        })
        && located
}
