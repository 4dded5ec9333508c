//! Pure: a pod's status from its spec, what runs, and what the task remembers; as the kubelet would write it.

use std::net::IpAddr;

use bramble_runtime::ContainerState;
use serde_json::{Map, Value, json};

use super::backoff::{self, go_duration};
use super::spec::{Container, Pod};
use super::state::{
    Hook, ID_SCHEME, IMAGE_ANNOTATION, IMAGE_ID_ANNOTATION, Instance, Memory, Observed, Pull, RestartBackoff,
};
use super::time::rfc3339;
use super::{ContainerKind, resources};

mod conditions;
mod phase;

pub(crate) use phase::{has_ended_for_good, is_final};

/// What the status needs beside the pod.
pub(crate) struct Now<'a> {
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) now_ms: i64,
}

/// The whole status. `pod.status` is the status as last known, for what must not be lost: transition times, other
/// people's conditions, a terminal phase.
pub(crate) fn status(pod: &Pod, observed: &Observed, memory: &Memory, now: &Now<'_>) -> Value {
    let lists = Lists {
        init: containers(ContainerKind::Init, &pod.spec.init_containers, pod, observed, memory, now.now_ms),
        main: containers(ContainerKind::Main, &pod.spec.containers, pod, observed, memory, now.now_ms),
        ephemeral: containers(
            ContainerKind::Ephemeral,
            &pod.spec.ephemeral_containers,
            pod,
            observed,
            memory,
            now.now_ms,
        ),
    };
    let phase = phase::phase(pod, memory, &lists);
    let mut status = Map::new();
    let former = &pod.status;
    status.insert("phase".into(), json!(phase));
    status.insert("conditions".into(), json!(conditions::all(pod, observed, &lists, phase, now.now_ms)));
    status.insert(
        "qosClass".into(),
        former["qosClass"].as_str().map_or_else(|| json!(resources::qos(pod).name()), |qos| json!(qos)),
    );
    let start = former["startTime"].as_str().map_or_else(|| rfc3339(memory.started_ms), str::to_owned);
    status.insert("startTime".into(), json!(start));
    if let Some(generation) = pod.metadata.generation {
        status.insert("observedGeneration".into(), json!(generation));
    }
    if let Some((reason, message)) = &memory.verdict {
        status.insert("reason".into(), json!(reason));
        status.insert("message".into(), json!(message));
    } else {
        for field in ["reason", "message"] {
            if matches!(former["phase"].as_str(), Some("Failed" | "Succeeded")) && !former[field].is_null() {
                status.insert(field.into(), former[field].clone());
            }
        }
    }
    addresses(pod, observed, now, &mut status);
    for (field, list) in [
        ("initContainerStatuses", &lists.init),
        ("containerStatuses", &lists.main),
        ("ephemeralContainerStatuses", &lists.ephemeral),
    ] {
        if !list.is_empty() {
            status.insert(field.into(), json!(list));
        }
    }
    Value::Object(status)
}

/// The statuses of all containers.
pub(crate) struct Lists {
    pub(crate) init: Vec<Value>,
    pub(crate) main: Vec<Value>,
    pub(crate) ephemeral: Vec<Value>,
}

fn addresses(pod: &Pod, observed: &Observed, now: &Now<'_>, status: &mut Map<String, Value>) {
    let list = |ips: &[IpAddr]| ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect::<Vec<_>>();
    if let Some(first) = now.host_ips.first() {
        status.insert("hostIP".into(), json!(first.to_string()));
        status.insert("hostIPs".into(), json!(list(now.host_ips)));
    }
    let ips = if pod.spec.host_network { now.host_ips } else { &observed.ips };
    if let Some(first) = ips.first() {
        status.insert("podIP".into(), json!(first.to_string()));
        status.insert("podIPs".into(), json!(list(ips)));
    } else if let Some(former) = pod.status["podIP"].as_str().filter(|_| phase::is_terminal(pod)) {
        status.insert("podIP".into(), json!(former));
        status.insert("podIPs".into(), pod.status["podIPs"].clone());
    }
}

/// True when a container runs, its postStart hook is done, and its startup probe has succeeded.
pub(crate) fn is_started(container: &Container, instance: &Instance, memory: &Memory) -> bool {
    if !instance.is_running() || matches!(memory.hooks.get(instance.id()), Some(Hook::Running | Hook::Failed(_))) {
        return false;
    }
    container.startup_probe.is_none()
        || memory.probes.get(instance.id()).is_some_and(|probed| probed.started == Some(true))
}

fn is_ready(kind: ContainerKind, container: &Container, instance: Option<&Instance>, memory: &Memory) -> bool {
    let Some(instance) = instance else { return false };
    match kind {
        ContainerKind::Ephemeral => false,
        ContainerKind::Init if !container.is_sidecar() => instance.succeeded(),
        _ if !is_started(container, instance, memory) => false,
        _ => {
            container.readiness_probe.is_none()
                || memory.probes.get(instance.id()).is_some_and(|probed| probed.ready == Some(true))
        }
    }
}

fn containers(
    kind: ContainerKind,
    list: &[Container],
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    now_ms: i64,
) -> Vec<Value> {
    let mut all: Vec<Value> =
        list.iter().map(|container| one(kind, container, pod, observed, memory, now_ms)).collect();
    if kind != ContainerKind::Init {
        // As upstream, which sorts all but init containers by name.
        all.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }
    all
}

fn one(
    kind: ContainerKind,
    container: &Container,
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    now_ms: i64,
) -> Value {
    let newest = observed.newest(&container.name);
    let former = former(pod, kind, &container.name);
    let mut status = Map::new();
    status.insert("name".into(), json!(container.name));
    let (state, last, restarts) = match newest {
        Some(instance) => states(kind, container, pod, instance, observed, memory, now_ms),
        None => without_instance(kind, pod, container, former, memory),
    };
    let running = newest.filter(|instance| instance.is_running());
    status.insert("state".into(), state);
    status.insert("lastState".into(), last);
    status.insert("ready".into(), json!(is_ready(kind, container, newest, memory)));
    status.insert("restartCount".into(), json!(restarts));
    let annotation = |key: &str| newest.and_then(|instance| instance.status.annotations.get(key)).cloned();
    let kept = |field: &str| former[field].as_str().map(str::to_owned);
    status.insert("image".into(), json!(annotation(IMAGE_ANNOTATION).unwrap_or_else(|| container.image.clone())));
    let image_id = annotation(IMAGE_ID_ANNOTATION).or_else(|| kept("imageID")).unwrap_or_default();
    status.insert("imageID".into(), json!(image_id));
    let id = newest.map(|instance| format!("{ID_SCHEME}{}", instance.id())).or_else(|| kept("containerID"));
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        status.insert("containerID".into(), json!(id));
    }
    let started = match kind {
        ContainerKind::Init if !container.is_sidecar() => running.is_some(),
        _ => newest.is_some_and(|instance| is_started(container, instance, memory)),
    };
    if kind != ContainerKind::Ephemeral {
        status.insert("started".into(), json!(started));
    }
    // No `resources` and `allocatedResources`: a node that reports them says that it resizes what runs. The API server
    // then takes a resize for a running pod, and nothing here would write it into the cgroups.
    if !container.volume_mounts.is_empty() {
        status.insert("volumeMounts".into(), volume_mounts(container));
    }
    if let Some(signal) = &container.lifecycle.stop_signal {
        status.insert("stopSignal".into(), json!(signal));
    }
    Value::Object(status)
}

fn volume_mounts(container: &Container) -> Value {
    let all = container.volume_mounts.iter().map(|mount| {
        let mut value = json!({"name": mount.name, "mountPath": mount.mount_path});
        if mount.read_only {
            value["readOnly"] = json!(true);
            let recursive = match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled",
                _ => "Disabled",
            };
            value["recursiveReadOnly"] = json!(recursive);
        }
        value
    });
    Value::Array(all.collect())
}

fn former<'a>(pod: &'a Pod, kind: ContainerKind, name: &str) -> &'a Value {
    let field = match kind {
        ContainerKind::Init => "initContainerStatuses",
        ContainerKind::Main => "containerStatuses",
        ContainerKind::Ephemeral => "ephemeralContainerStatuses",
    };
    let found = pod.status[field].as_array().and_then(|list| list.iter().find(|status| status["name"] == name));
    found.unwrap_or(&Value::Null)
}

/// State, last state and restart count of a container that was made at least once.
fn states(
    kind: ContainerKind,
    container: &Container,
    pod: &Pod,
    instance: &Instance,
    observed: &Observed,
    memory: &Memory,
    now_ms: i64,
) -> (Value, Value, u32) {
    let attempt = instance.status.attempt;
    let last = observed.previous(&container.name).filter(|one| one.has_ended()).map(terminated);
    let last = last.unwrap_or_else(|| former(pod, kind, &container.name)["lastState"].clone());
    let last = if last.is_null() { json!({}) } else { last };
    match instance.status.state {
        ContainerState::Running => {
            let started = rfc3339(instance.status.started_at / 1_000_000);
            (json!({"running": {"startedAt": started}}), last, attempt)
        }
        ContainerState::Created => (waiting(pod, container, memory), last, attempt),
        ContainerState::Exited | ContainerState::Unknown => {
            let restarts = !pod.is_deleted()
                && memory.verdict.is_none()
                && backoff::restarts(pod.restart_policy(), kind, container, instance);
            let own = terminated(instance);
            match restarts.then(|| why_not_yet(pod, container, instance, memory, now_ms)).flatten() {
                Some(waiting) => (waiting, own, attempt),
                None => (own, last, attempt),
            }
        }
    }
}

/// Why an ended container that is to run again does not yet.
fn why_not_yet(pod: &Pod, container: &Container, ended: &Instance, memory: &Memory, now_ms: i64) -> Option<Value> {
    let former = memory.restarts.get(&container.name).copied();
    let at_ms = RestartBackoff::allowed_at(former, ended.finished_ms());
    if at_ms > now_ms {
        let delay = go_duration(former.map_or(0, |former| former.delay_ms));
        let (name, pod) = (&container.name, pod.display());
        let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
        return Some(json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}}));
    }
    let failed = memory.failures.contains_key(&container.name)
        || matches!(memory.images.get(&container.name), Some(Pull::Failed { .. }));
    failed.then(|| waiting(pod, container, memory))
}

fn waiting(pod: &Pod, container: &Container, memory: &Memory) -> Value {
    if let Some(failure) = memory.failures.get(&container.name) {
        return json!({"waiting": {"reason": failure.reason, "message": failure.message}});
    }
    if let Some(Pull::Failed { error, delay_ms, .. }) = memory.images.get(&container.name) {
        return json!({"waiting": pull_waiting(container, error, *delay_ms)});
    }
    let reason = if pod.spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    json!({"waiting": {"reason": reason}})
}

/// The first failure is shown as it is, later ones as back-off; as upstream alternates between both.
fn pull_waiting(container: &Container, error: &super::PullError, delay_ms: i64) -> Value {
    let terminal = !matches!(error, super::PullError::Failed(_) | super::PullError::RegistryUnavailable(_));
    if terminal || delay_ms == 0 {
        return json!({"reason": error.reason(), "message": error.to_string()});
    }
    let message = format!("Back-off pulling image \"{}\": {}: {error}", container.image, error.reason());
    json!({"reason": "ImagePullBackOff", "message": message})
}

fn without_instance(
    kind: ContainerKind,
    pod: &Pod,
    container: &Container,
    former: &Value,
    memory: &Memory,
) -> (Value, Value, u32) {
    let restarts = u32::try_from(former["restartCount"].as_u64().unwrap_or(0)).unwrap_or(0);
    let kept = |value: &Value| if value.is_object() { value.clone() } else { json!({}) };
    if former["state"]["terminated"].is_object() {
        return (former["state"].clone(), kept(&former["lastState"]), restarts);
    }
    if former["state"]["running"].is_object() {
        let lost = json!({"terminated": {
            "exitCode": 137,
            "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was terminated",
            "startedAt": Value::Null,
            "finishedAt": Value::Null,
        }});
        if pod.is_deleted() || phase::is_terminal(pod) || memory.verdict.is_some() || kind == ContainerKind::Ephemeral {
            return (lost, kept(&former["lastState"]), restarts);
        }
        return (waiting(pod, container, memory), lost, restarts + 1);
    }
    (waiting(pod, container, memory), kept(&former["lastState"]), restarts)
}

fn terminated(instance: &Instance) -> Value {
    let status = &instance.status;
    let known = status.state == ContainerState::Exited;
    let exit_code = status.exit_code.filter(|_| known).unwrap_or(137);
    let could_not_start = status.started_at == 0 && !status.message.is_empty();
    let reason = match () {
        () if !known => "ContainerStatusUnknown",
        () if status.oom_killed => "OOMKilled",
        () if could_not_start => "StartError",
        () if exit_code == 0 => "Completed",
        () => "Error",
    };
    let message = if !known {
        "The container could not be located when the pod was terminated"
    } else if could_not_start {
        &status.message
    } else {
        &instance.termination
    };
    let exit_code = if could_not_start && exit_code == 137 { 128 } else { exit_code };
    let mut terminated = json!({
        "exitCode": exit_code,
        "reason": reason,
        "startedAt": rfc3339(status.started_at / 1_000_000),
        "finishedAt": rfc3339(status.finished_at / 1_000_000),
        "containerID": format!("{ID_SCHEME}{}", status.id),
    });
    if !message.is_empty() {
        terminated["message"] = json!(message);
    }
    if let Some(signal) = status.signal {
        terminated["signal"] = json!(signal);
    }
    json!({"terminated": terminated})
}

/// The strategic merge patch for `pods/status`: lists that would be merged by key are replaced, fields that are gone
/// are taken away (all that might be there, where the former status is not known), and the uid makes sure that it is
/// still this pod.
pub(crate) fn patch(uid: &str, former: Option<&Value>, status: &Value) -> Value {
    let mut patch = status.clone();
    for field in ["podIPs", "hostIPs"] {
        if let Some(list) = patch[field].as_array_mut() {
            list.push(json!({"$patch": "replace"}));
        }
    }
    // Conditions are merged by their type: what they no longer say has to be said.
    for condition in patch["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition[field].is_null() {
                condition[field] = Value::Null;
            }
        }
    }
    for field in ["reason", "message", "podIP", "podIPs"] {
        if former.is_none_or(|former| !former[field].is_null()) && status[field].is_null() {
            patch[field] = Value::Null;
        }
    }
    json!({"metadata": {"uid": uid}, "status": patch})
}

#[cfg(test)]
mod tests;
