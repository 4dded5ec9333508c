//! Shell: records in a redb file: one table of records, one of meta.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ::redb::backends::FileBackend;
use ::redb::{
    Builder, Database, Error, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, TableDefinition, WriteTransaction,
};

use super::checked::Checked;
use super::door::{Capped, Limits};
use super::journal::Held;
use super::slack::Slack;
use super::{Backing, BackingError, Commit, Meta, Snapshot, Visit};
use crate::config::{Backend, Config, Door};
use crate::error::OpenError;
use crate::rescue;

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Records of a step of a checkpoint.
const STEP_RECORDS_MIN: usize = 8;
const STEP_RECORDS_MAX: usize = 8192;
/// Whoever looks at a file that is opened again has so long.
const LOCKED_MAX: Duration = Duration::from_secs(5);
const LOCKED_STEP: Duration = Duration::from_millis(20);
/// Steps of giving space back with a checkpoint.
const MOVE_STEPS: usize = 2;
/// What a record dirties where no other is near: a page.
const RECORD_DIRTIES_BYTES: u64 = 4096;
/// Raised when a file of an older version could not be read any more.
const FORMAT: u64 = 1;

pub(crate) struct RedbBacking {
    /// None only while recovering.
    db: Option<Database>,
    file: Option<Arc<dyn StorageBackend>>,
    snapshots: Vec<Weak<RedbSnapshot>>,
    door: Door,
    limits: Arc<Limits>,
    cache_bytes: usize,
    compact_bytes_min: u64,
    /// What a step of a checkpoint writes, about, and the records that do it.
    step_bytes: u64,
    step_records: usize,
    slack: Slack,
}

/// Read without redb, which does not check what it reads.
struct RedbSnapshot {
    records: Checked,
    /// While it is there, redb uses none of these pages for something else. None once redb was opened again with other
    /// records.
    pages: Mutex<Option<ReadTransaction>>,
}

impl RedbSnapshot {
    fn keep(&self, pages: Option<ReadTransaction>) {
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }

    /// Pages that were used for something else are not damaged.
    fn tell<T>(&self, result: Result<T, BackingError>) -> Result<T, BackingError> {
        match result {
            Err(BackingError::Corrupt(_)) if self.pages.lock().unwrap_or_else(PoisonError::into_inner).is_none() => {
                Err(BackingError::Failed("the file was opened again meanwhile".into()))
            }
            result => result,
        }
    }
}

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
            _ => (Arc::new(|| Ok(Box::new(::redb::backends::InMemoryBackend::new()))), "memory".into()),
        };
        let limits = Arc::new(Limits::new(config.file_bytes_max));
        let (cache_bytes, compact_bytes_min) = (config.cache_bytes, config.compact_bytes_min);
        let step_bytes = config.step_bytes;
        let step_records = step_records(step_bytes, RECORD_DIRTIES_BYTES);
        let slack = Slack::default();
        let mut backing = RedbBacking {
            db: None,
            file: None,
            snapshots: Vec::new(),
            door,
            limits,
            cache_bytes,
            compact_bytes_min,
            step_bytes,
            step_records,
            slack,
        };
        backing.check(config.verify_bytes_max).and_then(|()| backing.reopen()).map_err(|error| match error {
            BackingError::Locked => OpenError::Locked { path },
            BackingError::Format { found, known } => OpenError::Format { found, known },
            error => OpenError::Backend(error),
        })?;
        Ok(backing)
    }

    /// redb believes what it reads, and ends the process over some of it: what is damaged must not come before it. The
    /// records of a file over the bound are checked when they are read, and before redb copies them.
    fn check(&self, verify_bytes_max: u64) -> Result<(), BackingError> {
        let refused = |error: io::Error| BackingError::Failed(error.to_string());
        let file = (self.door)().map_err(refused)?;
        let len = file.len().map_err(refused)?;
        if len == 0 {
            return Ok(());
        }
        let lost = rescue::damage(&*file, len <= verify_bytes_max).map_err(refused)?;
        let Some(first) = lost.first() else { return Ok(()) };
        let more = if lost.len() > 1 { format!(", and {} more", lost.len() - 1) } else { String::new() };
        Err(BackingError::Corrupt(format!("{first}{more}; `bramble store salvage` writes the rest into a new store")))
    }

    fn reopen(&mut self) -> Result<(), BackingError> {
        // The old one goes first: it holds the lock of the file.
        self.let_go();
        let inner: Arc<dyn StorageBackend> =
            (self.door)().map_err(|error| failed(&self.limits, Error::from(error)))?.into();
        self.file = Some(inner.clone());
        let capped =
            Capped::new(inner, self.limits.clone()).map_err(|error| failed(&self.limits, Error::from(error)))?;
        let db = Builder::new()
            .set_cache_size(self.cache_bytes)
            .create_with_backend(capped)
            .map_err(|error| failed(&self.limits, error.into()))?;
        let db = self.db.insert(db);
        prepare(db).map_err(|error| failed(&self.limits, error))?;
        match number(&*meta_table(db).map_err(|error| failed(&self.limits, error))?, "format") {
            Ok(FORMAT) => self.keep_snapshots(),
            Ok(found) => Err(BackingError::Format { found, known: FORMAT }),
            Err(error) => Err(error),
        }
    }

    /// Closes the file; a nearly full one as it is, since redb would cut off what is kept for deletes.
    fn let_go(&mut self) {
        let keep_len = self.limits.grown() && self.used().is_ok_and(|used| self.limits.must_keep_len(used));
        self.limits.letting_go.store(keep_len, Ordering::Relaxed);
        (self.db, self.file) = (None, None);
        self.limits.letting_go.store(false, Ordering::Relaxed);
    }

    /// Bytes of pages with records.
    fn used(&self) -> Result<u64, BackingError> {
        let mut used = 0;
        self.records()?.pages(&mut |page| used += page.bytes)?;
        Ok(used)
    }

    /// The records as of the last commit.
    fn records(&self) -> Result<Checked, BackingError> {
        Checked::newest(self.file.clone().ok_or_else(|| BackingError::Failed("not open".into()))?)
    }

    /// Snapshots of what is there now stay good in the file that was opened again; older ones fail from here on.
    fn keep_snapshots(&mut self) -> Result<(), BackingError> {
        let newest = self.records()?;
        self.snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        for snapshot in self.snapshots.iter().filter_map(Weak::upgrade) {
            let same = snapshot.records.is(&newest);
            let pages = same.then(|| self.db()?.begin_read().map_err(|error| plain(error.into()))).transpose()?;
            snapshot.keep(pages);
        }
        Ok(())
    }

    /// Before a checkpoint: where records were moved away from the end of the file, it is cut off.
    pub(super) fn cut_off(&mut self) -> Result<(), BackingError> {
        let newest = self.records()?;
        let older = self.snapshots.iter().filter_map(Weak::upgrade).any(|snapshot| !snapshot.records.is(&newest));
        // Somebody still reads what opening it again would take away.
        if !self.slack.is_moving() || older {
            return Ok(());
        }
        // redb cuts off what is free at the end when it is closed, and at other times only the half of it. Until then its
        // next pages would go there, since they go where the smallest gap is. The first close moves its own pages from
        // there, the second one cuts them off.
        let len = self.limits.len();
        self.reopen_soon()?;
        self.reopen_soon()?;
        self.slack.moved(self.limits.len() < len);
        Ok(())
    }

    /// After a checkpoint: a few records are moved away from the end of a file that is mostly empty.
    pub(super) fn move_down(&mut self) -> Result<(), BackingError> {
        match self.move_some() {
            // Whoever reads or writes there is told. Nothing is moved any more.
            Err(BackingError::Corrupt(error)) => {
                tracing::error!(%error, "the store's file gives no space back");
                self.compact_bytes_min = u64::MAX;
                Ok(())
            }
            result => result,
        }
    }

    fn move_some(&mut self) -> Result<(), BackingError> {
        if self.limits.len() < self.compact_bytes_min {
            return Ok(());
        }
        for _ in 0..MOVE_STEPS {
            let count = self.count()?;
            let records = self.records()?;
            let Some(moves) = self.slack.moves(&records, count, self.limits.len(), self.step_bytes)? else { break };
            tracing::debug!(len = self.limits.len(), records = moves.len(), "giving space back");
            self.write(&Commit { records: moves, meta: None, frees: true }, None)?;
        }
        Ok(())
    }

    /// Somebody who looks at the file may have locked it for a moment.
    fn reopen_soon(&mut self) -> Result<(), BackingError> {
        let until = Instant::now() + LOCKED_MAX;
        loop {
            match self.reopen() {
                Err(BackingError::Locked) if Instant::now() < until => std::thread::sleep(LOCKED_STEP),
                result => return result,
            }
        }
    }

    fn count(&self) -> Result<u64, BackingError> {
        let transaction = self.db()?.begin_read().map_err(|error| plain(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| plain(error.into()))?;
        ReadableTableMetadata::len(&table).map_err(|error| plain(error.into()))
    }

    fn db(&self) -> Result<&Database, BackingError> {
        self.db.as_ref().ok_or_else(|| BackingError::Failed("not open".into()))
    }

    /// One commit, at rest when it returns, and what of the journal redb holds from then on. Says whether it had to
    /// use the space that is kept for deletes.
    pub(super) fn write(&mut self, commit: &Commit, held: Option<Held>) -> Result<bool, BackingError> {
        self.records()?.check(&commit.records)?;
        self.write_checked(commit, held)
    }

    fn write_checked(&mut self, commit: &Commit, held: Option<Held>) -> Result<bool, BackingError> {
        let bytes = bytes_to_write(commit);
        if self.limits.wants_look(bytes) {
            self.limits.looked(self.used()?);
        }
        let crowded = self.limits.crowded(bytes);
        if crowded && !commit.frees {
            return Err(BackingError::Full);
        }
        let error = |error: Error| failed(&self.limits, error);
        let mut transaction = self.db()?.begin_write().map_err(|e| error(e.into()))?;
        transaction.set_quick_repair(true);
        fill(&transaction, commit, held).map_err(error)?;
        transaction.commit().map_err(|e| error(e.into()))?;
        Ok(crowded)
    }

    /// The same for what the journal holds, in steps; only the last one says that all is here. What a power cut leaves of
    /// it, the journal says again. Counts the records that are there in `progress`.
    pub(super) fn write_in_steps(
        &mut self,
        commit: Commit,
        held: Held,
        progress: &AtomicUsize,
    ) -> Result<bool, BackingError> {
        let Commit { records, meta, frees } = commit;
        self.records()?.check(&records)?;
        let mut step = Commit { frees, ..Commit::default() };
        let (mut crowded, mut bytes) = (false, 0);
        for (key, raw) in records {
            if step.records.len() >= self.step_records || bytes > self.step_bytes {
                let before = self.limits.written();
                crowded |= self.write_checked(&step, None)?;
                progress.fetch_add(step.records.len(), Ordering::Relaxed);
                let dirtied_bytes = (self.limits.written() - before) / step.records.len() as u64;
                self.step_records = step_records(self.step_bytes, dirtied_bytes).min(2 * self.step_records);
                step.records.clear();
                bytes = 0;
            }
            bytes += raw.as_ref().map_or(0, |raw| raw.len() as u64);
            step.records.insert(key, raw);
        }
        step.meta = meta;
        Ok(self.write_checked(&step, Some(held))? | crowded)
    }

    /// Deletes of one commit that surely have room for the pages that they copy, each its own, in what is kept for them.
    pub(super) fn deletes_that_fit(&self) -> usize {
        step_records(self.limits.reserve() / 4, RECORD_DIRTIES_BYTES)
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

/// What a commit writes, at about the most: its records, a page around each, and half as much for pages above them.
fn bytes_to_write(commit: &Commit) -> u64 {
    let records: u64 = commit.records.values().flatten().map(|raw| raw.len() as u64 + RECORD_DIRTIES_BYTES).sum();
    records + records / 2
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

impl Drop for RedbBacking {
    fn drop(&mut self) {
        self.let_go();
    }
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

    fn snapshot(&mut self) -> Result<Arc<dyn Snapshot>, BackingError> {
        let pages = self.db()?.begin_read().map_err(|error| plain(error.into()))?;
        let snapshot = Arc::new(RedbSnapshot { records: self.records()?, pages: Mutex::new(Some(pages)) });
        self.snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        self.snapshots.push(Arc::downgrade(&snapshot));
        Ok(snapshot)
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
        self.tell(self.records.get(key.as_bytes(), read))
    }

    fn scan(&self, prefix: &str, after: Option<&str>, visit: Visit<'_>) -> Result<(), BackingError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.tell(self.records.scan(from, &mut |key, raw| {
            if key.starts_with(prefix) { visit(key, raw) } else { ControlFlow::Break(()) }
        }))
    }
}
