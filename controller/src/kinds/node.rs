//! Pure: the row of Nodes.

use serde_json::Value;

use super::column::{age, age_of, name, or_none};
use super::strategy::{Strategy, keep_status};
use super::{Column, Field, Kind, Persistence, Subresource};
use crate::object::Object;

pub(super) fn kind() -> Kind {
    let field = |name, path, zero| Field { zero, ..Field::new(name, path) };
    Kind {
        short_names: vec!["no".into()],
        namespaced: false,
        columns: vec![
            name(),
            Column::text("Status"),
            Column::text("Roles"),
            age(),
            Column::text("Version"),
            Column::text("Internal-IP").wide(),
            Column::text("External-IP").wide(),
            Column::text("OS-Image").wide(),
            Column::text("Kernel-Version").wide(),
            Column::text("Container-Runtime").wide(),
        ],
        row,
        fields: vec![field("spec.unschedulable", &["spec", "unschedulable"], "false")],
        subresources: vec![Subresource::Proxy, Subresource::Status],
        strategy: Strategy { prepare_update: keep_status, ..Strategy::default() },
        persistence: Persistence::Heartbeat(is_heartbeat),
        ..Kind::new("", "v1", "Node", "nodes")
    }
}

/// Only `lastHeartbeatTime` differs, and when its manager wrote.
fn is_heartbeat(old: &Object, new: &Object) -> bool {
    still(old) == still(new)
}

fn still(node: &Object) -> Object {
    let mut node = node.clone();
    node.remove(&["metadata", "resourceVersion"]);
    node.remove(&["metadata", "managedFields"]);
    let mut conditions = node.items(&["status", "conditions"]).to_vec();
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        condition.remove("lastHeartbeatTime");
    }
    node.set(&["status", "conditions"], conditions);
    node
}

fn row(node: &Object, now: i64) -> Vec<Value> {
    let info = |field: &str| node.text(&["status", "nodeInfo", field]);
    let unknown = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
    vec![
        node.name().into(),
        status(node).into(),
        roles(node).into(),
        age_of(node, now),
        info("kubeletVersion").into(),
        address(node, "InternalIP").into(),
        address(node, "ExternalIP").into(),
        unknown(info("osImage")).into(),
        unknown(info("kernelVersion")).into(),
        unknown(info("containerRuntimeVersion")).into(),
    ]
}

fn status(node: &Object) -> String {
    let ready = node.items(&["status", "conditions"]).iter().find(|condition| condition["type"] == "Ready");
    let ready = match ready {
        None => "Unknown",
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    };
    let cordoned = if node.flag(&["spec", "unschedulable"]) { ",SchedulingDisabled" } else { "" };
    format!("{ready}{cordoned}")
}

fn roles(node: &Object) -> String {
    let labels = node.labels().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(&roles.join(",")).to_owned()
}

fn address<'a>(node: &'a Object, kind: &str) -> &'a str {
    let found = node.items(&["status", "addresses"]).iter().find(|address| address["type"] == kind);
    or_none(found.and_then(|address| address["address"].as_str()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_heartbeat_changes_nothing_else() {
        let node = |beat: &str, ready: &str| {
            Object::from_value(json!({"metadata": {"resourceVersion": beat}, "status": {"conditions": [
                {"type": "Ready", "status": ready, "lastHeartbeatTime": beat}]}}))
            .unwrap()
        };
        assert!(is_heartbeat(&node("1", "True"), &node("2", "True")));
        assert!(!is_heartbeat(&node("1", "True"), &node("2", "False")));
    }

    #[test]
    fn prints_status_and_roles() {
        let node = Object::from_value(
            json!({"metadata": {"name": "pi", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        )
        .unwrap();
        let cells = row(&node, 0);
        assert_eq!(cells[1], "Ready,SchedulingDisabled");
        assert_eq!(cells[2], "control-plane");
    }
}
