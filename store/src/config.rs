//! Pure: where a store lives and its bounds.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::history::Bounds;
use crate::seal::Sealing;

/// Makes the storage under a file of the store, once for every open; tests cut the power there.
pub type Door = Arc<dyn Fn() -> io::Result<Box<dyn redb::StorageBackend>> + Send + Sync>;

/// Where the records live.
#[derive(Clone)]
pub enum Backend {
    /// A redb file at this path, and its journal at `<path>.journal`.
    Redb(PathBuf),
    /// The same over whatever the doors give.
    Doors {
        /// In place of the redb file.
        store: Door,
        /// In place of the journal beside it.
        journal: Door,
    },
    /// In memory; gone with the store.
    Memory,
    /// In an etcd cluster that several stores share.
    #[cfg(feature = "etcd")]
    Etcd(Etcd),
}

/// An etcd cluster, v3.4 or newer.
#[cfg(feature = "etcd")]
#[derive(Clone)]
pub struct Etcd {
    /// URLs of its members, `https://host:2379`; one is used at a time, the next one when it fails.
    pub servers: Vec<String>,
    /// What all keys begin with, such as `/registry`: one cluster of ours a prefix.
    pub prefix: String,
    /// How its members are known, and how we are known to them.
    pub tls: Option<EtcdTls>,
    /// How long old revisions are kept: one to two such periods.
    pub compaction_period: Duration,
    /// Revisions of a store that is made now begin above this; one that exists keeps its own beginning.
    pub origin: u64,
}

/// Certificates for etcd, in PEM.
#[cfg(feature = "etcd")]
#[derive(Clone)]
pub struct EtcdTls {
    /// Who signs the members' certificates.
    pub ca_pem: Vec<u8>,
    /// Our certificate and its key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

#[cfg(feature = "etcd")]
impl Etcd {
    /// The defaults, with these members, without TLS.
    pub fn new(servers: Vec<String>) -> Etcd {
        Etcd {
            servers,
            prefix: "/registry".into(),
            tls: None,
            compaction_period: Duration::from_secs(5 * 60),
            origin: 0,
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Redb(path) => f.debug_tuple("Redb").field(path).finish(),
            Backend::Doors { .. } => f.write_str("Doors"),
            Backend::Memory => f.write_str("Memory"),
            #[cfg(feature = "etcd")]
            Backend::Etcd(etcd) => f.debug_tuple("Etcd").field(&etcd.servers).field(&etcd.prefix).finish(),
        }
    }
}

/// How a store is opened: its backend, and every bound with its default.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the records live.
    pub backend: Backend,
    /// Event history of one resource prefix: some 150 changes of pods, or a quarter of an hour of ten nodes' leases.
    /// Enough for a client that reconnects and for a long chunked list, several commits of `group_bytes`, and little
    /// enough for a board, since an idle cluster's heartbeats fill it sooner or later.
    pub history_bytes_per_resource: usize,
    /// Event history of all resources together; beyond it the largest one forgets first.
    pub history_bytes: usize,
    /// Events older than this are forgotten when something is written, but never the newest batch of a resource. Clients
    /// of upstream's etcd get five to ten minutes.
    pub history_age_max: Duration,
    /// How old events are.
    pub clock: Clock,
    /// Records that live in memory only (volatile and deferred writes); beyond it all of them go to disk.
    pub overlay_bytes: usize,
    /// A deferred write is on disk at the latest after this time: what a power cut may take.
    pub deferred_max_delay: Duration,
    /// Revisions are reserved at rest in blocks: one small commit for so many volatile writes, and a boot skips at most
    /// one block. 64 bits outlast a boot a second.
    pub revision_block: u64,
    /// Writes that wait for the writer; further callers wait for a place.
    pub queue_writes: usize,
    /// Bytes of values that share one commit: bounds the latency of the group, and keeps it within the history.
    pub group_bytes: usize,
    /// The journal grows no further. When half of it is used, what it holds goes to redb, aside. The longer it is, the
    /// more superseded writes never get there.
    pub journal_bytes: u64,
    /// What the journal holds and redb not yet is in memory as well, no more than this: at half of it, it goes to redb.
    /// While that takes longer than it should, half as much again is allowed.
    pub checkpoint_bytes: usize,
    /// It goes there in steps that write about so much each. More would not fit into the half of `cache_bytes` that redb
    /// lets dirty pages have: it would write them twice. And whoever flushes on the same disk waits for what is under
    /// way.
    pub step_bytes: u64,
    /// The redb file grows no further; deletes still work then.
    pub file_bytes_max: u64,
    /// After the disk was full, puts try again after this time, or after deletes of a 32nd of the cap.
    pub full_retry_delay: Duration,
    /// A file of at least this length gives space back, a little with every checkpoint, where it is mostly empty.
    pub compact_bytes_min: u64,
    /// A file of at most this length is read and checked completely before it is opened. In a longer one records are
    /// checked when they are read, with every page that leads to them; `verify` checks all of it.
    pub verify_bytes_max: u64,
    /// redb's page cache.
    pub cache_bytes: usize,
    /// What is sealed at rest; nothing, unless somebody says so.
    pub sealing: Sealing,
}

impl Config {
    /// The defaults, over this backend.
    pub fn new(backend: Backend) -> Config {
        Config {
            backend,
            history_bytes_per_resource: 768 << 10,
            history_bytes: 2 << 20,
            history_age_max: Duration::from_secs(15 * 60),
            clock: Clock::default(),
            overlay_bytes: 2 << 20,
            deferred_max_delay: Duration::from_secs(2),
            revision_block: 1 << 20,
            queue_writes: 1024,
            group_bytes: 256 << 10,
            journal_bytes: 4 << 20,
            checkpoint_bytes: 3 << 20,
            step_bytes: 768 << 10,
            file_bytes_max: 1 << 30,
            full_retry_delay: Duration::from_secs(10),
            compact_bytes_min: 32 << 20,
            verify_bytes_max: 16 << 20,
            cache_bytes: 2 << 20,
            sealing: Sealing::default(),
        }
    }

    /// A store in a redb file.
    pub fn redb(path: impl Into<PathBuf>) -> Config {
        Config::new(Backend::Redb(path.into()))
    }

    /// A store in memory.
    pub fn memory() -> Config {
        Config::new(Backend::Memory)
    }

    /// How far back history reaches.
    pub(crate) fn history(&self) -> Bounds {
        let (bytes, bytes_per_resource) = (self.history_bytes, self.history_bytes_per_resource);
        Bounds { bytes, bytes_per_resource, age: self.history_age_max }
    }

    /// See `full_retry_delay`.
    pub(crate) fn full_retry_bytes(&self) -> usize {
        usize::try_from(self.file_bytes_max / 32).unwrap_or(usize::MAX)
    }
}
