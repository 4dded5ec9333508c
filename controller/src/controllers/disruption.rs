//! Pure: how many pods of a PodDisruptionBudget may be evicted now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan, Regarding, Report};
use super::text::Str;
use super::time;
use super::view::disruption::{Budget, Counts};
use super::view::meta::{Uid, condition};
use super::view::pod::Pod;
use super::view::workload::IntOrPercent;
use super::view::{Change, Key, Projected, View};

/// The row; a key is a budget.
pub(super) const CONTROLLER: Controller = Controller {
    account: "disruption-controller",
    component: "controllermanager",
    watches: &[
        KindId::DISRUPTION_BUDGETS,
        KindId::PODS,
        KindId::REPLICA_SETS,
        KindId::REPLICATION_CONTROLLERS,
        KindId::DEPLOYMENTS,
    ],
    keys,
    plan,
};

/// An evicted pod that is still there after so long counts again (upstream's DeletionTimeout).
const DELETION_TIMEOUT_S: i64 = 120;
const ALLOWED: &str = "DisruptionAllowed";

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    if change.key.kind == KindId::DISRUPTION_BUDGETS {
        keys.extend(change.new.is_some().then(|| change.key.clone()));
        return;
    }
    // Of a workload only its scale matters, and that to any budget: which pods it has they say themselves.
    let is_pod = change.key.kind == KindId::PODS;
    if !is_pod && change.old.as_ref().map(scale_of) == change.new.as_ref().map(scale_of) {
        return;
    }
    let concerns = |object: &Projected| {
        let selector = object.as_budget().and_then(|budget| budget.selector.as_ref());
        selector.is_some_and(|selector| !is_pod || change.sides().any(|side| selector.matches(&side.meta().labels)))
    };
    let budgets = view.within(KindId::DISRUPTION_BUDGETS, &change.key.namespace);
    keys.extend(budgets.filter(|(_, object)| concerns(object)).map(|(key, _)| key));
}

/// What a workload is asked for, and by whom.
fn scale_of(object: &Projected) -> (i64, Option<Uid>) {
    let workload = object.as_workload().map(|workload| workload.replicas);
    let replicas = workload.or_else(|| object.as_deployment().map(|deployment| deployment.replicas));
    (replicas.unwrap_or_default(), object.meta().controller.as_ref().map(|owner| owner.uid))
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(budget) = view.as_budget(key).filter(|budget| budget.meta.deleted.is_none()) else {
        return Plan::default();
    };
    let now = context.now.wall();
    let pods = pods_of(view, key, budget);
    let mut plan = Plan::default();
    let (disrupted, overdue) = still_going(budget, &pods, now);
    if let Some(first) = disrupted.values().min() {
        plan.wake_in(first + DELETION_TIMEOUT_S + 1 - now);
    }
    let healthy = pods
        .iter()
        .filter(|(pod_key, pod)| pod.meta.deleted.is_none() && pod.ready && !disrupted.contains_key(&pod_key.name));
    let healthy = healthy.count() as i64;
    let regarding = Regarding { key: key.clone(), uid: budget.meta.uid };
    let (counts, failed) = match wanted(view, budget, &pods) {
        Ok((expected, desired)) => {
            let spare = if expected > 0 { (healthy - desired).max(0) } else { 0 };
            (Counts { allowed: spare, healthy, desired, expected }, None)
        }
        // As long as nobody knows how many there should be, none may go.
        Err(why) => (Counts { allowed: 0, ..budget.counts }, Some(why)),
    };
    let Some(status) = news(budget, counts, &disrupted, failed.as_deref(), now) else { return plan };
    let mut actions = vec![status_edit(&regarding, budget, status)];
    let report =
        |warning, reason, message| Action::Event(Report { regarding: regarding.clone(), warning, reason, message });
    if pods.is_empty() {
        actions.push(report(false, "NoPods", "No matching pods found".to_owned()));
    }
    actions.extend(failed.map(|why| {
        let message = format!("Failed to calculate the number of expected pods: {why}");
        report(true, "CalculateExpectedPodCountFailed", message)
    }));
    actions.extend(overdue.into_iter().map(|pod| {
        Action::Event(Report {
            regarding: pod,
            warning: true,
            reason: "NotDeleted",
            message: format!("Pod was expected by PDB {} to be deleted but it wasn't", key.path()),
        })
    }));
    plan.steps.push(actions);
    plan
}

fn pods_of<'a>(view: &'a View, key: &Key, budget: &Budget) -> Vec<(Key, &'a Arc<Pod>)> {
    let Some(selector) = &budget.selector else { return Vec::new() };
    let pods = view.within(KindId::PODS, &key.namespace).filter_map(|(key, object)| Some((key, object.as_pod()?)));
    pods.filter(|(_, pod)| selector.matches(&pod.meta.labels)).collect()
}

/// Evicted pods that are still there and not marked, with since when; and those of them that should have gone.
fn still_going(budget: &Budget, pods: &[(Key, &Arc<Pod>)], now: i64) -> (BTreeMap<Str, i64>, Vec<Regarding>) {
    let (mut going, mut overdue) = (BTreeMap::new(), Vec::new());
    for (key, pod) in pods.iter().filter(|(_, pod)| pod.meta.deleted.is_none()) {
        match budget.disrupted.get(&key.name) {
            Some(since) if since + DELETION_TIMEOUT_S >= now => drop(going.insert(key.name.clone(), *since)),
            Some(_) => overdue.push(Regarding { key: key.clone(), uid: pod.meta.uid }),
            None => {}
        }
    }
    (going, overdue)
}

/// How many pods there should be, and how many of them healthy.
fn wanted(view: &View, budget: &Budget, pods: &[(Key, &Arc<Pod>)]) -> Result<(i64, i64), String> {
    match (budget.max_unavailable, budget.min_available) {
        (Some(most), _) => {
            let expected = scale(view, pods)?;
            Ok((expected, (expected - most.of(expected, true)).max(0)))
        }
        (None, Some(IntOrPercent::Int(least))) => Ok((pods.len() as i64, least)),
        (None, Some(share)) => {
            let expected = scale(view, pods)?;
            Ok((expected, share.of(expected, true)))
        }
        (None, None) => Ok((0, 0)),
    }
}

/// The replicas that the pods' controllers are asked for; pods that nobody controls are not counted.
fn scale(view: &View, pods: &[(Key, &Arc<Pod>)]) -> Result<i64, String> {
    let mut seen = BTreeSet::new();
    let mut replicas = 0;
    for (key, pod) in pods {
        let Some(owner) = &pod.meta.controller else { continue };
        let found = replicas_of(view, key, &owner.kind, &owner.name, owner.uid);
        let (uid, count) = found.ok_or_else(|| format!("found no controllers for pod {:?}", &*key.name))?;
        if seen.insert(uid) {
            replicas += count;
        }
    }
    Ok(replicas)
}

/// A ReplicaSet of a Deployment is asked for what the Deployment is.
fn replicas_of(view: &View, pod: &Key, kind: &str, name: &str, uid: Uid) -> Option<(Uid, i64)> {
    let kind = match kind {
        "ReplicaSet" => KindId::REPLICA_SETS,
        "ReplicationController" => KindId::REPLICATION_CONTROLLERS,
        _ => return None,
    };
    let workload = view.as_workload(&Key::new(kind, &pod.namespace, name))?;
    if workload.meta.uid != uid {
        return None;
    }
    let Some(owner) = workload.meta.controller.as_ref().filter(|owner| &*owner.kind == "Deployment") else {
        return Some((uid, workload.replicas));
    };
    let deployment = view.as_deployment(&Key::new(KindId::DEPLOYMENTS, &pod.namespace, &owner.name))?;
    (deployment.meta.uid == owner.uid).then_some((owner.uid, deployment.replicas))
}

/// The status as it should be; `None` when it is.
fn news(
    budget: &Budget,
    counts: Counts,
    disrupted: &BTreeMap<Str, i64>,
    failed: Option<&str>,
    now: i64,
) -> Option<Value> {
    let (status, reason) = match failed {
        Some(_) => ("False", "SyncFailed"),
        None if counts.allowed > 0 => ("True", "SufficientPods"),
        None => ("False", "InsufficientPods"),
    };
    let known = condition(&budget.conditions, ALLOWED).filter(|known| &*known.status == status);
    let message = failed.unwrap_or_default();
    let told = known.is_some_and(|known| &*known.reason == reason && &*known.message == message);
    let observed = budget.observed_generation == budget.meta.generation;
    if told && observed && counts == budget.counts && *disrupted == budget.disrupted {
        return None;
    }
    let since = known.and_then(|known| known.transitioned).unwrap_or(now);
    // Names that are left out of a merge would stay.
    let gone = budget.disrupted.keys().filter(|pod| !disrupted.contains_key(*pod));
    let mut pods: serde_json::Map<String, Value> = gone.map(|pod| (pod.to_string(), Value::Null)).collect();
    pods.extend(disrupted.iter().map(|(pod, since)| (pod.to_string(), time::stamp(*since).into())));
    Some(json!({
        "observedGeneration": budget.meta.generation,
        "disruptedPods": if disrupted.is_empty() { Value::Null } else { Value::Object(pods) },
        "disruptionsAllowed": counts.allowed, "currentHealthy": counts.healthy,
        "desiredHealthy": counts.desired, "expectedPods": counts.expected,
        "conditions": [{
            "type": ALLOWED, "status": status, "reason": reason, "message": message,
            "observedGeneration": budget.meta.generation, "lastTransitionTime": time::stamp(since),
        }],
    }))
}

/// Only if the budget is still the one that was looked at: an eviction may have been counted meanwhile.
fn status_edit(regarding: &Regarding, budget: &Budget, status: Value) -> Action {
    Action::Edit {
        key: regarding.key.clone(),
        subresource: Some("status"),
        uid: regarding.uid,
        revision: Some(budget.meta.revision),
        merge: json!({ "status": status }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    fn budget(spec: Value) -> Value {
        let mut spec = spec;
        spec["selector"] = json!({ "matchLabels": { "app": "web" } });
        json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": { "namespace": "default", "name": "web" }, "spec": spec })
    }

    fn pod(name: &str, ready: &str, owner: Option<&str>) -> Value {
        let owners = owner.map(|uid| {
            json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": uid,
            "controller": true }])
        });
        json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "default", "name": name, "labels": { "app": "web" }, "ownerReferences": owners },
            "spec": { "nodeName": "pi-1" },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] } })
    }

    /// A Deployment of so many replicas, its ReplicaSet, whose uid is answered.
    fn deployment(world: &mut World, replicas: i64) -> String {
        let object = |kind: &str, name: &str, owner: Value| {
            json!({ "apiVersion": "apps/v1", "kind": kind,
                "metadata": { "namespace": "default", "name": name, "ownerReferences": owner },
                "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
                    "template": { "metadata": { "labels": { "app": "web" } } } } })
        };
        let key = world.put(object("Deployment", "web", json!([])));
        let uid = world.objects[&key]["metadata"]["uid"].clone();
        let owner =
            json!([{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": uid, "controller": true }]);
        let key = world.put(object("ReplicaSet", "web-1", owner));
        world.objects[&key]["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    fn counts(world: &World, key: &Key) -> [i64; 4] {
        let status = &world.objects[key]["status"];
        ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"]
            .map(|it| status[it].as_i64().unwrap())
    }

    fn reason(world: &World, key: &Key) -> String {
        world.objects[key]["status"]["conditions"][0]["reason"].as_str().unwrap().to_owned()
    }

    #[test]
    fn what_a_deployment_may_miss_is_counted_by_its_scale() {
        let mut world = World::new(&[&CONTROLLER]);
        let owner = deployment(&mut world, 4);
        for name in ["a", "b", "c"] {
            world.put(pod(name, "True", Some(&owner)));
        }
        let waiting = world.put(pod("d", "False", Some(&owner)));
        let key = world.put(budget(json!({ "maxUnavailable": "25%" })));
        world.settle();
        assert_eq!((counts(&world, &key), reason(&world, &key)), ([0, 3, 3, 4], "InsufficientPods".into()));
        world.change(&waiting, json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }));
        world.settle();
        assert_eq!((counts(&world, &key), reason(&world, &key)), ([1, 4, 3, 4], "SufficientPods".into()));
        world.change(&key, json!({ "spec": { "maxUnavailable": null, "minAvailable": 2 } }));
        world.settle();
        assert_eq!(counts(&world, &key), [2, 4, 2, 4]);
        assert_eq!(world.objects[&key]["status"]["observedGeneration"], 2);
    }

    #[test]
    fn an_evicted_pod_counts_no_more_until_it_should_have_gone() {
        let mut world = World::new(&[&CONTROLLER]);
        for name in ["a", "b"] {
            world.put(pod(name, "True", None));
        }
        let key = world.put(budget(json!({ "minAvailable": 1 })));
        world.settle();
        assert_eq!(counts(&world, &key), [1, 2, 1, 2]);
        let since = world.now.stamp();
        world.change(&key, json!({ "status": { "disruptionsAllowed": 0, "disruptedPods": { "a": since } } }));
        world.settle();
        assert_eq!(
            (counts(&world, &key), world.objects[&key]["status"]["disruptedPods"]["a"].clone()),
            ([0, 1, 1, 2], since.into())
        );
        world.advance(122);
        world.settle();
        assert_eq!(counts(&world, &key), [1, 2, 1, 2]);
        assert!(world.objects[&key]["status"]["disruptedPods"].is_null());
        assert!(world.messages().contains(&"Pod was expected by PDB default/web to be deleted but it wasn't"));
    }

    #[test]
    fn none_may_go_when_nobody_knows_how_many_there_should_be() {
        let mut world = World::new(&[&CONTROLLER]);
        world.put(pod("a", "True", Some("00000000-0000-0000-0000-000000000099")));
        let key = world.put(budget(json!({ "maxUnavailable": 1 })));
        world.settle();
        assert_eq!((counts(&world, &key)[0], reason(&world, &key)), (0, "SyncFailed".into()));
        assert_eq!(world.objects[&key]["status"]["conditions"][0]["message"], "found no controllers for pod \"a\"");
        let lonely = world.put(json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": { "namespace": "other", "name": "web" },
            "spec": { "minAvailable": "50%", "selector": {} } }));
        world.settle();
        assert_eq!(counts(&world, &lonely), [0, 0, 0, 0]);
        assert!(world.messages().contains(&"No matching pods found"));
    }
}
