use serde_json::json;

use super::*;

fn pod(n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": format!("web-5cb476fc94-{n:05}"), "resourceVersion": (n + 1).to_string(),
            "uid": format!("8a1f0f6e-0b1c-4b7e-9c1e-{n:012x}"), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app": "web", "pod-template-hash": "5cb476fc94" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5cb476fc94",
                "uid": "8a1f0f6e-0b1c-4b7e-9c1e-aaaaaaaaaaaa", "controller": true, "blockOwnerDeletion": true }],
        },
        "spec": {
            "nodeName": format!("pi-{}", n % 20),
            "containers": [{ "name": "main", "image": "nginx", "ports": [{ "name": "http", "containerPort": 80, "protocol": "TCP" }] }],
            "tolerations": [
                { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
                { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
            ],
        },
        "status": {
            "phase": "Running", "podIPs": [{ "ip": format!("10.42.{}.{}", n / 200, n % 200) }],
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        },
    })
}

/// What a pod may cost in the controllers' view, indexes and graph of owners included. A parsed one would be 56 kB.
const BYTES_PER_POD: usize = 1200;

#[test]
fn a_pod_costs_few_bytes() {
    let mut view = View::new(Kinds::new());
    (0..2000).for_each(|n| drop(view.apply(KindId::PODS, Heard::Present, &pod(n), Duration::ZERO)));
    let (objects, bytes) = view.weigh();
    println!("{} bytes a pod", bytes / objects);
    assert_eq!(objects, 2000);
    assert!(bytes / objects < BYTES_PER_POD, "{} bytes a pod", bytes / objects);
}

#[test]
fn a_new_list_forgets_what_it_does_not_meet() {
    let mut view = View::new(Kinds::new());
    (0..3).for_each(|n| drop(view.apply(KindId::PODS, Heard::Present, &pod(n), Duration::ZERO)));
    view.begin_list(KindId::PODS);
    view.apply(KindId::PODS, Heard::Present, &pod(1), Duration::ZERO);
    let gone = view.end_list(KindId::PODS, 9, Duration::ZERO);
    assert_eq!((gone.len(), view.all(KindId::PODS).count(), view.caught_up(KindId::PODS)), (2, 1, 9));
    assert!(gone.iter().all(|change| !change.present && change.waiting[0].kind == KindId::REPLICA_SETS));
    assert_eq!(view.pods_on("pi-0").count(), 0);
}

#[test]
fn a_list_does_not_say_how_far_it_got_before_it_ends() {
    let mut view = View::new(Kinds::new());
    view.begin_list(KindId::PODS);
    view.apply(KindId::PODS, Heard::Present, &pod(7), Duration::ZERO);
    assert_eq!(view.caught_up(KindId::PODS), 0);
    view.end_list(KindId::PODS, 20, Duration::ZERO);
    view.bookmark(KindId::PODS, 30);
    assert_eq!(view.caught_up(KindId::PODS), 30);
}
