//! Pure: Pending, Running, Succeeded, Failed; by the kubelet's counting of container states.

use serde_json::Value;

use super::super::ContainerKind;
use super::super::backoff::restarts;
use super::super::spec::Pod;
use super::super::state::{Instance, Memory, Observed};
use super::Lists;

/// True if the API already says that the pod is over.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    is_final(&pod.status)
}

/// True for a status that says that the pod is over.
pub(crate) fn is_final(status: &Value) -> bool {
    matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// True when every container ended and none runs again: then sidecars and sandbox go.
pub(crate) fn has_ended_for_good(pod: &Pod, observed: &Observed) -> bool {
    let policy = pod.restart_policy();
    let stays_ended = |kind, container: &super::super::spec::Container, instance: &Instance| {
        instance.has_ended() && !restarts(policy, kind, container, instance)
    };
    let failed_init = pod.spec.init_containers.iter().filter(|one| !one.is_sidecar()).any(|container| {
        observed
            .newest(&container.name)
            .is_some_and(|instance| !instance.succeeded() && stays_ended(ContainerKind::Init, container, instance))
    });
    failed_init
        || !pod.spec.containers.is_empty()
            && pod.spec.containers.iter().all(|container| {
                let newest = observed.newest(&container.name);
                newest.is_some_and(|instance| stays_ended(ContainerKind::Main, container, instance))
            })
}

#[derive(Default)]
struct Count {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

pub(crate) fn phase(pod: &Pod, memory: &Memory, lists: &Lists) -> &'static str {
    match pod.status["phase"].as_str() {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let something_runs = lists.init.iter().chain(&lists.main).any(|status| status["state"]["running"].is_object());
    if memory.verdict.is_some() {
        // A pod is reported as failed when nothing of it runs any more.
        return if something_runs { "Running" } else { "Failed" };
    }
    if let Some(early) = initialization(pod, lists) {
        return early;
    }
    let mut count = Count::default();
    for status in &lists.main {
        count_one(status, &mut count);
    }
    if count.waiting > 0 {
        return "Pending";
    }
    if count.running > 0 {
        return "Running";
    }
    if count.stopped == 0 {
        return "Pending";
    }
    match pod.restart_policy() {
        "Always" => "Running",
        _ if something_runs => "Running",
        _ if count.stopped == count.succeeded => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}

/// The phase as long as init containers decide it.
fn initialization(pod: &Pod, lists: &Lists) -> Option<&'static str> {
    let mut pending = false;
    let main_has_run = lists.main.iter().any(|status| {
        status["state"]["running"].is_object()
            || status["state"]["terminated"].is_object()
            || status["lastState"]["terminated"].is_object()
    });
    for (container, status) in pod.spec.init_containers.iter().zip(&lists.init) {
        let (state, last) = (&status["state"], &status["lastState"]);
        if container.is_sidecar() {
            pending |= !main_has_run && status["started"] != true;
            continue;
        }
        let ended = if state["terminated"].is_object() { &state["terminated"] } else { &last["terminated"] };
        let failed = ended.is_object() && ended["exitCode"] != 0 && !state["running"].is_object();
        if failed && pod.restart_policy() == "Never" {
            return Some("Failed");
        }
        pending |= !main_has_run && (!state["terminated"].is_object() || state["terminated"]["exitCode"] != 0);
    }
    pending.then_some("Pending")
}

fn count_one(status: &Value, count: &mut Count) {
    let state = &status["state"];
    if state["running"].is_object() {
        count.running += 1;
    } else if state["terminated"].is_object() {
        count.stopped += 1;
        count.succeeded += usize::from(state["terminated"]["exitCode"] == 0);
    } else if status["lastState"]["terminated"].is_object() {
        count.stopped += 1;
    } else {
        count.waiting += 1;
    }
}
