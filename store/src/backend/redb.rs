//! Shell: records in a redb file: one table of records, one of meta.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::redb::backends::FileBackend;
use ::redb::{
    Builder, Database, Error, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    TableDefinition, WriteTransaction,
};

use super::door::{Capped, Limits};
use super::journal::Held;
use super::{Backing, BackingError, Commit, Meta, Snapshot, Visit};
use crate::config::{Backend, Config, Door};
use crate::error::OpenError;
use crate::rescue;

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// A file that holds less than this part of its length is compacted at opening.
const COMPACT_RATIO: u64 = 4;
/// Records whose size tells about that of all others.
const SAMPLE_RECORDS: usize = 256;
/// Records of a step of a checkpoint.
const STEP_RECORDS_MIN: usize = 8;
const STEP_RECORDS_MAX: usize = 8192;
/// What a record dirties where no other is near: a page.
const RECORD_DIRTIES_BYTES: u64 = 4096;
/// Raised when a file of an older version could not be read any more.
const FORMAT: u64 = 1;

pub(crate) struct RedbBacking {
    /// None only while recovering.
    db: Option<Database>,
    door: Door,
    limits: Arc<Limits>,
    cache_bytes: usize,
    compact_bytes_min: u64,
    /// What a step of a checkpoint writes, about, and the records that do it.
    step_bytes: u64,
    step_records: usize,
}

struct RedbSnapshot(ReadOnlyTable<&'static str, &'static [u8]>);

impl RedbBacking {
    /// Opens or makes the file that the config names.
    pub(crate) fn open(config: &Config) -> Result<RedbBacking, OpenError> {
        let (door, path): (Door, String) = match &config.backend {
            Backend::Doors { store, .. } => (store.clone(), "behind its door".into()),
            Backend::Redb(path) => {
                let shown = path.display().to_string();
                let path = path.clone();
                if !path.exists() {
                    make_file(&path, config)?;
                }
                (Arc::new(move || open_file(&path)), shown)
            }
            Backend::Memory => (Arc::new(|| Ok(Box::new(::redb::backends::InMemoryBackend::new()))), "memory".into()),
        };
        let limits = Arc::new(Limits::new(config.file_bytes_max));
        let (cache_bytes, compact_bytes_min) = (config.cache_bytes, config.compact_bytes_min);
        let step_bytes = config.step_bytes;
        let step_records = step_records(step_bytes, RECORD_DIRTIES_BYTES);
        let mut backing =
            RedbBacking { db: None, door, limits, cache_bytes, compact_bytes_min, step_bytes, step_records };
        backing.check(config.verify_bytes_max).and_then(|()| backing.reopen()).map_err(|error| match error {
            BackingError::Locked => OpenError::Locked { path },
            BackingError::Format { found, known } => OpenError::Format { found, known },
            error => OpenError::Backend(error),
        })?;
        Ok(backing)
    }

    /// redb believes what it reads, and ends the process over some of it: what is damaged must not come before it. Files
    /// over the bound are left to the checksums of the records.
    fn check(&self, verify_bytes_max: u64) -> Result<(), BackingError> {
        let refused = |error: io::Error| BackingError::Failed(error.to_string());
        let file = (self.door)().map_err(refused)?;
        let len = file.len().map_err(refused)?;
        if len == 0 || len > verify_bytes_max {
            return Ok(());
        }
        let lost = rescue::damage(&*file).map_err(refused)?;
        let Some(first) = lost.first() else { return Ok(()) };
        let more = if lost.len() > 1 { format!(", and {} more", lost.len() - 1) } else { String::new() };
        Err(BackingError::Corrupt(format!("{first}{more}; `bramble store salvage` writes the rest into a new store")))
    }

    fn reopen(&mut self) -> Result<(), BackingError> {
        // The old one goes first: it holds the lock of the file.
        self.db = None;
        // Repairing and making the tables may use what is kept for deletes.
        self.limits.frees.store(true, Ordering::Relaxed);
        let inner = (self.door)().map_err(|error| failed(&self.limits, Error::from(error)))?;
        let capped =
            Capped::new(inner, self.limits.clone()).map_err(|error| failed(&self.limits, Error::from(error)))?;
        let db = Builder::new()
            .set_cache_size(self.cache_bytes)
            .create_with_backend(capped)
            .map_err(|error| failed(&self.limits, error.into()))?;
        let db = self.db.insert(db);
        prepare(db).map_err(|error| failed(&self.limits, error))?;
        shrink(db, self.limits.len(), self.compact_bytes_min).map_err(|error| failed(&self.limits, error))?;
        match number(&*meta_table(db).map_err(|error| failed(&self.limits, error))?, "format") {
            Ok(FORMAT) => Ok(()),
            Ok(found) => Err(BackingError::Format { found, known: FORMAT }),
            Err(error) => Err(error),
        }
    }

    fn db(&self) -> Result<&Database, BackingError> {
        self.db.as_ref().ok_or_else(|| BackingError::Failed("not open".into()))
    }

    /// One commit, at rest when it returns, and what of the journal redb holds from then on. Says whether it had to
    /// use the space that is kept for deletes.
    pub(super) fn write(&mut self, commit: &Commit, held: Option<Held>) -> Result<bool, BackingError> {
        self.limits.frees.store(commit.frees, Ordering::Relaxed);
        self.limits.crowded.store(false, Ordering::Relaxed);
        let error = |error: Error| failed(&self.limits, error);
        let mut transaction = self.db()?.begin_write().map_err(|e| error(e.into()))?;
        transaction.set_quick_repair(true);
        fill(&transaction, commit, held).map_err(error)?;
        transaction.commit().map_err(|e| error(e.into()))?;
        Ok(self.limits.crowded.load(Ordering::Relaxed))
    }

    /// The same for what the journal holds, in steps; only the last one says that all is here. What a power cut leaves of
    /// it, the journal says again.
    pub(super) fn write_in_steps(&mut self, commit: Commit, held: Held) -> Result<bool, BackingError> {
        let Commit { records, meta, frees } = commit;
        let mut step = Commit { frees, ..Commit::default() };
        let (mut crowded, mut bytes) = (false, 0);
        for (key, raw) in records {
            if step.records.len() >= self.step_records || bytes > self.step_bytes {
                let before = self.limits.written();
                crowded |= self.write(&step, None)?;
                let dirtied_bytes = (self.limits.written() - before) / step.records.len() as u64;
                self.step_records = step_records(self.step_bytes, dirtied_bytes).min(2 * self.step_records);
                step.records.clear();
                bytes = 0;
            }
            bytes += raw.as_ref().map_or(0, |raw| raw.len() as u64);
            step.records.insert(key, raw);
        }
        step.meta = meta;
        Ok(self.write(&step, Some(held))? | crowded)
    }

    /// What of the journal is here; none in a file that never had one.
    pub(super) fn held(&self) -> Result<Option<Held>, BackingError> {
        let table = meta_table(self.db()?).map_err(plain)?;
        let Some(value) = ReadableTable::get(&*table, "journal").map_err(|error| plain(error.into()))? else {
            return Ok(None);
        };
        let value = value.value();
        let number = |at: usize| value.get(at..at + 8).and_then(|raw| raw.try_into().ok()).map(u64::from_le_bytes);
        let (id, generation) = number(0).zip(number(8)).ok_or_else(|| BackingError::Corrupt("meta journal".into()))?;
        Ok(Some(Held { id, generation, next: number(16).unwrap_or(1) }))
    }

    /// Until a commit tells: a file that grows no more may have no room but for deletes.
    pub(super) fn may_be_crowded(&self) -> bool {
        self.limits.grown()
    }
}

fn step_records(step_bytes: u64, dirtied_bytes: u64) -> usize {
    let fit = usize::try_from(step_bytes / dirtied_bytes.max(1)).unwrap_or(STEP_RECORDS_MAX);
    fit.clamp(STEP_RECORDS_MIN, STEP_RECORDS_MAX)
}

/// Only its owner may read it: it holds secrets.
fn open_file(path: &Path) -> io::Result<Box<dyn StorageBackend>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// Makes a new file whole under another name first: a power cut in between leaves no half-made store.
fn make_file(path: &Path, config: &Config) -> Result<(), OpenError> {
    let refused = |error: io::Error| OpenError::Backend(BackingError::Failed(error.to_string()));
    let mut making = path.as_os_str().to_owned();
    making.push(".new");
    let making = PathBuf::from(making);
    if making.exists() {
        fs::remove_file(&making).map_err(refused)?;
    }
    let door = Arc::new({
        let making = making.clone();
        move || open_file(&making)
    });
    drop(RedbBacking::open(&Config {
        backend: Backend::Doors { store: door.clone(), journal: door },
        ..config.clone()
    })?);
    put_in_place(&making, path).map_err(refused)
}

/// Renames a synced file, durably.
pub(crate) fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// redb reuses what is freed, but a file gets shorter only when its end happens to be free. One that is mostly empty is
/// compacted, before anybody reads it: little moves then. Smaller files are not even looked through.
fn shrink(db: &mut Database, len: u64, compact_bytes_min: u64) -> Result<(), Error> {
    if len < compact_bytes_min || sampled_bytes(db)?.saturating_mul(2 * COMPACT_RATIO) > len {
        return Ok(());
    }
    // What the last commit before closing freed was still being read then.
    db.begin_write()?.commit()?;
    let transaction = db.begin_write()?;
    let stats = transaction.stats()?;
    transaction.abort()?;
    let allocated = stats.allocated_pages() * stats.page_size() as u64;
    if allocated.saturating_mul(COMPACT_RATIO) < len {
        tracing::info!(bytes = len, allocated, "the store's file is mostly empty: compacting");
        db.compact()?;
    }
    Ok(())
}

/// About how many bytes the records have. Their exact number of pages is known only after a walk through the file, which
/// takes too long for every opening.
fn sampled_bytes(db: &Database) -> Result<u64, Error> {
    let table = db.begin_read()?.open_table(RECORDS)?;
    let (mut bytes, mut sampled) = (0, 0);
    for entry in ReadableTable::iter(&table)?.take(SAMPLE_RECORDS) {
        let (key, raw) = entry?;
        bytes += (key.value().len() + raw.value().len()) as u64;
        sampled += 1;
    }
    Ok(bytes.saturating_mul(ReadableTableMetadata::len(&table)?) / sampled.max(1))
}

/// Makes the tables of a new file; an old one is left as it is.
fn prepare(db: &Database) -> Result<(), Error> {
    let exists = db.begin_read()?.open_table(META);
    if exists.is_ok() {
        return Ok(());
    }
    let transaction = db.begin_write()?;
    transaction.open_table(RECORDS)?;
    transaction.open_table(META)?.insert("format", FORMAT.to_le_bytes().as_slice())?;
    transaction.commit()?;
    Ok(())
}

fn fill(transaction: &WriteTransaction, commit: &Commit, held: Option<Held>) -> Result<(), Error> {
    let mut records = transaction.open_table(RECORDS)?;
    for (key, raw) in &commit.records {
        match raw {
            Some(raw) => records.insert(&**key, &**raw)?,
            None => records.remove(&**key)?,
        };
    }
    if let Some(meta) = &commit.meta {
        let soft: Vec<&str> = meta.soft.iter().map(String::as_str).collect();
        let mut table = transaction.open_table(META)?;
        table.insert("reserved", meta.reserved.to_le_bytes().as_slice())?;
        table.insert("floor", meta.floor.to_le_bytes().as_slice())?;
        table.insert("soft", soft.join("\n").as_bytes())?;
    }
    if let Some(Held { id, generation, next }) = held {
        let value = [id.to_le_bytes(), generation.to_le_bytes(), next.to_le_bytes()];
        transaction.open_table(META)?.insert("journal", value.as_flattened())?;
    }
    Ok(())
}

fn meta_table(db: &Database) -> Result<Box<ReadOnlyTable<&'static str, &'static [u8]>>, Error> {
    Ok(Box::new(db.begin_read()?.open_table(META)?))
}

/// A number of the meta table; zero where it was never written.
fn number(table: &ReadOnlyTable<&'static str, &'static [u8]>, key: &str) -> Result<u64, BackingError> {
    let value = ReadableTable::get(table, key).map_err(|error| plain(error.into()))?;
    let Some(value) = value else { return Ok(0) };
    let bytes = value.value().try_into().map_err(|_| BackingError::Corrupt(format!("meta {key}")))?;
    Ok(u64::from_le_bytes(bytes))
}

fn plain(error: Error) -> BackingError {
    match error {
        Error::DatabaseAlreadyOpen => BackingError::Locked,
        Error::Corrupted(what) => BackingError::Corrupt(what),
        error => BackingError::Failed(error.to_string()),
    }
}

fn failed(limits: &Limits, error: Error) -> BackingError {
    if limits.refused.swap(false, Ordering::Relaxed) { BackingError::Full } else { plain(error) }
}

impl Backing for RedbBacking {
    fn meta(&self) -> Result<Meta, BackingError> {
        let table = meta_table(self.db()?).map_err(plain)?;
        let soft = ReadableTable::get(&*table, "soft").map_err(|error| plain(error.into()))?;
        let soft = match &soft {
            Some(soft) => std::str::from_utf8(soft.value()).map_err(|_| BackingError::Corrupt("meta soft".into()))?,
            None => "",
        };
        Ok(Meta {
            reserved: number(&table, "reserved")?,
            floor: number(&table, "floor")?,
            soft: soft.lines().map(str::to_owned).collect(),
        })
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, BackingError> {
        let transaction = self.db()?.begin_read().map_err(|error| plain(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| plain(error.into()))?;
        Ok(Arc::new(RedbSnapshot(table)))
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), BackingError> {
        self.write(commit, None).map(|_| ())
    }

    fn recover(&mut self) -> Result<(), BackingError> {
        self.reopen()
    }
}

impl Snapshot for RedbSnapshot {
    fn get(&self, key: &str, read: &mut dyn FnMut(&[u8])) -> Result<(), BackingError> {
        if let Some(raw) = ReadableTable::get(&self.0, key).map_err(|error| plain(error.into()))? {
            read(raw.value());
        }
        Ok(())
    }

    fn scan(&self, prefix: &str, after: Option<&str>, visit: Visit<'_>) -> Result<(), BackingError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range =
            ReadableTable::range::<&str>(&self.0, (from, Bound::Unbounded)).map_err(|error| plain(error.into()))?;
        for entry in range {
            let (key, raw) = entry.map_err(|error| plain(error.into()))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            if let ControlFlow::Break(()) = visit(key.value(), raw.value()) {
                break;
            }
        }
        Ok(())
    }
}
