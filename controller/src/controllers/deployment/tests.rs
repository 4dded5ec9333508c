use serde_json::json;

use super::*;
use crate::controllers::replica_set::REPLICA_SET;
use crate::controllers::world::{World, deployment};

fn world(replicas: i64) -> (World, Key) {
    let mut world = World::new(&[&CONTROLLER, &REPLICA_SET]);
    let key = world.put(deployment(replicas, "one"));
    world.converge();
    (world, key)
}

fn sets(world: &World) -> Vec<&Value> {
    let mut sets: Vec<&Value> = world.list(KindId::REPLICA_SETS, "shop").collect();
    sets.sort_by_key(|set| {
        set["metadata"]["annotations"][revision::REVISION].as_str().unwrap().parse::<i64>().unwrap()
    });
    sets
}

fn sizes(world: &World) -> Vec<i64> {
    sets(world).iter().map(|set| set["spec"]["replicas"].as_i64().unwrap()).collect()
}

fn image(world: &mut World, key: &Key, image: &str) {
    world.change(key, json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}));
}

fn reason<'a>(world: &'a World, key: &Key, kind: &str) -> &'a str {
    let conditions = world.objects[key]["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == kind).map_or("", |c| c["reason"].as_str().unwrap())
}

#[test]
fn a_deployment_comes_up() {
    let (world, key) = world(3);
    assert_eq!(sizes(&world), [3]);
    assert_eq!(world.count(KindId::PODS), 3);
    let deployment = &world.objects[&key];
    assert_eq!(deployment["metadata"]["annotations"][revision::REVISION], "1");
    assert_eq!(deployment["status"]["availableReplicas"], 3);
    assert_eq!(
        (reason(&world, &key, "Available"), reason(&world, &key, "Progressing")),
        ("MinimumReplicasAvailable", "NewReplicaSetAvailable")
    );
    let name = sets(&world)[0]["metadata"]["name"].as_str().unwrap();
    assert_eq!(world.reports[0].message, format!("Scaled up replica set {name} from 0 to 3"));
    assert_eq!(sets(&world)[0]["metadata"]["labels"]["pod-template-hash"], name.strip_prefix("web-").unwrap());
}

#[test]
fn a_rolling_update_stays_within_its_bounds() {
    let (mut world, key) = world(4);
    image(&mut world, &key, "two");
    for _ in 0..100 {
        world.settle();
        let active = world.view.all(KindId::PODS).filter(|(_, pod)| pod.as_pod().unwrap().active());
        let (total, ready) =
            active.fold((0, 0), |(total, ready), (_, pod)| (total + 1, ready + i64::from(pod.as_pod().unwrap().ready)));
        assert!(total <= 5 && ready >= 3, "{total} {ready}");
        let waiting = world.objects.iter().find(|(key, pod)| {
            key.kind == KindId::PODS
                && (pod["status"]["phase"].is_null() || !pod["metadata"]["deletionTimestamp"].is_null())
        });
        match waiting.map(|(key, pod)| (key.clone(), pod["metadata"]["deletionTimestamp"].is_null())) {
            Some((pod, true)) => world.make_ready(&pod),
            Some((pod, false)) => world.remove(&pod),
            None => break,
        }
    }
    world.converge();
    assert_eq!(sizes(&world), [0, 4]);
    assert_eq!(reason(&world, &key, "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn undo_takes_the_old_set_up_again_with_a_new_revision() {
    let (mut world, key) = world(2);
    image(&mut world, &key, "two");
    world.converge();
    image(&mut world, &key, "one");
    world.converge();
    assert_eq!(sizes(&world), [0, 2]);
    let newest = sets(&world)[1].clone();
    assert_eq!(newest["metadata"]["annotations"][revision::REVISION], "3");
    assert_eq!(newest["metadata"]["annotations"][revision::HISTORY], "1");
    assert_eq!(world.objects[&key]["metadata"]["annotations"][revision::REVISION], "3");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let (mut world, key) = world(2);
    world.change(&key, json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
    image(&mut world, &key, "two");
    world.settle();
    assert_eq!(sizes(&world), [0], "no new set while old pods end");
    world.converge();
    assert_eq!(sizes(&world), [0, 2]);
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let (mut world, key) = world(2);
    world.change(&key, json!({"spec": {"paused": true}}));
    image(&mut world, &key, "two");
    world.change(&key, json!({"spec": {"replicas": 4}}));
    world.converge();
    assert_eq!(sizes(&world), [4]);
    assert_eq!(reason(&world, &key, "Progressing"), "DeploymentPaused");
    world.change(&key, json!({"spec": {"paused": null}}));
    world.converge();
    assert_eq!(sizes(&world), [0, 4]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let (mut world, key) = world(10);
    world.change(&key, json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}}));
    image(&mut world, &key, "broken");
    world.settle();
    assert_eq!(sizes(&world), [8, 5]);
    world.change(&key, json!({"spec": {"replicas": 15}}));
    world.settle();
    assert_eq!(sizes(&world), [11, 7], "as in upstream's documentation of proportional scaling");
}

#[test]
fn old_sets_beyond_the_limit_go() {
    let (mut world, key) = world(1);
    world.change(&key, json!({"spec": {"revisionHistoryLimit": 2}}));
    for name in ["two", "three", "four", "five"] {
        image(&mut world, &key, name);
        world.converge();
    }
    assert_eq!(sizes(&world), [0, 0, 1]);
}

#[test]
fn a_rollout_that_stands_still_times_out() {
    let (mut world, key) = world(2);
    image(&mut world, &key, "broken");
    world.settle();
    world.advance(602);
    world.settle();
    assert_eq!(reason(&world, &key, "Progressing"), "ProgressDeadlineExceeded");
}

#[test]
fn change_cause_reaches_the_set() {
    let (mut world, key) = world(1);
    world.change(&key, json!({"metadata": {"annotations": {"kubernetes.io/change-cause": "because", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}}));
    world.converge();
    let annotations = &sets(&world)[0]["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/change-cause"], "because");
    assert!(annotations["kubectl.kubernetes.io/last-applied-configuration"].is_null());
}

#[test]
fn a_taken_name_is_avoided() {
    let (mut world, key) = world(1);
    let name = sets(&world)[0]["metadata"]["name"].clone();
    let set = world.objects.keys().find(|key| key.kind == KindId::REPLICA_SETS).unwrap().clone();
    world.remove(&set);
    world.settle();
    assert_eq!(sets(&world)[0]["metadata"]["name"], name, "the name depends on the template alone");
    let again = world.objects.keys().find(|key| key.kind == KindId::REPLICA_SETS).unwrap().clone();
    world.change(&again, json!({"spec": {"template": {"spec": {"hostNetwork": true}}}}));
    world.converge();
    assert_eq!(world.objects[&key]["status"]["collisionCount"], 1);
    assert_eq!(sizes(&world), [0, 1]);
}

#[test]
fn random_histories_come_to_rest() {
    for seed in 1..=20u64 {
        let (mut world, key) = world(5);
        let mut state = seed;
        for _ in 0..30 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state % 6 {
                0 => image(&mut world, &key, ["one", "two", "three"][(state >> 8) as usize % 3]),
                1 => world.change(&key, json!({"spec": {"replicas": (state >> 8) % 9}})),
                2 => world.change(&key, json!({"spec": {"paused": (state >> 8) % 4 == 0}})),
                3 => world.run_pods(),
                _ => {
                    let pods: Vec<Key> = world.objects.keys().filter(|key| key.kind == KindId::PODS).cloned().collect();
                    if let Some(pod) = pods.get((state >> 8) as usize % pods.len().max(1)) {
                        world.change(pod, json!({"status": {"phase": "Failed", "conditions": []}}));
                    }
                }
            }
            world.settle();
        }
        world.change(&key, json!({"spec": {"paused": false, "replicas": 5}}));
        world.converge();
        assert_eq!(sizes(&world).iter().sum::<i64>(), 5, "seed {seed}");
        assert_eq!(world.objects[&key]["status"]["availableReplicas"], 5, "seed {seed}");
    }
}
