//! Shell: the store over a real etcd cluster, which several controllers share; feature `etcd`.
//!
//! ```text
//! Store::write -> transact (seal, preconditions, one Txn) -> etcd -> feed (one watch) -> history rings -> Watch
//! Store::list, get -> read (linearizable Range at one revision) -> etcd
//! ```
//! etcd orders and keeps everything, so this takes the place of the writer: its mod revision is the store's revision, every
//! floor is durable (a heartbeat costs a write of etcd's), and lists at older revisions are etcd's own. Only events are kept
//! here, in the same rings as over a file. A write is answered, and a list's revision told, once the feed has come so far.
//!
//! What a file binds and etcd cannot: a sealed record is bound to its key alone, since the revision is not known before the
//! Txn. Whoever may write to etcd can put an older sealed value of a key back into its place.
//!
//! **Architecture invariant:** no record is sealed with a data key after a newer one is in etcd (see `transact`).

mod compact;
mod feed;
mod keyring;
mod keys;
mod members;
mod read;
mod refusal;
mod reseal;
mod transact;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use self::keys::Keys;
use self::members::Members;
use crate::backend::memory::MemoryBacking;
use crate::backend::{Backing, BackingError};
use crate::config::{Config, Etcd};
use crate::error::OpenError;
use crate::record::Revision;
use crate::state::{Shown, State};
use crate::store::Shared;

/// The deepest futures are gRPC calls in TLS.
const STACK_BYTES: usize = 1 << 20;
/// A key service that blocks gets one of these.
const BLOCKING_THREADS: usize = 4;
/// A write's own event follows its answer within a round trip. After this long the revision may be one that no event of
/// ours has, because somebody else writes to the same etcd: then a write of our own brings the feed there.
const TICK_AFTER: Duration = Duration::from_millis(100);
/// A feed that is farther behind than this has lost its member; who waits for it goes on without.
const BEHIND_MAX: Duration = Duration::from_secs(3);

/// What the calls, the feed and the compaction share.
struct Inner {
    shared: Arc<Shared>,
    members: Members,
    keys: Keys,
    /// One tick serves everybody who waits.
    tick: tokio::sync::Mutex<()>,
}

/// The running engine; it ends with the store's last handle.
pub(crate) struct Engine {
    inner: Arc<Inner>,
    runtime: Handle,
    stop: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        let stop = self.stop.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = stop {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

/// Says once that the engine has caught up, or why not.
type Opened = std::sync::mpsc::Receiver<Result<(Arc<Inner>, Handle), OpenError>>;

/// The engine lost its thread: the store is closing.
struct Gone;

impl Engine {
    /// Connects, reads the data keys, and catches up with the newest revision. Blocks until a member answers, at most as
    /// long as one call may take.
    pub(crate) fn open(config: Config, etcd: &Etcd) -> Result<(Arc<Shared>, Engine), OpenError> {
        let failed = |reason: String| OpenError::Backend(BackingError::Failed(reason));
        let nothing = MemoryBacking::default().snapshot().map_err(OpenError::Backend)?;
        let sealing = config.sealing.clone();
        let shown = Shown {
            base: Revision(0),
            floor: Revision(0),
            soft: BTreeSet::new(),
            sealer: Arc::new(crate::seal::Sealer::empty(sealing)),
        };
        let state = State::new(shown, nothing, config.history());
        let shared = Arc::new(Shared::new(state, config));
        let members = Members::new(etcd).map_err(failed)?;
        let inner =
            Inner { shared: shared.clone(), members, keys: Keys::new(&etcd.prefix), tick: tokio::sync::Mutex::new(()) };
        let (thread, stop, opened) = Engine::start(inner, etcd.origin, etcd.compaction_period)?;
        let (inner, runtime) = opened.recv().map_err(|_| failed("the engine ended".to_owned()))??;
        Ok((shared, Engine { inner, runtime, stop: Mutex::new(Some((stop, thread))) }))
    }

    /// The engine's thread, what ends it, and where it says that it has caught up.
    fn start(
        mut inner: Inner,
        origin: u64,
        period: Duration,
    ) -> Result<(JoinHandle<()>, oneshot::Sender<()>, Opened), OpenError> {
        let (opened, open) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_stack_size(STACK_BYTES)
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(OpenError::Thread(error)))),
            };
            runtime.block_on(async {
                let begun = async {
                    inner.learn_origin(origin).await?;
                    let feed = inner.begin_feed().await?;
                    inner.open_keyring().await?;
                    Ok::<_, OpenError>(feed)
                };
                let feed = match begun.await {
                    Ok(feed) => feed,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                let inner = Arc::new(inner);
                let newest = feed.newest();
                tokio::spawn(feed::run(inner.clone(), feed));
                tokio::spawn(compact::run(inner.clone(), period));
                inner.reach(newest).await;
                let _ = opened.send(Ok((inner, Handle::current())));
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("store-etcd".into()).stack_size(STACK_BYTES).spawn(work);
        Ok((thread.map_err(OpenError::Thread)?, stop, open))
    }

    /// Runs a call on the engine's thread; it goes on when the caller has gone.
    async fn run<T, F>(&self, call: impl FnOnce(Arc<Inner>) -> F) -> Result<T, Gone>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.runtime.spawn(call(self.inner.clone())).await.map_err(|_| Gone)
    }

    /// The same for a caller that blocks.
    fn run_blocking<T, F>(&self, call: impl FnOnce(Arc<Inner>) -> F) -> Result<T, Gone>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let call = call(self.inner.clone());
        self.runtime.spawn(async move { drop(answer.send(call.await)) });
        answered.recv().map_err(|_| Gone)
    }
}
