//! Shell: redb behind its journal: a commit is at rest in the journal, and goes on into redb with many others.
//!
//! ```text
//! commit -> journal (one write, one flush) -> layers in memory --- checkpoint ---> redb, one commit; the journal is old
//!        \- too large, or redb is crowded: with all layers in one commit of redb ------/
//! ```
//!
//! A checkpoint comes when the journal or its layers reach their bound, and at closing: never by the clock, so an idle
//! store writes nothing. Its commit has two phases and saves redb's allocator: no header that a power cut leaves is
//! trusted before its tree was flushed, and opening never walks the file.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use ::redb::StorageBackend;

use super::journal::file::JournalFile;
use super::journal::{self, Journal};
use super::layers::{self, Layered, Layers};
use super::redb::{Held, RedbBacking};
use super::{Backing, BackingError, Commit, Meta, Snapshot};
use crate::config::{Backend, Config};
use crate::error::OpenError;

/// The layers take at most this part of the file's cap, so that what was acknowledged fits into the space that redb
/// keeps free for deletes.
const CAP_SHARE: u64 = 64;

pub(crate) struct JournaledBacking {
    base: RedbBacking,
    below: Arc<dyn Snapshot>,
    journal: Journal,
    id: u64,
    layers: Layers,
    /// The meta of the newest commit in the journal that had one.
    meta: Option<Meta>,
    layers_bytes_max: usize,
    /// redb has no room but for deletes: whether a commit fits must be known before it is acknowledged.
    crowded: bool,
}

/// Beside the file.
pub(crate) fn journal_path(store: &std::path::Path) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push(".journal");
    path.into()
}

fn open_file(config: &Config) -> io::Result<Box<dyn StorageBackend>> {
    match &config.backend {
        Backend::Redb(path) => Ok(Box::new(JournalFile::open(&journal_path(path))?)),
        Backend::Doors { journal, .. } => journal(),
        _ => Ok(Box::new(::redb::backends::InMemoryBackend::new())),
    }
}

/// A number that no other store has.
fn new_id() -> u64 {
    RandomState::new().hash_one(SystemTime::now())
}

impl JournaledBacking {
    /// Opens or makes the files that the config names.
    pub(crate) fn open(config: &Config) -> Result<JournaledBacking, OpenError> {
        let base = RedbBacking::open(config)?;
        JournaledBacking::over(base, config).map_err(OpenError::Backend)
    }

    fn over(mut base: RedbBacking, config: &Config) -> Result<JournaledBacking, BackingError> {
        let refused = |error: io::Error| BackingError::Failed(format!("journal: {error}"));
        let file = open_file(config).map_err(refused)?;
        let held = match base.held()? {
            Some(held) => held,
            None => {
                // A new store, or one from before the journal: until redb knows it, the journal holds nothing.
                let held = Held { id: new_id(), generation: 0 };
                journal::create(&*file, held.id)?;
                base.write(&Commit::default(), Some(held))?;
                held
            }
        };
        let (mut layers, mut meta) = (Layers::default(), None);
        let mut replay = |commit: Commit| {
            layers.push(&commit.records);
            meta = commit.meta.or(meta.take());
        };
        let journal = Journal::open(file, held.id, held.generation, config.journal_bytes, &mut replay)?;
        let below = base.snapshot()?;
        let share = usize::try_from(config.file_bytes_max / CAP_SHARE).unwrap_or(usize::MAX);
        let crowded = base.may_be_crowded();
        let layers_bytes_max = config.checkpoint_bytes.min(share);
        Ok(JournaledBacking { base, below, journal, id: held.id, layers, meta, layers_bytes_max, crowded })
    }

    /// Whether a commit may go the short way, after a checkpoint if need be.
    fn takes(&mut self, commit: &Commit) -> Result<bool, BackingError> {
        let bytes = layers::bytes(&commit.records);
        if self.crowded || bytes > self.layers_bytes_max || !self.journal.fits(commit, true) {
            return Ok(false);
        }
        if self.layers.bytes() + bytes > self.layers_bytes_max || !self.journal.fits(commit, false) {
            match self.settle(&Commit { frees: true, ..Commit::default() }) {
                Ok(()) => {}
                // What is acknowledged stays in the journal until there is room.
                Err(BackingError::Full) => self.crowded = true,
                Err(error) => return Err(error),
            }
        }
        Ok(!self.crowded)
    }

    fn append(&mut self, commit: &Commit) -> Result<(), BackingError> {
        self.journal.append(commit)?;
        self.layers.push(&commit.records);
        self.meta = commit.meta.clone().or(self.meta.take());
        Ok(())
    }

    /// One commit of redb with everything that the journal holds and this; the journal is old then. After `Full`
    /// nothing of it happened, and redb is open again.
    fn settle(&mut self, commit: &Commit) -> Result<(), BackingError> {
        let mut all = Commit { records: self.layers.merged(), frees: commit.frees, ..Commit::default() };
        all.records.extend(commit.records.iter().map(|(key, raw)| (key.clone(), raw.clone())));
        all.meta = commit.meta.clone().or(self.meta.clone());
        if all.records.is_empty() && all.meta.is_none() {
            return Ok(());
        }
        let held = Held { id: self.id, generation: self.journal.generation() };
        match self.base.write(&all, Some(held)) {
            Ok(crowded) => self.crowded = crowded,
            Err(BackingError::Full) => {
                self.recover()?;
                return Err(BackingError::Full);
            }
            Err(error) => return Err(error),
        }
        self.below = self.base.snapshot()?;
        self.layers = Layers::default();
        self.meta = None;
        self.journal.recycle();
        Ok(())
    }

    /// The long way: after it the commit is in redb, or was refused.
    fn commit_crowded(&mut self, commit: &Commit) -> Result<(), BackingError> {
        match self.settle(commit) {
            Err(BackingError::Full) if commit.frees => {}
            result => return result,
        }
        self.crowded = true;
        // What the journal holds does not fit, or others have filled the disk. Deletes wait with it, or make room: that
        // redb forgets some keys early hurts nothing, since the journal is read over it.
        if self.journal.fits(commit, false) {
            return self.append(commit);
        }
        let gone = self.layers.merged().into_iter().filter(|(_, raw)| raw.is_none()).collect();
        let deletes = Commit { records: gone, meta: None, frees: true };
        if let Err(error) = self.base.write(&deletes, None) {
            self.recover()?;
            return Err(error);
        }
        self.settle(commit)
    }
}

impl Backing for JournaledBacking {
    fn meta(&self) -> Result<Meta, BackingError> {
        self.meta.clone().map_or_else(|| self.base.meta(), Ok)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, BackingError> {
        Ok(Arc::new(Layered { layers: self.layers.clone(), below: self.below.clone() }))
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), BackingError> {
        if self.takes(commit)? {
            match self.append(commit) {
                // The journal could not grow.
                Err(BackingError::Full) => {}
                result => return result,
            }
        }
        self.commit_crowded(commit)
    }

    fn recover(&mut self) -> Result<(), BackingError> {
        self.base.recover()?;
        self.below = self.base.snapshot()?;
        Ok(())
    }
}

impl Drop for JournaledBacking {
    fn drop(&mut self) {
        // Whatever does not go into redb now is in the journal still.
        if let Err(error) = self.settle(&Commit { frees: true, ..Commit::default() }) {
            tracing::warn!(%error, "the store was closed without a checkpoint");
        }
    }
}
