//! Pure: the door to whatever keeps the records at rest.
//!
//! A backing keeps bytes under keys, takes one atomic durable commit at a time, and gives immutable snapshots.
//! Preconditions, revisions, history and everything that may be lost live above it, in this process. A backend that
//! owns those itself takes the place of the writer behind the same methods of `Store`: `crate::etcd`.

mod checked;
mod checkpoint;
mod door;
pub(crate) mod journal;
pub(crate) mod journaled;
mod layers;
pub(crate) mod memory;
pub(crate) mod redb;
mod slack;
pub(crate) mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

/// What the backing remembers beside the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Every revision that was ever assigned is below this: the base of the next boot.
    pub(crate) reserved: u64,
    /// Records at rest with a lower revision are shown with this one: where a restore happened.
    pub(crate) floor: u64,
    /// Resources that had a volatile or deferred write: their records at rest may be older than what was shown.
    pub(crate) soft: BTreeSet<String>,
}

/// Records to put, as `record::encode` gives them, and keys to delete.
pub(crate) type Records = BTreeMap<Arc<str>, Option<Bytes>>;

/// One atomic change of the backing.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    /// What to put and to delete.
    pub(crate) records: Records,
    /// The new meta, where it changes.
    pub(crate) meta: Option<Meta>,
    /// Nothing grows: the commit may use the space kept free for deletes.
    pub(crate) frees: bool,
}

/// Why a backing could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// No space: surely nothing of the commit happened.
    #[error("no space left")]
    Full,
    /// Another process has it open.
    #[error("in use by another process")]
    Locked,
    /// It does not hold what it should.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Written by a newer version.
    #[error("format {found} is newer than {known}")]
    Format {
        /// What it says.
        found: u64,
        /// What this code knows.
        known: u64,
    },
    /// Anything else: whether a commit happened is unknown.
    #[error("{0}")]
    Failed(String),
}

/// Called with each key and its bytes at rest, in key order.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&str, &[u8]) -> ControlFlow<()>;

/// Records as they were after some commit, whatever is committed later.
pub(crate) trait Snapshot: Send + Sync {
    /// The bytes at rest of a key, handed to `read`.
    fn get(&self, key: &str, read: &mut dyn FnMut(&[u8])) -> Result<(), BackingError>;

    /// Visits the keys that begin with `prefix` and come after `after`.
    fn scan(&self, prefix: &str, after: Option<&str>, visit: Visit<'_>) -> Result<(), BackingError>;
}

/// Tells the writer that something it began is done.
pub(crate) type Nudge = Arc<dyn Fn() + Send + Sync>;

/// The one writer's side.
pub(crate) trait Backing: Send {
    /// As of opening.
    fn meta(&self) -> Result<Meta, BackingError>;

    /// The records now.
    fn snapshot(&mut self) -> Result<Arc<dyn Snapshot>, BackingError>;

    /// All or nothing, and on stable storage when it returns.
    fn commit(&mut self, commit: &Commit) -> Result<(), BackingError>;

    /// Back to the last commit after `Full`. Older snapshots may fail from here on.
    fn recover(&mut self) -> Result<(), BackingError>;

    /// Whom to tell when `attend` has something to do.
    fn notify(&mut self, _nudge: Nudge) {}

    /// Takes up what was done aside, or waits for it; gives a snapshot that replaces older ones.
    fn attend(&mut self, _wait: bool) -> Result<Option<Arc<dyn Snapshot>>, BackingError> {
        Ok(None)
    }
}
