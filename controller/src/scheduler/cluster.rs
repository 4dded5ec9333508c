//! Pure: the cluster as the scheduler sees it, kept incrementally: nodes with what is taken of them, pods with their asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::amounts::Amounts;
use super::ask::{self, Ask, Asks};
use crate::controllers::text::{Interner, Labels, Str, at, flag_at, list_at, str_at};
use crate::controllers::time;
use crate::controllers::view::meta::Uid;
use crate::controllers::view::node::Taint;
use crate::controllers::view::pod::{Phase, phase};

/// A node and what its pods take.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: Str0,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Amounts,
    pub(crate) requested: Amounts,
    /// Requests with defaults: what scores look at.
    pub(crate) estimate: (i64, i64),
    pub(crate) pods: BTreeSet<Uid>,
    /// Images on the node and their sizes.
    pub(crate) images: Vec<(Str, i64)>,
    /// The Node object exists; pods may be bound to a node that does not.
    pub(crate) exists: bool,
}

/// A shared string with a default.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Str0(pub(crate) Str);

impl Default for Str0 {
    fn default() -> Str0 {
        Str0(Str::from(""))
    }
}

/// A pod, bound or not.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: Str,
    pub(crate) name: Str,
    pub(crate) uid: Uid,
    pub(crate) ask: Arc<Ask>,
    pub(crate) node: Option<Str>,
    /// Where a preemption has made room for it.
    pub(crate) nominated: Option<Str>,
    pub(crate) deleted: bool,
    pub(crate) gated: bool,
    /// Seconds since 1970; who came first among equals.
    pub(crate) created: i64,
    /// Seconds since 1970; preemption spares who has run longest.
    pub(crate) started: i64,
    /// What its PodScheduled condition says already.
    pub(crate) told: Option<Str>,
    /// Placed by us; the binding has not come back yet.
    pub(crate) assumed: bool,
}

/// What happened, in the terms in which plugins wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    NodeAdded,
    NodeFreed,
    NodeLabels,
    NodeTaints,
    PodGone,
    PodPlaced,
    PodChanged,
}

/// The reducer.
#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<Str, Node>,
    pub(crate) pods: BTreeMap<Uid, Pod>,
    pub(crate) namespaces: BTreeMap<Str, Labels>,
    /// Pods that wait for room that a preemption made.
    promised: BTreeSet<Uid>,
    /// Placed pods with some affinity; while there are none, nobody need look at every pod.
    affine: usize,
    interner: Interner,
    asks: Asks,
}

/// The name of the only scheduler there is, unless a pod asks for another.
const SCHEDULER_NAME: &str = "default-scheduler";

impl Cluster {
    /// The nodes that exist.
    pub(crate) fn live_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.exists)
    }

    /// The pods of a node.
    pub(crate) fn pods_of<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Pod> {
        node.pods.iter().filter_map(|uid| self.pods.get(uid))
    }

    /// Pods that a preemption made room for on this node, which are not there yet.
    pub(crate) fn nominated_to<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        let promised = self.promised.iter().filter_map(|uid| self.pods.get(uid));
        promised.filter(move |pod| pod.nominated.as_deref() == Some(node))
    }

    /// Does the place of this pod depend on other pods at all?
    pub(crate) fn is_sociable(&self, pod: &Pod) -> bool {
        self.affine > 0 || pod.ask.is_affine()
    }

    pub(crate) fn put_namespace(&mut self, object: &Value) {
        let name = self.interner.text(str_at(object, &["metadata", "name"]));
        let labels = self.interner.labels(at(object, &["metadata", "labels"]));
        self.namespaces.insert(name, labels);
    }

    pub(crate) fn put_node(&mut self, object: &Value) -> Option<Happening> {
        let interner = &mut self.interner;
        let name = interner.text(str_at(object, &["metadata", "name"]));
        let labels = interner.labels(at(object, &["metadata", "labels"]));
        let taint = |value: &Value, interner: &mut Interner| Taint {
            key: interner.text(str_at(value, &["key"])),
            value: interner.text(str_at(value, &["value"])),
            effect: interner.text(str_at(value, &["effect"])),
            time_added: None,
        };
        let taints = list_at(object, &["spec", "taints"]).iter().map(|value| taint(value, interner)).collect();
        let unschedulable = flag_at(object, &["spec", "unschedulable"]);
        let allocatable = at(object, &["status", "allocatable"]).or_else(|| at(object, &["status", "capacity"]));
        let allocatable = Amounts::read(allocatable, interner);
        let images = images(object, interner);
        let node = self.nodes.entry(name.clone()).or_default();
        let happening = match node {
            _ if !node.exists => Some(Happening::NodeAdded),
            _ if node.taints != taints || node.unschedulable != unschedulable => Some(Happening::NodeTaints),
            _ if node.labels != labels => Some(Happening::NodeLabels),
            _ if node.allocatable != allocatable => Some(Happening::NodeFreed),
            _ => None,
        };
        *node = Node {
            name: Str0(name),
            labels,
            taints,
            unschedulable,
            allocatable,
            images,
            exists: true,
            ..std::mem::take(node)
        };
        happening
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.exists = false;
            if node.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Takes in a pod; answers what others may have waited for.
    pub(crate) fn put_pod(&mut self, object: &Value) -> Option<Happening> {
        let uid = Uid::parse(str_at(object, &["metadata", "uid"]));
        let terminal = matches!(phase(str_at(object, &["status", "phase"])), Phase::Succeeded | Phase::Failed);
        if terminal {
            return self.remove_pod(uid);
        }
        let node = self.interner.text_at(object, &["spec", "nodeName"]);
        let scheduler = str_at(object, &["spec", "schedulerName"]);
        if node.is_none() && !matches!(scheduler, "" | SCHEDULER_NAME) {
            return None;
        }
        let known = self.take(uid);
        let ask = ask::read(object, &mut self.interner);
        let ask = self.asks.share(ask);
        let assumed =
            known.as_ref().filter(|known| known.assumed && node.is_none()).and_then(|known| known.node.clone());
        let moved = node.is_some() && known.as_ref().is_none_or(|known| known.node.is_none());
        let changed = known.as_ref().is_some_and(|known| known.ask != ask);
        let pod = Pod {
            namespace: self.interner.text(str_at(object, &["metadata", "namespace"])),
            name: str_at(object, &["metadata", "name"]).into(),
            uid,
            ask,
            nominated: self.interner.text_at(object, &["status", "nominatedNodeName"]),
            deleted: at(object, &["metadata", "deletionTimestamp"]).is_some(),
            gated: !list_at(object, &["spec", "schedulingGates"]).is_empty(),
            created: time::parse(str_at(object, &["metadata", "creationTimestamp"])).unwrap_or_default(),
            started: time::parse(str_at(object, &["status", "startTime"])).unwrap_or_default(),
            told: told(object),
            assumed: assumed.is_some(),
            node: node.or(assumed),
        };
        self.place(pod);
        match (moved, changed) {
            (true, _) => Some(Happening::PodPlaced),
            (false, true) => Some(Happening::PodChanged),
            _ => None,
        }
    }

    pub(crate) fn remove_pod(&mut self, uid: Uid) -> Option<Happening> {
        let pod = self.take(uid)?;
        pod.node.map(|_| Happening::PodGone)
    }

    /// Counts a pod on a node before the API server knows.
    pub(crate) fn assume(&mut self, uid: Uid, node: &Str) {
        if let Some(pod) = self.take(uid) {
            self.place(Pod { node: Some(node.clone()), assumed: true, ..pod });
        }
    }

    /// The binding failed.
    pub(crate) fn forget(&mut self, uid: Uid) {
        if let Some(pod) =
            self.pods.get(&uid).filter(|pod| pod.assumed).map(|pod| pod.uid).and_then(|uid| self.take(uid))
        {
            self.place(Pod { node: None, assumed: false, ..pod });
        }
    }

    /// Remembers where a preemption made room.
    pub(crate) fn nominate(&mut self, uid: Uid, node: Option<&Str>) {
        if let Some(pod) = self.take(uid) {
            self.place(Pod { nominated: node.cloned(), ..pod });
        }
    }

    fn place(&mut self, pod: Pod) {
        if let Some(name) = &pod.node {
            let node = self.nodes.entry(name.clone()).or_default();
            count(node, &pod.ask, 1);
            node.pods.insert(pod.uid);
            self.affine += usize::from(pod.ask.is_affine());
        } else if pod.nominated.is_some() {
            self.promised.insert(pod.uid);
        }
        self.pods.insert(pod.uid, pod);
    }

    fn take(&mut self, uid: Uid) -> Option<Pod> {
        let pod = self.pods.remove(&uid)?;
        self.promised.remove(&uid);
        self.affine -= usize::from(pod.node.is_some() && pod.ask.is_affine());
        if let Some(node) = pod.node.as_ref().and_then(|name| self.nodes.get_mut(name)) {
            count(node, &pod.ask, -1);
            node.pods.remove(&uid);
            if node.pods.is_empty() && !node.exists {
                self.nodes.remove(pod.node.as_ref().expect("the node was found by this name"));
            }
        }
        Some(pod)
    }

    /// Nodes, pods and distinct asks.
    pub(crate) fn figures(&self) -> (usize, usize) {
        (self.nodes.len(), self.pods.len())
    }
}

/// Adds a pod's ask to what a node has given away, or takes it back.
pub(crate) fn count(node: &mut Node, ask: &Ask, sign: i64) {
    node.requested.add(&ask.requests, sign);
    node.estimate.0 += sign * ask.estimate.0;
    node.estimate.1 += sign * ask.estimate.1;
}

fn images(object: &Value, interner: &mut Interner) -> Vec<(Str, i64)> {
    let mut images = Vec::new();
    for image in list_at(object, &["status", "images"]) {
        let size = image["sizeBytes"].as_i64().unwrap_or_default();
        for name in list_at(image, &["names"]).iter().filter_map(Value::as_str) {
            images.push((interner.text(name), size));
        }
    }
    images
}

fn told(object: &Value) -> Option<Str> {
    let conditions = list_at(object, &["status", "conditions"]);
    let scheduled = conditions.iter().find(|condition| str_at(condition, &["type"]) == "PodScheduled")?;
    Some(str_at(scheduled, &["message"]).into())
}
