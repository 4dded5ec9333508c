//! Shell: the store's door: reads on the caller's thread, writes through the one writer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{Notify, Semaphore, oneshot};

use crate::backend::journaled::JournaledBacking;
use crate::backend::memory::MemoryBacking;
use crate::backend::{Backing, Commit};
use crate::config::{Backend, Config};
use crate::error::{OpenError, ReadError, WatchError, WriteError};
#[cfg(feature = "etcd")]
use crate::etcd::Engine;
use crate::page;
use crate::query::{ListQuery, Page};
use crate::record::{Record, Revision, Version, encode, parse};
use crate::seal::{self, KEYS_PREFIX, SealError, Sealer};
use crate::stage::Current;
use crate::state::{Shown, State, View, read};
use crate::watch::Watch;
use crate::write::{Durability, Write, resource, validate};
use crate::writer::{Queue, Request, Writer};

/// Stack of the writer; redb's trees are a few levels deep.
const WRITER_STACK_BYTES: usize = 512 << 10;
/// The revision of an empty new store: clients give zero another meaning.
const FIRST_REVISION: u64 = 1;

/// What the store's handles, its watches and its writer share.
pub(crate) struct Shared {
    state: Mutex<State>,
    published: AtomicU64,
    announced: Notify,
    /// Who waits for events of a resource.
    wakes: Mutex<HashMap<String, Arc<Notify>>>,
    pub(crate) queue: Queue,
    pub(crate) permits: Semaphore,
    pub(crate) config: Config,
}

impl Shared {
    pub(crate) fn new(state: State, config: Config) -> Shared {
        Shared {
            published: AtomicU64::new(state.published.0),
            state: Mutex::new(state),
            announced: Notify::new(),
            wakes: Mutex::default(),
            queue: Queue::default(),
            permits: Semaphore::new(config.queue_writes),
            config,
        }
    }

    /// Never held across a commit or an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sealer(&self) -> Arc<Sealer> {
        self.state().shown.sealer.clone()
    }

    fn wakes(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, resource: &str) -> Arc<Notify> {
        self.wakes().entry(resource.to_owned()).or_default().clone()
    }

    /// Tells everybody who waits for a publication, or for events of these resources.
    pub(crate) fn announce(&self, published: Revision, touched: &BTreeSet<String>) {
        self.published.store(published.0, Ordering::Release);
        self.announced.notify_waiters();
        let wakes = self.wakes();
        for wake in touched.iter().filter_map(|resource| wakes.get(resource)) {
            wake.notify_waiters();
        }
    }

    /// Until something that a publication brings about holds, or the store is closed.
    pub(crate) async fn wait_until(&self, reached: impl Fn() -> bool) {
        loop {
            let announced = self.announced.notified();
            tokio::pin!(announced);
            announced.as_mut().enable();
            if reached() || self.permits.is_closed() {
                return;
            }
            announced.await;
        }
    }

    /// Ends all watches and waits.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.permits.close();
        self.announced.notify_waiters();
        self.wakes().values().for_each(|wake| wake.notify_waiters());
    }
}

/// Ends the writer with the last handle.
struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    #[cfg(feature = "etcd")]
    etcd: Option<Engine>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
        // The writer does so when it ends.
        #[cfg(feature = "etcd")]
        if self.etcd.is_some() {
            self.shared.close();
        }
    }
}

/// The store. Clones share it; the last one to go writes what is deferred and closes it.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

impl Store {
    /// Opens or makes the store. Blocks; after a power cut for as long as a check of the file takes.
    pub fn open(config: Config) -> Result<Store, OpenError> {
        let mut backing: Box<dyn Backing> = match &config.backend {
            #[cfg(feature = "etcd")]
            Backend::Etcd(etcd) => {
                let etcd = etcd.clone();
                return Store::over_etcd(config, &etcd);
            }
            Backend::Memory => Box::new(MemoryBacking::default()),
            Backend::Redb(_) | Backend::Doors { .. } => Box::new(JournaledBacking::open(&config)?),
        };
        let meta = backing.meta().map_err(OpenError::Backend)?;
        let base = Revision(meta.reserved.max(FIRST_REVISION));
        let sealer = Arc::new(open_sealer(&mut *backing, &config, base)?);
        let shown = Shown { base, floor: Revision(meta.floor), soft: meta.soft.clone(), sealer };
        let snapshot = backing.snapshot().map_err(OpenError::Backend)?;
        let state = State::new(shown, snapshot, config.history());
        let shared = Arc::new(Shared::new(state, config));
        let writer = Writer::new(shared.clone(), backing, meta, base);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .stack_size(WRITER_STACK_BYTES)
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        let handle = Handle {
            shared,
            writer: Mutex::new(Some(writer)),
            #[cfg(feature = "etcd")]
            etcd: None,
        };
        Ok(Store { handle: Arc::new(handle) })
    }

    #[cfg(feature = "etcd")]
    fn over_etcd(config: Config, etcd: &crate::config::Etcd) -> Result<Store, OpenError> {
        let (shared, engine) = Engine::open(config, etcd)?;
        // Nobody empties it: who asks the writer by mistake is refused, not left waiting.
        shared.queue.close();
        Ok(Store { handle: Arc::new(Handle { shared, writer: Mutex::default(), etcd: Some(engine) }) })
    }

    /// What takes the writer's place over etcd.
    #[cfg(feature = "etcd")]
    pub(crate) fn etcd(&self) -> Option<&Engine> {
        self.handle.etcd.as_ref()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Writes all of a batch or nothing, and gives its revision; all its events have it. A batch that changes nothing
    /// gets the revision of the state that it saw. A caller that goes away after the first poll leaves its write in
    /// the queue.
    pub async fn write(&self, batch: Vec<Write>, floor: Durability) -> Result<Revision, WriteError> {
        validate(&batch)?;
        #[cfg(feature = "etcd")]
        if let Some(etcd) = self.etcd() {
            return etcd.write(batch).await;
        }
        self.request(|answer| Request::Write { batch, floor, answer }).await
    }

    /// When it returns, everything deferred before it is at rest.
    pub async fn flush(&self) -> Result<Revision, WriteError> {
        #[cfg(feature = "etcd")]
        if let Some(etcd) = self.etcd() {
            return etcd.flush().await;
        }
        self.request(|answer| Request::Flush { answer }).await
    }

    pub(crate) async fn request(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<Revision, WriteError>>) -> Request,
    ) -> Result<Revision, WriteError> {
        let permit = self.shared().permits.acquire().await.map_err(|_| WriteError::Closed)?;
        permit.forget();
        let (answer, answered) = oneshot::channel();
        self.shared().queue.push(request(answer)).map_err(|_| WriteError::Closed)?;
        answered.await.map_err(|_| WriteError::Closed)?
    }

    /// The newest version of a key.
    pub async fn get(&self, key: &str) -> Result<Option<Record>, ReadError> {
        #[cfg(feature = "etcd")]
        if let Some(etcd) = self.etcd() {
            return etcd.get(key).await;
        }
        self.settled(|| self.get_now(key)).await
    }

    /// A page of the records under a prefix, as they were at one revision.
    pub async fn list(&self, query: ListQuery<'_>) -> Result<Page, ReadError> {
        #[cfg(feature = "etcd")]
        if let Some(etcd) = self.etcd() {
            return etcd.list(query).await;
        }
        self.settled(|| self.list_now(query)).await
    }

    /// How many keys begin with a prefix. Of a whole resource (`pods/`) it costs nothing after the first time.
    pub async fn keys(&self, prefix: &str) -> Result<u64, ReadError> {
        #[cfg(feature = "etcd")]
        if let Some(etcd) = self.etcd() {
            return etcd.keys(prefix).await;
        }
        self.settled(|| self.keys_now(prefix)).await
    }

    /// While the writer goes back to the last commit of a full disk, older snapshots fail: then once more, after it.
    async fn settled<T>(&self, read: impl Fn() -> Result<T, ReadError>) -> Result<T, ReadError> {
        match read() {
            Err(ReadError::Backend { .. }) => {
                let _ = self.request(|answer| Request::Reread { answer }).await;
                read()
            }
            result => result,
        }
    }

    fn get_now(&self, key: &str) -> Result<Option<Record>, ReadError> {
        let (snapshot, shown) = {
            let state = self.shared().state();
            if state.closed {
                return Err(ReadError::Closed);
            }
            if let Some(held) = state.overlay.get(key) {
                return Ok(held.version.clone().map(|version| record(key, version)));
            }
            (state.snapshot.clone(), state.shown.clone())
        };
        match read(&*snapshot, &shown, key).map_err(|error| ReadError::Backend { reason: error.to_string() })? {
            Current::Version(version) => Ok(Some(record(key, version))),
            Current::Absent => Ok(None),
            Current::Damaged => Err(ReadError::Corrupt { key: key.to_owned() }),
        }
    }

    fn list_now(&self, query: ListQuery<'_>) -> Result<Page, ReadError> {
        let ListQuery { prefix, after, limit, at } = query;
        let view = self.view(prefix, after, at)?;
        let revision = view.revision;
        let take = if limit == 0 { usize::MAX } else { limit };
        let rest = (limit > 0).then(|| view.clone());
        let (records, more) = page::first(view, prefix, after, take)?;
        let last = records.last().filter(|_| more).map(|record| record.key.clone());
        let (Some(last), Some(rest)) = (last, rest) else {
            return Ok(Page { records, revision, more: false, remaining: 0 });
        };
        let known = after.and_then(|after| self.shared().state().unread.take(prefix, revision, after));
        let remaining = match known {
            Some(left) => left - records.len() as u64,
            None => page::count(rest, prefix, Some(&last))?,
        };
        self.shared().state().unread.put(prefix, revision, &last, remaining);
        Ok(Page { records, revision, more, remaining })
    }

    fn keys_now(&self, prefix: &str) -> Result<u64, ReadError> {
        let whole = prefix.strip_suffix('/').filter(|name| !name.contains('/'));
        if let Some(keys) = whole.and_then(|name| self.shared().state().resource(name).keys) {
            return Ok(keys);
        }
        let view = self.view(prefix, None, None)?;
        let counted_at = view.revision;
        let keys = page::count(view, prefix, None)?;
        let mut state = self.shared().state();
        if let Some(name) = whole.filter(|_| state.published == counted_at) {
            state.resource(name).keys = Some(keys);
        }
        Ok(keys)
    }

    pub(crate) fn view(&self, prefix: &str, after: Option<&str>, at: Option<Revision>) -> Result<View, ReadError> {
        let state = self.shared().state();
        if state.closed {
            return Err(ReadError::Closed);
        }
        state.view(prefix, after, at)
    }

    /// Events under a prefix that holds a `/`, after a revision. Costs nothing while nobody calls `next`.
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        let name = resource(prefix).ok_or(WatchError::NoResource)?;
        let mut state = self.shared().state();
        if state.closed {
            return Err(WatchError::Closed);
        }
        let position = state.watch_from(name, after)?;
        drop(state);
        Ok(Watch::new(self.shared().clone(), self.shared().wake(name), prefix, position, after))
    }

    /// The last published revision.
    pub fn revision(&self) -> Revision {
        Revision(self.shared().published.load(Ordering::Acquire))
    }

    /// The last revision of which everything but volatile writes is at rest.
    pub fn durable_revision(&self) -> Revision {
        self.shared().state().durable()
    }

    /// Until a revision is published, or the store is closed.
    pub async fn wait_for(&self, revision: Revision) {
        self.shared().wait_until(|| self.revision() >= revision).await;
    }

    /// Until everything up to a revision but volatile writes is at rest, or the store is closed.
    pub async fn wait_durable(&self, revision: Revision) {
        self.shared().wait_until(|| self.durable_revision() >= revision).await;
    }
}

/// Unwraps the data keys at rest, and commits those that are made now before anything is sealed with them.
fn open_sealer(backing: &mut dyn Backing, config: &Config, base: Revision) -> Result<Sealer, OpenError> {
    let mut wrapped = BTreeMap::new();
    let mut damaged = None;
    let snapshot = backing.snapshot().map_err(OpenError::Backend)?;
    let scanned = snapshot.scan(KEYS_PREFIX, None, &mut |key, raw| {
        match (seal::id_of(key), parse(key, raw).and_then(|parsed| parsed.value())) {
            (Some(id), Ok(value)) => drop(wrapped.insert(id, value)),
            _ => damaged = Some(SealError::Damaged { key: key.to_owned() }),
        }
        ControlFlow::Continue(())
    });
    scanned.map_err(OpenError::Backend)?;
    damaged.map_or(Ok(()), Err).map_err(OpenError::Sealed)?;
    let (sealer, made) = Sealer::open(config.sealing.clone(), &wrapped).map_err(OpenError::Sealed)?;
    if !made.is_empty() {
        let mut commit = Commit::default();
        for (id, value) in made {
            let key = seal::key_of(id);
            let raw = encode(&key, &Version { revision: base, value });
            commit.records.insert(key.into(), Some(raw));
        }
        backing.commit(&commit).map_err(OpenError::Backend)?;
    }
    Ok(sealer)
}

fn record(key: &str, version: Version) -> Record {
    Record { key: key.to_owned(), value: version.value, revision: version.revision }
}
