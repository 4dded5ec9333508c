//! Shell: the one writer: a thread that takes waiting writes as a group, commits them once, publishes them in order.
//!
//! ```text
//! queue -> evaluate (next revision) -> no durable write so far? publish at once
//!                                   -> else stage, with everything after it -> one commit -> publish -> answer
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::backend::{Backing, BackingError, Commit, Meta, Snapshot};
use crate::error::WriteError;
use crate::history::{Event, EventKind};
use crate::record::{Revision, Version};
use crate::seal::{SealError, Sealer};
use crate::stage::{Current, Stage, evaluate};
use crate::state::{Publication, read};
use crate::store::Shared;
use crate::write::{Change, Durability, Write, resource};

/// At most so many requests share a commit, so that one answer never waits for an endless group.
const GROUP_REQUESTS: usize = 256;
/// On a full disk an update may still grow a record by so much: graceful deletion marks records before it deletes them.
const FULL_GROWTH_BYTES: usize = 512;

/// What callers send.
pub(crate) enum Request {
    Write {
        batch: Vec<Write>,
        floor: Durability,
        answer: oneshot::Sender<Result<Revision, WriteError>>,
    },
    /// Records at rest that are sealed otherwise than they would be now are written again, as they are.
    Reseal {
        keys: Vec<String>,
        answer: oneshot::Sender<Result<Revision, WriteError>>,
    },
    Flush {
        answer: oneshot::Sender<Result<Revision, WriteError>>,
    },
    /// Older snapshots may fail: readers get a new one.
    Reread {
        answer: oneshot::Sender<Result<Revision, WriteError>>,
    },
}

impl Request {
    fn bytes(&self) -> usize {
        let Request::Write { batch, .. } = self else { return 0 };
        batch.iter().map(|write| if let Change::Put(value) = &write.change { value.len() } else { 0 }).sum()
    }

    fn answer(self, result: Result<Revision, WriteError>) {
        let (Request::Write { answer, .. }
        | Request::Reseal { answer, .. }
        | Request::Flush { answer }
        | Request::Reread { answer }) = self;
        // The caller may have gone; its write stands.
        let _ = answer.send(result);
    }
}

/// The way to the writer.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
    /// The backing has something for the writer.
    nudged: bool,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the request back when the queue is closed.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(request);
        }
        waiting.requests.push_back(request);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    fn nudge(&self) {
        self.waiting().nudged = true;
        self.wake.notify_one();
    }

    pub(crate) fn close(&self) {
        self.waiting().closed = true;
        self.wake.notify_one();
    }

    /// The next group; empty when the time is up, or the backing wants to be attended to; none when the queue is closed and drained.
    fn take(&self, until: Option<Instant>, bytes_max: usize) -> Option<Vec<Request>> {
        let mut waiting = self.waiting();
        while waiting.requests.is_empty() && !waiting.closed {
            if std::mem::take(&mut waiting.nudged) {
                return Some(Vec::new());
            }
            let Some(until) = until else {
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Some(Vec::new());
            }
            waiting = self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if waiting.requests.is_empty() {
            return None;
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(request) = waiting.requests.front() {
            bytes += request.bytes();
            if !group.is_empty() && (bytes > bytes_max || group.len() == GROUP_REQUESTS) {
                break;
            }
            group.extend(waiting.requests.pop_front());
        }
        Some(group)
    }
}

/// A request with its answer, which goes out after the publication of what it speaks of.
type Answered = (Request, Result<Revision, WriteError>);

/// Requests that share a commit.
#[derive(Default)]
struct Group {
    stage: Stage,
    answered: Vec<Answered>,
    commit: bool,
    puts: bool,
    freed: usize,
    soft: Vec<String>,
    resealed: Vec<(Arc<str>, Version)>,
}

/// No space at the last try: puts are refused until so much more is deleted, or until this time.
struct Full {
    bytes: usize,
    until: Instant,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    backing: Box<dyn Backing>,
    sealer: Arc<Sealer>,
    meta: Meta,
    /// The last revision given out, published or not.
    assigned: u64,
    dirty_since: Option<Instant>,
    full: Option<Full>,
    failed: Option<String>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, mut backing: Box<dyn Backing>, meta: Meta, base: Revision) -> Writer {
        let sealer = shared.sealer();
        let nudged = Arc::downgrade(&shared);
        backing.notify(Arc::new(move || {
            if let Some(shared) = nudged.upgrade() {
                shared.queue.nudge();
            }
        }));
        Writer { shared, backing, sealer, meta, assigned: base.0, dirty_since: None, full: None, failed: None }
    }

    /// Until the queue is closed; what is deferred is at rest then.
    pub(crate) fn run(mut self) {
        let delay = self.shared.config.deferred_max_delay;
        loop {
            let until = self.dirty_since.map(|since| since + delay);
            let Some(group) = self.shared.queue.take(until, self.shared.config.group_bytes) else { break };
            self.shared.permits.add_permits(group.len());
            self.attend(false);
            let now = Instant::now();
            self.full.take_if(|full| full.bytes == 0 || full.until <= now);
            let due = until.is_some_and(|until| until <= now);
            self.process(group, due);
        }
        self.process(Vec::new(), true);
        self.shared.close();
    }

    /// Takes up what the backing did aside: readers go on with what it has now.
    fn attend(&mut self, wait: bool) {
        if self.failed.is_some() {
            return;
        }
        match self.backing.attend(wait) {
            Ok(Some(snapshot)) => self.shared.state().snapshot = snapshot,
            Ok(None) => {}
            Err(error) => drop(self.fail(&error)),
        }
    }

    fn process(&mut self, requests: Vec<Request>, due: bool) {
        let mut group = Group { commit: due && self.dirty_since.is_some(), ..Group::default() };
        for request in requests {
            let result = self.evaluate(&mut group, &request);
            group.answered.push((request, result));
            if !group.commit {
                self.publish(std::mem::take(&mut group), None);
            }
        }
        if self.over() && self.full.is_none() && self.failed.is_none() {
            group.commit = true;
        }
        if group.commit {
            self.commit(group);
        }
    }

    /// More in memory only than allowed.
    fn over(&self) -> bool {
        self.shared.state().overlay.bytes() > self.shared.config.overlay_bytes
    }

    /// Stages one request against the newest state, staged writes included. Zero: nothing changes.
    fn evaluate(&mut self, group: &mut Group, request: &Request) -> Result<Revision, WriteError> {
        if let Some(reason) = &self.failed {
            return Err(WriteError::Backend { reason: reason.clone() });
        }
        let (batch, floor) = match request {
            Request::Write { batch, floor, .. } => (batch, floor),
            Request::Reseal { keys, .. } => return self.reseal(group, keys),
            Request::Flush { .. } => {
                // What is deferred goes along with the commit.
                group.commit |= self.shared.state().oldest_deferred.is_some();
                return Ok(Revision(0));
            }
            Request::Reread { .. } => {
                self.attend(true);
                return Ok(Revision(0));
            }
        };
        let revision = Revision(self.assigned + 1);
        let events = evaluate(batch, revision, |key| current(&group.stage, &self.shared, key))?;
        let mut state = self.shared.state();
        if *floor > Durability::Volatile {
            // What is gone already must stay away as surely as if it went now.
            for write in batch.iter().filter(|write| !events.iter().any(|event| *event.key == *write.key)) {
                group.stage.confirm(&write.key, *floor);
                state.confirm(&write.key);
            }
        }
        let deferred = state.oldest_deferred.is_some();
        drop(state);
        if events.is_empty() {
            group.commit |= *floor == Durability::Durable && deferred;
            return Ok(Revision(0));
        }
        let grows = events.iter().any(grows);
        if grows && self.full.is_some() && (*floor > Durability::Volatile || self.over()) {
            return Err(WriteError::Full);
        }
        group.puts |= grows && *floor > Durability::Volatile;
        group.commit |= *floor == Durability::Durable || revision.0 >= self.meta.reserved;
        for event in &events {
            let name = resource(&event.key).unwrap_or_default();
            if *floor < Durability::Durable && !self.meta.soft.contains(name) {
                group.soft.push(name.to_owned());
                group.commit = true;
            }
            if event.kind == EventKind::Delete {
                group.freed += event.value.len();
            }
        }
        self.assigned = revision.0;
        group.stage.accept(events, *floor);
        Ok(revision)
    }

    /// Takes the records at rest in, with their stored revisions; what is staged later replaces them.
    fn reseal(&self, group: &mut Group, keys: &[String]) -> Result<Revision, WriteError> {
        let snapshot = self.shared.state().snapshot.clone();
        for key in keys {
            let mut found = None;
            let read = snapshot.get(key, &mut |raw| {
                if self.sealer.stale(key, raw) {
                    found = self.sealer.decode(key, raw).ok();
                }
            });
            read.map_err(|error| WriteError::Backend { reason: error.to_string() })?;
            group.resealed.extend(found.map(|version| (key.as_str().into(), version)));
        }
        group.commit |= !group.resealed.is_empty();
        Ok(Revision(0))
    }

    /// One commit of everything staged and deferred, then publication.
    fn commit(&mut self, group: Group) {
        let over = self.over();
        let commit = match self.gather(&group, over) {
            Ok(commit) => commit,
            Err(error) => return self.refuse(group, BackingError::Failed(error.to_string())),
        };
        let snapshot = if commit.records.is_empty() && commit.meta.is_none() {
            Ok(self.shared.state().snapshot.clone())
        } else {
            self.backing.commit(&commit).and_then(|()| self.backing.snapshot())
        };
        match snapshot {
            Ok(snapshot) => {
                if let Some(meta) = commit.meta {
                    self.meta = meta;
                }
                self.count_freed(group.freed);
                self.dirty_since = None;
                self.publish(group, Some((snapshot, over)));
            }
            Err(error) => self.refuse(group, error),
        }
    }

    fn gather(&self, group: &Group, over: bool) -> Result<Commit, SealError> {
        let mut versions: BTreeMap<_, _> =
            group.resealed.iter().map(|(key, version)| (key.clone(), Some(version.clone()))).collect();
        let state = self.shared.state();
        for (key, held) in state.overlay.iter().filter(|(_, held)| over || held.deferred.is_some()) {
            versions.insert(key.clone(), held.version.clone());
        }
        for (key, pending) in group.stage.pending.iter().filter(|(_, p)| p.floor > Durability::Volatile) {
            versions.insert(key.clone(), pending.version.clone());
        }
        drop(state);
        let mut commit = Commit { frees: !group.puts, ..Commit::default() };
        for (key, version) in versions {
            let raw = version.map(|version| self.sealer.encode(&key, &version)).transpose()?;
            commit.records.insert(key, raw);
        }
        let block = self.shared.config.revision_block.max(1);
        let near = self.assigned + block / 4 > self.meta.reserved;
        let stages = !group.stage.events.is_empty();
        if stages && (near || !group.soft.is_empty()) {
            let mut meta = self.meta.clone();
            meta.soft.extend(group.soft.iter().cloned());
            if near {
                meta.reserved = self.assigned + block;
            }
            commit.meta = Some(meta);
        }
        Ok(commit)
    }

    fn count_freed(&mut self, freed: usize) {
        if let Some(full) = &mut self.full {
            full.bytes = full.bytes.saturating_sub(freed);
        }
    }

    /// On a full disk the group's deletes get a second try without its puts.
    fn refuse(&mut self, group: Group, error: BackingError) {
        let error = match error {
            BackingError::Full => {
                let again = self.full.is_none();
                let until = Instant::now() + self.shared.config.full_retry_delay;
                self.full = Some(Full { bytes: self.shared.config.full_retry_bytes(), until });
                self.recover();
                if again && self.failed.is_none() {
                    return self.process(group.answered.into_iter().map(|(request, _)| request).collect(), false);
                }
                WriteError::Full
            }
            error => self.fail(&error),
        };
        for (request, _) in group.answered {
            request.answer(Err(error.clone()));
        }
    }

    /// Goes back to the last commit. What is deferred stays in memory, for the next commit.
    fn recover(&mut self) {
        match self.backing.recover().and_then(|()| self.backing.snapshot()) {
            Ok(snapshot) => {
                self.shared.state().snapshot = snapshot;
                self.dirty_since = None;
                tracing::warn!("the store is full: only deletes are taken");
            }
            Err(error) => {
                self.fail(&error);
            }
        }
    }

    /// Whether the commit happened is unknown, and a second fsync would not tell: nothing may be written any more.
    fn fail(&mut self, error: &BackingError) -> WriteError {
        let reason = error.to_string();
        tracing::error!(%reason, "the store's disk failed: no further writes");
        self.dirty_since = None;
        self.failed = Some(reason.clone());
        WriteError::Backend { reason }
    }

    fn publish(&mut self, group: Group, committed: Option<(Arc<dyn Snapshot>, bool)>) {
        let Group { stage: Stage { pending, events }, answered, .. } = group;
        let spilled = committed.as_ref().is_some_and(|(_, spilled)| *spilled);
        let committed = committed.map(|(snapshot, _)| snapshot);
        let now = self.shared.config.clock.now();
        let mut state = self.shared.state();
        let touched = state.publish(Publication { events, pending, committed, spilled, now });
        let published = state.published;
        if state.oldest_deferred.is_some() {
            self.dirty_since.get_or_insert_with(Instant::now);
        }
        drop(state);
        self.shared.announce(published, &touched);
        for (request, result) in answered {
            // A request that changed nothing is answered with what it saw.
            request.answer(result.map(|revision| if revision == Revision(0) { published } else { revision }));
        }
    }
}

/// Whether an event needs room that a full disk does not have.
fn grows(event: &Event) -> bool {
    let old = event.previous.as_ref().map_or(0, |(_, old)| old.len() + FULL_GROWTH_BYTES);
    event.kind == EventKind::Put && event.value.len() > old
}

/// A key's newest state: staged, else published. Only the writer changes it, so that readers need not wait while the
/// disk is asked.
fn current(stage: &Stage, shared: &Shared, key: &str) -> Result<Current, WriteError> {
    if let Some(pending) = stage.pending.get(key) {
        return Ok(pending.version.clone().map_or(Current::Absent, Current::Version));
    }
    let (snapshot, shown) = {
        let state = shared.state();
        if let Some(held) = state.overlay.get(key) {
            return Ok(held.version.clone().map_or(Current::Absent, Current::Version));
        }
        (state.snapshot.clone(), state.shown.clone())
    };
    read(&*snapshot, &shown, key).map_err(|error| WriteError::Backend { reason: error.to_string() })
}
