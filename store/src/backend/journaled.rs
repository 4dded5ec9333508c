//! Shell: redb behind its journal: a commit is at rest in the journal, and goes on into redb with many others.
//!
//! ```text
//! commit -> journal (one write, one flush) -> active layers
//!        \                                      | turn: they are frozen, the next generation begins
//!         \                                     v
//!          \                                   frozen layers --- aside, one commit of redb ---> below; the journal's
//!           \                                                                                  generation is old
//!            \- too large, or redb is crowded: with all layers in one commit of redb --------/
//!
//! read: active layers, then frozen ones, then below
//! ```
//!
//! A checkpoint comes when the journal or its layers reach their bound, and at closing: never by the clock, so an idle
//! store writes nothing. It runs in a thread of its own, and commits go on; they are slowed down where it could not keep
//! up, so that nobody waits for all of it. Its commit has two phases and saves redb's allocator: no header that a power
//! cut leaves is trusted before its tree was flushed, and opening never walks the file.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use ::redb::StorageBackend;

use super::checkpoint::{self, Checkpoint, Done};
use super::journal::file::JournalFile;
use super::journal::{self, Held, Journal};
use super::layers::{self, Layered, Layers};
use super::redb::RedbBacking;
use super::{Backing, BackingError, Commit, Meta, Nudge, Snapshot};
use crate::config::{Backend, Config};
use crate::error::OpenError;

/// The layers take at most this part of the file's cap, so that what was acknowledged fits into the space that redb
/// keeps free for deletes.
const CAP_SHARE: u64 = 64;

/// redb, or where it is.
enum Base {
    Here(RedbBacking),
    Away(Checkpoint),
    /// Only while it is on its way.
    Gone,
}

/// What the journal holds and redb not yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    pub(crate) layers: Layers,
    /// The meta of the newest commit that had one.
    pub(crate) meta: Option<Meta>,
}

pub(crate) struct JournaledBacking {
    base: Base,
    below: Arc<dyn Snapshot>,
    journal: Journal,
    active: Recent,
    /// What goes into redb at the moment.
    frozen: Recent,
    layers_bytes_max: usize,
    /// redb has no room but for deletes: whether a commit fits must be known before it is acknowledged.
    crowded: bool,
    nudge: Nudge,
    pace: checkpoint::Pace,
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

impl Recent {
    fn push(&mut self, commit: &Commit) {
        self.layers.push(&commit.records);
        self.meta = commit.meta.clone().or(self.meta.take());
    }

    /// All of it in one commit that may use the space for deletes.
    pub(crate) fn commit(&self) -> Commit {
        Commit { records: self.layers.merged(), meta: self.meta.clone(), frees: true }
    }
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
                let held = Held { id: new_id(), generation: 0, next: 1 };
                journal::create(&*file, held.id)?;
                base.write(&Commit::default(), Some(held))?;
                held
            }
        };
        let mut active = Recent::default();
        let journal = Journal::open(file, held, config.journal_bytes, &mut |commit| active.push(&commit))?;
        let below = base.snapshot()?;
        let share = usize::try_from(config.file_bytes_max / CAP_SHARE).unwrap_or(usize::MAX);
        let crowded = base.may_be_crowded();
        Ok(JournaledBacking {
            base: Base::Here(base),
            below,
            journal,
            active,
            frozen: Recent::default(),
            layers_bytes_max: config.checkpoint_bytes.min(share),
            crowded,
            nudge: Arc::new(|| ()),
            pace: checkpoint::Pace::default(),
        })
    }

    /// Whether a commit may go the short way, after a wait for room if need be.
    fn takes(&mut self, commit: &Commit) -> Result<bool, BackingError> {
        let bytes = layers::bytes(&commit.records);
        if bytes > self.layers_bytes_max / 2 || !self.journal.could_fit(commit) {
            return Ok(false);
        }
        loop {
            if self.crowded {
                return Ok(false);
            }
            // Over the bound commits wait as long as one may, but none for all of a checkpoint.
            let away = matches!(self.base, Base::Away(_));
            let bytes_max = self.layers_bytes_max + if away { self.layers_bytes_max / 2 } else { 0 };
            let room = bytes_max.saturating_sub(self.frozen.layers.bytes() + self.active.layers.bytes());
            if bytes <= room && self.journal.fits(commit) {
                return Ok(true);
            }
            match &self.base {
                Base::Away(_) => drop(self.land(true)?),
                _ if self.active.layers.is_empty() => return Ok(false),
                _ => self.turn()?,
            }
        }
    }

    fn append(&mut self, commit: &Commit) -> Result<(), BackingError> {
        self.journal.append(commit)?;
        self.active.push(commit);
        self.turn_if_due()
    }

    /// How full what commits go to is: at one half it is time for a checkpoint, at one somebody would have to wait.
    fn fill(&self) -> f64 {
        let bytes = self.active.layers.bytes() as f64 / self.layers_bytes_max.max(1) as f64;
        bytes.max(self.journal.share())
    }

    fn turn_if_due(&mut self) -> Result<(), BackingError> {
        if !self.crowded && self.fill() >= 0.5 && matches!(self.base, Base::Here(_)) {
            self.turn()?;
        }
        Ok(())
    }

    /// What is here begins to go into redb, aside.
    fn turn(&mut self) -> Result<(), BackingError> {
        let Base::Here(base) = std::mem::replace(&mut self.base, Base::Gone) else { return Ok(()) };
        self.frozen = std::mem::take(&mut self.active);
        let held = self.journal.turn();
        self.base = Base::Away(Checkpoint::start(base, self.frozen.clone(), held, self.nudge.clone())?);
        Ok(())
    }

    /// Takes redb back from a checkpoint: whether there was one that ended. The next one begins if it is due.
    fn land(&mut self, wait: bool) -> Result<bool, BackingError> {
        let landed = self.end_checkpoint(wait)?;
        if landed {
            self.turn_if_due()?;
        }
        Ok(landed)
    }

    fn end_checkpoint(&mut self, wait: bool) -> Result<bool, BackingError> {
        let Base::Away(checkpoint) = &self.base else { return Ok(false) };
        let Some(Done { base, result, pace }) = checkpoint.done(wait)? else { return Ok(false) };
        self.base = Base::Here(base);
        match result {
            Ok((crowded, below)) => {
                self.pace = pace;
                self.crowded = crowded;
                self.below = below;
                self.frozen = Recent::default();
                self.journal.release();
            }
            // What is acknowledged stays in the journal until there is room.
            Err(BackingError::Full) => {
                self.crowded = true;
                let mut all = std::mem::take(&mut self.frozen);
                all.push(&self.active.commit());
                self.active = all;
                self.reopen()?;
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn base(&mut self) -> Result<&mut RedbBacking, BackingError> {
        match &mut self.base {
            Base::Here(base) => Ok(base),
            _ => Err(BackingError::Failed("the last checkpoint did not end".into())),
        }
    }

    fn reopen(&mut self) -> Result<(), BackingError> {
        self.base()?.recover()?;
        self.below = self.base()?.snapshot()?;
        Ok(())
    }

    /// One commit of redb with everything that the journal holds and this; the journal is old then. After `Full`
    /// nothing of it happened, and redb is open again.
    fn settle(&mut self, commit: &Commit) -> Result<(), BackingError> {
        self.end_checkpoint(true)?;
        let mut all = self.active.clone();
        all.push(commit);
        let all = Commit { frees: commit.frees, ..all.commit() };
        if all.records.is_empty() && all.meta.is_none() {
            return Ok(());
        }
        let held = self.journal.whole();
        match self.base()?.write(&all, Some(held)) {
            Ok(crowded) => self.crowded = crowded,
            Err(BackingError::Full) => {
                self.reopen()?;
                return Err(BackingError::Full);
            }
            Err(error) => return Err(error),
        }
        self.below = self.base()?.snapshot()?;
        self.active = Recent::default();
        self.journal.recycle();
        Ok(())
    }

    /// The long way: after it the commit is in redb, or was refused.
    fn commit_crowded(&mut self, commit: &Commit) -> Result<(), BackingError> {
        match self.settle(commit) {
            Err(BackingError::Full) => {}
            result => return result,
        }
        // What the journal holds does not fit, or others have filled the disk.
        self.crowded = true;
        if commit.frees && self.journal.fits(commit) {
            // Deletes wait with it: acknowledged whether there is room now or not.
            self.append(commit)?;
            return match self.make_room().and_then(|_| self.settle(&Commit { frees: true, ..Commit::default() })) {
                Err(BackingError::Full) => Ok(()),
                result => result,
            };
        }
        if self.make_room()? { self.settle(commit) } else { Err(BackingError::Full) }
    }

    /// With the deletes that the journal holds, ahead of its puts, a few at a time: they copy pages before they free
    /// them. That redb forgets some keys early hurts nothing, since the journal is read over it. Says whether there were
    /// any.
    fn make_room(&mut self) -> Result<bool, BackingError> {
        let deletes: Vec<_> = self.active.layers.merged().into_iter().filter(|(_, raw)| raw.is_none()).collect();
        let fit = self.base()?.deletes_that_fit();
        for some in deletes.chunks(fit) {
            let some = Commit { records: some.iter().cloned().collect(), meta: None, frees: true };
            for commit in [&Commit { frees: true, ..Commit::default() }, &some] {
                // Who still reads what was there before would keep it from being free; then an empty commit takes it up.
                let written = self.base()?.write(commit, None);
                self.reopen()?;
                written?;
            }
        }
        Ok(!deletes.is_empty())
    }
}

impl Backing for JournaledBacking {
    fn meta(&self) -> Result<Meta, BackingError> {
        match (&self.active.meta, &self.base) {
            (Some(meta), _) => Ok(meta.clone()),
            (None, Base::Here(base)) => base.meta(),
            (None, _) => Err(BackingError::Failed("it is known as of opening".into())),
        }
    }

    fn snapshot(&mut self) -> Result<Arc<dyn Snapshot>, BackingError> {
        let layers = self.active.layers.above(&self.frozen.layers);
        Ok(Arc::new(Layered { layers, below: self.below.clone() }))
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), BackingError> {
        self.land(false)?;
        if self.takes(commit)? {
            match self.append(commit) {
                Ok(()) => {
                    if let Base::Away(checkpoint) = &self.base {
                        self.pace.slow(checkpoint, self.fill(), layers::bytes(&commit.records), self.layers_bytes_max);
                    }
                    return Ok(());
                }
                // The journal could not grow.
                Err(BackingError::Full) => {}
                Err(error) => return Err(error),
            }
        }
        self.commit_crowded(commit)
    }

    fn recover(&mut self) -> Result<(), BackingError> {
        self.end_checkpoint(true)?;
        self.reopen()
    }

    fn notify(&mut self, nudge: Nudge) {
        self.nudge = nudge;
    }

    fn attend(&mut self, wait: bool) -> Result<Option<Arc<dyn Snapshot>>, BackingError> {
        if self.land(wait)? { self.snapshot().map(Some) } else { Ok(None) }
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
