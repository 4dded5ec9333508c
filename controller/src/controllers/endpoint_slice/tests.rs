use serde_json::json;

use super::*;
use crate::controllers::text::list_at;
use crate::controllers::world::World;

pub(crate) fn service() -> Value {
    json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": "web", "uid": "svc", "labels": { "team": "a" } },
        "spec": { "clusterIP": "10.43.0.9", "selector": { "app": "web" }, "ipFamilies": ["IPv4"],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": "web" }] } })
}

pub(crate) fn pod(name: &str, ip: &str, ready: bool) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "shop", "name": name, "uid": format!("pod-{name}"), "labels": { "app": "web" } },
        "spec": { "nodeName": "pi-1", "containers": [{ "ports": [{ "name": "web", "containerPort": 8080, "protocol": "TCP" }] }] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] } })
}

fn slices_of(world: &World) -> Vec<&Value> {
    world.list(KindId::ENDPOINT_SLICES, "shop").collect()
}

#[test]
fn a_slice_says_who_is_ready_serving_and_terminating() {
    let mut world = World::new(&[&CONTROLLER]);
    world.put(service());
    let a = world.put(pod("a", "10.42.0.2", true));
    world.put(pod("b", "10.42.0.3", false));
    world.settle();
    world.delete(&a, "");
    world.settle();
    let slices = slices_of(&world);
    assert_eq!(slices.len(), 1);
    let endpoints = list_at(slices[0], &["endpoints"]);
    let conditions = |name: &str| {
        let endpoint = endpoints.iter().find(|endpoint| endpoint["targetRef"]["name"] == name).unwrap();
        &endpoint["conditions"]
    };
    assert_eq!(conditions("a"), &json!({ "ready": false, "serving": true, "terminating": true }));
    assert_eq!(conditions("b"), &json!({ "ready": false, "serving": false, "terminating": false }));
    assert_eq!(slices[0]["ports"], json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]));
    assert_eq!(slices[0]["metadata"]["labels"][MANAGED_BY], US);
    assert_eq!(slices[0]["metadata"]["labels"]["team"], "a");
    assert_eq!(slices[0]["metadata"]["ownerReferences"][0]["kind"], "Service");
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let mut world = World::new(&[&CONTROLLER]);
    world.put(service());
    world.settle();
    assert_eq!((slices_of(&world).len(), list_at(slices_of(&world)[0], &["endpoints"]).len()), (1, 0));
    let a = world.put(pod("a", "10.42.0.2", true));
    world.settle();
    assert_eq!((slices_of(&world).len(), list_at(slices_of(&world)[0], &["endpoints"]).len()), (1, 1));
    world.remove(&a);
    world.settle();
    assert_eq!((slices_of(&world).len(), list_at(slices_of(&world)[0], &["endpoints"]).len()), (1, 0));
}

#[test]
fn slices_hold_a_hundred_and_change_alone() {
    let mut world = World::new(&[&CONTROLLER]);
    world.put(service());
    for n in 0..250 {
        world.put(pod(&format!("p{n:03}"), &format!("10.42.{}.{}", n / 200, n % 200 + 1), true));
    }
    world.settle();
    let mut sizes: Vec<usize> = slices_of(&world).iter().map(|slice| list_at(slice, &["endpoints"]).len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    let before = world.actions;
    world.put(pod("p007", "10.42.0.8", false));
    world.settle();
    assert_eq!(world.actions, before + 1, "one endpoint changed, one slice is written");
}

#[test]
fn endpoints_of_a_service_without_selector_are_mirrored() {
    let mut world = World::new(&[&CONTROLLER, &MIRRORING]);
    let mut foreign = service();
    foreign["spec"]["selector"] = Value::Null;
    world.put(foreign);
    let endpoints = world
        .put(json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": { "namespace": "shop", "name": "web" },
        "subsets": [{ "addresses": [{ "ip": "192.0.2.1" }], "ports": [{ "port": 80, "protocol": "TCP" }] }] }));
    world.settle();
    let slices = slices_of(&world);
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    world.remove(&endpoints);
    world.settle();
    assert!(slices_of(&world).is_empty());
}

#[test]
fn hints_say_for_whom_an_endpoint_is() {
    let node = json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "pi-1", "labels": { "topology.kubernetes.io/zone": "attic" } } });
    let (zones, nodes) = (json!([{ "name": "attic" }]), json!([{ "name": "pi-1" }]));
    for (distribution, hints) in [
        (json!(null), json!(null)),
        (json!("PreferClose"), json!({ "forZones": zones })),
        (json!("PreferSameNode"), json!({ "forNodes": nodes, "forZones": zones })),
    ] {
        let mut world = World::new(&[&CONTROLLER]);
        world.put(node.clone());
        let mut web = service();
        web["spec"]["trafficDistribution"] = distribution;
        world.put(web);
        world.put(pod("a", "10.42.0.2", true));
        world.settle();
        assert_eq!(list_at(slices_of(&world)[0], &["endpoints"])[0]["hints"], hints);
    }
}
