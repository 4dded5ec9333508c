use serde_json::json;

use super::*;
use crate::controllers::world::{World, replica_set};

fn world() -> World {
    World::new(&[&REPLICA_SET])
}

fn pods(world: &World) -> Vec<Key> {
    world.objects.keys().filter(|key| key.kind == KindId::PODS).cloned().collect()
}

#[test]
fn a_set_makes_its_pods_and_counts_them() {
    let mut world = world();
    let key = world.put(replica_set(3));
    world.converge();
    assert_eq!(world.count(KindId::PODS), 3);
    let status = &world.objects[&key]["status"];
    assert_eq!((&status["readyReplicas"], &status["observedGeneration"]), (&json!(3), &json!(1)));
    assert_eq!(world.reports[0].reason, "SuccessfulCreate");
    assert!(world.messages()[0].starts_with("Created pod: set-"));
    let pod = &world.objects[&pods(&world)[0]];
    assert_eq!(pod["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
}

#[test]
fn a_failed_pod_is_replaced_and_a_surplus_goes() {
    let mut world = world();
    let key = world.put(replica_set(2));
    world.converge();
    let first = pods(&world)[0].clone();
    world.change(&first, json!({"status": {"phase": "Failed"}}));
    world.converge();
    assert_eq!(world.count(KindId::PODS), 3, "the failed one stays for its log");
    world.change(&key, json!({"spec": {"replicas": 0}}));
    world.converge();
    assert_eq!(pods(&world), [first]);
    assert_eq!(world.objects[&key]["status"]["replicas"], 0);
}

#[test]
fn orphans_are_adopted_and_strangers_released() {
    let mut world = world();
    world.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "orphan", "labels": {"app": "web"}}, "spec": {}}));
    world.put(replica_set(1));
    world.converge();
    let key = Key::new(KindId::PODS, "shop", "orphan");
    assert_eq!(world.count(KindId::PODS), 1);
    assert_eq!(world.objects[&key]["metadata"]["ownerReferences"][0]["name"], "set");
    world.change(&key, json!({"metadata": {"labels": {"app": "other"}}}));
    world.converge();
    assert_eq!(world.objects[&key]["metadata"]["ownerReferences"], json!([]));
    assert_eq!(world.count(KindId::PODS), 2);
}

#[test]
fn a_refusal_shows_in_the_status_until_it_is_over() {
    let mut world = world();
    world.refuse.insert(KindId::PODS, "quota".into());
    let key = world.put(replica_set(3));
    world.settle();
    world.retry();
    assert_eq!(world.objects[&key]["status"]["conditions"][0]["reason"], "FailedCreate");
    assert_eq!(world.messages()[0], "Error creating: quota");
    world.refuse.clear();
    world.retry();
    world.converge();
    assert_eq!(world.objects[&key]["status"]["conditions"], serde_json::Value::Null);
    assert_eq!(world.count(KindId::PODS), 3);
}

#[test]
fn min_ready_seconds_wakes_the_plan() {
    let mut world = world();
    let mut set = replica_set(1);
    set["spec"]["minReadySeconds"] = 10.into();
    let key = world.put(set);
    world.converge();
    assert_eq!(world.objects[&key]["status"]["availableReplicas"], serde_json::Value::Null);
    world.advance(10);
    world.converge();
    assert_eq!(world.objects[&key]["status"]["availableReplicas"], 1);
}

#[test]
fn unready_and_unbound_pods_go_first() {
    let mut world = world();
    let key = world.put(replica_set(3));
    world.converge();
    let odd = pods(&world)[1].clone();
    world.change(&odd, json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}));
    world.change(&key, json!({"spec": {"replicas": 2}}));
    world.settle();
    assert!(!world.objects[&odd]["metadata"]["deletionTimestamp"].is_null());
}

#[test]
fn a_replication_controller_is_the_same() {
    let mut world = World::new(&[&REPLICATION]);
    world.put(json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"namespace": "shop", "name": "rc"},
        "spec": {"replicas": 2, "selector": {"app": "web"}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {}}}}));
    world.converge();
    assert_eq!(world.count(KindId::PODS), 2);
}
