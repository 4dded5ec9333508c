//! Shell: all records of one store into another one of any backend, compared afterwards.
//!
//! Values go as they are read, so the target seals them by its own rules. Revisions are the target's: it must begin above
//! every revision that the source ever showed ([`begin`], or the origin of an etcd).

use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use crate::backend::redb::{RedbBacking, put_in_place};
use crate::backend::{Backing, BackingError, Commit, Meta};
use crate::config::Config;
use crate::error::{OpenError, ReadError, WriteError};
use crate::query::ListQuery;
use crate::record::{Record, Revision};
use crate::snapshot::RESTORE_JUMP;
use crate::store::Store;
use crate::write::{Durability, Precondition, Write};

/// Records that are read at once.
const PAGE_RECORDS: usize = 100;
/// Bytes of values of one write: below etcd's bound for a request.
const BATCH_BYTES: usize = 512 << 10;

/// What was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// How many records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// SHA-256 over keys and values in key order, as hexadecimal digits.
    pub sha256: String,
}

/// Why a migration did not end. The source is as it was; what the target holds is to be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The target holds records already.
    #[error("the target holds {0} records already")]
    NotEmpty(u64),
    /// The source could not be read.
    #[error("cannot read the source")]
    Read(#[source] ReadError),
    /// The target could not be written.
    #[error("cannot write the target")]
    Write(#[source] WriteError),
    /// The target could not be read.
    #[error("cannot read the target")]
    Compare(#[source] ReadError),
    /// Somebody wrote to the source meanwhile.
    #[error("the source changed meanwhile: stop every controller first")]
    Changed,
    /// The copy is not the same.
    #[error("the copy differs: {} records with SHA-256 {}, of {} with {}", copy.records, copy.sha256, source_content.records, source_content.sha256)]
    Differs {
        /// What was read.
        source_content: Box<Content>,
        /// What the target holds.
        copy: Box<Content>,
    },
    /// There is a store already.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// A new file could not be made.
    #[error("cannot make the file")]
    Open(#[source] OpenError),
    /// A new file could not be written.
    #[error("cannot write the file")]
    Backing(#[from] BackingError),
    /// A new file could not be put in its place.
    #[error("cannot finish the file")]
    Io(#[from] std::io::Error),
}

/// An empty store at `path`; there must be none. Its revisions begin [`RESTORE_JUMP`] above this one.
pub fn begin(path: &Path, above: Revision) -> Result<Revision, MigrateError> {
    if path.exists() {
        return Err(MigrateError::Exists(path.to_owned()));
    }
    let mut making = path.as_os_str().to_owned();
    making.push(".migrating");
    let making = PathBuf::from(making);
    if making.exists() {
        std::fs::remove_file(&making)?;
    }
    let mut backing = RedbBacking::open(&Config::redb(&making)).map_err(MigrateError::Open)?;
    let jumped = above.0 + RESTORE_JUMP;
    let meta = Some(Meta { reserved: jumped, floor: jumped, ..Meta::default() });
    backing.commit(&Commit { meta, ..Commit::default() })?;
    drop(backing);
    put_in_place(&making, path)?;
    Ok(Revision(jumped))
}

/// Copies every record but those whose key begins with `without`, and compares what both stores hold then.
pub async fn migrate(from: &Store, to: &Store, without: &str) -> Result<Content, MigrateError> {
    let held = content(to, "").await.map_err(MigrateError::Compare)?.records;
    if held > 0 {
        return Err(MigrateError::NotEmpty(held));
    }
    let mut batch = Batch { to, writes: Vec::new(), bytes: 0 };
    let mut pages = Pages::of(from, without);
    let mut read = Digest::new();
    while let Some(records) = pages.next().await.map_err(MigrateError::Read)? {
        for record in records {
            read.add(&record);
            batch.add(record).await?;
        }
    }
    batch.write().await?;
    let read = read.finish();
    let (now, copy) = (content(from, without).await.map_err(MigrateError::Read)?, content(to, without).await);
    if now != read {
        return Err(MigrateError::Changed);
    }
    let copy = copy.map_err(MigrateError::Compare)?;
    if copy != read {
        return Err(MigrateError::Differs { source_content: Box::new(read), copy: Box::new(copy) });
    }
    Ok(copy)
}

/// What a store holds beside the keys that begin with `without`, where that is not empty.
async fn content(store: &Store, without: &str) -> Result<Content, ReadError> {
    let (mut pages, mut digest) = (Pages::of(store, without), Digest::new());
    while let Some(records) = pages.next().await? {
        records.iter().for_each(|record| digest.add(record));
    }
    Ok(digest.finish())
}

/// The records of a store at one revision, page by page.
struct Pages<'a> {
    store: &'a Store,
    without: &'a str,
    after: Option<String>,
    at: Option<Revision>,
    done: bool,
}

impl<'a> Pages<'a> {
    fn of(store: &'a Store, without: &'a str) -> Pages<'a> {
        Pages { store, without, after: None, at: None, done: false }
    }

    async fn next(&mut self) -> Result<Option<Vec<Record>>, ReadError> {
        if self.done {
            return Ok(None);
        }
        let query = ListQuery { prefix: "", after: self.after.as_deref(), limit: PAGE_RECORDS, at: self.at };
        let page = self.store.list(query).await?;
        self.at = Some(page.revision);
        self.done = !page.more;
        self.after = page.records.last().map(|record| record.key.clone());
        // The store's own keys begin with a dot: each store has its own.
        let left_out = |key: &str| key.starts_with('.') || (!self.without.is_empty() && key.starts_with(self.without));
        let copied = |record: &Record| !left_out(&record.key);
        Ok(Some(page.records.into_iter().filter(copied).collect()))
    }
}

struct Batch<'a> {
    to: &'a Store,
    writes: Vec<Write>,
    bytes: usize,
}

impl Batch<'_> {
    async fn add(&mut self, record: Record) -> Result<(), MigrateError> {
        // A precondition and a change each, and room for what seals them.
        let full = self.writes.len() + 1 >= crate::write::BATCH_WRITES_MAX;
        if full || self.bytes + record.value.len() > BATCH_BYTES {
            self.write().await?;
        }
        self.bytes += record.value.len();
        self.writes.push(Write::put(record.key, Precondition::Absent, record.value));
        Ok(())
    }

    async fn write(&mut self) -> Result<(), MigrateError> {
        self.bytes = 0;
        let writes = std::mem::take(&mut self.writes);
        self.to.write(writes, Durability::Durable).await.map(drop).map_err(MigrateError::Write)
    }
}

struct Digest {
    context: Context,
    records: u64,
    bytes: u64,
}

impl Digest {
    fn new() -> Digest {
        Digest { context: Context::new(&SHA256), records: 0, bytes: 0 }
    }

    fn add(&mut self, record: &Record) {
        for part in [record.key.as_bytes(), &record.value] {
            self.context.update(&(part.len() as u64).to_le_bytes());
            self.context.update(part);
            self.bytes += part.len() as u64;
        }
        self.records += 1;
    }

    fn finish(self) -> Content {
        let sha256 = self.context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Content { records: self.records, bytes: self.bytes, sha256 }
    }
}
