use serde_json::json;

use super::*;
use crate::controllers::taint_eviction;
use crate::controllers::world::World;

fn node(name: &str, ready: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": {},
        "status": { "conditions": [{ "type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z" }] } })
}

fn lease(name: &str, beat: u32) -> Value {
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "namespace": LEASE_NAMESPACE, "name": name }, "spec": { "renewTime": format!("beat {beat}") } })
}

fn world(names: &[&str]) -> World {
    let mut world = World::new(&[&CONTROLLER, &taint_eviction::CONTROLLER]);
    for name in names {
        world.put(node(name, "True"));
        world.put(lease(name, 0));
    }
    world.settle();
    world
}

fn taints(world: &World, name: &str) -> Vec<String> {
    let node = world.view.as_node(&Key::new(KindId::NODES, "", name)).unwrap();
    node.taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
}

/// All nodes but `silent` beat for so long.
fn pass(world: &mut World, seconds: u64, names: &[&str]) {
    for beat in 0..seconds / 10 {
        world.advance(10);
        for name in names {
            world.put(lease(name, 1 + beat as u32 + (world.now.wall() % 1000) as u32));
        }
        world.settle();
    }
}

#[test]
fn a_silent_node_becomes_unknown_and_tainted() {
    let mut world = world(&["a", "b"]);
    pass(&mut world, 40, &["a"]);
    assert_eq!(taints(&world, "b"), Vec::<String>::new());
    pass(&mut world, 20, &["a"]);
    assert_eq!(taints(&world, "a"), Vec::<String>::new());
    assert_eq!(
        taints(&world, "b"),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    assert_eq!(world.reports[0].message, "Node b status is now: NodeNotReady");
    world.put(node("b", "True"));
    world.settle();
    assert_eq!(taints(&world, "b"), Vec::<String>::new());
}

#[test]
fn a_node_may_be_silent_as_long_as_its_lease_says() {
    let mut world = world(&["a", "b"]);
    let mut patient = lease("b", 1);
    patient["spec"]["leaseDurationSeconds"] = json!(100);
    world.put(patient);
    world.settle();
    pass(&mut world, 90, &["a"]);
    assert_eq!(taints(&world, "b"), Vec::<String>::new());
    pass(&mut world, 20, &["a"]);
    assert_eq!(taints(&world, "b").len(), 2);
}

#[test]
fn a_jump_of_the_wall_clock_changes_nothing() {
    let mut world = world(&["a", "b"]);
    world.now.wall_ms += 86_400_000;
    world.put(lease("a", 9));
    world.put(lease("b", 9));
    world.settle();
    assert_eq!((taints(&world, "a"), world.actions), (Vec::new(), 0));
}

#[test]
fn nobody_is_evicted_when_nobody_is_ready() {
    let mut world = world(&["a", "b"]);
    pass(&mut world, 60, &[]);
    assert_eq!(taints(&world, "a"), ["node.kubernetes.io/unreachable:NoSchedule"]);
    pass(&mut world, 600, &[]);
    assert_eq!(taints(&world, "b"), ["node.kubernetes.io/unreachable:NoSchedule"]);
}

#[test]
fn nodes_of_a_zone_are_evicted_one_after_the_other() {
    let mut world = world(&["a", "b", "c", "d", "e"]);
    pass(&mut world, 50, &["a", "b", "c"]);
    let evicted = |world: &World| ["d", "e"].into_iter().filter(|name| taints(world, name).len() == 2).count();
    assert_eq!(evicted(&world), 1);
    pass(&mut world, 10, &["a", "b", "c"]);
    assert_eq!(evicted(&world), 2);
}

#[test]
fn an_outage_of_most_of_a_zone_evicts_nobody_not_even_who_went_first() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut world = world(&names);
    pass(&mut world, 30, &names[1..]);
    pass(&mut world, 20, &["b"]);
    let evicted = |world: &World| names.into_iter().filter(|name| taints(world, name).len() == 2).collect::<Vec<_>>();
    assert_eq!(evicted(&world), ["a"], "its own fault, as it looks");
    pass(&mut world, 60, &["b"]);
    assert_eq!(evicted(&world), [""; 0], "the zone's");
    assert_eq!(taints(&world, "a"), ["node.kubernetes.io/unreachable:NoSchedule"]);
}

#[test]
fn cordon_and_pressure_become_taints() {
    let mut world = world(&["a"]);
    let key = Key::new(KindId::NODES, "", "a");
    world.change(&key, json!({ "spec": { "unschedulable": true } }));
    world.settle();
    assert_eq!(taints(&world, "a"), ["node.kubernetes.io/unschedulable:NoSchedule"]);
    world.change(&key, json!({ "spec": { "unschedulable": null } }));
    world.settle();
    assert!(taints(&world, "a").is_empty());
}

#[test]
fn pods_leave_a_lost_node_when_their_toleration_ends() {
    let mut world = world(&["a", "b"]);
    let pod = |name: &str, tolerations: Value| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "shop", "name": name },
            "spec": { "nodeName": "b", "tolerations": tolerations }, "status": { "phase": "Running" } })
    };
    let patient =
        json!([{ "key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }]);
    let patient = world.put(pod("patient", patient));
    let loyal = world.put(pod("loyal", json!([{ "operator": "Exists" }])));
    let hasty = world.put(pod("hasty", json!([])));
    pass(&mut world, 60, &["a"]);
    let going = |world: &World, key: &Key| !world.objects[key]["metadata"]["deletionTimestamp"].is_null();
    assert!(going(&world, &hasty) && !going(&world, &patient));
    pass(&mut world, 300, &["a"]);
    assert!(going(&world, &patient) && !going(&world, &loyal));
    assert!(world.messages().contains(&"Marking for deletion Pod shop/hasty"));
}
