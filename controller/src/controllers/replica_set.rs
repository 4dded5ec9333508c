//! Pure: ReplicaSets and ReplicationControllers keep as many pods as they ask for: one plan for both kinds.

mod rank;
mod status;

use serde_json::{Value, json};

use self::rank::ranked_for_deletion;
use super::kind::KindId;
use super::plan::{Action, Context, Controller, Note, Plan, Regarding};
use super::text::str_at;
use super::view::meta::Uid;
use super::view::pod::Pod;
use super::view::workload::Workload;
use super::view::{Change, Key, Projected, View};
use crate::client::PatchKind;

/// Pods made or removed by one plan (upstream's BurstReplicas).
const BURST: usize = 500;

/// The row of ReplicaSets.
pub(super) const REPLICA_SET: Controller = Controller {
    account: "replicaset-controller",
    component: "replicaset-controller",
    watches: &[KindId::REPLICA_SETS, KindId::PODS],
    keys: |view, change, keys| owner_keys(view, change, keys, KindId::REPLICA_SETS),
    plan,
};

/// The row of ReplicationControllers.
pub(super) const REPLICATION: Controller = Controller {
    account: "replication-controller",
    component: "replication-controller",
    watches: &[KindId::REPLICATION_CONTROLLERS, KindId::PODS],
    keys: |view, change, keys| owner_keys(view, change, keys, KindId::REPLICATION_CONTROLLERS),
    plan,
};

/// The set itself, the owner of the pod that changed, or for an orphan every set that selects it.
fn owner_keys(view: &View, change: &Change, keys: &mut Vec<Key>, kind: KindId) {
    if change.key.kind == kind {
        keys.push(change.key.clone());
        return;
    }
    for pod in change.sides().filter_map(Projected::as_pod) {
        let namespace = &change.key.namespace;
        match &pod.meta.controller {
            Some(owner) if *owner.kind == *view.kinds.get(kind).kind => {
                keys.push(Key { kind, namespace: namespace.clone(), name: owner.name.clone() });
            }
            Some(_) => {}
            None => keys.extend(view.within(kind, namespace).filter(|(_, set)| selects(set, pod)).map(|(key, _)| key)),
        }
    }
}

fn selects(set: &Projected, pod: &Pod) -> bool {
    let selector = set.as_workload().and_then(|set| set.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_everything() && selector.matches(&pod.meta.labels))
}

/// The pods of a set, sorted by what must happen to them.
struct Claim<'a> {
    owned: Vec<(Key, &'a Pod)>,
    adopt: Vec<(Key, Uid)>,
    release: Vec<(Key, Uid)>,
}

fn claim<'a>(view: &'a View, key: &Key, set: &Workload) -> Claim<'a> {
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let Some(selector) = &set.selector else { return claim };
    for (pod_key, object) in view.claimable(KindId::PODS, set.meta.uid, &key.namespace) {
        let Some(pod) = object.as_pod() else { continue };
        let matches = selector.matches(&pod.meta.labels);
        match &pod.meta.controller {
            Some(owner) if owner.uid == set.meta.uid && matches => claim.owned.push((pod_key, pod)),
            Some(owner) if owner.uid == set.meta.uid && set.meta.deleted.is_none() => {
                claim.release.push((pod_key, pod.meta.uid));
            }
            Some(_) => {}
            None if matches && set.meta.deleted.is_none() && pod.active() => {
                claim.adopt.push((pod_key, pod.meta.uid));
            }
            None => {}
        }
    }
    claim
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(set) = view.as_workload(key) else { return Plan::default() };
    let claim = claim(view, key, set);
    let mut plan = Plan::default();
    if !claim.adopt.is_empty() || !claim.release.is_empty() {
        let adopt = claim.adopt.iter().map(|(pod, uid)| adoption(view, key, set, pod, *uid));
        let release = claim.release.iter().map(|(pod, uid)| released(set, pod, *uid));
        // The next plan, which sees these pods as they are then, decides about their number.
        plan.steps.push(adopt.chain(release).collect());
        return plan;
    }
    let active: Vec<(Key, &Pod)> = claim.owned.into_iter().filter(|(_, pod)| pod.active()).collect();
    let missing = set.replicas - active.len() as i64;
    if let Some(edit) = status::edit(key, set, &active, missing, context) {
        plan.then(edit);
    }
    status::wake(&mut plan, set, &active, context.now.wall());
    if set.meta.deleted.is_some() || missing == 0 {
        return plan;
    }
    if missing > 0 {
        let body = match pod_body(view, key, set, context) {
            Ok(Some(body)) => body,
            Ok(None) => return plan,
            Err(needs) => return needs,
        };
        let create = create(key, set, body);
        plan.slow_start(vec![create; (missing as usize).min(BURST)]);
    } else {
        let related = related(view, key, set);
        let victims = ranked_for_deletion(&active, &related, (-missing) as usize, context.now);
        let delete = |(pod, uid): (Key, Uid)| Action::Delete {
            key: pod,
            uid,
            propagation: "",
            grace_seconds: None,
            note: Some(note(key, set)),
        };
        plan.steps.push(victims.into_iter().take(BURST).map(delete).collect());
    }
    plan
}

fn note(key: &Key, set: &Workload) -> Note {
    Note {
        regarding: Regarding { key: key.clone(), uid: set.meta.uid },
        success: ("SuccessfulDelete", "Deleted pod: "),
        failure: ("FailedDelete", "Error deleting: "),
    }
}

fn create(key: &Key, set: &Workload, body: Value) -> Action {
    let note = Note {
        success: ("SuccessfulCreate", "Created pod: "),
        failure: ("FailedCreate", "Error creating: "),
        ..note(key, set)
    };
    Action::Create { kind: KindId::PODS, body, exists_ok: false, note: Some(note) }
}

/// Active pods of all sets with the same owner: deletion spreads over nodes across them.
fn related<'a>(view: &'a View, key: &Key, set: &Workload) -> Vec<&'a Pod> {
    let mut sets = vec![set.meta.uid];
    if let Some(owner) = &set.meta.controller {
        let siblings = view.owned_by(owner.uid).filter(|(sibling, _)| sibling.kind == key.kind && sibling != key);
        sets.extend(siblings.map(|(_, sibling)| sibling.meta().uid));
    }
    let pods = sets.into_iter().flat_map(|uid| view.owned_by(uid));
    pods.filter_map(|(_, object)| object.as_pod()).filter(|pod| pod.active()).map(AsRef::as_ref).collect()
}

/// The reference that makes `owner` the controller of something.
pub(super) fn controller_reference(view: &View, owner: &Key, uid: Uid) -> Value {
    let kind = view.kinds.get(owner.kind);
    json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "name": &*owner.name, "uid": uid.to_string(),
        "controller": true, "blockOwnerDeletion": true,
    })
}

fn pod_body(view: &View, key: &Key, set: &Workload, context: &Context) -> Result<Option<Value>, Plan> {
    let Some(whole) = context.reads.object(key)? else { return Ok(None) };
    if Uid::parse(str_at(whole, &["metadata", "uid"])) != set.meta.uid {
        return Ok(None);
    }
    let template = &whole["spec"]["template"];
    let mut metadata = json!({
        "generateName": format!("{}-", key.name), "namespace": &*key.namespace,
        "ownerReferences": [controller_reference(view, key, set.meta.uid)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field).filter(|value| !value.is_null()) {
            metadata[field] = value.clone();
        }
    }
    Ok(Some(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })))
}

/// Takes an orphan in. The uid in the patch is a precondition.
pub(super) fn adoption(view: &View, owner: &Key, set: &Workload, key: &Key, uid: Uid) -> Action {
    adopt_for(controller_reference(view, owner, set.meta.uid), key, uid)
}

pub(super) fn adopt_for(reference: Value, key: &Key, uid: Uid) -> Action {
    let body = json!({ "metadata": { "uid": uid.to_string(), "ownerReferences": [reference] } });
    Action::Patch { key: key.clone(), subresource: None, patch: PatchKind::Strategic, body }
}

fn released(set: &Workload, key: &Key, uid: Uid) -> Action {
    release_from(set.meta.uid, key, uid)
}

/// Lets go of an object that no longer matches.
pub(super) fn release_from(owner: Uid, key: &Key, uid: Uid) -> Action {
    let body = json!({ "metadata": {
        "uid": uid.to_string(), "ownerReferences": [{ "$patch": "delete", "uid": owner.to_string() }],
    } });
    Action::Patch { key: key.clone(), subresource: None, patch: PatchKind::Strategic, body }
}

#[cfg(test)]
mod tests;
