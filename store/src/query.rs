//! Pure: lists and their pages.

use crate::record::{Record, Revision};

/// Which records to list. Keys come in byte order.
#[derive(Clone, Copy, Debug)]
pub struct ListQuery<'a> {
    /// Keys that begin with this.
    pub prefix: &'a str,
    /// Only keys after this one: the last key of the page before.
    pub after: Option<&'a str>,
    /// At most so many records; 0 is no limit.
    pub limit: usize,
    /// The state at this revision; none is the newest. Pages of one list all ask for the revision of the first.
    pub at: Option<Revision>,
}

impl<'a> ListQuery<'a> {
    /// Everything under a prefix, now.
    pub fn all(prefix: &'a str) -> ListQuery<'a> {
        ListQuery { prefix, after: None, limit: 0, at: None }
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The records, in key order.
    pub records: Vec<Record>,
    /// The revision of the state that was listed; also where a watch may begin.
    pub revision: Revision,
    /// Whether keys are left after the last record.
    pub more: bool,
    /// How many keys are left.
    pub remaining: u64,
}
