//! Pure: pods leave nodes whose NoExecute taints they do not tolerate, or not any longer.

use serde_json::json;

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan, Regarding, Report};
use super::time;
use super::view::node::{Node, Taint};
use super::view::pod::{Pod, Toleration};
use super::view::{Change, Key, Projected, View};
use crate::client::PatchKind;

/// The row; a key is a pod.
pub(super) const CONTROLLER: Controller = Controller {
    account: "node-controller",
    component: "taint-eviction-controller",
    watches: &[KindId::NODES, KindId::PODS],
    keys,
    plan,
};

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    let executing = |node: &Node| node.taints.iter().any(|taint| &*taint.effect == "NoExecute");
    if change.key.kind == KindId::PODS {
        let node = change.new.as_ref().and_then(Projected::as_pod).and_then(|pod| pod.node.as_ref());
        let node =
            node.and_then(|name| view.as_node(&Key { kind: KindId::NODES, namespace: "".into(), name: name.clone() }));
        keys.extend(node.filter(|node| executing(node)).map(|_| change.key.clone()));
        return;
    }
    let taints =
        |object: &Option<Projected>| object.as_ref().and_then(Projected::as_node).map(|node| node.taints.clone());
    if taints(&change.old) != taints(&change.new) {
        keys.extend(view.pods_on(&change.key.name).map(|(key, _)| key));
    }
}

/// When the pod must go, in seconds since 1970: `Some(None)` is at once, `None` never.
fn due(pod: &Pod, node: &Node) -> Option<Option<i64>> {
    let taints: Vec<&Taint> = node.taints.iter().filter(|taint| &*taint.effect == "NoExecute").collect();
    let mut due: Option<i64> = None;
    for taint in taints {
        let covers = |toleration: &&Toleration| {
            toleration.key.as_ref().map_or(toleration.value.is_none(), |key| *key == taint.key)
                && toleration.value.as_ref().is_none_or(|value| *value == taint.value)
        };
        let covering: Vec<&Toleration> = pod.tolerations.iter().filter(covers).collect();
        if covering.is_empty() {
            return Some(None);
        }
        let added = taint.time_added.as_deref().and_then(time::parse).unwrap_or_default();
        if let Some(seconds) = covering.iter().filter_map(|toleration| toleration.seconds).min() {
            let end = added + seconds.max(0);
            due = Some(due.map_or(end, |known| known.min(end)));
        }
    }
    due.map(Some)
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(pod) = view.as_pod(key).filter(|pod| pod.meta.deleted.is_none() && !pod.terminal()) else {
        return Plan::default();
    };
    let node = pod.node.as_ref().map(|name| Key { kind: KindId::NODES, namespace: "".into(), name: name.clone() });
    let Some(node) = node.and_then(|key| view.as_node(&key)) else { return Plan::default() };
    match due(pod, node) {
        None => Plan::default(),
        Some(Some(due)) if due > context.now.wall() => {
            let mut plan = Plan::default();
            plan.wake_in(due - context.now.wall());
            plan
        }
        Some(_) => evict(key, pod, context),
    }
}

fn evict(key: &Key, pod: &Pod, context: &Context) -> Plan {
    let body = json!({ "metadata": { "uid": pod.meta.uid.to_string() }, "status": { "conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": context.now.stamp(),
    }] } });
    let mut plan = Plan::act(Action::Event(Report {
        regarding: Regarding { key: key.clone(), uid: pod.meta.uid },
        warning: false,
        reason: "TaintManagerEviction",
        message: format!("Marking for deletion Pod {}", key.path()),
    }));
    plan.then(Action::Patch { key: key.clone(), subresource: Some("status"), patch: PatchKind::Strategic, body });
    plan.then(Action::Delete { key: key.clone(), uid: pod.meta.uid, propagation: "", grace_seconds: None, note: None });
    plan
}
