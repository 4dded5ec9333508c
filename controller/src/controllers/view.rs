//! Pure: what the controllers know of the cluster: compact projections by kind, indexes of keys, and how far each watch got.
//!
//! The view is a synchronous reducer: [`View::apply`] takes one watched event and answers what changed. Whole objects are
//! never kept; a plan that needs one asks for it (`plan::Need`).

pub(crate) mod disruption;
pub(crate) mod meta;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod policy;
pub(crate) mod volume;
pub(crate) mod workload;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use self::meta::{Meta, Uid};
use super::graph::{Graph, OwnerRef, Vertex};
use super::kind::{KindId, Kinds, projection};
use super::text::{Interner, Str, str_at};

/// Which object: kind, namespace ("" for cluster-scoped kinds), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: KindId,
    pub(crate) namespace: Str,
    pub(crate) name: Str,
}

impl Key {
    pub(crate) fn new(kind: KindId, namespace: &str, name: &str) -> Key {
        Key { kind, namespace: namespace.into(), name: name.into() }
    }

    /// Upstream's `namespace/name`, or the bare name.
    pub(crate) fn path(&self) -> String {
        if self.namespace.is_empty() { self.name.to_string() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// The few fields of one object that plans look at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Projected {
    Namespace(Arc<policy::Namespace>),
    Pod(Arc<pod::Pod>),
    Node(Arc<node::Node>),
    Lease(Arc<node::Lease>),
    Service(Arc<network::Service>),
    Endpoints(Arc<network::Endpoints>),
    EndpointSlice(Arc<network::EndpointSlice>),
    Workload(Arc<workload::Workload>),
    Deployment(Arc<workload::Deployment>),
    Policy(Arc<policy::Policy>),
    SigningRequest(Arc<policy::SigningRequest>),
    ClusterRole(Arc<policy::ClusterRole>),
    Budget(Arc<disruption::Budget>),
    Volume(Arc<volume::Volume>),
}

impl Projected {
    pub(crate) fn meta(&self) -> &Meta {
        match self {
            Projected::Namespace(object) => &object.meta,
            Projected::Pod(object) => &object.meta,
            Projected::Node(object) => &object.meta,
            Projected::Lease(object) => &object.meta,
            Projected::Service(object) => &object.meta,
            Projected::Endpoints(object) => &object.meta,
            Projected::EndpointSlice(object) => &object.meta,
            Projected::Workload(object) => &object.meta,
            Projected::Deployment(object) => &object.meta,
            Projected::Policy(object) => &object.meta,
            Projected::SigningRequest(object) => &object.meta,
            Projected::ClusterRole(object) => &object.meta,
            Projected::Budget(object) => &object.meta,
            Projected::Volume(object) => &object.meta,
        }
    }

    /// The node a Pod is bound to.
    fn node(&self) -> Option<&Str> {
        match self {
            Projected::Pod(pod) => pod.node.as_ref(),
            _ => None,
        }
    }

    /// Bytes on the heap that belong to this object alone.
    fn bytes(&self) -> usize {
        16 + match self {
            Projected::Namespace(_) => size_of::<policy::Namespace>(),
            Projected::Pod(pod) => pod.bytes(),
            Projected::Node(_) => size_of::<node::Node>(),
            Projected::Lease(_) => size_of::<node::Lease>(),
            Projected::Service(_) => size_of::<network::Service>(),
            Projected::Endpoints(_) => size_of::<network::Endpoints>(),
            Projected::EndpointSlice(slice) => size_of::<network::EndpointSlice>() + slice.entries.len() * 16,
            Projected::Workload(_) => size_of::<workload::Workload>(),
            Projected::Deployment(_) => size_of::<workload::Deployment>(),
            Projected::Policy(_) => size_of::<policy::Policy>(),
            Projected::SigningRequest(_) => size_of::<policy::SigningRequest>(),
            Projected::ClusterRole(_) => size_of::<policy::ClusterRole>(),
            Projected::Budget(budget) => size_of::<disruption::Budget>() + budget.disrupted.len() * 24,
            Projected::Volume(volume) => size_of::<volume::Volume>() + volume.nodes.len() * size_of::<Str>(),
        }
    }
}

/// What a watch or a list said about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Present,
    Gone,
}

/// One step of the view: the object before and after, where its projection stands in the view.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) uid: Uid,
    pub(crate) old: Option<Projected>,
    pub(crate) new: Option<Projected>,
    /// The object itself is there, projected or not.
    pub(crate) present: bool,
    /// Owners that the object named before: one of them may wait for it to go.
    pub(crate) waiting: Vec<Key>,
}

impl Change {
    /// Old and new, for controllers to which a label that left matters as much as one that came.
    pub(crate) fn sides(&self) -> impl Iterator<Item = &Projected> {
        self.old.iter().chain(self.new.iter())
    }
}

#[derive(Debug)]
struct Entry {
    object: Projected,
    /// When what the projection sees last changed, by the monotonic clock.
    seen: Duration,
}

#[derive(Default)]
struct Table {
    objects: BTreeMap<(Str, Str), Entry>,
    caught_up: u64,
    synced: bool,
    /// Names met by a list that is under way; what it did not meet is gone when it ends.
    met: Option<BTreeSet<(Str, Str)>>,
}

/// The reducer.
pub(crate) struct View {
    pub(crate) kinds: Kinds,
    pub(crate) graph: Graph,
    interner: Interner,
    tables: Vec<Table>,
    owned: HashMap<Uid, BTreeSet<Key>>,
    on_node: HashMap<Str, BTreeSet<Key>>,
    /// Nodes that went, and when; forgotten when they come back or their last pod goes.
    departed: HashMap<Str, Duration>,
}

impl View {
    pub(crate) fn new(kinds: Kinds) -> View {
        let tables = kinds.ids().map(|_| Table::default()).collect();
        View {
            kinds,
            tables,
            graph: Graph::default(),
            interner: Interner::default(),
            owned: HashMap::new(),
            on_node: HashMap::new(),
            departed: HashMap::new(),
        }
    }

    /// Takes in one object as a watch or a list told it.
    pub(crate) fn apply(&mut self, kind: KindId, heard: Heard, object: &Value, now: Duration) -> Change {
        let namespace = self.interner.text(str_at(object, &["metadata", "namespace"]));
        let key = Key { kind, namespace, name: str_at(object, &["metadata", "name"]).into() };
        let revision = meta::revision(object);
        let table = &mut self.tables[kind.0 as usize];
        match &mut table.met {
            // A list comes in the order of keys, so its objects do not say how far it got.
            Some(met) => drop(met.insert((key.namespace.clone(), key.name.clone()))),
            None => table.caught_up = table.caught_up.max(revision),
        }
        let uid = Uid::parse(str_at(object, &["metadata", "uid"]));
        let former = match heard {
            Heard::Present => self.graph.put(&key, uid, object, &self.kinds),
            Heard::Gone => self.graph.remove(&key),
        };
        let new = match heard {
            Heard::Present => projection(kind).and_then(|project| project(object, &mut self.interner)),
            Heard::Gone => None,
        };
        if kind == KindId::NODES {
            match heard {
                Heard::Present => drop(self.departed.remove(&key.name)),
                Heard::Gone => drop(self.departed.insert(key.name.clone(), now)),
            }
        }
        let waiting = self.owners(&key, former);
        Change { waiting, ..self.replace(key, uid, new, heard == Heard::Present, now) }
    }

    /// The owners that an object named, as keys.
    fn owners(&self, key: &Key, vertex: Option<Vertex>) -> Vec<Key> {
        let owners = vertex.map(|vertex| vertex.owners).unwrap_or_default();
        owners.iter().filter_map(|owner| self.owner_key(key, owner)).collect()
    }

    /// The key that an owner reference of `dependent` means; `None` when its kind is not known.
    pub(crate) fn owner_key(&self, dependent: &Key, owner: &OwnerRef) -> Option<Key> {
        let kind = owner.kind?;
        let namespace = if self.kinds.get(kind).namespaced { dependent.namespace.clone() } else { "".into() };
        Some(Key { kind, namespace, name: owner.name.clone() })
    }

    fn replace(&mut self, key: Key, uid: Uid, new: Option<Projected>, present: bool, now: Duration) -> Change {
        let place = (key.namespace.clone(), key.name.clone());
        let table = &mut self.tables[key.kind.0 as usize];
        let old = match &new {
            Some(object) => {
                let seen = table.objects.get(&place).filter(|entry| !node::beat(&entry.object, object));
                let entry = Entry { object: object.clone(), seen: seen.map_or(now, |entry| entry.seen) };
                table.objects.insert(place, entry)
            }
            None => table.objects.remove(&place),
        };
        let old = old.map(|entry| entry.object);
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        if let Some(new) = &new {
            self.index(&key, new);
        }
        Change { key, uid, old, new, present, waiting: Vec::new() }
    }

    fn index(&mut self, key: &Key, object: &Projected) {
        if let Some(owner) = owner_of(key.kind, object) {
            self.owned.entry(owner).or_default().insert(key.clone());
        }
        if let Some(node) = object.node() {
            self.on_node.entry(node.clone()).or_default().insert(key.clone());
        }
    }

    fn unindex(&mut self, key: &Key, object: &Projected) {
        if let Some(owner) = owner_of(key.kind, object) {
            forget(&mut self.owned, &owner, key);
        }
        if let Some(node) = object.node() {
            forget(&mut self.on_node, node, key);
            if !self.on_node.contains_key(node) {
                self.departed.remove(node);
            }
        }
    }

    /// A list of a whole kind begins: what it does not meet is gone.
    pub(crate) fn begin_list(&mut self, kind: KindId) {
        self.tables[kind.0 as usize].met = Some(BTreeSet::new());
    }

    /// The list has ended at `revision`; answers what it did not meet.
    pub(crate) fn end_list(&mut self, kind: KindId, revision: u64, now: Duration) -> Vec<Change> {
        let table = &mut self.tables[kind.0 as usize];
        let met = table.met.take().unwrap_or_default();
        table.synced = true;
        table.caught_up = table.caught_up.max(revision);
        let known: Vec<(Str, Str)> = table.objects.keys().filter(|place| !met.contains(place)).cloned().collect();
        let mut changes = Vec::new();
        for (namespace, name) in known {
            let key = Key { kind, namespace, name };
            let uid = self.object(&key).map_or(Uid::default(), |object| object.meta().uid);
            let former = self.graph.remove(&key);
            let waiting = self.owners(&key, former);
            if kind == KindId::NODES {
                self.departed.insert(key.name.clone(), now);
            }
            changes.push(Change { waiting, ..self.replace(key, uid, None, false, now) });
        }
        for (key, uid) in self.graph.not_met(kind, &met) {
            let former = self.graph.remove(&key);
            let waiting = self.owners(&key, former);
            changes.push(Change { key, uid, old: None, new: None, present: false, waiting });
        }
        changes
    }

    /// A bookmark: the watch of this kind has told everything up to `revision`.
    pub(crate) fn bookmark(&mut self, kind: KindId, revision: u64) {
        let table = &mut self.tables[kind.0 as usize];
        table.caught_up = table.caught_up.max(revision);
    }

    pub(crate) fn caught_up(&self, kind: KindId) -> u64 {
        self.tables[kind.0 as usize].caught_up
    }

    /// Has every kind been listed once? No plan runs before.
    pub(crate) fn synced(&self) -> bool {
        self.tables.iter().all(|table| table.synced)
    }

    pub(crate) fn object(&self, key: &Key) -> Option<&Projected> {
        self.entry(key).map(|entry| &entry.object)
    }

    /// When this process last saw the object change (for Leases and Nodes: last saw it beat), monotonic.
    pub(crate) fn seen(&self, key: &Key) -> Option<Duration> {
        self.entry(key).map(|entry| entry.seen)
    }

    fn entry(&self, key: &Key) -> Option<&Entry> {
        self.tables[key.kind.0 as usize].objects.get(&(key.namespace.clone(), key.name.clone()))
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, kind: KindId) -> impl Iterator<Item = (Key, &Projected)> {
        self.tables[kind.0 as usize].objects.iter().map(move |((namespace, name), entry)| {
            (Key { kind, namespace: namespace.clone(), name: name.clone() }, &entry.object)
        })
    }

    /// All objects of a kind in one namespace.
    pub(crate) fn within(&self, kind: KindId, namespace: &Str) -> impl Iterator<Item = (Key, &Projected)> {
        let wanted = namespace.clone();
        let objects = &self.tables[kind.0 as usize].objects;
        objects.range((namespace.clone(), Str::from(""))..).take_while(move |((space, _), _)| *space == wanted).map(
            move |((namespace, name), entry)| {
                (Key { kind, namespace: namespace.clone(), name: name.clone() }, &entry.object)
            },
        )
    }

    /// Objects whose controller (owner reference with `controller: true`) is `owner`.
    pub(crate) fn owned_by(&self, owner: Uid) -> impl Iterator<Item = (Key, &Projected)> {
        self.owned.get(&owner).into_iter().flatten().filter_map(|key| Some((key.clone(), self.object(key)?)))
    }

    /// Objects of a kind that `owner` controls, or that nobody does and it may adopt; in its namespace.
    pub(crate) fn claimable(
        &self,
        kind: KindId,
        owner: Uid,
        namespace: &Str,
    ) -> impl Iterator<Item = (Key, &Projected)> {
        let both = self.owned_by(owner).chain(self.owned_by(NOBODY));
        both.filter(move |(key, _)| key.kind == kind && key.namespace == *namespace)
    }

    /// Pods bound to a node.
    pub(crate) fn pods_on(&self, node: &str) -> impl Iterator<Item = (Key, &Arc<pod::Pod>)> {
        self.on_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|key| self.object(key).and_then(Projected::as_pod).map(|pod| (key.clone(), pod)))
    }

    /// Since when a node is missing; one that was never there, since this process started.
    pub(crate) fn missing_since(&self, node: &str) -> Duration {
        self.departed.get(node).copied().unwrap_or_default()
    }

    /// How many objects, and bytes in all with the indexes: the figure that is printed.
    pub(crate) fn weigh(&self) -> (usize, usize) {
        let entries = self.tables.iter().flat_map(|table| table.objects.iter());
        let (count, bytes) = entries.fold((0, 0), |(count, bytes), ((_, name), entry)| {
            (count + 1, bytes + entry.object.bytes() + name.len() + 16 + size_of::<Entry>() + 2 * size_of::<Str>())
        });
        let indexed = self.owned.values().chain(self.on_node.values()).map(BTreeSet::len).sum::<usize>();
        (count, bytes + indexed * size_of::<Key>() + self.interner.bytes() + self.graph.bytes())
    }
}

/// The owner of what could be adopted.
const NOBODY: Uid = Uid::NONE;

/// Under whom the object stands in the index of owners.
fn owner_of(kind: KindId, object: &Projected) -> Option<Uid> {
    match &object.meta().controller {
        Some(owner) => Some(owner.uid),
        None => matches!(kind, KindId::PODS | KindId::REPLICA_SETS).then_some(NOBODY),
    }
}

fn forget<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

macro_rules! as_kind {
    ($($method:ident $variant:ident $type:ty;)*) => {
        impl Projected {
            $(pub(crate) fn $method(&self) -> Option<&Arc<$type>> {
                match self {
                    Projected::$variant(object) => Some(object),
                    _ => None,
                }
            })*
        }
        impl View {
            $(#[allow(dead_code, reason = "one accessor for every kind, whether or not a plan asks yet")]
            pub(crate) fn $method(&self, key: &Key) -> Option<&Arc<$type>> {
                self.object(key).and_then(Projected::$method)
            })*
        }
    };
}

as_kind! {
    as_namespace Namespace policy::Namespace;
    as_pod Pod pod::Pod;
    as_node Node node::Node;
    as_lease Lease node::Lease;
    as_service Service network::Service;
    as_endpoints Endpoints network::Endpoints;
    as_endpoint_slice EndpointSlice network::EndpointSlice;
    as_workload Workload workload::Workload;
    as_deployment Deployment workload::Deployment;
    as_policy Policy policy::Policy;
    as_signing_request SigningRequest policy::SigningRequest;
    as_cluster_role ClusterRole policy::ClusterRole;
    as_budget Budget disruption::Budget;
    as_volume Volume volume::Volume;
}

#[cfg(test)]
mod tests;
