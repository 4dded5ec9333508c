//! Pure: the pod's conditions, with the kubelet's reasons and messages.

use serde_json::{Value, json};

use super::super::spec::Pod;
use super::super::state::Observed;
use super::super::time::rfc3339;
use super::Lists;

/// The conditions that a kubelet owns; all others belong to somebody else and are kept as they are.
const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

struct Condition {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

fn yes(kind: &'static str) -> Condition {
    Condition { kind, status: true, reason: "", message: String::new() }
}

fn no(kind: &'static str, reason: &'static str, message: String) -> Condition {
    Condition { kind, status: false, reason, message }
}

pub(super) fn all(pod: &Pod, observed: &Observed, lists: &Lists, phase: &str, now_ms: i64) -> Vec<Value> {
    let network = pod.spec.host_network || !observed.ips.is_empty();
    let sandbox = observed.is_sandbox_ready() && network;
    let containers = containers_ready(pod, lists, phase);
    let ready = ready(pod, &containers);
    let own = [
        Condition { kind: "PodReadyToStartContainers", status: sandbox, reason: "", message: String::new() },
        initialized(pod, lists, phase),
        ready,
        containers,
        yes("PodScheduled"),
    ];
    let former = pod.status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let others = former.iter().filter(|one| !OWN.iter().any(|kind| one["type"] == *kind)).cloned();
    let own = own.into_iter().map(|condition| {
        let before = former.iter().find(|one| one["type"] == condition.kind);
        render(pod, &condition, before, now_ms)
    });
    own.chain(others).collect()
}

fn render(pod: &Pod, condition: &Condition, before: Option<&Value>, now_ms: i64) -> Value {
    let status = if condition.status { "True" } else { "False" };
    let since =
        before.filter(|before| before["status"] == status).and_then(|before| before["lastTransitionTime"].as_str());
    let mut value = json!({
        "type": condition.kind,
        "status": status,
        "lastProbeTime": Value::Null,
        "lastTransitionTime": since.map_or_else(|| rfc3339(now_ms), str::to_owned),
    });
    if let Some(generation) = pod.metadata.generation {
        value["observedGeneration"] = json!(generation);
    }
    if !condition.reason.is_empty() {
        value["reason"] = json!(condition.reason);
    }
    if !condition.message.is_empty() {
        value["message"] = json!(condition.message);
    }
    value
}

/// Go prints a list of names as `[a b]`.
fn names<'a>(statuses: impl Iterator<Item = &'a Value>) -> Option<String> {
    let names: Vec<&str> = statuses.filter_map(|status| status["name"].as_str()).collect();
    (!names.is_empty()).then(|| format!("[{}]", names.join(" ")))
}

fn initialized(pod: &Pod, lists: &Lists, phase: &str) -> Condition {
    let incomplete = pod.spec.init_containers.iter().zip(&lists.init).filter_map(|(container, status)| {
        let done = if container.is_sidecar() { status["started"] == true } else { status["ready"] == true };
        (!done).then_some(status)
    });
    let main_runs = lists
        .main
        .iter()
        .any(|status| !status["state"]["waiting"].is_object() || status["lastState"]["terminated"].is_object());
    match names(incomplete) {
        _ if phase == "Succeeded" => Condition { reason: "PodCompleted", ..yes("Initialized") },
        Some(names) if !main_runs => {
            no("Initialized", "ContainersNotInitialized", format!("containers with incomplete status: {names}"))
        }
        _ => yes("Initialized"),
    }
}

fn containers_ready(pod: &Pod, lists: &Lists, phase: &str) -> Condition {
    let kind = "ContainersReady";
    match phase {
        "Succeeded" => return no(kind, "PodCompleted", String::new()),
        "Failed" => return no(kind, "PodFailed", String::new()),
        _ => {}
    }
    let sidecars = pod.spec.init_containers.iter().zip(&lists.init).filter(|(one, _)| one.is_sidecar());
    let unready = sidecars.map(|(_, status)| status).chain(&lists.main).filter(|status| status["ready"] != true);
    match names(unready) {
        Some(names) => no(kind, "ContainersNotReady", format!("containers with unready status: {names}")),
        None => yes(kind),
    }
}

fn ready(pod: &Pod, containers: &Condition) -> Condition {
    if !containers.status {
        return no("Ready", containers.reason, containers.message.clone());
    }
    let former = pod.status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut messages = Vec::new();
    for gate in &pod.spec.readiness_gates {
        let name = &gate.condition_type;
        match former.iter().find(|one| one["type"] == *name) {
            None => messages.push(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
            Some(one) if one["status"] != "True" => {
                let status = one["status"].as_str().unwrap_or_default();
                messages.push(format!("the status of pod readiness gate \"{name}\" is not \"True\", but {status}"));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() { yes("Ready") } else { no("Ready", "ReadinessGatesNotReady", messages.join(", ")) }
}
