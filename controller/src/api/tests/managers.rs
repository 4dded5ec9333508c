//! Who is noted as the manager of what.

use super::*;

/// manager, operation, subresource, fields of each entry.
fn managers(object: &Value) -> Vec<(String, String, String, Value)> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let entry = |entry: &Value| {
        (text(entry, "manager"), text(entry, "operation"), text(entry, "subresource"), entry["fieldsV1"].clone())
    };
    entries.iter().map(entry).collect()
}

fn updated(manager: &str, subresource: &str, fields: Value) -> (String, String, String, Value) {
    (manager.to_owned(), "Update".to_owned(), subresource.to_owned(), fields)
}

#[tokio::test]
async fn a_creator_owns_what_it_said() {
    let (_, client) = cluster().await;
    let path = "/api/v1/namespaces/default/configmaps?fieldManager=me";
    let made = client.call(http::Method::POST, path, Some(&config_map("a"))).await.unwrap();
    let fields = json!({"f:data": {".": {}, "f:a": {}}, "f:metadata": {"f:labels": {".": {}, "f:app": {}}}});
    assert_eq!(managers(&made), [updated("me", "", fields.clone())]);
    assert_eq!(made["metadata"]["managedFields"][0]["time"], "2027-01-15T08:00:00Z");
    assert_eq!(client.update(&CONFIG_MAPS, &made).await.unwrap(), made, "an update without a change stays one");

    let patch = json!({"data": {"a": "c", "b": "d"}});
    let patched = client.patch(&CONFIG_MAPS, HERE, "a", None, (PatchKind::Merge, &patch)).await.unwrap();
    let mine = json!({"f:data": {}, "f:metadata": {"f:labels": {".": {}, "f:app": {}}}});
    // In process the user's name is the agent's.
    let others = json!({"f:data": {"f:a": {}, "f:b": {}}});
    let mut found = managers(&patched);
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found, [updated("me", "", mine), updated("root", "", others)]);

    let mut forgotten = patched.clone();
    forgotten["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(managers(&client.update(&CONFIG_MAPS, &forgotten).await.unwrap()), []);
}

#[tokio::test]
async fn what_the_server_adds_is_nobodys() {
    let (_, client) = cluster().await;
    let made = client.create(&PODS, HERE, &pod("a")).await.unwrap();
    let found = managers(&made);
    assert_eq!(found.len(), 1);
    let spec = found[0].3["f:spec"].as_object().unwrap();
    assert!(spec.contains_key("f:restartPolicy"), "defaults are the creator's, as upstream's");
    for field in ["f:tolerations", "f:serviceAccountName", "f:volumes", "f:priority"] {
        assert!(!spec.contains_key(field), "admission added {field}");
    }
    assert!(found[0].3.get("f:status").is_none());

    let status = json!({"status": {"phase": "Running"}});
    let patch = (PatchKind::Merge, &status);
    let running = client.patch(&PODS, HERE, "a", Some("status"), patch).await.unwrap();
    assert_eq!(managers(&running)[1], updated("root", "status", json!({"f:status": {"f:phase": {}}})));
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "pi"}});
    client.create_subresource(&PODS, HERE, "a", "binding", &binding).await.unwrap();
    let bound = client.get(&PODS, HERE, "a").await.unwrap();
    assert_eq!(managers(&bound), managers(&running), "a binding has no manager");
}

#[tokio::test]
async fn applying_after_creating_takes_over() {
    let (_, client) = cluster().await;
    let path = "/api/v1/namespaces/default/configmaps?fieldManager=kubectl-create";
    client.call(http::Method::POST, path, Some(&config_map("a"))).await.unwrap();
    let apply = |force: bool, value: &str| {
        let path = format!("/api/v1/namespaces/default/configmaps/a?fieldManager=me&force={force}");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": value}});
        let mut request = http::Request::patch(path).body(body::full(body.to_string())).unwrap();
        let kind = http::HeaderValue::from_static("application/apply-patch+yaml");
        request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        request
    };
    let told = client.send(apply(false, "c")).await.unwrap();
    assert_eq!(told.status(), 409);
    let bytes = http_body_util::BodyExt::collect(told.into_body()).await.unwrap().to_bytes();
    let told: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        told["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using v1 at 2027-01-15T08:00:00Z: .data.a"
    );
    assert_eq!(client.send(apply(true, "c")).await.unwrap().status(), 200);
    let taken = client.get(&CONFIG_MAPS, HERE, "a").await.unwrap();
    assert_eq!(managers(&taken)[0].0, "me");
    assert!(managers(&taken)[1].3["f:data"].get("f:a").is_none());
}
