//! The API in process over a store in RAM: what clients rely on, in milliseconds.

use std::time::Duration;

use serde_json::{Value, json};

mod families;
mod managers;
mod resizing;
mod tunnels;

use super::*;
use crate::client::{Client, ClientError, DeleteOptions, ListOptions, PatchKind, Resource, Step, WatchEvent};
use crate::kinds::Kinds;
use crate::registry::ServiceRanges;

const NAMESPACES: Resource = Resource::new("", "v1", "namespaces");
const CONFIG_MAPS: Resource = Resource::new("", "v1", "configmaps");
const PODS: Resource = Resource::new("", "v1", "pods");
const SERVICES: Resource = Resource::new("", "v1", "services");
const ACCOUNTS: Resource = Resource::new("", "v1", "serviceaccounts");
const DEPLOYMENTS: Resource = Resource::new("apps", "v1", "deployments");
const EVENTS: Resource = Resource::new("", "v1", "events");
const HERE: Option<&str> = Some("default");

/// An API whose clock stands still, and a client with all rights.
async fn cluster() -> (Arc<Api>, Client) {
    cluster_with(ServiceRanges::default()).await
}

async fn cluster_with(ranges: ServiceRanges) -> (Arc<Api>, Client) {
    let store = bramble_store::Store::open(bramble_store::Config::memory()).unwrap();
    let clock = || Duration::from_secs(1_800_000_000);
    let authorizer = Authorizer::new();
    let registry = Registry::new(store, Kinds::builtin(), clock, ranges, authorizer.clone());
    let api = Api::new(Arc::new(registry), authorizer, None, clock, "192.0.2.7:6443".parse().unwrap());
    let api = Arc::new(api);
    let client = Client::new(Arc::new(InProcess::new(api.clone(), Identity::user("root", &["system:masters"]))));
    client.create(&NAMESPACES, None, &json!({"metadata": {"name": "default"}})).await.unwrap();
    client.create(&ACCOUNTS, HERE, &json!({"metadata": {"name": "default"}})).await.unwrap();
    (api, client)
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "b"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, String) {
    match result.unwrap_err() {
        ClientError::Status { code, message, .. } => (code, message),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_object_lives_and_dies() {
    let (_, client) = cluster().await;
    let made = client.create(&CONFIG_MAPS, HERE, &config_map("a")).await.unwrap();
    assert_eq!(made["metadata"]["creationTimestamp"], "2027-01-15T08:00:00Z");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(client.get(&CONFIG_MAPS, HERE, "a").await.unwrap(), made);
    let again = client.create(&CONFIG_MAPS, HERE, &config_map("a")).await;
    assert_eq!(refusal(again), (409, "configmaps \"a\" already exists".to_owned()));
    let mut changed = made.clone();
    changed["data"]["a"] = "c".into();
    let updated = client.update(&CONFIG_MAPS, &changed).await.unwrap();
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let stale = client.update(&CONFIG_MAPS, &changed).await;
    assert_eq!(
        refusal(stale),
        (409, "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again".to_owned())
    );
    assert_eq!(client.update(&CONFIG_MAPS, &updated).await.unwrap(), updated, "an empty change writes nothing");
    client.delete(&CONFIG_MAPS, HERE, "a", &DeleteOptions::default()).await.unwrap();
    assert_eq!(refusal(client.get(&CONFIG_MAPS, HERE, "a").await), (404, "configmaps \"a\" not found".to_owned()));
}

#[tokio::test]
async fn names_are_generated() {
    let (_, client) = cluster().await;
    let body = json!({"metadata": {"generateName": "x-"}});
    let first = client.create(&CONFIG_MAPS, HERE, &body).await.unwrap();
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn a_namespace_must_exist_and_not_end() {
    let (_, client) = cluster().await;
    let nowhere = client.create(&CONFIG_MAPS, Some("nope"), &config_map("a")).await;
    assert_eq!(refusal(nowhere), (404, "namespaces \"nope\" not found".to_owned()));
    client.create(&NAMESPACES, None, &json!({"metadata": {"name": "gone"}})).await.unwrap();
    let ending = client.delete(&NAMESPACES, None, "gone", &DeleteOptions::default()).await.unwrap();
    assert_eq!(ending["status"]["phase"], "Terminating");
    let (code, message) = refusal(client.create(&CONFIG_MAPS, Some("gone"), &config_map("a")).await);
    assert_eq!(code, 403);
    assert!(message.ends_with("unable to create new content in namespace gone because it is being terminated"));
    let kept = client.delete(&NAMESPACES, None, "default", &DeleteOptions::default()).await;
    assert_eq!(refusal(kept).1, "namespaces \"default\" is forbidden: this namespace may not be deleted");
    let mut through = client.get(&NAMESPACES, None, "gone").await.unwrap();
    through["spec"]["finalizers"] = json!([]);
    client.put(&NAMESPACES, Some("finalize"), &through).await.unwrap();
    assert_eq!(refusal(client.get(&NAMESPACES, None, "gone").await).0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let (_, client) = cluster().await;
    let mut held = config_map("a");
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    client.create(&CONFIG_MAPS, HERE, &held).await.unwrap();
    let mut waiting = client.delete(&CONFIG_MAPS, HERE, "a", &DeleteOptions::default()).await.unwrap();
    assert!(waiting["metadata"]["deletionTimestamp"].is_string());
    waiting["metadata"]["finalizers"] = json!(["example.com/wait", "example.com/more"]);
    assert!(refusal(client.update(&CONFIG_MAPS, &waiting).await).1.contains("no new finalizers can be added"));
    waiting["metadata"]["finalizers"] = json!([]);
    client.update(&CONFIG_MAPS, &waiting).await.unwrap();
    assert_eq!(refusal(client.get(&CONFIG_MAPS, HERE, "a").await).0, 404);
}

#[tokio::test]
async fn pages_are_consistent() {
    let (_, client) = cluster().await;
    for name in ["a", "b", "c"] {
        client.create(&CONFIG_MAPS, HERE, &config_map(name)).await.unwrap();
    }
    let options = ListOptions { limit: 2, ..ListOptions::default() };
    let first = client.list(&CONFIG_MAPS, None, &options).await.unwrap();
    assert_eq!(first.items.len(), 2);
    client.create(&CONFIG_MAPS, HERE, &config_map("d")).await.unwrap();
    let options = ListOptions { continue_token: first.continue_token, ..options };
    let second = client.list(&CONFIG_MAPS, None, &options).await.unwrap();
    assert_eq!(second.items.len(), 1, "d came after the first page's revision");
    assert_eq!((second.resource_version, second.continue_token.as_str()), (first.resource_version, ""));
    let labelled = client.list(&CONFIG_MAPS, HERE, &ListOptions::labels("app in (a,d)")).await.unwrap();
    assert_eq!(labelled.items.len(), 2);
    let named = client.list(&CONFIG_MAPS, HERE, &ListOptions::fields("metadata.name=a")).await.unwrap();
    assert_eq!(named.items.len(), 1);
}

#[tokio::test]
async fn a_watch_tells_what_enters_and_leaves() {
    let (_, client) = cluster().await;
    let options = ListOptions { resource_version: "1".into(), ..ListOptions::labels("app=a") };
    let mut watch = client.watch(&CONFIG_MAPS, HERE, &options).await.unwrap();
    client.create(&CONFIG_MAPS, HERE, &config_map("b")).await.unwrap();
    let mut made = client.create(&CONFIG_MAPS, HERE, &config_map("a")).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(WatchEvent::Added(made.clone())));
    made["data"]["a"] = "c".into();
    let changed = client.update(&CONFIG_MAPS, &made).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(WatchEvent::Modified(changed.clone())));
    let mut left = changed.clone();
    left["metadata"]["labels"]["app"] = "other".into();
    let left = client.update(&CONFIG_MAPS, &left).await.unwrap();
    let Some(WatchEvent::Deleted(last)) = watch.next().await.unwrap() else { panic!("it left") };
    assert_eq!(last["metadata"]["labels"]["app"], "a", "the last state within the set");
    assert_eq!(last["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn following_lists_and_then_watches() {
    let (_, client) = cluster().await;
    client.create(&CONFIG_MAPS, HERE, &config_map("a")).await.unwrap();
    let mut follow = client.follow(&CONFIG_MAPS, None, ListOptions::default());
    assert_eq!(follow.next().await, Step::Reset);
    assert!(matches!(follow.next().await, Step::Applied(_)));
    assert!(matches!(follow.next().await, Step::Synced(_)));
    let made = client.create(&CONFIG_MAPS, HERE, &config_map("b")).await.unwrap();
    assert_eq!(follow.next().await, Step::Applied(made));
    client.delete(&CONFIG_MAPS, HERE, "a", &DeleteOptions::default()).await.unwrap();
    assert!(matches!(follow.next().await, Step::Deleted(_)));
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let (api, client) = cluster().await;
    client.create(&CONFIG_MAPS, HERE, &config_map("a")).await.unwrap();
    let query =
        "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=60";
    let request =
        http::Request::get(format!("/api/v1/namespaces/default/configmaps?{query}")).body(body::full("")).unwrap();
    let response = api.handle(Identity::user("root", &["system:masters"]), request).await;
    let mut body = response.into_body();
    let mut lines = String::new();
    while !lines.contains("initial-events-end") {
        let frame = http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        lines += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["type"], "ADDED");
    assert_eq!(lines[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn an_old_revision_is_gone_and_a_new_one_is_waited_for() {
    let (_, client) = cluster().await;
    tokio::time::pause();
    let ahead = ListOptions { resource_version: "99999999".into(), ..ListOptions::default() };
    let (code, message) = refusal(client.list(&CONFIG_MAPS, HERE, &ahead).await);
    assert_eq!(code, 504);
    assert!(message.starts_with("Timeout: Too large resource version: 99999999, current: "), "{message}");
    assert_eq!(refusal(client.list(&CONFIG_MAPS, HERE, &ListOptions::fields("a=b")).await).0, 400);
}

#[tokio::test]
async fn pods_get_what_they_lack() {
    let (_, client) = cluster().await;
    let made = client.create(&PODS, HERE, &pod("web")).await.unwrap();
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(made["spec"]["restartPolicy"], "Always");
    assert_eq!(made["spec"]["priority"], 0);
    assert_eq!(made["metadata"]["generation"], 1);
    let binding = json!({"target": {"kind": "Node", "name": "pi"}});
    client.create_subresource(&PODS, HERE, "web", "binding", &binding).await.unwrap();
    let twice = client.create_subresource(&PODS, HERE, "web", "binding", &binding).await;
    assert_eq!(
        refusal(twice).1,
        "Operation cannot be fulfilled on pods \"web\": pod web is already assigned to node \"pi\""
    );
    let bound = client.list(&PODS, None, &ListOptions::fields("spec.nodeName=pi")).await.unwrap();
    assert_eq!(bound.items.len(), 1);
    assert_eq!(bound.items[0]["metadata"]["generation"], 1);
    let ending = client.delete(&PODS, HERE, "web", &DeleteOptions::default()).await.unwrap();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    client.delete(&PODS, HERE, "web", &now).await.unwrap();
    assert_eq!(refusal(client.get(&PODS, HERE, "web").await).0, 404);
}

#[tokio::test]
async fn an_unplaced_pod_goes_at_once() {
    let (_, client) = cluster().await;
    client.create(&PODS, HERE, &pod("web")).await.unwrap();
    client.delete(&PODS, HERE, "web", &DeleteOptions::default()).await.unwrap();
    assert_eq!(refusal(client.get(&PODS, HERE, "web").await).0, 404);
}

#[tokio::test]
async fn status_and_spec_have_their_own_doors() {
    let (_, client) = cluster().await;
    let mut made = client.create(&PODS, HERE, &pod("web")).await.unwrap();
    made["status"]["phase"] = "Running".into();
    made["metadata"]["labels"] = json!({"a": "b"});
    let after = client.update_status(&PODS, &made).await.unwrap();
    assert_eq!(after["status"]["phase"], "Running");
    assert_eq!(after["metadata"].get("labels"), None);
    let mut spec = after.clone();
    spec["status"]["phase"] = "Failed".into();
    spec["metadata"]["labels"] = json!({"a": "b"});
    let after = client.update(&PODS, &spec).await.unwrap();
    assert_eq!(after["status"]["phase"], "Running");
    assert_eq!(after["metadata"]["labels"]["a"], "b");
}

#[tokio::test]
async fn services_own_their_addresses() {
    let (_, client) = cluster().await;
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let spec = json!({"type": "NodePort", "clusterIP": "10.43.0.99", "ports": [{"port": 80, "nodePort": 30080}]});
    client.create(&SERVICES, HERE, &service("a", spec.clone())).await.unwrap();
    let (code, message) = refusal(client.create(&SERVICES, HERE, &service("b", spec)).await);
    assert_eq!(code, 422);
    assert!(
        message.contains("provided IP is already allocated") || message.contains("provided port is already allocated")
    );
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    let (_, message) = refusal(client.create(&SERVICES, HERE, &service("b", spec)).await);
    assert_eq!(
        message,
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    client.delete(&SERVICES, HERE, "a", &DeleteOptions::default()).await.unwrap();
    let spec = json!({"clusterIP": "10.43.0.99", "ports": [{"port": 80}]});
    client.create(&SERVICES, HERE, &service("c", spec)).await.unwrap();
    let free = client.create(&SERVICES, HERE, &service("d", json!({"ports": [{"port": 80}]}))).await.unwrap();
    assert!(free["spec"]["clusterIP"].as_str().unwrap().starts_with("10.43."));
}

#[tokio::test]
async fn patches_that_make_no_object_are_refused_as_upstream() {
    let (_, client) = cluster().await;
    client.create(&DEPLOYMENTS, HERE, &deployment("web")).await.unwrap();
    let text = json!({"spec": {"replicas": "x"}});
    let replace = json!([{"op": "replace", "path": "/spec/replicas", "value": "x"}]);
    for (kind, patch, code, start, end) in [
        (
            PatchKind::Strategic,
            &text,
            422,
            " \"\" is invalid: patch: Invalid value: \"map[spec:map[replicas:x]]\": ",
            ": unrecognized type: int32",
        ),
        (
            PatchKind::Merge,
            &text,
            422,
            " \"\" is invalid: patch: Invalid value: \"{\\\"apiVersion\\\":\\\"apps/v1\\\"",
            ": json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (PatchKind::Json, &replace, 422, " \"\" is invalid: patch: Invalid value: ", " of type int32"),
        (
            PatchKind::Json,
            &text,
            400,
            "error decoding patch: json: cannot unmarshal object into Go value",
            "jsonPatchOp",
        ),
        (PatchKind::Merge, &replace, 400, "error decoding patch: json: cannot unmarshal array into", "interface {}"),
        (PatchKind::Strategic, &replace, 400, "json: cannot unmarshal array into Go value of type", "interface {}"),
    ] {
        let (found, message) = refusal(client.patch(&DEPLOYMENTS, HERE, "web", None, (kind, patch)).await);
        assert_eq!(found, code, "{message}");
        assert!(message.starts_with(start) && message.ends_with(end), "{message}");
    }
}

#[tokio::test]
async fn patches_and_scale() {
    let (_, client) = cluster().await;
    client.create(&DEPLOYMENTS, HERE, &deployment("web")).await.unwrap();
    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "B"}]}]}}}});
    let patched = client.patch(&DEPLOYMENTS, HERE, "web", None, (PatchKind::Strategic, &strategic)).await.unwrap();
    assert_eq!(patched["spec"]["template"]["spec"]["containers"][0]["image"], "i");
    assert_eq!(patched["metadata"]["generation"], 2);
    let json_patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
    client.patch(&DEPLOYMENTS, HERE, "web", None, (PatchKind::Json, &json_patch)).await.unwrap();
    let scale = json!({"spec": {"replicas": 5}});
    let scaled = client.patch(&DEPLOYMENTS, HERE, "web", Some("scale"), (PatchKind::Merge, &scale)).await.unwrap();
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
    let selector = json!({"spec": {"selector": {"matchLabels": {"x": "y"}}}});
    let (code, message) = refusal(client.patch(&DEPLOYMENTS, HERE, "web", None, (PatchKind::Merge, &selector)).await);
    assert_eq!(code, 422);
    assert!(message.contains("field is immutable"), "{message}");
}

#[tokio::test]
async fn applying_twice_changes_nothing() {
    let (_, client) = cluster().await;
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "b"}});
    let path = "/api/v1/namespaces/default/configmaps/a?fieldManager=me";
    let apply = |body: Value| {
        let mut request = http::Request::patch(path).body(body::full(body.to_string())).unwrap();
        let kind = http::HeaderValue::from_static("application/apply-patch+yaml");
        request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        request
    };
    assert_eq!(client.send(apply(applied.clone())).await.unwrap().status(), 201);
    let first = client.get(&CONFIG_MAPS, HERE, "a").await.unwrap();
    assert_eq!(client.send(apply(applied)).await.unwrap().status(), 200);
    assert_eq!(client.get(&CONFIG_MAPS, HERE, "a").await.unwrap(), first);
}

#[tokio::test]
async fn dry_runs_write_nothing() {
    let (api, client) = cluster().await;
    let before = api.registry().store().revision();
    let path = "/api/v1/namespaces/default/configmaps?dryRun=All";
    let made = client.call(http::Method::POST, path, Some(&config_map("a"))).await.unwrap();
    assert_eq!(made["metadata"]["name"], "a");
    assert_eq!(api.registry().store().revision(), before);
}

#[tokio::test]
async fn strict_requests_refuse_unknown_fields() {
    let (_, client) = cluster().await;
    let mut body = config_map("a");
    body["dat"] = json!({});
    let path = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    assert_eq!(
        refusal(client.call(http::Method::POST, path, Some(&body)).await),
        (400, "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dat\"".to_owned())
    );
}

#[tokio::test]
async fn nobody_in_particular_sees_health_only() {
    let (api, _) = cluster().await;
    let client = Client::new(Arc::new(InProcess::new(api, Identity::user("alice", &[]))));
    let (code, message) = refusal(client.list(&PODS, HERE, &ListOptions::default()).await);
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn events_stand_in_both_groups_and_are_tabled() {
    let (api, client) = cluster().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default"},
        "reason": "Started", "message": "hi", "type": "Normal", "firstTimestamp": "2027-01-15T07:59:50Z",
        "lastTimestamp": "2027-01-15T07:59:50Z"});
    client.create(&EVENTS, HERE, &event).await.unwrap();
    let grouped = Resource::new("events.k8s.io", "v1", "events");
    let shown = client.get(&grouped, HERE, "e").await.unwrap();
    assert_eq!((&shown["apiVersion"], &shown["note"]), (&json!("events.k8s.io/v1"), &json!("hi")));
    let mut request = http::Request::get("/api/v1/namespaces/default/events").body(body::full("")).unwrap();
    let table = http::HeaderValue::from_static("application/json;as=Table;v=v1;g=meta.k8s.io");
    request.headers_mut().insert(http::header::ACCEPT, table);
    let response = api.handle(Identity::user("root", &["system:masters"]), request).await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(table["rows"][0]["cells"][0], "10s");
    assert_eq!(table["rows"][0]["cells"][3], "pod/web");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn discovery_is_read_once() {
    let (api, _) = cluster().await;
    let ask = |known: Option<&http::HeaderValue>| {
        let mut request = http::Request::get("/apis").body(body::full("")).unwrap();
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(accept));
        if let Some(known) = known {
            request.headers_mut().insert(http::header::IF_NONE_MATCH, known.clone());
        }
        api.handle(Identity::user("root", &["system:masters"]), request)
    };
    let first = ask(None).await;
    let tag = first.headers()[http::header::ETAG].clone();
    assert_eq!((first.status().as_u16(), first.headers()[http::header::VARY].to_str().unwrap()), (200, "Accept"));
    let again = ask(Some(&tag)).await;
    assert_eq!((again.status().as_u16(), &again.headers()[http::header::ETAG]), (304, &tag));
    assert!(http_body_util::BodyExt::collect(again.into_body()).await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn old_kinds_say_what_follows_them() {
    let (api, _) = cluster().await;
    let of = |plural: &str| {
        let path = format!("/api/v1/namespaces/default/{plural}");
        let request = http::Request::get(path).body(body::full("")).unwrap();
        api.handle(Identity::user("root", &["system:masters"]), request)
    };
    let warning = of("endpoints").await.headers().get(http::header::WARNING).cloned();
    let words = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    assert_eq!(warning.unwrap(), words);
    assert!(of("pods").await.headers().get(http::header::WARNING).is_none());
}
