use bramble_runtime::ContainerState;
use serde_json::{Value, json};

use super::super::fixtures::{exited, instance, memory, observed, pod, running};
use super::super::state::Probed;
use super::*;

fn at(pod: &Pod, observed: &Observed, memory: &Memory, now_ms: i64) -> Value {
    status(pod, observed, memory, &Now { host_ips: &["10.0.0.5".parse().unwrap()], now_ms })
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == kind).unwrap()
}

fn one() -> Pod {
    pod(json!({"containers": [{"name": "a", "image": "a:1"}]}))
}

#[test]
fn a_running_pod_is_ready() {
    let pod = one();
    let status = at(&pod, &observed(vec![running("a")]), &memory(&pod), 0);
    assert_eq!(status["phase"], "Running");
    assert_eq!((&status["podIP"], &status["hostIP"]), (&json!("10.42.0.2"), &json!("10.0.0.5")));
    assert_eq!(status["qosClass"], "BestEffort");
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, kind)["status"], "True", "{kind}");
    }
    let container = &status["containerStatuses"][0];
    assert_eq!(container["state"]["running"]["startedAt"], "1970-01-01T00:00:00Z");
    assert_eq!((&container["ready"], &container["started"]), (&json!(true), &json!(true)));
    assert_eq!(container["containerID"], "bramble://a-0");
    assert!(container.get("resources").is_none(), "that would say that a resize of it is carried out");
}

#[test]
fn phases_follow_containers_and_policy() {
    for (policy, instances, phase) in [
        ("Always", vec![], "Pending"),
        ("Always", vec![running("a")], "Running"),
        ("Always", vec![exited("a", 0)], "Running"),
        ("OnFailure", vec![exited("a", 1)], "Running"),
        ("OnFailure", vec![exited("a", 0)], "Succeeded"),
        ("Never", vec![exited("a", 0)], "Succeeded"),
        ("Never", vec![exited("a", 3)], "Failed"),
    ] {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "a:1"}]}));
        let status = at(&pod, &observed(instances.clone()), &memory(&pod), 6000);
        assert_eq!(status["phase"], phase, "{policy} {instances:?}");
    }
}

#[test]
fn a_crash_loop_is_told_in_upstreams_words() {
    let pod = one();
    let mut memory = memory(&pod);
    memory.restarts.insert("a".into(), RestartBackoff { delay_ms: 10_000, updated_ms: 1000 });
    let status = at(&pod, &observed(vec![exited("a/1", 2)]), &memory, 6000);
    let container = &status["containerStatuses"][0];
    assert_eq!(
        container["state"]["waiting"],
        json!({"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container=a pod=p_n(u)"})
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 2);
    assert_eq!(container["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(container["restartCount"], 1);
    assert_eq!(condition(&status, "Ready")["message"], "containers with unready status: [a]");
}

#[test]
fn reasons_of_an_end() {
    for (mut ended, exit_code, reason) in [
        (exited("a", 0), 0, "Completed"),
        (exited("a", 1), 1, "Error"),
        (instance("a", ContainerState::Unknown, None), 137, "ContainerStatusUnknown"),
    ] {
        ended.termination = "bye".into();
        let terminated = terminated(&ended);
        assert_eq!(
            (&terminated["terminated"]["exitCode"], &terminated["terminated"]["reason"]),
            (&json!(exit_code), &json!(reason))
        );
    }
    let mut killed = exited("a", 137);
    killed.status.oom_killed = true;
    assert_eq!(terminated(&killed)["terminated"]["reason"], "OOMKilled");
}

#[test]
fn waiting_reasons() {
    let pod = one();
    let mut memory = memory(&pod);
    let waiting =
        |memory: &Memory| at(&pod, &observed(vec![]), memory, 0)["containerStatuses"][0]["state"]["waiting"].clone();
    assert_eq!(waiting(&memory), json!({"reason": "ContainerCreating"}));
    let error = super::super::PullError::Failed("not found".into());
    memory.images.insert("a".into(), Pull::Failed { error, delay_ms: 10_000, at_ms: 0 });
    assert_eq!(
        waiting(&memory),
        json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image \"a:1\": ErrImagePull: not found"})
    );
    let failure = super::super::state::StartFailure {
        reason: "CreateContainerConfigError",
        message: "secret \"s\" not found".into(),
        retry_at_ms: 1,
    };
    memory.failures.insert("a".into(), failure);
    assert_eq!(waiting(&memory)["reason"], "CreateContainerConfigError");
}

#[test]
fn init_containers_hold_the_pod_pending() {
    let pod =
        pod(json!({"initContainers": [{"name": "i", "image": "i:1"}], "containers": [{"name": "a", "image": "a:1"}]}));
    let status = at(&pod, &observed(vec![running("i")]), &memory(&pod), 0);
    assert_eq!(status["phase"], "Pending");
    assert_eq!(condition(&status, "Initialized")["message"], "containers with incomplete status: [i]");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    let done = at(&pod, &observed(vec![exited("i", 0), running("a")]), &memory(&pod), 0);
    assert_eq!((&done["phase"], &condition(&done, "Initialized")["status"]), (&json!("Running"), &json!("True")));
    assert_eq!(done["initContainerStatuses"][0]["ready"], true);
}

#[test]
fn probes_and_gates_decide_readiness() {
    let mut pod = pod(json!({
        "readinessGates": [{"conditionType": "g"}],
        "containers": [{"name": "a", "image": "a:1", "readinessProbe": {"exec": {"command": ["x"]}}}],
    }));
    let mut memory = memory(&pod);
    let seen = observed(vec![running("a")]);
    assert_eq!(condition(&at(&pod, &seen, &memory, 0), "ContainersReady")["status"], "False");
    memory.probes.insert("a-0".into(), Probed { ready: Some(true), ..Probed::default() });
    let status = at(&pod, &seen, &memory, 0);
    assert_eq!(condition(&status, "ContainersReady")["status"], "True");
    assert_eq!(
        condition(&status, "Ready")["message"],
        "corresponding condition of pod readiness gate \"g\" does not exist."
    );
    pod.status = json!({"conditions": [{"type": "g", "status": "True"}]});
    let status = at(&pod, &seen, &memory, 0);
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert_eq!(condition(&status, "g")["status"], "True", "other people's conditions are kept");
}

#[test]
fn a_transition_time_stays_until_the_status_changes() {
    let mut pod = one();
    let memory = memory(&pod);
    pod.status = at(&pod, &observed(vec![running("a")]), &memory, 0);
    let later = at(&pod, &observed(vec![running("a")]), &memory, 60_000);
    assert_eq!(pod.status, later, "the status of a pod in which nothing happens is a fixed point");
}

#[test]
fn a_container_that_a_reboot_took_is_unknown_and_counted() {
    let mut pod = one();
    pod.status = json!({"phase": "Running", "containerStatuses": [
        {"name": "a", "restartCount": 1, "state": {"running": {}}, "containerID": "bramble://old"}]});
    let status = at(&pod, &observed(vec![]), &memory(&pod), 0);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!(container["restartCount"], 2);
}

#[test]
fn the_patch_replaces_addresses_and_clears_what_is_gone() {
    let patch = patch("u", Some(&json!({"reason": "x"})), &json!({"phase": "Running", "podIPs": [{"ip": "1.2.3.4"}]}));
    assert_eq!(patch["status"]["podIPs"][1], json!({"$patch": "replace"}));
    assert!(patch["status"]["reason"].is_null() && patch["status"].as_object().unwrap().contains_key("reason"));
    assert_eq!(patch["metadata"]["uid"], "u");
}
