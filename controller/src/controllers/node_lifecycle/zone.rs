//! Pure: outages of whole zones: when most nodes are silent at once the network is to blame, and pods are better left alone.

use super::{grace, readiness, silent_for};
use crate::controllers::kind::KindId;
use crate::controllers::plan::Context;
use crate::controllers::time;
use crate::controllers::view::node::{Node, Taint};
use crate::controllers::view::{Key, View};

/// A zone with this share of unready nodes (in percent) is disrupted (upstream's unhealthy-zone-threshold).
const UNHEALTHY_PERCENT: usize = 55;
/// A zone of at most this many nodes is not evicted at all while disrupted (upstream's large-cluster-size-threshold).
const SMALL_ZONE: usize = 50;
/// One node in so many seconds loses its pods (upstream's node-eviction-rate 0.1).
const EVICT_EVERY_S: i64 = 10;
/// The same in a large disrupted zone (upstream's secondary-node-eviction-rate 0.01).
const EVICT_SLOWLY_EVERY_S: i64 = 100;

/// May this node's pods be evicted?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Now,
    /// Another node's were evicted just now.
    In(i64),
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

fn zone(node: &Node) -> (Option<&str>, Option<&str>) {
    let label = |key| node.meta.labels.get(key);
    (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

fn state(nodes: impl Iterator<Item = bool>) -> (State, usize) {
    let (ready, unready): (Vec<bool>, Vec<bool>) = nodes.partition(|ready| *ready);
    let (ready, unready) = (ready.len(), unready.len());
    let state = match (ready, unready) {
        (0, unready) if unready > 0 => State::Full,
        (_, unready) if unready > 2 && unready * 100 >= UNHEALTHY_PERCENT * (ready + unready) => State::Partial,
        _ => State::Normal,
    };
    (state, ready + unready)
}

/// Looks at the node's zone, at all zones, and at when the last node of the zone was evicted. A node that is as silent as
/// this one counts as lost, though nobody has said so yet.
pub(super) fn may_evict(view: &View, key: &Key, context: &Context) -> Leave {
    let now = context.now.wall();
    let nodes: Vec<(Key, &Node)> =
        view.all(KindId::NODES).filter_map(|(key, object)| object.as_node().map(|node| (key, node.as_ref()))).collect();
    let heard = |key: &Key| silent_for(view, key, context) < grace(view, key, context);
    let ready = |(key, node): &(Key, &Node)| readiness(node) == "True" && heard(key);
    let Some((_, own)) = nodes.iter().find(|(known, _)| known == key) else { return Leave::No };
    // When nobody anywhere is ready, the fault is on this side.
    if !nodes.iter().any(ready) {
        return Leave::No;
    }
    let here = || nodes.iter().filter(|(_, node)| zone(node) == zone(own));
    let every = match state(here().map(ready)) {
        (State::Normal | State::Full, _) => EVICT_EVERY_S,
        // Also for those that went first, when it still looked like their own fault.
        (State::Partial, size) if size <= SMALL_ZONE => return Leave::No,
        (State::Partial, _) => EVICT_SLOWLY_EVERY_S,
    };
    if own.taints.iter().any(is_eviction) {
        return Leave::Now;
    }
    let taints = here().flat_map(|(_, node)| node.taints.iter()).filter(|taint| is_eviction(taint));
    let last = taints.filter_map(|taint| time::parse(taint.time_added.as_deref()?)).max();
    match last {
        Some(last) if last <= now && last + every > now => Leave::In(last + every - now),
        _ => Leave::Now,
    }
}

fn is_eviction(taint: &Taint) -> bool {
    &*taint.effect == "NoExecute" && matches!(&*taint.key, super::NOT_READY | super::UNREACHABLE)
}
