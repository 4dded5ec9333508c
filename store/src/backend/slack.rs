//! Pure: which records to write again, unchanged, so that the end of the file gets free.
//!
//! redb writes every changed page anew, at a low place if there is one, and shortens the file when the second half of it
//! is free; a whole compaction would take as long as the file is large. So the pages that lie highest are moved, a few at
//! a time: one record of each is written again as it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::checked::Checked;
use super::{BackingError, Records};

/// Moving begins where the records take less than this part of the file, and ends at the other.
const BEGIN_RATIO: u64 = 4;
const END_RATIO: u64 = 2;

/// What is known of the space that is free.
#[derive(Debug, Default)]
pub(super) struct Slack {
    moving: bool,
    /// The last look found something to move.
    found: bool,
    /// How many records there were, at most, since somebody looked.
    count: u64,
}

impl Slack {
    pub(super) fn is_moving(&self) -> bool {
        self.moving
    }

    /// What was to be moved is, and the end of the file is cut off, or could not be.
    pub(super) fn moved(&mut self, shorter: bool) {
        self.moving &= shorter || self.found;
    }

    /// The records to write again now; none where there is not much to win.
    pub(super) fn moves(
        &mut self,
        records: &Checked,
        count: u64,
        len: u64,
        step_bytes: u64,
    ) -> Result<Option<Records>, BackingError> {
        // The file got emptier only if records went: else looking would find the same.
        if !self.moving && self.count > 0 && count > self.count / 4 * 3 {
            self.count = self.count.max(count);
            return Ok(None);
        }
        let mut used = 0;
        records.pages(&mut |page| used += page.bytes)?;
        self.moving = used < len / if self.moving { END_RATIO } else { BEGIN_RATIO };
        self.count = count;
        if !self.moving {
            return Ok(None);
        }
        let moves = highest(records, END_RATIO * used, step_bytes)?;
        self.found = !moves.is_empty();
        // Without any, what is left to do is to cut off the end.
        Ok((!moves.is_empty()).then_some(moves))
    }
}

/// One record of each of the pages that lie highest above `floor`.
fn highest(records: &Checked, floor: u64, step_bytes: u64) -> Result<Records, BackingError> {
    let (mut pages, mut bytes) = (BinaryHeap::new(), 0);
    records.pages(&mut |page| {
        if page.begin < floor
            || pages.peek().is_some_and(|Reverse((lowest, _, _))| bytes > step_bytes && page.begin < *lowest)
        {
            return;
        }
        bytes += page.bytes;
        pages.push(Reverse((page.begin, page.bytes, page.after.map(<[u8]>::to_vec))));
        while bytes > step_bytes && pages.len() > 1 {
            bytes -= pages.pop().map_or(0, |Reverse((_, bytes, _))| bytes);
        }
    })?;
    let mut moves = Records::new();
    for Reverse((_, _, after)) in pages {
        let after = after.as_deref().and_then(|after| std::str::from_utf8(after).ok());
        records.scan(after.map_or(Bound::Unbounded, Bound::Excluded), &mut |key, raw| {
            moves.insert(key.into(), Some(Bytes::copy_from_slice(raw)));
            ControlFlow::Break(())
        })?;
    }
    Ok(moves)
}
