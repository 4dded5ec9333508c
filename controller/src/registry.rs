//! Shell: defaults, validates, admits, patches; the only writer of the store.
//!
//! One engine for every row of the kind table. A write goes `shape` (schema: defaults, structure) -> `admission` -> the row's
//! strategy -> `allocation` (unique keys) -> one store batch with preconditions. A read emits stored bytes.

pub mod admission;
pub mod allocation;
mod create;
mod delete;
pub mod durability;
mod eviction;
mod expiry;
pub mod filter;
pub mod patch;
mod pluck;
mod read;
pub mod record;
mod shape;
pub mod status;
mod subresources;
mod token;
mod update;
pub mod view;
mod watch;

use std::sync::{Arc, RwLock};
use std::time::Duration;

use bramble_store::{Durability, ListQuery, ReadError, Record, Revision, Store, Write, WriteError};
use bytes::Bytes;

use crate::authz::Authorizer;
use crate::identity::Identity;
pub use crate::kinds::strategy::Part;
use crate::kinds::{Kind, Kinds, Persistence};
use crate::object::Object;
use crate::registry::status::{Answer, ApiError};

pub use allocation::ServiceRanges;
pub(crate) use create::uuid;
pub use delete::{DeleteRequest, Deleted};
pub(crate) use patch::Applying;
pub use patch::Patch;
pub use read::{ListRequest, Lister, Match};
pub use subresources::Binding;
pub use watch::{Change, ChangeKind, Watcher};

/// Time since 1970: the wall clock, or a test's.
pub type Clock = fn() -> Duration;

/// The registry: the store seen as Kubernetes objects.
pub struct Registry {
    store: Store,
    kinds: RwLock<Arc<Kinds>>,
    clock: Clock,
    ranges: ServiceRanges,
    authorizer: Authorizer,
    events: expiry::Expiry,
}

/// What a request is about.
#[derive(Clone, Debug)]
pub struct Target {
    /// The row.
    pub kind: Arc<Kind>,
    /// Empty for cluster-scoped kinds, and for lists of all namespaces.
    pub namespace: String,
    /// Empty for collections and `generateName`.
    pub name: String,
}

/// How unknown and duplicate fields are met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Silently dropped.
    Ignore,
    /// Dropped with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// Who writes, and how.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The user.
    pub identity: Identity,
    /// Do everything but the write.
    pub dry_run: bool,
    /// `fieldManager`, or the first part of the user agent.
    pub field_manager: String,
    /// Apply over fields of other managers.
    pub force: bool,
    /// It is an apply, which keeps the managed fields itself.
    pub applies: bool,
    /// What to do about unknown fields.
    pub field_validation: FieldValidation,
    /// `duplicate field "a.b"`, as the reader of the body found them.
    pub duplicates: Vec<String>,
    /// The body as it came, which says in what order to object.
    pub body: Bytes,
    /// Collected for the `Warning` headers of the answer.
    pub warnings: Vec<String>,
}

/// An object as it stands in the store, or would (dry run).
#[derive(Clone, Debug)]
pub struct Written {
    /// Its stored form.
    pub value: Bytes,
    /// Its resourceVersion.
    pub revision: u64,
    /// Whether it did not exist before.
    pub created: bool,
}

/// An object read in order to change it.
struct Current {
    object: Object,
    revision: Revision,
    value: Bytes,
}

impl Target {
    /// Its key in the store; a prefix when it names no object.
    fn key(&self) -> String {
        match (self.kind.namespaced, self.namespace.as_str(), self.name.as_str()) {
            (true, "", _) => self.kind.prefix() + "/",
            (true, namespace, name) => format!("{}/{namespace}/{name}", self.kind.prefix()),
            (false, _, name) => format!("{}/{name}", self.kind.prefix()),
        }
    }
}

impl Registry {
    /// A registry over a store. The authoriser is asked for rights that no verb says: `approve`, `escalate`, `bind`.
    pub fn new(store: Store, kinds: Kinds, clock: Clock, ranges: ServiceRanges, authorizer: Authorizer) -> Self {
        Self {
            store,
            kinds: RwLock::new(Arc::new(kinds)),
            clock,
            ranges,
            authorizer,
            events: expiry::Expiry::default(),
        }
    }

    /// The kind table as it stands.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.kinds.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The store below, for those who watch without a kind (the snapshot, the metrics).
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Seconds since 1970.
    pub fn now(&self) -> i64 {
        i64::try_from((self.clock)().as_secs()).unwrap_or(i64::MAX)
    }

    /// The service ranges that this registry allocates from.
    pub fn ranges(&self) -> &ServiceRanges {
        &self.ranges
    }

    /// Takes over what lives an hour from a controller that is gone: of what a shared store holds, each gets one hour more.
    pub async fn adopt_events(&self) {
        let kinds = self.kinds();
        for kind in kinds.rows().iter().filter(|kind| matches!(kind.persistence, Persistence::Volatile)) {
            let prefix = kind.prefix() + "/";
            match self.store.list(ListQuery::all(&prefix)).await {
                Ok(page) => {
                    page.records.into_iter().for_each(|it| self.events.remember(it.key, it.revision, self.now()))
                }
                Err(error) => tracing::warn!(%error, prefix, "events are not taken over"),
            }
        }
    }

    /// Removes events whose hour is over; returns never. Sleeps until the earliest expiry and not otherwise.
    pub async fn expire_events(&self) {
        self.events.run(&self.store, self.clock).await;
    }

    async fn record(&self, target: &Target) -> Answer<Option<Record>> {
        self.store.get(&target.key()).await.map_err(read_error)
    }

    async fn current(&self, target: &Target) -> Answer<Current> {
        let record = self.record(target).await?.ok_or_else(|| ApiError::not_found(&target.kind, &target.name))?;
        let object = record::decode(&record.value, record.revision.0).map_err(ApiError::internal)?;
        Ok(Current { object, revision: record.revision, value: record.value })
    }

    /// Reads an object of any kind by its key parts, for lookups of admission and allocation.
    async fn lookup(&self, plural: &str, namespace: &str, name: &str) -> Answer<Option<Object>> {
        let kinds = self.kinds();
        let kind = kinds.find("", "v1", plural).or_else(|| kinds.rows().iter().find(|row| row.plural == plural));
        let Some(kind) = kind else { return Ok(None) };
        let target = Target { kind: kind.clone(), namespace: namespace.to_owned(), name: name.to_owned() };
        let Some(record) = self.record(&target).await? else { return Ok(None) };
        record::decode(&record.value, record.revision.0).map(Some).map_err(ApiError::internal)
    }

    async fn write(&self, batch: Vec<Write>, floor: Durability) -> Result<Revision, WriteError> {
        self.store.write(batch, floor).await
    }
}

/// A read that the store refused.
fn read_error(error: ReadError) -> ApiError {
    match error {
        ReadError::Compacted { .. } => ApiError::expired("The resourceVersion for the provided list is too old."),
        ReadError::TooNew { current } => ApiError::too_large_resource_version(current.0 + 1, current.0),
        ReadError::Unavailable { .. } => ApiError::unavailable(error.to_string()),
        other => ApiError::internal(other),
    }
}
