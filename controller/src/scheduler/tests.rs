use serde_json::{Value, json};

use super::cluster::Cluster;
use super::plan::{Decision, plan};
use crate::controllers::view::meta::Uid;

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": { "allocatable": { "cpu": cpu, "memory": "4Gi", "pods": "110" } },
    })
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": name, "uid": name, "labels": { "app": "web" } },
        "spec": { "containers": [{ "resources": { "requests": { "cpu": cpu } } }] },
    })
}

fn with(mut object: Value, patch: Value) -> Value {
    crate::controllers::text::merge(&mut object, &patch);
    object
}

struct Bench(Cluster);

impl Bench {
    fn new(nodes: &[Value]) -> Bench {
        let mut cluster = Cluster::default();
        for node in nodes {
            cluster.put_node(node);
        }
        Bench(cluster)
    }

    fn place(&mut self, pod: Value) -> Result<String, String> {
        self.0.put_pod(&pod);
        let uid = Uid::parse(pod["metadata"]["uid"].as_str().unwrap());
        match plan(&mut self.0, &[uid]).remove(0) {
            Decision::Bind { node, .. } => Ok(node.to_string()),
            Decision::Wait { message, .. } => Err(message),
        }
    }

    fn preempt(&mut self, pod: Value) -> Option<(String, Vec<Uid>)> {
        self.0.put_pod(&pod);
        let uid = Uid::parse(pod["metadata"]["uid"].as_str().unwrap());
        match plan(&mut self.0, &[uid]).remove(0) {
            Decision::Wait { preemption: Some(preemption), .. } => {
                Some((preemption.node.to_string(), preemption.victims))
            }
            _ => None,
        }
    }
}

fn tainted(name: &str) -> Value {
    with(node(name, "4"), json!({ "spec": { "taints": [{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }] } }))
}

#[test]
fn the_message_is_upstreams() {
    let mut bench = Bench::new(&[node("a", "1"), tainted("b"), tainted("c")]);
    assert_eq!(
        bench.place(pod("p", "2")).unwrap_err(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {gpu: yes}. preemption: 0/3 nodes are \
         available: 3 Preemption is not helpful for scheduling."
    );
    assert_eq!(Bench::new(&[]).place(pod("p", "1")).unwrap_err(), "no nodes available to schedule pods");
}

#[test]
fn a_batch_spreads_and_counts_what_it_placed() {
    let mut bench = Bench::new(&[node("a", "1"), node("b", "1")]);
    let places: Vec<_> = (0..4).map(|n| bench.place(pod(&format!("p{n}"), "500m")).unwrap()).collect();
    assert_eq!(places.iter().filter(|place| *place == "a").count(), 2);
    assert_eq!(
        bench.place(pod("late", "500m")).unwrap_err(),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for \
         incoming pod."
    );
}

#[test]
fn cordons_selectors_and_ports_are_respected() {
    let cordoned = with(node("a", "4"), json!({ "spec": { "unschedulable": true } }));
    let mut bench =
        Bench::new(&[cordoned, with(node("b", "4"), json!({ "metadata": { "labels": { "disk": "ssd" } } }))]);
    let port = json!({ "spec": { "containers": [{ "ports": [{ "containerPort": 80, "hostPort": 80 }] }] } });
    assert_eq!(bench.place(with(pod("one", "1"), port.clone())).unwrap(), "b");
    let message = bench.place(with(pod("two", "1"), port)).unwrap_err();
    assert!(message.starts_with(
        "0/2 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 1 node(s) were unschedulable."
    ));
    assert_eq!(
        bench.place(with(pod("three", "1"), json!({ "spec": { "nodeSelector": { "disk": "ssd" } } }))).unwrap(),
        "b"
    );
    let message =
        bench.place(with(pod("four", "1"), json!({ "spec": { "nodeSelector": { "disk": "hdd" } } }))).unwrap_err();
    assert!(message.contains("1 node(s) didn't match Pod's node affinity/selector"));
}

#[test]
fn tolerations_open_tainted_nodes() {
    let mut bench = Bench::new(&[tainted("a")]);
    let tolerant =
        json!({ "spec": { "tolerations": [{ "key": "gpu", "operator": "Exists", "effect": "NoSchedule" }] } });
    assert_eq!(bench.place(with(pod("p", "1"), tolerant)).unwrap(), "a");
}

#[test]
fn anti_affinity_keeps_apart_and_affinity_together() {
    let mut bench = Bench::new(&[node("a", "4"), node("b", "4")]);
    let term =
        json!([{ "labelSelector": { "matchLabels": { "app": "web" } }, "topologyKey": "kubernetes.io/hostname" }]);
    let apart = json!({ "spec": { "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": term } } } });
    let first = bench.place(with(pod("one", "1"), apart.clone())).unwrap();
    let second = bench.place(with(pod("two", "1"), apart.clone())).unwrap();
    assert_ne!(first, second);
    let message = bench.place(with(pod("three", "1"), apart)).unwrap_err();
    assert!(message.contains("2 node(s) didn't match pod anti-affinity rules"), "{message}");
    assert!(
        bench
            .place(pod("four", "1"))
            .unwrap_err()
            .contains("2 node(s) didn't satisfy existing pods anti-affinity rules")
    );
    let mut bench = Bench::new(&[node("a", "4"), node("b", "4")]);
    let together = json!({ "spec": { "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": term } } } });
    let first = bench.place(with(pod("one", "1"), together.clone())).unwrap();
    assert_eq!(bench.place(with(pod("two", "1"), together)).unwrap(), first);
}

#[test]
fn spread_bounds_the_skew() {
    let mut bench = Bench::new(&[node("a", "8"), node("b", "1")]);
    let spread = json!({ "spec": { "topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } } }] } });
    let places: Vec<_> =
        (0..3).map(|n| bench.place(with(pod(&format!("p{n}"), "500m"), spread.clone())).unwrap()).collect();
    assert!(places.contains(&"a".to_owned()) && places.contains(&"b".to_owned()));
    bench.place(with(pod("p3", "500m"), spread.clone())).unwrap();
    let message =
        bench.place(with(pod("p4", "500m"), spread.clone())).and_then(|_| bench.place(with(pod("p5", "500m"), spread)));
    assert!(message.unwrap_err().contains("node(s) didn't match pod topology spread constraints"));
}

#[test]
fn preemption_takes_the_least_and_promises_the_place() {
    let mut bench = Bench::new(&[node("a", "2"), node("b", "2")]);
    let class = |priority: i64, node: &str| json!({ "spec": { "priority": priority, "nodeName": node } });
    bench.0.put_pod(&with(pod("low", "1500m"), class(1, "a")));
    bench.0.put_pod(&with(pod("middle", "1500m"), class(5, "b")));
    let high = with(pod("high", "1"), json!({ "spec": { "priority": 10 } }));
    assert_eq!(bench.preempt(high.clone()), Some(("a".into(), vec![Uid::parse("low")])));
    bench.0.remove_pod(Uid::parse("low"));
    assert!(bench.place(pod("thief", "1500m")).is_err(), "the room is promised");
    assert_eq!(bench.place(with(high, json!({ "status": { "nominatedNodeName": "a" } }))).unwrap(), "a");
}

#[test]
fn who_may_not_preempt_says_so() {
    let mut bench = Bench::new(&[node("a", "1")]);
    bench.place(pod("one", "1")).unwrap();
    let polite = with(pod("two", "1"), json!({ "spec": { "priority": 9, "preemptionPolicy": "Never" } }));
    assert_eq!(
        bench.place(polite).unwrap_err(),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    );
}

#[test]
fn a_bound_pod_counts_once_and_frees_its_room_when_it_ends() {
    let mut bench = Bench::new(&[node("a", "1")]);
    bench.place(pod("one", "1")).unwrap();
    bench.0.put_pod(&with(pod("one", "1"), json!({ "spec": { "nodeName": "a" } })));
    assert_eq!(bench.0.nodes["a"].requested.cpu, 1000);
    bench.0.put_pod(&with(pod("one", "1"), json!({ "spec": { "nodeName": "a" }, "status": { "phase": "Succeeded" } })));
    assert_eq!((bench.0.nodes["a"].requested.cpu, bench.0.nodes["a"].requested.pods), (0, 0));
    assert_eq!(bench.place(pod("two", "1")).unwrap(), "a");
}

#[test]
fn gated_pods_are_left_alone() {
    let mut bench = Bench::new(&[node("a", "1")]);
    let gated = with(pod("one", "1"), json!({ "spec": { "schedulingGates": [{ "name": "wait" }] } }));
    bench.0.put_pod(&gated);
    assert_eq!(plan(&mut bench.0, &[Uid::parse("one")]), []);
}
