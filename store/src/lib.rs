//! Pure: the map of the store. Bytes, revisions, watches: the cluster's memory; it knows no Kubernetes kind.
//!
//! A write goes one way: [`Store::write`] -> the writer's queue -> `stage` (preconditions, one revision a batch) ->
//! one commit of the backing (its journal, later redb) for everybody who waits -> publication (overlay, history rings) -> [`Watch`]es.
//! Over an etcd that several stores share, feature `etcd`, etcd takes the writer's place: one Txn a batch, and one watch
//! feeds the history rings.
//! Next stop of an object: the API's watch and list handlers, and every controller's view.
//!
//! **Architecture invariant:** one writer assigns and publishes revisions, in the same order.
//! **Architecture invariant:** a durable write is visible to nobody before its fsync returned.
//! **Architecture invariant:** no revision is ever shown twice with different content, whatever was lost in a power cut.
//! **Architecture invariant:** an idle store neither wakes up nor writes a byte.
//! **Architecture invariant:** commits do not wait for a checkpoint.
//! **Architecture invariant:** no page and no record is believed before its checksum was, nor copied into a new page.
//! **Architecture invariant:** this crate depends on no other crate of the house.

#![forbid(unsafe_code)]

mod backend;
mod clock;
mod config;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod history;
mod migrate;
mod overlay;
mod page;
mod query;
mod record;
mod rescue;
mod rotate;
mod seal;
mod snapshot;
mod stage;
mod state;
mod store;
mod watch;
mod write;
mod writer;

pub use backend::BackingError;
pub use clock::Clock;
pub use config::{Backend, Config, Door};
#[cfg(feature = "etcd")]
pub use config::{Etcd, EtcdTls};
pub use error::{OpenError, ReadError, WatchError, WriteError};
pub use history::{Event, EventKind};
pub use migrate::{Content, MigrateError, begin, migrate};
pub use query::{ListQuery, Page};
pub use record::{Record, Revision};
pub use rescue::{Report, RescueError, salvage, verify};
pub use rotate::{RotateError, Rotation};
pub use seal::{KeyService, KeyServiceError, LocalAlgorithm, LocalKey, Scope, SealError, SealRule, Sealing};
pub use snapshot::{RESTORE_JUMP, SnapshotError, Summary, inspect, restore};
pub use store::Store;
pub use watch::Watch;
pub use write::{BATCH_WRITES_MAX, Change, Durability, KEY_BYTES_MAX, Precondition, VALUE_BYTES_MAX, Write};
