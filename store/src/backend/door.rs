//! Shell: the door between redb and its file: keeps the file under its cap, and tells "full" from "broken".

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::{BackendError, StorageBackend};

/// Part of the largest file that only deletes may use: they copy pages before they free them.
const DELETES_SHARE: u64 = 16;
/// A look at what is free costs a read of every hundredth page or so; it comes no sooner than after writes of this part
/// of the file.
const LOOK_SHARE: u64 = 64;

/// What the door may let through, shared with the writer.
#[derive(Debug)]
pub(super) struct Limits {
    bytes_max: u64,
    len: AtomicU64,
    /// Bytes written since opening.
    written: AtomicU64,
    /// Until so much is written, puts may lie anywhere: enough was free when somebody looked.
    roomy_until: AtomicU64,
    /// When so much is written, it is time to look again.
    look_at: AtomicU64,
    /// The running commit frees space.
    pub(super) frees: AtomicBool,
    /// Something was refused for want of space.
    pub(super) refused: AtomicBool,
    /// Something was written where only deletes may write.
    pub(super) crowded: AtomicBool,
}

impl Limits {
    pub(super) fn new(bytes_max: u64) -> Limits {
        Limits {
            bytes_max,
            len: AtomicU64::new(0),
            written: AtomicU64::new(0),
            roomy_until: AtomicU64::new(0),
            look_at: AtomicU64::new(0),
            frees: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
        }
    }

    /// The length of the file.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Bytes written since opening.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the file has its final length.
    pub(super) fn grown(&self) -> bool {
        self.len().saturating_mul(2) > self.bytes_max
    }

    /// Whether it is time to look how much is free. redb takes the smallest gap wherever it lies, so that a put behind
    /// the end for puts says nothing of a file that has its final length.
    pub(super) fn wants_look(&self) -> bool {
        self.grown() && self.written() >= self.look_at.load(Ordering::Relaxed)
    }

    /// So much of the file is used. Half of what is free beside that for deletes may be written before the next look,
    /// since readers may keep what is overwritten.
    pub(super) fn looked(&self, used: u64) {
        let room = (self.len() - self.len() / DELETES_SHARE).saturating_sub(used) / 2;
        let written = self.written();
        self.roomy_until.store(written + room, Ordering::Relaxed);
        // Where little is free, looking must not cost more than writing.
        self.look_at.store(written + room.max(self.len() / LOOK_SHARE), Ordering::Relaxed);
    }

    fn roomy(&self) -> bool {
        self.written() < self.roomy_until.load(Ordering::Relaxed)
    }

    fn refuse(&self) -> io::Error {
        self.refused.store(true, Ordering::Relaxed);
        io::Error::new(io::ErrorKind::StorageFull, "the store has reached its cap")
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            self.refused.store(true, Ordering::Relaxed);
        }
        result
    }
}

/// A storage with limits.
#[derive(Debug)]
pub(super) struct Capped {
    inner: Arc<dyn StorageBackend>,
    limits: Arc<Limits>,
}

impl Capped {
    pub(super) fn new(inner: Arc<dyn StorageBackend>, limits: Arc<Limits>) -> io::Result<Capped> {
        limits.len.store(inner.len()?, Ordering::Relaxed);
        Ok(Capped { inner, limits })
    }

    /// redb doubles its file when it grows; when the next doubling is over the cap, the end of the present file is
    /// kept for deletes, unless there is room elsewhere.
    fn puts_end(&self) -> u64 {
        let len = self.limits.len();
        if self.limits.grown() && !self.limits.roomy() { len - len / DELETES_SHARE } else { u64::MAX }
    }
}

impl StorageBackend for Capped {
    fn len(&self) -> Result<u64, io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        if len > self.limits.bytes_max && len > self.limits.len() {
            return Err(self.limits.refuse());
        }
        self.limits.note(self.inner.set_len(len))?;
        self.limits.len.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if offset + data.len() as u64 > self.puts_end() {
            if !self.limits.frees.load(Ordering::Relaxed) {
                return Err(self.limits.refuse());
            }
            self.limits.crowded.store(true, Ordering::Relaxed);
        }
        self.limits.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.limits.note(self.inner.write(offset, data))
    }

    fn close(&self) -> Result<(), io::Error> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
