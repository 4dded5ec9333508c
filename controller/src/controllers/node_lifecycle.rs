//! Pure: the health of nodes: a node that is silent for too long is Unknown, and its taints say what is wrong with it.
//!
//! Silence is judged by when this process last saw the node's Lease or heartbeat change, on the monotonic clock, so a new
//! process gives every node its full grace and no wall clock can evict a fleet.

pub(super) mod zone;

use serde_json::{Value, json};

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan, Regarding, Report};
use super::view::meta::condition;
use super::view::node::{LEASE_NAMESPACE, Node, Taint};
use super::view::{Change, Key, Projected, View};
use crate::client::PatchKind;

/// The row.
pub(super) const CONTROLLER: Controller = Controller {
    account: "node-controller",
    component: "node-controller",
    watches: &[KindId::NODES, KindId::LEASES],
    keys,
    plan,
};

/// A node that never reported has this long (upstream's node-startup-grace-period).
const STARTUP_GRACE_S: u64 = 60;

/// Nobody's pods wait longer for a board than this, whatever its Lease says.
const LEASE_MAX_S: u64 = 3600;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    let key = Key { kind: KindId::NODES, namespace: "".into(), name: change.key.name.clone() };
    if change.key.kind == KindId::LEASES {
        keys.extend(view.object(&key).is_some().then_some(key));
        return;
    }
    // The health of one node decides about the taints of its whole zone.
    let ready = |object: &Option<Projected>| object.as_ref().and_then(Projected::as_node).map(|node| readiness(node));
    if ready(&change.old) != ready(&change.new) {
        keys.extend(view.all(KindId::NODES).map(|(key, _)| key));
    }
    keys.push(key);
}

/// What the Ready condition says; "" when there is none.
pub(super) fn readiness(node: &Node) -> String {
    condition(&node.conditions, "Ready").map_or(String::new(), |ready| ready.status.to_string())
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(node) = view.as_node(key) else { return Plan::default() };
    let mut plan = Plan::default();
    let silent = silent_for(view, key, context);
    let grace = if readiness(node).is_empty() { STARTUP_GRACE_S } else { grace(view, key, context) };
    if silent >= grace {
        if let Some(patch) = unknown(key, node, context) {
            plan.steps.push(vec![patch, status_event(key, node)]);
            plan.steps.push(mark_pods(view, key, context));
            return plan;
        }
    } else {
        plan.wake_in((grace - silent) as i64);
    }
    let (taints, wait) = wanted_taints(view, key, node, context);
    if let Some(wait) = wait {
        plan.wake_in(wait);
    }
    if taints != *node.taints {
        let list: Vec<Value> = taints.iter().map(Taint::to_value).collect();
        let list = if list.is_empty() { Value::Null } else { Value::from(list) };
        let (uid, revision) = (node.meta.uid, Some(node.meta.revision));
        let merge = json!({ "spec": { "taints": list } });
        plan.then(Action::Edit { key: key.clone(), subresource: None, uid, revision, merge });
        let newly = |taint: &&Taint| &*taint.effect == "NoExecute" && !node.taints.contains(taint);
        if taints.iter().any(|taint| newly(&taint)) && readiness(node) == "False" {
            plan.steps.push(mark_pods(view, key, context));
        }
    }
    plan
}

fn lease_of(key: &Key) -> Key {
    Key { kind: KindId::LEASES, namespace: LEASE_NAMESPACE.into(), name: key.name.clone() }
}

/// How many seconds a node may be silent: never less than its own Lease says, so that a board that saves on its line and one that
/// is to be missed soon can be in one cluster.
fn grace(view: &View, key: &Key, context: &Context) -> u64 {
    let promised = view.as_lease(&lease_of(key)).map_or(0, |lease| lease.duration_s);
    context.options.node_grace.as_secs().max(promised.min(LEASE_MAX_S))
}

/// Seconds since the node's last sign of life.
fn silent_for(view: &View, key: &Key, context: &Context) -> u64 {
    let lease = lease_of(key);
    let last = view.seen(key).into_iter().chain(view.seen(&lease)).max().unwrap_or_default();
    context.now.monotonic.saturating_sub(last).as_secs()
}

/// The patch that turns the node's conditions Unknown; `None` when they are.
fn unknown(key: &Key, node: &Node, context: &Context) -> Option<Action> {
    let stamp = context.now.stamp();
    let news: Vec<Value> = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
        .into_iter()
        .filter_map(|kind| {
            let (reason, message) = match condition(&node.conditions, kind) {
                Some(known) if &*known.status == "Unknown" => return None,
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            Some(json!({
                "type": kind, "status": "Unknown", "reason": reason, "message": message,
                "lastTransitionTime": stamp,
            }))
        })
        .collect();
    if news.is_empty() {
        return None;
    }
    let body = json!({ "metadata": { "uid": node.meta.uid.to_string() }, "status": { "conditions": news } });
    Some(Action::Patch { key: key.clone(), subresource: Some("status"), patch: PatchKind::Strategic, body })
}

fn status_event(key: &Key, node: &Node) -> Action {
    Action::Event(Report {
        regarding: Regarding { key: key.clone(), uid: node.meta.uid },
        warning: false,
        reason: "NodeNotReady",
        message: format!("Node {} status is now: NodeNotReady", key.name),
    })
}

/// Endpoints must not count on pods of a node that is not ready.
fn mark_pods(view: &View, key: &Key, context: &Context) -> Vec<Action> {
    let mut actions = Vec::new();
    for (pod_key, pod) in view.pods_on(&key.name).filter(|(_, pod)| pod.ready) {
        let body = json!({ "metadata": { "uid": pod.meta.uid.to_string() }, "status": { "conditions": [{
            "type": "Ready", "status": "False", "lastTransitionTime": context.now.stamp(),
        }] } });
        actions.push(Action::Event(Report {
            regarding: Regarding { key: pod_key.clone(), uid: pod.meta.uid },
            warning: true,
            reason: "NodeNotReady",
            message: "Node is not ready".to_owned(),
        }));
        actions.push(Action::Patch { key: pod_key, subresource: Some("status"), patch: PatchKind::Strategic, body });
    }
    actions
}

/// The taints that follow from the node's conditions; NoSchedule at once, NoExecute as its zone allows.
fn wanted_taints(view: &View, key: &Key, node: &Node, context: &Context) -> (Vec<Taint>, Option<i64>) {
    const CONDITIONS: &[(&str, &str, &str)] = &[
        ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
        ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
        ("Ready", "False", NOT_READY),
        ("Ready", "Unknown", UNREACHABLE),
    ];
    const CORDONED: &str = "node.kubernetes.io/unschedulable";
    let holds = |(kind, status, _): &&(&str, &str, &str)| {
        condition(&node.conditions, kind).is_some_and(|condition| &*condition.status == *status)
    };
    let mut wanted: Vec<(&str, &str)> =
        CONDITIONS.iter().filter(holds).map(|(_, _, key)| (*key, "NoSchedule")).collect();
    if readiness(node).is_empty() {
        // It has not reported yet: the taint that admission gave it stays.
        wanted.push((NOT_READY, "NoSchedule"));
    }
    if node.unschedulable {
        wanted.push((CORDONED, "NoSchedule"));
    }
    let execute = match readiness(node).as_str() {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    };
    let mut wait = None;
    if let Some(taint) = execute {
        match zone::may_evict(view, key, context) {
            zone::Leave::Now => wanted.push((taint, "NoExecute")),
            zone::Leave::In(seconds) => wait = Some(seconds),
            zone::Leave::No => {}
        }
    }
    let ours = |taint: &Taint| {
        let no_schedule = &*taint.effect == "NoSchedule"
            && (&*taint.key == CORDONED || CONDITIONS.iter().any(|(_, _, key)| *key == &*taint.key));
        let no_execute = &*taint.effect == "NoExecute" && matches!(&*taint.key, NOT_READY | UNREACHABLE);
        no_schedule || no_execute
    };
    let is = |taint: &Taint, (key, effect): &(&str, &str)| &*taint.key == *key && &*taint.effect == *effect;
    let mut taints: Vec<Taint> = node
        .taints
        .iter()
        .filter(|taint| !ours(taint) || wanted.iter().any(|wanted| is(taint, wanted)))
        .cloned()
        .collect();
    for (name, effect) in wanted {
        if !taints.iter().any(|taint| is(taint, &(name, effect))) {
            let time_added = Some(context.now.stamp().into());
            taints.push(Taint { key: name.into(), value: "".into(), effect: effect.into(), time_added });
        }
    }
    (taints, wait)
}

#[cfg(test)]
mod tests;
