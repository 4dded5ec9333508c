//! Pure: what can go wrong, by what the caller can do about it.

use crate::backend::BackingError;
use crate::record::Revision;
use crate::seal::SealError;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the file.
    #[error("the store {path} is in use by another process")]
    Locked {
        /// The file.
        path: String,
    },
    /// The file was written by a newer Bramble.
    #[error("the store has format {found}, this version reads {known}")]
    Format {
        /// What the file says.
        found: u64,
        /// What this code knows.
        known: u64,
    },
    /// The file cannot be read, written or understood.
    #[error("cannot open the store")]
    Backend(#[source] BackingError),
    /// The keys do not open what is sealed in it; nothing was changed.
    #[error("cannot open what is sealed in the store")]
    Sealed(#[source] SealError),
    /// No thread for the writer.
    #[error("cannot start the writer")]
    Thread(#[source] std::io::Error),
}

/// Why a batch was not written. Nothing of it happened, except after `Backend` and `Unavailable`, where
/// nobody knows.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// A precondition does not hold.
    #[error("precondition failed for {key}")]
    Conflict {
        /// The first key whose precondition failed.
        key: String,
        /// The key's revision now; none when it does not exist.
        current: Option<Revision>,
    },
    /// A key is empty, without resource, too long, or twice in its batch.
    #[error("invalid key {key:?}")]
    InvalidKey {
        /// The key.
        key: String,
    },
    /// More keys than a batch may hold.
    #[error("a batch of {writes} writes is too large")]
    BatchTooLarge {
        /// How many it has.
        writes: usize,
    },
    /// A value over the bound.
    #[error("the value of {key} is too large: {bytes} bytes")]
    ValueTooLarge {
        /// The key.
        key: String,
        /// Its size.
        bytes: usize,
    },
    /// The file has reached its cap, or the disk is full: delete something. Deletes still work.
    #[error("the store is full")]
    Full,
    /// The record that the precondition speaks of is damaged at rest. A put or delete without precondition heals it.
    #[error("the record {key} is corrupt")]
    Corrupt {
        /// The key.
        key: String,
    },
    /// The disk failed; the store takes no further writes until it is opened again. Or etcd refuses the write.
    #[error("the store failed: {reason}")]
    Backend {
        /// What it said.
        reason: String,
    },
    /// No member of the etcd cluster answers, or it has no leader; nobody knows whether the batch happened. Ask again.
    #[error("etcd does not answer: {reason}")]
    Unavailable {
        /// What it said.
        reason: String,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a read gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The state at that revision can no longer be built: begin a new list.
    #[error("revision is compacted, the oldest is {oldest}")]
    Compacted {
        /// The oldest revision that still can be listed.
        oldest: Revision,
    },
    /// A revision that was not published yet.
    #[error("too large revision, current is {current}")]
    TooNew {
        /// The last published one.
        current: Revision,
    },
    /// A record does not match its checksum; it is never served.
    #[error("the record {key} is corrupt")]
    Corrupt {
        /// The key.
        key: String,
    },
    /// The disk failed, or etcd refuses.
    #[error("the store failed: {reason}")]
    Backend {
        /// What it said.
        reason: String,
    },
    /// No member of the etcd cluster answers, or it has no leader. Ask again.
    #[error("etcd does not answer: {reason}")]
    Unavailable {
        /// What it said.
        reason: String,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a watch did not begin, or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Events after that revision are gone: list again.
    #[error("revision is compacted, the oldest is {oldest}")]
    Compacted {
        /// The oldest revision from which this prefix can be watched.
        oldest: Revision,
    },
    /// A revision that was not published yet.
    #[error("too large revision, current is {current}")]
    TooNew {
        /// The last published one.
        current: Revision,
    },
    /// The watcher was too far behind and lost events: list again.
    #[error("the watcher is too slow")]
    SlowConsumer,
    /// A watch needs a whole resource: the prefix must hold a `/`.
    #[error("the prefix names no resource")]
    NoResource,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
