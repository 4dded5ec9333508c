//! Pure: what `kubectl get pods` says of a pod; upstream's `printPod`.

use serde_json::Value;

use super::super::column::{age_of, or_none, since};
use crate::object::Object;

/// What is counted over the container statuses.
#[derive(Default)]
struct Tally<'a> {
    restarts: i64,
    last_restart: &'a str,
    ready: usize,
    reason: String,
}

impl<'a> Tally<'a> {
    fn restarted(&mut self, status: &'a Value) {
        self.restarts += status["restartCount"].as_i64().unwrap_or_default();
        let finished = status["lastState"]["terminated"]["finishedAt"].as_str().unwrap_or_default();
        if finished > self.last_restart {
            self.last_restart = finished;
        }
    }
}

pub(super) fn row(pod: &Object, now: i64) -> Vec<Value> {
    let mut tally = Tally { reason: reason(pod), ..Tally::default() };
    let sidecars = pod.items(&["spec", "initContainers"]).iter().filter(|container| is_sidecar(container));
    let total = pod.items(&["spec", "containers"]).len() + sidecars.count();
    let mut of_sidecars = Tally::default();
    let initializing = initialize(pod, &mut tally, &mut of_sidecars);
    if !initializing || condition(pod, "Initialized") == "True" {
        (tally.restarts, tally.last_restart) = (of_sidecars.restarts, of_sidecars.last_restart);
        run(pod, &mut tally);
    }
    let ended = matches!(pod.text(&["status", "phase"]), "Succeeded" | "Failed");
    if pod.deletion_timestamp().is_some() && pod.text(&["status", "reason"]) == "NodeLost" {
        tally.reason = "Unknown".to_owned();
    } else if pod.deletion_timestamp().is_some() && !ended {
        tally.reason = "Terminating".to_owned();
    }
    let restarts = match (tally.restarts, tally.last_restart) {
        (0, _) | (_, "") => tally.restarts.to_string(),
        (count, last) => format!("{count} ({} ago)", since(last, now)),
    };
    let address = pod.items(&["status", "podIPs"]).first().and_then(|first| first["ip"].as_str());
    let address = address.unwrap_or_else(|| pod.text(&["status", "podIP"]));
    vec![
        pod.name().into(),
        format!("{}/{total}", tally.ready).into(),
        tally.reason.into(),
        restarts.into(),
        age_of(pod, now),
        or_none(address).into(),
        or_none(pod.text(&["spec", "nodeName"])).into(),
        or_none(pod.text(&["status", "nominatedNodeName"])).into(),
        gates(pod).into(),
    ]
}

fn reason(pod: &Object) -> String {
    let gated = pod.items(&["status", "conditions"]).iter();
    let mut gated = gated.filter(|one| one["type"] == "PodScheduled" && one["reason"] == "SchedulingGated");
    if gated.next().is_some() {
        return "SchedulingGated".to_owned();
    }
    match pod.text(&["status", "reason"]) {
        "" => pod.text(&["status", "phase"]).to_owned(),
        reason => reason.to_owned(),
    }
}

/// Follows the init containers; `true` while one of them is not through.
fn initialize<'a>(pod: &'a Object, tally: &mut Tally<'a>, of_sidecars: &mut Tally<'a>) -> bool {
    let containers = pod.items(&["spec", "initContainers"]);
    for (at, status) in pod.items(&["status", "initContainerStatuses"]).iter().enumerate() {
        tally.restarted(status);
        let sidecar = containers.iter().any(|one| one["name"] == status["name"] && is_sidecar(one));
        if sidecar {
            of_sidecars.restarted(status);
        }
        let terminated = &status["state"]["terminated"];
        let waiting = status["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        if terminated["exitCode"] == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            tally.ready += usize::from(status["ready"] == true);
            continue;
        }
        tally.reason = if terminated.is_object() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{at}/{}", containers.len())
        };
        return true;
    }
    false
}

/// Follows the containers.
fn run<'a>(pod: &'a Object, tally: &mut Tally<'a>) {
    let mut running = false;
    for status in pod.items(&["status", "containerStatuses"]).iter().rev() {
        tally.restarted(status);
        let state = &status["state"];
        let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
        if !waiting.is_empty() {
            waiting.clone_into(&mut tally.reason);
        } else if state["terminated"].is_object() {
            tally.reason = ended(&state["terminated"]);
        } else if status["ready"] == true && state["running"].is_object() {
            running = true;
            tally.ready += 1;
        }
    }
    if tally.reason == "Completed" && running {
        let ready = condition(pod, "Ready") == "True";
        tally.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

/// The reason of an end, or what stands for it.
fn ended(terminated: &Value) -> String {
    match (terminated["reason"].as_str().unwrap_or_default(), terminated["signal"].as_i64().unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn condition<'a>(pod: &'a Object, name: &str) -> &'a str {
    let found = pod.items(&["status", "conditions"]).iter().find(|condition| condition["type"] == name);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

fn gates(pod: &Object) -> String {
    let gates = pod.items(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| condition(pod, gate["conditionType"].as_str().unwrap_or_default()) == "True");
    format!("{}/{}", open.count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(mut pod: Value) -> Vec<String> {
        pod["metadata"]["name"] = "web".into();
        pod["metadata"]["creationTimestamp"] = "1970-01-01T00:00:00Z".into();
        let cells = row(&Object::from_value(pod).unwrap(), 100);
        cells.iter().skip(1).take(3).map(|cell| cell.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn states_read_as_upstream_prints_them() {
        let one = json!({"containers": [{"name": "a"}]});
        let status = |state: Value| {
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 2,
            "ready": state.get("running").is_some(), "state": state,
            "lastState": {"terminated": {"finishedAt": "1970-01-01T00:01:00Z"}}}]})
        };
        for (pod, expected) in [
            (json!({"spec": one, "status": {"phase": "Pending"}}), ["0/1", "Pending", "0"]),
            (json!({"spec": one, "status": status(json!({"running": {}}))}), ["1/1", "Running", "2 (40s ago)"]),
            (
                json!({"spec": one, "status": status(json!({"waiting": {"reason": "CrashLoopBackOff"}}))}),
                ["0/1", "CrashLoopBackOff", "2 (40s ago)"],
            ),
            (
                json!({"spec": one, "status": status(json!({"terminated": {"exitCode": 3}}))}),
                ["0/1", "ExitCode:3", "2 (40s ago)"],
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]},
                    "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}}),
                ["0/1", "Init:0/1", "0"],
            ),
            (
                json!({"metadata": {"deletionTimestamp": "x"}, "spec": one, "status": {"phase": "Running"}}),
                ["0/1", "Terminating", "0"],
            ),
        ] {
            assert_eq!(cells(pod), expected);
        }
    }
}
