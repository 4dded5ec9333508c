//! Pure: the row of Pods.

mod container;
mod print;
mod resize;
pub(crate) mod validate;

use serde_json::{Value, json};

use super::column::{age, name};
use super::strategy::{Part, Strategy, drop_status, keep, keep_status, status_only};
use super::{Column, Field, Kind, Subresource};
use crate::object::Object;

/// Seconds that a pod gets to end when it does not say.
const GRACE_S: i64 = 30;

pub(super) fn kind() -> Kind {
    let field = |name, path, zero| Field { zero, ..Field::new(name, path) };
    Kind {
        short_names: vec!["po".into()],
        categories: vec!["all".into()],
        columns: vec![
            name(),
            Column::text("Ready"),
            Column::text("Status"),
            Column::text("Restarts"),
            age(),
            Column::text("IP").wide(),
            Column::text("Node").wide(),
            Column::text("Nominated Node").wide(),
            Column::text("Readiness Gates").wide(),
        ],
        row: print::row,
        fields: vec![
            field("spec.nodeName", &["spec", "nodeName"], ""),
            field("spec.restartPolicy", &["spec", "restartPolicy"], ""),
            field("spec.schedulerName", &["spec", "schedulerName"], ""),
            field("spec.serviceAccountName", &["spec", "serviceAccountName"], ""),
            field("spec.hostNetwork", &["spec", "hostNetwork"], "false"),
            field("status.phase", &["status", "phase"], ""),
            field("status.podIP", &["status", "podIP"], ""),
            field("status.nominatedNodeName", &["status", "nominatedNodeName"], ""),
        ],
        subresources: vec![
            Subresource::Attach,
            Subresource::Binding,
            Subresource::EphemeralContainers,
            Subresource::Eviction,
            Subresource::Exec,
            Subresource::Log,
            Subresource::PortForward,
            Subresource::Proxy,
            Subresource::Resize,
            Subresource::Status,
        ],
        strategy: Strategy {
            prepare_create,
            prepare_update: keep_status,
            prepare_status,
            prepare_part,
            validate: validate::validate,
            validate_update: validate::validate_update,
            validate_part: |part, new, old| match part {
                Part::Resize => resize::validate_resize(new, old),
                _ => Vec::new(),
            },
            generation: true,
            returns_deleted: true,
            grace: Some(grace),
            ..Strategy::default()
        },
        ..Kind::new("", "v1", "Pod", "pods")
    }
}

fn prepare_create(pod: &mut Object) {
    drop_status(pod);
    let class = qos_class(pod);
    pod.set(&["status"], json!({"phase": "Pending", "qosClass": class}));
    // Upstream reads a negative grace period as the shortest.
    if pod.integer(&["spec", "terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        pod.set(&["spec", "terminationGracePeriodSeconds"], 1);
    }
    if !pod.items(&["spec", "schedulingGates"]).is_empty() {
        let gated = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"});
        pod.set(&["status", "conditions"], json!([gated]));
    }
}

fn prepare_status(new: &mut Object, old: &Object) {
    status_only(new, old);
    match old.get(&["status", "qosClass"]) {
        Some(class) => new.set(&["status", "qosClass"], class.clone()),
        None => new.set(&["status", "qosClass"], qos_class(old)),
    }
    if new.text(&["status", "phase"]).is_empty() {
        new.set(&["status", "phase"], old.text(&["status", "phase"]));
    }
}

/// Ephemeral containers are added through their own subresource, resources changed through `resize`; nothing else goes with it.
fn prepare_part(part: Part, new: &mut Object, old: &Object) {
    match part {
        Part::EphemeralContainers => {
            let containers = new.remove(&["spec", "ephemeralContainers"]);
            keep(new, old, "spec");
            keep(new, old, "status");
            if let Some(containers) = containers {
                new.set(&["spec", "ephemeralContainers"], containers);
            }
        }
        Part::Resize => resize::prepare(new, old),
        _ => {}
    }
}

/// A pod that runs nowhere, or no more, is deleted at once.
fn grace(pod: &Object, asked: Option<i64>) -> i64 {
    let ended = matches!(pod.text(&["status", "phase"]), "Succeeded" | "Failed");
    if ended || pod.text(&["spec", "nodeName"]).is_empty() {
        return 0;
    }
    let seconds = asked.or_else(|| pod.integer(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(GRACE_S);
    if seconds < 0 { 1 } else { seconds }
}

/// Upstream's quality-of-service class.
pub(crate) fn qos_class(pod: &Object) -> &'static str {
    let containers = || pod.items(&["spec", "containers"]).iter().chain(pod.items(&["spec", "initContainers"]));
    let given = |container: &Value, list: &str, resource: &str| {
        let value = &container["resources"][list][resource];
        let zero = value.is_null() || value == "0" || value == 0;
        (!zero).then(|| value.clone())
    };
    let each = |container: &Value| {
        ["cpu", "memory"].map(|resource| (given(container, "requests", resource), given(container, "limits", resource)))
    };
    let mut any = false;
    let mut guaranteed = true;
    for (requests, limits) in containers().flat_map(each) {
        any |= requests.is_some() || limits.is_some();
        guaranteed &= limits.is_some() && (requests.is_none() || requests == limits);
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: Value) -> Object {
        Object::from_value(json!({"spec": {"containers": [{"name": "a", "resources": resources}]}})).unwrap()
    }

    #[test]
    fn classes_of_service() {
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": both, "limits": both}))), "Guaranteed");
        assert_eq!(qos_class(&pod(json!({"limits": both}))), "Guaranteed");
    }

    #[test]
    fn a_gated_pod_says_so() {
        let mut pod = Object::from_value(json!({"spec": {"schedulingGates": [{"name": "a"}]}})).unwrap();
        prepare_create(&mut pod);
        assert_eq!(pod.items(&["status", "conditions"])[0]["reason"], "SchedulingGated");
    }

    #[test]
    fn only_a_placed_pod_gets_time() {
        let mut pod = pod(json!({}));
        assert_eq!(grace(&pod, None), 0);
        pod.set(&["spec", "nodeName"], "pi");
        assert_eq!(grace(&pod, None), 30);
        assert_eq!(grace(&pod, Some(5)), 5);
        pod.set(&["status", "phase"], "Failed");
        assert_eq!(grace(&pod, None), 0);
    }
}
