//! Shell: looks through the files of a closed store without changing them, says what is damaged, and writes what is not
//! into a new store.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::redb::StorageBackend;
use bytes::Bytes;

use crate::backend::journal::file::JournalFile;
use crate::backend::journal::reader::{Found, Reader};
use crate::backend::journal::{self, Held};
use crate::backend::journaled::journal_path;
use crate::backend::redb::{RedbBacking, put_in_place};
use crate::backend::tree::{META, RECORDS, Range, Seen, Tree};
use crate::backend::{Backing, BackingError, Commit, Meta};
use crate::config::Config;
use crate::error::OpenError;
use crate::record::{Revision, parse};
use crate::snapshot::RESTORE_JUMP;

/// Records of one commit of a rescue, in bytes: what it may take of memory.
const CHUNK_BYTES: usize = 1 << 20;
/// Losses that are listed; beyond it they are counted only.
const LOSSES_MAX: usize = 1000;

/// What a look through a store's files found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that are whole, the journal's counted.
    pub records: u64,
    /// Commits that only the journal holds.
    pub journal_commits: u64,
    /// What is damaged, and what is lost with it, one line each; at most a thousand.
    pub lost: Vec<String>,
}

/// Why a look or a rescue was not possible.
#[derive(Debug, thiserror::Error)]
pub enum RescueError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A running process writes to it.
    #[error("the store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// There is a store already.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// The new store could not be made.
    #[error("cannot make the new store")]
    Open(#[source] OpenError),
    /// The new store could not be written.
    #[error("cannot write the new store")]
    Write(#[from] BackingError),
    /// A file could not be put in its place.
    #[error("cannot finish the new store")]
    Finish(#[source] io::Error),
}

impl Report {
    fn lose(&mut self, what: String) {
        if self.lost.len() < LOSSES_MAX {
            self.lost.push(what);
        }
    }
}

/// Takes a record that is whole.
type Take<'a> = &'a mut dyn FnMut(&str, &[u8]) -> Result<(), RescueError>;

/// Says what of a closed store is damaged; changes nothing. Reads both files completely.
pub fn verify(path: &Path) -> Result<Report, RescueError> {
    Ok(look(path, &mut |_, _| Ok(()))?.0)
}

/// Writes everything that is whole into a new store at `to`. Its records are shown at the revision that it gives, above
/// every one that the old store can have shown, so clients list again.
pub fn salvage(from: &Path, to: &Path) -> Result<(Report, Revision), RescueError> {
    if to.exists() {
        return Err(RescueError::Exists(to.to_owned()));
    }
    let mut making = to.as_os_str().to_owned();
    making.push(".salvaging");
    let making = PathBuf::from(making);
    if making.exists() {
        fs::remove_file(&making).map_err(RescueError::Finish)?;
    }
    let mut base = RedbBacking::open(&Config::redb(&making)).map_err(RescueError::Open)?;
    let (mut chunk, mut bytes) = (Commit::default(), 0);
    let (report, highest) = look(from, &mut |key, raw| {
        bytes += raw.len();
        chunk.records.insert(key.into(), Some(Bytes::copy_from_slice(raw)));
        if bytes > CHUNK_BYTES {
            bytes = 0;
            base.commit(&std::mem::take(&mut chunk))?;
        }
        Ok(())
    })?;
    let jumped = highest.saturating_add(RESTORE_JUMP);
    chunk.meta = Some(Meta { reserved: jumped, floor: jumped, ..Meta::default() });
    base.commit(&chunk)?;
    drop(base);
    put_in_place(&making, to).map_err(RescueError::Finish)?;
    Ok((report, Revision(jumped)))
}

/// Reads everything, the journal over the file; gives the highest revision that can have been shown, too.
fn look(path: &Path, take: Take<'_>) -> Result<(Report, u64), RescueError> {
    let unreadable = |source| RescueError::Read { path: path.to_owned(), source };
    let lock = File::open(path).map_err(unreadable)?;
    if lock.try_lock_shared().is_err() {
        return Err(RescueError::Locked(path.to_owned()));
    }
    let file = JournalFile::read_only(path).map_err(unreadable)?;
    let mut report = Report::default();
    let tree = match Tree::open(&file) {
        Ok(tree) => Some(tree),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let tree = Tree::open_damaged(&file).map_err(unreadable)?;
            let lost =
                if tree.is_some() { "some of the last checkpoint, perhaps" } else { "all records but the journal's" };
            report.lose(format!("{error}: {lost}"));
            tree
        }
        Err(error) => return Err(unreadable(error)),
    };
    let (mut highest, held) = match &tree {
        Some(tree) => {
            own(tree, &mut report).map_err(unreadable)?;
            meta(tree, &mut report).map_err(unreadable)?
        }
        None => (0, None),
    };
    let recent = recent(&journal_path(path), held, &mut report)?;
    if let Some(meta) = &recent.meta {
        highest = highest.max(meta.reserved);
    }
    if let Some(tree) = &tree {
        records(tree, &recent.records, &mut report, &mut highest, take)?.map_err(unreadable)?;
    }
    for (key, raw) in recent.records.iter().filter_map(|(key, raw)| Some((key, raw.as_ref()?))) {
        record(key.as_bytes(), raw, &mut report, &mut highest, take)?;
    }
    Ok((report, highest))
}

/// What is damaged in a store's file, without its journal, before redb opens it and believes it. Without `all`, what
/// the records' tree holds is not looked at.
pub(crate) fn damage(file: &dyn StorageBackend, all: bool) -> io::Result<Vec<String>> {
    let mut report = Report::default();
    match Tree::open(file) {
        Ok(tree) if tree.repairs() => {}
        Ok(tree) => {
            own(&tree, &mut report)?;
            meta(&tree, &mut report)?;
            if all {
                let walked = records(&tree, &BTreeMap::new(), &mut report, &mut 0, &mut |_, _| Ok(()));
                walked.map_err(io::Error::other)??;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => report.lose(error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(report.lost)
}

fn own(tree: &Tree<'_>, report: &mut Report) -> io::Result<()> {
    if !tree.own_is_sound()? {
        report
            .lose("a page of the file's free space is damaged: nothing is lost, but it must not be written to".into());
    }
    Ok(())
}

/// One record, if it is whole.
fn record(key: &[u8], raw: &[u8], report: &mut Report, highest: &mut u64, take: Take<'_>) -> Result<(), RescueError> {
    let parsed = std::str::from_utf8(key).ok().and_then(|key| Some((key, parse(key, raw).ok()?)));
    let Some((key, parsed)) = parsed else {
        report.lose(format!("the record {}", String::from_utf8_lossy(key)));
        return Ok(());
    };
    *highest = (*highest).max(parsed.revision.0);
    report.records += 1;
    take(key, raw)
}

fn text(range: &Range) -> String {
    let key = |key: &Option<Vec<u8>>, end: &str| {
        key.as_ref().map_or(end.to_owned(), |key| String::from_utf8_lossy(key).into_owned())
    };
    format!("after {} up to {}", key(&range.after, "the beginning"), key(&range.upto, "the end"))
}

/// The records of the file that the journal does not say anew.
fn records(
    tree: &Tree<'_>,
    newer: &BTreeMap<Arc<str>, Option<Bytes>>,
    report: &mut Report,
    highest: &mut u64,
    take: Take<'_>,
) -> Result<io::Result<()>, RescueError> {
    let mut failed = Ok(());
    let walked = tree.walk(RECORDS, &mut |seen| match seen {
        Seen::Entry { key, raw, .. } => {
            let replaced = std::str::from_utf8(key).is_ok_and(|key| newer.contains_key(key));
            if !replaced && failed.is_ok() {
                failed = record(key, raw, report, highest, take);
            }
        }
        Seen::Leaf(range) => report.lose(format!("a page of records {} is damaged", text(&range))),
        Seen::Branch(range) => report.lose(format!("a page that leads to the records {} is damaged", text(&range))),
    });
    failed?;
    Ok(walked)
}

/// The reserved revisions, and what of the journal the file holds.
fn meta(tree: &Tree<'_>, report: &mut Report) -> io::Result<(u64, Option<Held>)> {
    let (mut reserved, mut held) = (0, None);
    let number =
        |raw: &[u8], at: usize| raw.get(at..at + 8).and_then(|raw| raw.try_into().ok()).map(u64::from_le_bytes);
    tree.walk(META, &mut |seen| match seen {
        Seen::Entry { key: b"reserved", raw, .. } => reserved = number(raw, 0).unwrap_or_default(),
        Seen::Entry { key: b"journal", raw, sound: true } => {
            let next = number(raw, 16).unwrap_or(1);
            held = number(raw, 0).zip(number(raw, 8)).map(|(id, generation)| Held { id, generation, next });
        }
        Seen::Entry { .. } => {}
        Seen::Leaf(_) | Seen::Branch(_) => report.lose("the page of the store's own numbers is damaged".into()),
    })?;
    Ok((reserved, held))
}

/// What the journal holds and the file not yet.
fn recent(path: &Path, held: Option<Held>, report: &mut Report) -> Result<Commit, RescueError> {
    let unreadable = |source| RescueError::Read { path: path.to_owned(), source };
    let mut recent = Commit::default();
    let Some(held) = held else {
        if path.exists() {
            report.lose("what of the journal is newer than the file is not known: it is left out".into());
        }
        return Ok(recent);
    };
    let file = match JournalFile::read_only(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.lose("the journal is missing: what was written since the last checkpoint".into());
            return Ok(recent);
        }
        file => file.map_err(unreadable)?,
    };
    if let Err(error) = journal::check_head(&file, held.id) {
        report.lose(format!("{error}: what the journal holds may be another store's"));
        if !matches!(error, BackingError::Corrupt(_)) {
            return Ok(recent);
        }
    }
    let mut reader = Reader::new(&file, held.id).map_err(unreadable)?;
    let replayed = reader.replay(held, &mut |found| {
        match found {
            Found::Commit(commit) => {
                report.journal_commits += 1;
                recent.records.extend(commit.records);
                recent.meta = commit.meta.or(recent.meta.take());
            }
            Found::Lost(what) => report.lose(what),
        }
        ControlFlow::Continue(())
    });
    replayed.map(|_| recent).map_err(unreadable)
}
