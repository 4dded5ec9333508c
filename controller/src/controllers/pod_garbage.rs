//! Pure: pods that nobody will ever finish: bound to a node that is gone, or deleted before they were bound.

use serde_json::json;

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan};
use super::view::pod::Pod;
use super::view::{Change, Key, View};
use crate::client::PatchKind;

/// The row; a key is a pod.
pub(super) const CONTROLLER: Controller = Controller {
    account: "pod-garbage-collector",
    component: "pod-garbage-collector",
    watches: &[KindId::NODES, KindId::PODS],
    keys,
    plan,
};

/// A node may be away this long before its pods are given up (upstream's quarantine).
const QUARANTINE_S: u64 = 40;

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    match change.key.kind {
        KindId::PODS => keys.push(change.key.clone()),
        _ if !change.present => keys.extend(view.pods_on(&change.key.name).map(|(key, _)| key)),
        _ => {}
    }
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(pod) = view.as_pod(key) else { return Plan::default() };
    let Some(node) = &pod.node else {
        return if pod.meta.deleted.is_some() { remove(key, pod) } else { Plan::default() };
    };
    let node = Key { kind: KindId::NODES, namespace: "".into(), name: node.clone() };
    if view.object(&node).is_some() {
        return Plan::default();
    }
    let away = context.now.monotonic.saturating_sub(view.missing_since(&node.name)).as_secs();
    if away < QUARANTINE_S {
        let mut plan = Plan::default();
        plan.wake_in((QUARANTINE_S - away) as i64);
        return plan;
    }
    // The view may be wrong about a node that has just come back.
    match context.reads.object(&node) {
        Err(needs) => return needs,
        Ok(Some(_)) => return Plan::default(),
        Ok(None) => {}
    }
    let mut plan = Plan::default();
    if !pod.terminal() {
        let status = json!({ "phase": "Failed", "conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists", "lastTransitionTime": context.now.stamp(),
        }] });
        let body = json!({ "metadata": { "uid": pod.meta.uid.to_string() }, "status": status });
        let (key, patch) = (key.clone(), PatchKind::Strategic);
        plan.then(Action::Patch { key, subresource: Some("status"), patch, body });
    }
    plan.steps.extend(remove(key, pod).steps);
    plan
}

fn remove(key: &Key, pod: &Pod) -> Plan {
    let uid = pod.meta.uid;
    Plan::act(Action::Delete { key: key.clone(), uid, propagation: "", grace_seconds: Some(0), note: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    #[test]
    fn a_pod_outlives_its_node_by_the_quarantine() {
        let mut world = World::new(&[&CONTROLLER]);
        let node = world.put(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "pi-1" } }));
        let pod = world.put(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "a", "name": "p" },
            "spec": { "nodeName": "pi-1" }, "status": { "phase": "Running" } }));
        world.advance(100);
        world.settle();
        world.remove(&node);
        world.settle();
        assert_eq!(world.actions, 0);
        world.advance(40);
        world.settle();
        assert!(!world.objects.contains_key(&pod));
    }

    #[test]
    fn a_deleted_pod_without_a_node_goes_at_once() {
        let mut world = World::new(&[&CONTROLLER]);
        world.put(json!({ "apiVersion": "v1", "kind": "Pod", "spec": {},
            "metadata": { "namespace": "a", "name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
        world.settle();
        assert!(world.objects.is_empty());
    }
}
