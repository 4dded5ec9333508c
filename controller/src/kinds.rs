//! Pure: THE kind table; a kind is a row.
//!
//! Everything generic (storage, discovery, validation, printing, watching) reads these rows. One more built-in kind is one more
//! row and its schema; there is no handler to write. Strings may be owned, so that custom resources make rows at run time.

pub mod column;
pub mod strategy;

mod access;
mod cluster;
mod disruption;
mod network_policy;
mod node;
mod plain;
pub(crate) mod pod;
mod service;
pub(crate) use service::{needs_health_port, settle_families};
mod volume;
mod workload;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::object::Object;
use crate::schema::TypeId;

pub use column::Column;
pub use strategy::Strategy;

/// A name in a row: static for built-in kinds.
pub type Name = Cow<'static, str>;

/// One kind of the API.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group; empty for core.
    pub group: Name,
    /// Version, such as `v1`.
    pub version: Name,
    /// Kind, such as `Pod`.
    pub kind: Name,
    /// Plural resource name, such as `pods`.
    pub plural: Name,
    /// Singular resource name.
    pub singular: Name,
    /// Abbreviations that kubectl takes.
    pub short_names: Vec<Name>,
    /// Groups of kinds that kubectl takes, such as `all`.
    pub categories: Vec<Name>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether objects are stored, or answered on the spot.
    pub serving: Serving,
    /// The kind's type in the schema table; `None` for kinds without one.
    pub schema: Option<TypeId>,
    /// What `kubectl get` prints.
    pub columns: Vec<Column>,
    /// The cells of one object, in the order of the columns; `now` is in seconds since 1970.
    pub row: fn(&Object, now: i64) -> Vec<Value>,
    /// Fields that a field selector may name besides `metadata.name` and `metadata.namespace`.
    pub fields: Vec<Field>,
    /// Subresources, in the order of discovery.
    pub subresources: Vec<Subresource>,
    /// What is peculiar to writing this kind.
    pub strategy: Strategy,
    /// How long the store may keep a write in RAM.
    pub persistence: Persistence,
    /// Whose storage this row shares, when it is another version or group of a stored kind.
    pub alias: Option<Alias>,
    /// What every client that uses the kind is warned of; empty for kinds that stay.
    pub deprecated: Name,
}

/// Whether a kind's objects exist, or are only answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Kept in the store, with all verbs.
    Stored,
    /// `POST` is answered by that review; nothing is kept.
    Answered(Review),
}

/// The kinds that are answered on the spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// authentication.k8s.io TokenReview.
    Token,
    /// authentication.k8s.io SelfSubjectReview.
    SelfSubject,
    /// authorization.k8s.io SubjectAccessReview.
    SubjectAccess,
    /// authorization.k8s.io LocalSubjectAccessReview.
    LocalSubjectAccess,
    /// authorization.k8s.io SelfSubjectAccessReview.
    SelfSubjectAccess,
    /// authorization.k8s.io SelfSubjectRulesReview.
    SelfSubjectRules,
    /// core Binding, the old way to bind a pod.
    Binding,
}

/// A field that a selector may name.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As the selector names it.
    pub name: &'static str,
    /// Where the object has it.
    pub path: &'static [&'static str],
    /// Where it is looked for when it is empty there; nowhere for most.
    pub instead: &'static [&'static str],
    /// Its text when the object lacks it.
    pub zero: &'static str,
}

impl Field {
    /// Of an object that holds a text there, or nothing.
    pub const fn new(name: &'static str, path: &'static [&'static str]) -> Self {
        Self { name, path, instead: &[], zero: "" }
    }

    pub(crate) const PLACES: usize = 2;

    /// Where it may be; the first that is not empty counts.
    pub(crate) fn places(&self) -> [&'static [&'static str]; Self::PLACES] {
        [self.path, if self.instead.is_empty() { self.path } else { self.instead }]
    }
}

/// A resource below an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// The status, written apart from the spec.
    Status,
    /// autoscaling/v1 Scale: `spec.replicas`.
    Scale,
    /// Namespace: `spec.finalizers`.
    Finalize,
    /// CertificateSigningRequest: conditions Approved and Denied.
    Approval,
    /// Pod: its node.
    Binding,
    /// Pod: a deletion that respects budgets.
    Eviction,
    /// ServiceAccount: a fresh token.
    Token,
    /// Pod: containers for debugging.
    EphemeralContainers,
    /// Pod: resources of running containers.
    Resize,
    /// Pod: what its containers printed.
    Log,
    /// Pod: a process in a container.
    Exec,
    /// Pod: the main process of a container.
    Attach,
    /// Pod: a port of its network.
    PortForward,
    /// Pod, Service, Node: any HTTP path behind it.
    Proxy,
}

impl Subresource {
    /// As it stands in a path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Finalize => "finalize",
            Self::Approval => "approval",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Token => "token",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
        }
    }

    /// Group, version and kind of what it takes and gives, where that is not the object itself.
    pub fn kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Self::Scale => Some(("autoscaling", "v1", "Scale")),
            Self::Binding => Some(("", "v1", "Binding")),
            Self::Eviction => Some(("policy", "v1", "Eviction")),
            Self::Token => Some(("authentication.k8s.io", "v1", "TokenRequest")),
            Self::Exec => Some(("", "v1", "PodExecOptions")),
            Self::Attach => Some(("", "v1", "PodAttachOptions")),
            Self::PortForward => Some(("", "v1", "PodPortForwardOptions")),
            _ => None,
        }
    }

    /// The verbs of discovery.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Finalize => &["update"],
            Self::Binding | Self::Eviction | Self::Token => &["create"],
            Self::Log => &["get"],
            Self::Exec | Self::Attach | Self::PortForward => &["create", "get"],
            Self::Proxy => &["create", "delete", "get", "patch", "update"],
            Self::Status | Self::Scale | Self::Approval | Self::EphemeralContainers | Self::Resize => {
                &["get", "patch", "update"]
            }
        }
    }
}

/// How durable the writes of a kind must be.
#[derive(Clone, Copy, Debug)]
pub enum Persistence {
    /// On the card before the answer; status of our own agents and controllers may follow later.
    Durable,
    /// In RAM only.
    Volatile,
    /// Durable, but a change that only says "still alive" stays in RAM: `true` when old and new differ in nothing else.
    Heartbeat(fn(old: &Object, new: &Object) -> bool),
}

/// A row that shows the objects of another row in its own words.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// Group of the stored kind.
    pub group: &'static str,
    /// Version of the stored kind.
    pub version: &'static str,
    /// To the stored form.
    pub store: fn(&mut Object),
    /// From the stored form.
    pub show: fn(&mut Object),
}

/// Every verb of a stored kind, as discovery lists them.
pub const STORED_VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Kind {
    /// A stored kind with names after the rules, printed as name and age.
    pub fn new(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            serving: Serving::Stored,
            schema: crate::schema::lookup(group, version, kind),
            columns: column::name_and_age(),
            row: column::name_and_age_row,
            fields: Vec::new(),
            subresources: Vec::new(),
            strategy: Strategy::default(),
            persistence: Persistence::Durable,
            alias: None,
            deprecated: Name::default(),
        }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `pods`, `deployments.apps`: how messages name the resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The resource prefix of its keys in the store.
    pub fn prefix(&self) -> String {
        let group = self.alias.map_or(self.group.as_ref(), |alias| alias.group);
        if group.is_empty() { self.plural.to_string() } else { format!("{}.{group}", self.plural) }
    }

    /// Does discovery list it with that verb?
    pub fn verbs(&self) -> &'static [&'static str] {
        match self.serving {
            Serving::Stored => &STORED_VERBS,
            Serving::Answered(_) => &["create"],
        }
    }

    /// The subresource with that name.
    pub fn subresource(&self, name: &str) -> Option<Subresource> {
        self.subresources.iter().copied().find(|sub| sub.name() == name)
    }
}

/// `v1`, `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The table: rows in the order of discovery.
#[derive(Debug)]
pub struct Kinds {
    rows: Vec<Arc<Kind>>,
    by_plural: HashMap<String, usize>,
}

impl Kinds {
    /// The built-in kinds.
    pub fn builtin() -> Self {
        Self::of(rows())
    }

    /// A table of these rows.
    pub fn of(rows: Vec<Kind>) -> Self {
        let by_plural = rows.iter().enumerate().map(|(at, row)| (row.api_version() + "/" + &row.plural, at)).collect();
        Self { rows: rows.into_iter().map(Arc::new).collect(), by_plural }
    }

    /// All rows.
    pub fn rows(&self) -> &[Arc<Kind>] {
        &self.rows
    }

    /// The row of a resource.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_plural.get(&(api_version(group, version) + "/" + plural)).map(|at| &self.rows[*at])
    }

    /// The row of a kind, such as `apps/v1` `Deployment`.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.rows.iter().find(|row| row.kind == kind && row.api_version() == api_version)
    }

    /// The row whose objects this row shows: itself unless it is an alias.
    pub fn stored(&self, kind: &Arc<Kind>) -> Arc<Kind> {
        kind.alias.and_then(|alias| self.find(alias.group, alias.version, &kind.plural)).unwrap_or(kind).clone()
    }

    /// Groups and their versions, in order: core first.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for row in &self.rows {
            let at = groups.iter().position(|(group, _)| *group == row.group).unwrap_or_else(|| {
                groups.push((&row.group, Vec::new()));
                groups.len() - 1
            });
            if !groups[at].1.contains(&row.version.as_ref()) {
                groups[at].1.push(&row.version);
            }
        }
        groups
    }
}

/// The rows, in the order of discovery: within a group by plural.
fn rows() -> Vec<Kind> {
    let binding = Kind { serving: Serving::Answered(Review::Binding), ..Kind::new("", "v1", "Binding", "bindings") };
    let mut rows = vec![
        binding,
        plain::config_map(),
        service::endpoints(),
        cluster::event(),
        plain::namespace(),
        node::kind(),
        volume::claim(),
        volume::volume(),
        pod::kind(),
        workload::pod_template(),
        workload::replication_controller(),
        plain::secret(),
        plain::service_account(),
        service::service(),
        workload::controller_revision(),
        workload::deployment(),
        workload::replica_set(),
    ];
    rows.extend(access::reviews());
    rows.extend([access::signing_request(), cluster::lease(), cluster::endpoint_slice(), cluster::event_in_group()]);
    rows.push(network_policy::kind());
    rows.push(disruption::kind());
    rows.extend(access::rbac());
    rows.push(plain::priority_class());
    rows.push(volume::class());
    rows
}
