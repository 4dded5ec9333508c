//! Shell: the door between redb and its file: keeps the file under its cap, and tells "full" from "broken".

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::{BackendError, StorageBackend};

/// Part of the largest file that only deletes may use, and what was acknowledged before somebody saw that no more fits:
/// they copy pages before they free them.
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
    /// When so much is written, it is time to look again.
    look_at: AtomicU64,
    /// Until so much is written, there is room for puts.
    room_until: AtomicU64,
    /// The file is let go as it is, as if the power went: redb would cut off its free end, and could not grow it again
    /// below the cap.
    pub(super) letting_go: AtomicBool,
    /// Something was refused for want of space.
    pub(super) refused: AtomicBool,
}

impl Limits {
    pub(super) fn new(bytes_max: u64) -> Limits {
        Limits {
            bytes_max,
            len: AtomicU64::new(0),
            written: AtomicU64::new(0),
            look_at: AtomicU64::new(0),
            room_until: AtomicU64::new(0),
            letting_go: AtomicBool::new(false),
            refused: AtomicBool::new(false),
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

    /// What is kept for deletes.
    pub(super) fn reserve(&self) -> u64 {
        self.len() / DELETES_SHARE
    }

    /// Whether a commit that writes so much needs to know how much is free. Where redb's next page lies says nothing: it
    /// takes the smallest gap, anywhere.
    pub(super) fn wants_look(&self, bytes: u64) -> bool {
        self.grown() && self.written() + bytes >= self.look_at.load(Ordering::Relaxed)
    }

    /// So much of the file is used. What is overwritten from now on may be kept by readers: it comes to be free with the
    /// next look, which is due when half of the room is written.
    pub(super) fn looked(&self, used: u64) {
        let room = (self.len() - self.reserve()).saturating_sub(used);
        let written = self.written();
        self.room_until.store(written + room, Ordering::Relaxed);
        // Where little is free, looking must not cost more than writing.
        self.look_at.store(written + (room / 2).max(self.len() / LOOK_SHARE), Ordering::Relaxed);
    }

    /// Whether a commit that writes so much would use what is kept for deletes.
    pub(super) fn crowded(&self, bytes: u64) -> bool {
        self.grown() && self.written() + bytes > self.room_until.load(Ordering::Relaxed)
    }

    /// Whether a file of its final length, of which so much is used, could not grow again as far once its end is cut off.
    pub(super) fn must_keep_len(&self, used: u64) -> bool {
        used > self.bytes_max / 8 * 3
    }

    fn check_open(&self) -> io::Result<()> {
        if self.letting_go.load(Ordering::Relaxed) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
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
}

impl StorageBackend for Capped {
    fn len(&self) -> Result<u64, io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.limits.check_open()?;
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
        self.limits.check_open()?;
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
