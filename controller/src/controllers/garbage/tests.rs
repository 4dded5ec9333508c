use serde_json::json;

use super::*;
use crate::controllers::world::World;

fn thing(kind: &str, name: &str, owners: &[&Value]) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| {
            json!({ "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true })
        })
        .collect();
    let api_version = if kind == "ReplicaSet" || kind == "Deployment" { "apps/v1" } else { "v1" };
    json!({ "apiVersion": api_version, "kind": kind,
        "metadata": { "namespace": "shop", "name": name, "uid": format!("uid-{name}"), "ownerReferences": owners } })
}

/// A Deployment that owns a ReplicaSet that owns a Pod.
fn chain() -> (World, Key, Key, Key) {
    let mut world = World::new(&[&CONTROLLER]);
    let top = thing("Deployment", "top", &[]);
    let middle = thing("ReplicaSet", "middle", &[&top]);
    let bottom = thing("Pod", "bottom", &[&middle]);
    let (top, middle, bottom) = (world.put(top), world.put(middle), world.put(bottom));
    world.settle();
    assert_eq!(world.actions, 0);
    (world, top, middle, bottom)
}

#[test]
fn background_deletion_runs_down_the_chain() {
    let (mut world, top, ..) = chain();
    world.delete(&top, "Background");
    world.settle();
    assert!(world.objects.is_empty());
}

#[test]
fn foreground_deletion_takes_the_leaves_first() {
    let (mut world, top, middle, bottom) = chain();
    world.change(&bottom, json!({ "metadata": { "finalizers": ["hold"] } }));
    world.delete(&top, "Foreground");
    world.settle();
    assert!(world.objects.contains_key(&top) && world.objects.contains_key(&middle), "they wait for the leaf");
    assert!(!world.objects[&middle]["metadata"]["deletionTimestamp"].is_null());
    world.remove(&bottom);
    world.settle();
    assert!(world.objects.is_empty());
}

#[test]
fn orphans_forget_their_owner() {
    let (mut world, top, middle, _) = chain();
    world.delete(&top, "Orphan");
    world.settle();
    assert!(!world.objects.contains_key(&top));
    assert!(world.objects[&middle]["metadata"]["ownerReferences"].is_null());
    assert_eq!(world.objects.len(), 2);
}

#[test]
fn a_circle_does_not_hold_itself() {
    let mut world = World::new(&[&CONTROLLER]);
    let named = |name: &str| thing("ConfigMap", name, &[]);
    let first = world.put(thing("ConfigMap", "one", &[&named("three")]));
    world.put(thing("ConfigMap", "two", &[&named("one")]));
    world.put(thing("ConfigMap", "three", &[&named("two")]));
    world.settle();
    assert_eq!(world.objects.len(), 3);
    world.delete(&first, "Foreground");
    world.settle();
    assert!(world.objects.is_empty());
}

#[test]
fn one_solid_owner_is_enough() {
    let mut world = World::new(&[&CONTROLLER]);
    let (a, b) = (thing("ConfigMap", "a", &[]), thing("ConfigMap", "b", &[]));
    let (a_key, _) = (world.put(a.clone()), world.put(b.clone()));
    let child = world.put(thing("Secret", "child", &[&a, &b]));
    world.remove(&a_key);
    world.settle();
    let owners = world.objects[&child]["metadata"]["ownerReferences"].as_array().unwrap();
    assert_eq!((owners.len(), &owners[0]["name"]), (1, &json!("b")));
}

#[test]
fn a_namesake_with_another_uid_is_no_owner() {
    let mut world = World::new(&[&CONTROLLER]);
    let mut owner = thing("ConfigMap", "a", &[]);
    let child = thing("Secret", "child", &[&owner]);
    owner["metadata"]["uid"] = "another".into();
    world.put(owner);
    let child = world.put(child);
    world.settle();
    assert!(!world.objects.contains_key(&child));
}

#[test]
fn an_owner_of_an_unknown_kind_is_left_alone() {
    let mut world = World::new(&[&CONTROLLER]);
    let owner = json!({ "apiVersion": "example.com/v1", "kind": "Thing", "metadata": { "name": "x", "uid": "x" } });
    let child = world.put(thing("Secret", "child", &[&owner]));
    world.settle();
    assert!(world.objects.contains_key(&child));
}

/// Random forests and random deletions: in the end exactly those are left that never had an owner, or still have one.
#[test]
fn random_histories_leave_what_is_still_owned() {
    for seed in 1..=30u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % below
        };
        let mut world = World::new(&[&CONTROLLER]);
        let mut things: Vec<Value> = Vec::new();
        for n in 0..25 {
            let owners: Vec<Value> = (0..draw(3)).filter_map(|_| things.get(draw(n.max(1))).cloned()).collect();
            let thing = thing("ConfigMap", &format!("t{n}"), &owners.iter().collect::<Vec<_>>());
            world.put(thing.clone());
            things.push(thing);
            if draw(3) == 0 {
                let victim = draw(n + 1);
                let key = Key::new(KindId::CONFIG_MAPS, "shop", &format!("t{victim}"));
                world.delete(&key, ["Background", "Foreground", "Orphan"][draw(3)]);
            }
            if draw(2) == 0 {
                world.settle();
            }
        }
        world.settle();
        let alive: Vec<&Value> = world.objects.values().map(|object| &object["metadata"]["uid"]).collect();
        for object in world.objects.values() {
            assert!(object["metadata"]["deletionTimestamp"].is_null(), "seed {seed}: {object} hangs");
            for owner in list_at(object, &["metadata", "ownerReferences"]) {
                assert!(alive.contains(&&owner["uid"]), "seed {seed}: {object} has lost an owner");
            }
        }
    }
}
