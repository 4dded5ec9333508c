//! Pods' resources, through the subresource as kubectl patches it.

use super::*;

fn cpu(amount: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]}})
}

async fn resize(client: &Client, patch: &Value) -> Result<Value, ClientError> {
    client.patch(&PODS, HERE, "a", Some("resize"), (PatchKind::Strategic, patch)).await
}

async fn run(client: &Client, resources: Option<Value>) {
    let mut container =
        json!({"name": "c", "state": {"running": {}}, "ready": true, "restartCount": 0, "image": "i", "imageID": ""});
    if let Some(resources) = resources {
        container["resources"] = resources;
    }
    let status = json!({"status": {"phase": "Running", "containerStatuses": [container]}});
    client.patch(&PODS, HERE, "a", Some("status"), (PatchKind::Merge, &status)).await.unwrap();
}

#[tokio::test]
async fn a_node_that_reports_resources_is_asked_to_resize() {
    let (_, client) = cluster().await;
    let mut pod = pod("a");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
    client.create(&PODS, HERE, &pod).await.unwrap();
    run(&client, None).await;
    let why = "Pod \"a\" is invalid: spec: Forbidden: Pod running on node without support for resize";
    assert_eq!(refusal(resize(&client, &cpu("2")).await), (422, why.to_owned()));

    run(&client, Some(json!({}))).await;
    let resized = resize(&client, &cpu("2")).await.unwrap();
    let requests = &resized["spec"]["containers"][0]["resources"]["requests"];
    assert_eq!(*requests, json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(resized["metadata"]["generation"], 2);

    let no_memory = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": null}}}]}});
    let why =
        "Pod \"a\" is invalid: spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed";
    assert_eq!(refusal(resize(&client, &no_memory).await), (422, why.to_owned()));
}
