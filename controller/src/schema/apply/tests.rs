//! Pure: who owns what after applies and updates.

use super::*;
use crate::schema::lookup;
use serde_json::json;

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "apps/v1", subresource: "", now: "2024-01-02T03:04:05Z" }
}

fn deployment() -> Option<TypeId> {
    lookup("apps", "v1", "Deployment")
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn config(replicas: Option<i64>, containers: Value) -> Map<String, Value> {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": containers}}}});
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = replicas.into();
    }
    map(object)
}

fn fields(object: &Map<String, Value>, manager: &str) -> Value {
    let list = object["metadata"].get("managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    list.into_iter().find(|entry| entry["manager"] == manager).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn an_apply_owns_what_it_sets() {
    let wanted = config(Some(2), json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}]));
    let object = apply(deployment(), None, &wanted, writer("me"), false).unwrap();
    assert_eq!(
        fields(&object, "me"),
        json!({"f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}, "f:ports": {
                    "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
    );
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["fieldsType"]), (&json!("Apply"), &json!("FieldsV1")));
    let again =
        apply(deployment(), Some(&object), &wanted, Writer { now: "2025-01-01T00:00:00Z", ..writer("me") }, false);
    assert_eq!(again.unwrap(), object, "an apply without a change moves no time");
}

#[test]
fn conflicts_are_named_and_forced() {
    let mut live = config(Some(2), json!([{"name": "a", "image": "1"}]));
    track_update(deployment(), None, &mut live, writer("kubectl-client-side-apply"));
    let wanted = config(Some(3), json!([{"name": "a", "image": "1"}]));
    let error = apply(deployment(), Some(&live), &wanted, writer("me"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1 at 2024-01-02T03:04:05Z: .spec.replicas"
    );
    let wanted = config(Some(3), json!([{"name": "a", "image": "2"}]));
    let error = apply(deployment(), Some(&live), &wanted, writer("me"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1 at 2024-01-02T03:04:05Z:\n- .spec.replicas\n- .spec.template.spec.containers[name=\"a\"].image"
    );
    let forced = apply(deployment(), Some(&live), &wanted, writer("me"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert!(fields(&forced, "kubectl-client-side-apply")["f:spec"].get("f:replicas").is_none());
    assert!(fields(&forced, "me")["f:spec"].get("f:replicas").is_some());
}

#[test]
fn what_is_no_longer_applied_goes_unless_shared() {
    let first = config(
        Some(2),
        json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]),
    );
    let live = apply(deployment(), None, &first, writer("me"), false).unwrap();
    let shared = map(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 2}}));
    let live = apply(deployment(), Some(&live), &shared, writer("other"), false).unwrap();
    let second = config(None, json!([{"name": "a", "image": "1"}]));
    let result = apply(deployment(), Some(&live), &second, writer("me"), false).unwrap();
    assert_eq!(result["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
    assert_eq!(result["spec"]["replicas"], 2, "the other manager still wants it");
}

#[test]
fn updates_take_fields_over() {
    let mut live = config(Some(2), json!([{"name": "a", "image": "1"}]));
    track_update(deployment(), None, &mut live, writer("creator"));
    assert_eq!(
        fields(&live, "creator"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}}}}}}})
    );
    let mut next = live.clone();
    next["spec"]["replicas"] = 5.into();
    next["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().remove("image");
    track_update(deployment(), Some(&live), &mut next, writer("scaler"));
    assert_eq!(fields(&next, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    let creator = fields(&next, "creator");
    assert!(creator["f:spec"].get("f:replicas").is_none());
    assert!(creator["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"].get("f:image").is_none());
}

#[test]
fn sets_read_as_they_are_written() {
    let value =
        json!({"f:a": {".": {}, "f:b": {}, "k:{\"n\":1,\"p\":\"x\"}": {"f:c": {}}}, "f:s": {"v:\"x\"": {}, "i:3": {}}});
    let set = FieldSet::from_value(&value);
    assert_eq!(set.to_value(), value);
    assert_eq!(set.paths(), [".a", ".a.b", ".a[n=1,p=\"x\"].c", ".s[=\"x\"]", ".s[3]"]);
    assert!(set.difference(&set).is_empty());
    assert_eq!(set.intersection(&set), set);
}

#[test]
fn managers_are_bounded_and_lists_keep_their_order() {
    let mut live = config(Some(1), json!([{"name": "a"}, {"name": "b"}]));
    track_update(deployment(), None, &mut live, writer("creator"));
    for number in 0..30_i64 {
        let mut next = live.clone();
        next["metadata"]["labels"][format!("l{number}")] = "x".into();
        let name = format!("m{number}");
        let now = format!("2024-01-02T03:05:{number:02}Z");
        track_update(deployment(), Some(&live), &mut next, Writer { manager: &name, now: &now, ..writer("") });
        live = next;
    }
    let managers = live["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.len() <= 10, "{}", managers.len());
    assert!(managers.iter().any(|entry| entry["manager"] == "ancient-changes"));
    let mut list = json!([{"name": "server"}, {"name": "b", "image": "1"}, {"name": "a"}]);
    let containers = lookup("", "v1", "Pod").and_then(|kind| kind.object_at("spec")).unwrap();
    let mut value = json!({"containers": list.take()});
    merge(
        Kind::Object(containers),
        &mut value,
        &json!({"containers": [{"name": "a"}, {"name": "new"}, {"name": "b", "image": "2"}]}),
    );
    let names: Vec<&Value> = value["containers"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["server", "a", "new", "b"]);
}
