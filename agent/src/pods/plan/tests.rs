use bramble_runtime::ContainerState;
use serde_json::{Value, json};

use super::super::PullError;
use super::super::fixtures::{exited, instance, memory, observed, pod, running};
use super::super::state::{Probed, RestartBackoff, StartFailure};
use super::*;

fn start(name: &str, attempt: u32) -> Action {
    Action::Start { name: name.into(), attempt }
}

fn two() -> Value {
    json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]})
}

fn initialized() -> Value {
    json!({
        "initContainers": [{"name": "i", "image": "i:1"}, {"name": "s", "image": "s:1", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "a:1"}],
    })
}

#[test]
fn a_pod_begins_with_volumes_then_sandbox_then_images_then_containers() {
    let pod = pod(two());
    let mut memory = Memory::default();
    let nothing = Observed::default();
    assert_eq!(plan(&pod, &nothing, &memory, 0).actions, [Action::SetUpVolumes]);
    memory.volumes = Readiness::Ready;
    assert_eq!(plan(&pod, &nothing, &memory, 0).actions, [Action::CreateSandbox { attempt: 0 }]);
    let pulls = ["a", "b"].map(|name| Action::Pull { name: name.into() });
    assert_eq!(plan(&pod, &observed(vec![]), &memory, 0).actions, pulls);
    memory.images.insert("a".into(), Pull::Ready("a:1".into(), Box::default()));
    memory.images.insert("b".into(), Pull::Running);
    assert_eq!(plan(&pod, &observed(vec![]), &memory, 0).actions, [start("a", 0)]);
    let running = observed(vec![running("a"), running("b")]);
    assert_eq!(plan(&pod, &running, &memory, 0), Plan::default(), "a running pod is a fixed point");
}

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_stay() {
    let pod = pod(initialized());
    let memory = memory(&pod);
    let actions = |instances| plan(&pod, &observed(instances), &memory, 6000).actions;
    assert_eq!(actions(vec![]), [start("i", 0)]);
    assert_eq!(actions(vec![running("i")]), []);
    assert_eq!(actions(vec![exited("i", 0)]), [start("s", 0)]);
    assert_eq!(actions(vec![exited("i", 0), running("s")]), [start("a", 0)]);
    assert_eq!(actions(vec![exited("i", 0), exited("s", 1), running("a")]), [start("s", 1)], "a sidecar is restarted");
}

#[test]
fn a_sidecar_with_a_startup_probe_holds_the_rest_back() {
    let mut spec = initialized();
    spec["initContainers"][1]["startupProbe"] = json!({"exec": {"command": ["x"]}});
    let pod = pod(spec);
    let mut memory = memory(&pod);
    let observed = observed(vec![exited("i", 0), running("s")]);
    assert_eq!(plan(&pod, &observed, &memory, 0).actions, []);
    memory.probes.insert("s-0".into(), Probed { started: Some(true), ..Probed::default() });
    assert_eq!(plan(&pod, &observed, &memory, 0).actions, [start("a", 0)]);
}

#[test]
fn restart_policies_decide_over_ended_containers() {
    for (policy, code, actions) in [
        ("Always", 0, vec![start("a", 1)]),
        ("Always", 1, vec![start("a", 1)]),
        ("OnFailure", 1, vec![start("a", 1)]),
        ("OnFailure", 0, vec![Action::StopSandbox { id: "s".into() }]),
        ("Never", 1, vec![Action::StopSandbox { id: "s".into() }]),
    ] {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "a:1"}]}));
        let plan = plan(&pod, &observed(vec![exited("a", code)]), &memory(&pod), 6000);
        assert_eq!(plan.actions, actions, "{policy} {code}");
    }
}

#[test]
fn a_crashing_container_waits_for_its_back_off() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let mut memory = memory(&pod);
    memory.restarts.insert("a".into(), RestartBackoff { delay_ms: 20_000, updated_ms: 1000 });
    let seen = observed(vec![exited("a/3", 1)]);
    let early = plan(&pod, &seen, &memory, 6000);
    assert_eq!((early.actions, early.wake_at_ms), (vec![], Some(25_000)));
    assert_eq!(plan(&pod, &seen, &memory, 25_000).actions, [start("a", 4)]);
}

#[test]
fn failures_to_pull_and_to_start_are_waited_out() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let mut memory = memory(&pod);
    let error = PullError::Failed("no".into());
    memory.images.insert("a".into(), Pull::Failed { error, delay_ms: 10_000, at_ms: 1000 });
    assert_eq!(plan(&pod, &observed(vec![]), &memory, 2000).wake_at_ms, Some(11_000));
    assert_eq!(plan(&pod, &observed(vec![]), &memory, 11_000).actions, [Action::Pull { name: "a".into() }]);
    memory.failures.insert("a".into(), StartFailure { reason: "x", message: String::new(), retry_at_ms: 20_000 });
    assert_eq!(plan(&pod, &observed(vec![]), &memory, 11_000).wake_at_ms, Some(20_000));
}

#[test]
fn a_liveness_failure_kills_and_a_changed_image_replaces() {
    let pod = pod(json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a", "image": "a:1"}]}));
    let mut memory = memory(&pod);
    memory.probes.insert("a-0".into(), Probed { dead: Some("liveness"), ..Probed::default() });
    let kill = |message: &str| Action::Kill { id: "a-0".into(), name: "a".into(), message: message.into(), grace_s: 7 };
    let seen = observed(vec![running("a")]);
    assert_eq!(plan(&pod, &seen, &memory, 0).actions, [kill("Container a failed liveness probe, will be restarted")]);
    memory.killing.insert("a-0".into(), killing(false, 7, 0));
    let waiting = plan(&pod, &seen, &memory, 0);
    assert_eq!((waiting.actions, waiting.wake_at_ms), (vec![], Some(7000)));
    assert_eq!(plan(&pod, &seen, &memory, 7000).actions, [Action::SignalKill { id: "a-0".into() }]);
    let mut changed = running("a");
    changed.status.labels.insert(super::super::state::HASH_LABEL.into(), "other".into());
    let actions = plan(&pod, &observed(vec![changed]), &super::super::fixtures::memory(&pod), 0).actions;
    assert_eq!(actions, [kill("Container a definition changed, will be restarted")]);
}

#[test]
fn a_deleted_pod_ends_in_order() {
    let mut pod = pod(initialized());
    pod.metadata.deletion_timestamp = Some("now".into());
    pod.metadata.deletion_grace_period_seconds = Some(3);
    let mut memory = memory(&pod);
    let kill = |name: &str| Action::Kill {
        id: format!("{name}-0"),
        name: name.into(),
        message: format!("Stopping container {name}"),
        grace_s: 3,
    };
    let all = observed(vec![exited("i", 0), running("s"), running("a")]);
    assert_eq!(plan(&pod, &all, &memory, 0).actions, [kill("a")], "sidecars outlive containers");
    memory.killing.insert("a-0".into(), Killing { stage: KillStage::Hook, deadline_ms: 3000, hooked: true });
    let stop = Action::SignalStop { id: "a-0".into(), name: "a".into() };
    assert_eq!(plan(&pod, &all, &memory, 0).actions, [stop]);
    let sidecar = observed(vec![exited("i", 0), running("s"), exited("a", 0)]);
    assert_eq!(plan(&pod, &sidecar, &memory, 0).actions, [kill("s")]);
    let mut none = observed(vec![exited("i", 0), exited("s", 0), exited("a", 0)]);
    assert_eq!(plan(&pod, &none, &memory, 0).actions, [Action::StopSandbox { id: "s".into() }]);
    none.sandbox.as_mut().unwrap().ready = false;
    assert_eq!(plan(&pod, &none, &memory, 0).actions, [Action::Finish]);
    assert_eq!(plan(&pod, &Observed::default(), &memory, 0).actions, [Action::Finish], "one that never ran");
}

#[test]
fn a_deadline_fails_the_pod() {
    let pod = pod(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a", "image": "a:1"}]}));
    let memory = memory(&pod);
    let seen = observed(vec![running("a")]);
    assert_eq!(plan(&pod, &seen, &memory, 0).wake_at_ms, Some(5000));
    assert!(
        matches!(&plan(&pod, &seen, &memory, 5000).actions[..], [Action::Fail { reason, .. }] if reason == "DeadlineExceeded")
    );
}

#[test]
fn a_lost_sandbox_is_made_anew_and_only_two_instances_are_kept() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let memory = memory(&pod);
    let mut lost = observed(vec![instance("a", ContainerState::Unknown, None)]);
    lost.sandbox.as_mut().unwrap().ready = false;
    let actions = plan(&pod, &lost, &memory, 0).actions;
    assert_eq!(actions, [Action::StopSandbox { id: "s".into() }, Action::CreateSandbox { attempt: 1 }]);
    let many = observed(vec![exited("a/0", 1), exited("a/1", 1), running("a/2")]);
    assert_eq!(plan(&pod, &many, &memory, 0).actions, [Action::Remove { id: "a-0".into() }]);
}

#[test]
fn after_a_reboot_the_count_of_restarts_goes_on() {
    let mut pod = pod(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    pod.status = json!({"containerStatuses": [{"name": "a", "restartCount": 4, "containerID": "bramble://x"}]});
    assert_eq!(plan(&pod, &observed(vec![]), &memory(&pod), 0).actions, [start("a", 5)]);
}

#[test]
fn what_an_agent_left_in_the_middle_of_a_start_is_taken_up() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let memory = memory(&pod);
    let made = observed(vec![instance("a", ContainerState::Created, None)]);
    assert_eq!(plan(&pod, &made, &memory, 0).actions, [start("a", 0)], "it never ran, so this is no restart");
    let detached = Observed { detached: true, ..observed(vec![]) };
    let waits = Plan { actions: vec![], wake_at_ms: Some(ATTACH_RETRY_MS) };
    assert_eq!(plan(&pod, &detached, &memory, 0), waits, "nothing begins without a network");
}
