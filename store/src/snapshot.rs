//! Shell: a consistent copy of a running store in one stream, and a store made from such a copy.

mod format;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use self::format::Encoder;
pub use self::format::Summary;
use crate::backend::redb::{RedbBacking, put_in_place};
use crate::backend::{Backing, BackingError, Commit, Meta};
use crate::config::Config;
use crate::error::{OpenError, ReadError};
use crate::page;
use crate::record::{Revision, Version, encode};
use crate::seal::{KEYS_PREFIX, SealError, Sealer, key_of};
use crate::store::Store;

/// A restored store goes on so far above its snapshot that nothing shown since then comes again: years of writes at
/// full speed, and still room for a hundred million restores.
pub const RESTORE_JUMP: u64 = 1 << 36;

/// Records of one restoring commit, in bytes: what it may take of memory.
const CHUNK_BYTES: usize = 1 << 20;

/// Why a snapshot was not saved or not restored. A failed restore leaves nothing behind but `<path>.restoring`.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store could not be read.
    #[error("cannot read the store")]
    Read(#[source] ReadError),
    /// The stream or a file failed.
    #[error("cannot copy")]
    Io(#[from] io::Error),
    /// The stream is no snapshot, or a damaged or torn one.
    #[error("not a whole snapshot: {0}")]
    Malformed(&'static str),
    /// There is a store already.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// A record could not be sealed.
    #[error("cannot seal a record")]
    Seal(#[source] SealError),
    /// The new store could not be made.
    #[error("cannot make the store")]
    Open(#[source] OpenError),
    /// The new store could not be written.
    #[error("cannot write the store")]
    Backing(#[from] BackingError),
}

impl Store {
    /// Writes all records of one revision, which it gives; the store goes on meanwhile. Blocks on `out`. What is sealed
    /// stays so.
    pub fn snapshot(&self, out: impl Write) -> Result<Revision, SnapshotError> {
        let sealer = self.shared().sealer();
        #[cfg(feature = "etcd")]
        if let Some(etcd) = self.etcd() {
            return copy_pages(etcd, sealer, out);
        }
        let view = self.view("", None, None).map_err(SnapshotError::Read)?;
        let mut copy = Copy::new(out, view.revision, sealer)?;
        let mut failed = None;
        page::each(view, "", None, &mut |key, version| match copy.record(key, &version) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })
        .map_err(SnapshotError::Read)?;
        failed.map_or(Ok(()), Err)?;
        copy.finish()
    }
}

/// A snapshot on its way out.
struct Copy<W: Write> {
    encoder: Encoder<W>,
    revision: Revision,
    sealer: Arc<Sealer>,
    keys_used: BTreeMap<u64, Bytes>,
}

impl<W: Write> Copy<W> {
    fn new(out: W, revision: Revision, sealer: Arc<Sealer>) -> Result<Copy<W>, SnapshotError> {
        Ok(Copy { encoder: Encoder::new(out, revision)?, revision, sealer, keys_used: BTreeMap::new() })
    }

    fn record(&mut self, key: &str, version: &Version) -> Result<(), SnapshotError> {
        // The keys come last: a rotation may bring new ones meanwhile.
        if key.starts_with(KEYS_PREFIX) {
            return Ok(());
        }
        loop {
            let raw = self.sealer.encode(key, version).map_err(SnapshotError::Seal)?;
            let id = Sealer::sealed_by(key, &raw).filter(|id| !self.keys_used.contains_key(id));
            if let Some(id) = id {
                // A rotation may have ended since, and forgotten it.
                let Some(wrapped) = self.sealer.wrapped(id) else { continue };
                self.keys_used.insert(id, wrapped);
            }
            return Ok(self.encoder.record(key, &raw)?);
        }
    }

    fn finish(mut self) -> Result<Revision, SnapshotError> {
        for (id, value) in self.keys_used {
            let key = key_of(id);
            self.encoder.record(&key, &encode(&key, &Version { revision: self.revision, value }))?;
        }
        self.encoder.finish()?.flush()?;
        Ok(self.revision)
    }
}

/// The same out of etcd, page by page at one revision.
#[cfg(feature = "etcd")]
fn copy_pages(etcd: &crate::etcd::Engine, sealer: Arc<Sealer>, out: impl Write) -> Result<Revision, SnapshotError> {
    const PAGE_RECORDS: usize = 500;
    let mut page = etcd.list_blocking("", None, PAGE_RECORDS, None).map_err(SnapshotError::Read)?;
    let mut copy = Copy::new(out, page.revision, sealer)?;
    loop {
        for record in &page.records {
            copy.record(&record.key, &Version { revision: record.revision, value: record.value.clone() })?;
        }
        let Some(last) = page.records.pop().filter(|_| page.more) else { return copy.finish() };
        let next = etcd.list_blocking("", Some(last.key), PAGE_RECORDS, Some(page.revision));
        page = next.map_err(SnapshotError::Read)?;
    }
}

/// Reads a snapshot to its end, and checks all of it.
pub fn inspect(snapshot: impl Read) -> Result<Summary, SnapshotError> {
    format::read(snapshot, |_| Ok(()), |_, _, _| Ok(()))
}

/// Makes a store at `path` from a snapshot; there must be none. All its records are shown at the revision that it
/// gives, [`RESTORE_JUMP`] above the snapshot's, and everything earlier is compacted.
pub fn restore(path: &Path, snapshot: impl Read) -> Result<Revision, SnapshotError> {
    if path.exists() {
        return Err(SnapshotError::Exists(path.to_owned()));
    }
    let mut making = path.as_os_str().to_owned();
    making.push(".restoring");
    let making = PathBuf::from(making);
    if making.exists() {
        fs::remove_file(&making)?;
    }
    let mut backing = RedbBacking::open(&Config::redb(&making)).map_err(SnapshotError::Open)?;
    let revision = fill(&mut backing, snapshot)?;
    drop(backing);
    put_in_place(&making, path)?;
    Ok(revision)
}

fn fill(backing: &mut dyn Backing, snapshot: impl Read) -> Result<Revision, SnapshotError> {
    let (mut commit, mut chunk, mut jumped) = (Commit::default(), 0, 0);
    let begin = |revision: Revision| {
        let far = SnapshotError::Malformed("its revision is out of range");
        jumped = revision.0.checked_add(RESTORE_JUMP).ok_or(far)?;
        Ok(())
    };
    format::read(snapshot, begin, |key, raw, _| {
        chunk += raw.len();
        commit.records.insert(key.into(), Some(Bytes::copy_from_slice(raw)));
        if chunk > CHUNK_BYTES {
            backing.commit(&std::mem::take(&mut commit))?;
            chunk = 0;
        }
        Ok(())
    })?;
    commit.meta = Some(Meta { reserved: jumped, floor: jumped, ..Meta::default() });
    backing.commit(&commit)?;
    Ok(Revision(jumped))
}
