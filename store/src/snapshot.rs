//! Shell: a consistent copy of a running store in one stream, and a store made from such a copy.

use std::fs;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::backend::redb::{RedbBacking, put_in_place};
use crate::backend::{Backing, BackingError, Commit, Meta};
use crate::config::Config;
use crate::error::{OpenError, ReadError};
use crate::page;
use crate::record::{Revision, Version, decode, encode};
use crate::store::Store;
use crate::write::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// A restored store goes on so far above its snapshot that nothing shown since then comes again: years of writes at
/// full speed, and still room for a hundred million restores.
pub const RESTORE_JUMP: u64 = 1 << 36;

/// First bytes of a snapshot; then the revision, records (`key length, key, length, bytes at rest`), and a key length
/// of zero with the number of records, which a torn copy lacks. All numbers are little-endian.
const MAGIC: &[u8; 16] = b"bramble-store-1\n";
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
    /// The new store could not be made.
    #[error("cannot make the store")]
    Open(#[source] OpenError),
    /// The new store could not be written.
    #[error("cannot write the store")]
    Backing(#[from] BackingError),
}

impl Store {
    /// Writes all records of one revision, which it gives; the store goes on meanwhile. Blocks on `out`.
    pub fn snapshot(&self, mut out: impl Write) -> Result<Revision, SnapshotError> {
        let view = self.view("", None, None).map_err(SnapshotError::Read)?;
        let revision = view.revision;
        out.write_all(MAGIC)?;
        out.write_all(&revision.0.to_le_bytes())?;
        let mut records = 0u64;
        let mut failed = None;
        page::each(view, "", None, &mut |key, version| match put(&mut out, key, &version) {
            Ok(()) => {
                records += 1;
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })
        .map_err(SnapshotError::Read)?;
        failed.map_or(Ok(()), Err)?;
        out.write_all(&0u32.to_le_bytes())?;
        out.write_all(&records.to_le_bytes())?;
        out.flush()?;
        Ok(revision)
    }
}

fn put(out: &mut impl Write, key: &str, version: &Version) -> io::Result<()> {
    let raw = encode(key, version);
    for part in [key.as_bytes(), &raw] {
        out.write_all(&u32::try_from(part.len()).map_err(io::Error::other)?.to_le_bytes())?;
        out.write_all(part)?;
    }
    Ok(())
}

/// Makes a store at `path` from a snapshot; there must be none. All its records are shown at the revision that it
/// gives, [`RESTORE_JUMP`] above the snapshot's, and everything earlier is compacted.
pub fn restore(path: &Path, mut snapshot: impl Read) -> Result<Revision, SnapshotError> {
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
    let revision = fill(&mut backing, &mut snapshot)?;
    drop(backing);
    put_in_place(&making, path)?;
    Ok(revision)
}

fn fill(backing: &mut dyn Backing, snapshot: &mut impl Read) -> Result<Revision, SnapshotError> {
    if &bytes::<16>(snapshot)? != MAGIC {
        return Err(SnapshotError::Malformed("it does not begin like one"));
    }
    let jumped = u64::from_le_bytes(bytes(snapshot)?)
        .checked_add(RESTORE_JUMP)
        .ok_or(SnapshotError::Malformed("its revision is out of range"))?;
    let mut commit = Commit::default();
    let (mut records, mut chunk) = (0u64, 0);
    loop {
        let key = part(snapshot, KEY_BYTES_MAX)?;
        if key.is_empty() {
            break;
        }
        let key = String::from_utf8(key).map_err(|_| SnapshotError::Malformed("a key is not text"))?;
        // The bytes at rest are the value with a short header.
        let raw = part(snapshot, VALUE_BYTES_MAX + 64)?;
        decode(&key, &raw).map_err(|_| SnapshotError::Malformed("a record is corrupt"))?;
        chunk += raw.len();
        records += 1;
        commit.records.insert(key.into(), Some(raw.into()));
        if chunk > CHUNK_BYTES {
            backing.commit(&std::mem::take(&mut commit))?;
            chunk = 0;
        }
    }
    if u64::from_le_bytes(bytes(snapshot)?) != records {
        return Err(SnapshotError::Malformed("records are missing"));
    }
    commit.meta = Some(Meta { reserved: jumped, floor: jumped, ..Meta::default() });
    backing.commit(&commit)?;
    Ok(Revision(jumped))
}

fn bytes<const N: usize>(from: &mut impl Read) -> Result<[u8; N], SnapshotError> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(torn)?;
    Ok(bytes)
}

fn part(from: &mut impl Read, bytes_max: usize) -> Result<Vec<u8>, SnapshotError> {
    let len = u32::from_le_bytes(bytes(from)?) as usize;
    if len > bytes_max {
        return Err(SnapshotError::Malformed("a length is out of range"));
    }
    let mut part = vec![0; len];
    from.read_exact(&mut part).map_err(torn)?;
    Ok(part)
}

fn torn(error: io::Error) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Malformed("it is torn"),
        _ => SnapshotError::Io(error),
    }
}
