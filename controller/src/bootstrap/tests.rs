//! Shell: the whole set against a server of a few lines, with the real authoriser as the judge of its policy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::json;

use super::*;
use crate::api::Body;
use crate::authz::{Attributes, Authorizer};
use crate::client::{Pending, Transport};
use crate::identity::Identity;

/// Objects by path, and how many writes there were.
#[derive(Default)]
struct Server {
    objects: Mutex<BTreeMap<String, Value>>,
    writes: Mutex<usize>,
}

impl Transport for Server {
    fn send(&self, request: http::Request<Body>) -> Pending<'_, Result<http::Response<Body>, ClientError>> {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let mut objects = self.objects.lock().unwrap();
            let mut path = head.uri.path().to_owned();
            if head.method != http::Method::GET {
                *self.writes.lock().unwrap() += 1;
            }
            let answer = match head.method {
                http::Method::GET => objects.get(&path).cloned(),
                http::Method::DELETE => objects.remove(&path),
                _ => {
                    if head.method == http::Method::POST {
                        path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                    }
                    objects.insert(path, body.clone());
                    Some(body)
                }
            };
            let (code, value) = answer.map_or((404, json!({"reason": "NotFound"})), |value| (200, value));
            let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
            Ok(http::Response::builder().status(code).body(body).unwrap())
        })
    }
}

fn facts() -> Facts {
    Facts {
        advertised: "192.0.2.7:6443".parse().unwrap(),
        api_service: "10.43.0.1".parse().unwrap(),
        dns_service: vec!["10.43.0.10".parse().unwrap()],
        ranges: ["10.42.0.0/16".into(), "10.43.0.0/16".into()],
        authority_pem: "PEM".into(),
        peers: false,
    }
}

async fn bootstrapped() -> Arc<Server> {
    let server = Arc::new(Server::default());
    ensure(&Client::new(server.clone()), &facts()).await.unwrap();
    server
}

fn authorizer(server: &Server) -> Authorizer {
    let authorizer = Authorizer::new();
    for (path, object) in &*server.objects.lock().unwrap() {
        let Some(rest) = path.strip_prefix("/apis/rbac.authorization.k8s.io/v1/") else { continue };
        let plural = rest.rsplit('/').nth(1).unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        authorizer.put(plural, namespace, object["metadata"]["name"].as_str().unwrap(), object);
    }
    authorizer
}

#[tokio::test]
async fn a_second_start_writes_nothing() {
    let server = bootstrapped().await;
    let (objects, writes) = (server.objects.lock().unwrap().len(), *server.writes.lock().unwrap());
    assert_eq!(objects, writes);
    assert!(objects > 130, "{objects}");
    ensure(&Client::new(server.clone()), &facts()).await.unwrap();
    assert_eq!(*server.writes.lock().unwrap(), writes);
}

#[tokio::test]
async fn a_new_address_moves_the_endpoint_only() {
    let server = bootstrapped().await;
    let before = *server.writes.lock().unwrap();
    let moved = Facts { advertised: "192.0.2.8:6443".parse().unwrap(), ..facts() };
    ensure(&Client::new(server.clone()), &moved).await.unwrap();
    assert_eq!(*server.writes.lock().unwrap() - before, 3);
    let objects = server.objects.lock().unwrap();
    let endpoints = &objects["/api/v1/namespaces/default/endpoints/kubernetes"];
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.8");
}

#[tokio::test]
async fn without_a_network_nobody_is_sent_to_loopback() {
    let alone = Facts { advertised: "127.0.0.1:6443".parse().unwrap(), ..facts() };
    let server = Arc::new(Server::default());
    ensure(&Client::new(server.clone()), &alone).await.unwrap();
    let objects = server.objects.lock().unwrap();
    assert_eq!(objects["/api/v1/namespaces/default/endpoints/kubernetes"]["subsets"], json!([]));
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(objects[slice]["endpoints"], json!([]));
}

#[tokio::test]
async fn the_default_policy_means_what_it_should() {
    let authorizer = authorizer(&*bootstrapped().await);
    let asks = |text: &str| {
        // verb, group or `path`, resource or path, namespace
        let words: Vec<&str> = text.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        let attributes = Attributes { verb: words[0].into(), ..Attributes::default() };
        if words[1] == "path" {
            return Attributes { path: words[2].into(), ..attributes };
        }
        Attributes {
            api_group: words[1].into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: words[3].into(),
            ..attributes
        }
    };
    let node = Identity::user("system:node:pi-1", &["system:nodes"]);
    let joiner = Identity::user("system:bootstrap:abc123", &["system:bootstrappers"]);
    let user = Identity::user("ann", &[]);
    let account = |name: &str| Identity::service_account("kube-system", name);
    let scheduler = Identity::user("system:kube-scheduler", &[]);
    let certificates = "certificates.k8s.io";
    let table = [
        (Identity::anonymous(), "get path /healthz", true),
        (Identity::anonymous(), "get path /version", true),
        (Identity::anonymous(), "get path /livez", true),
        (Identity::anonymous(), "get path /api", false),
        (Identity::anonymous(), "get - configmaps kube-public", false),
        (user.clone(), "get path /openapi/v3", true),
        (user.clone(), "create authorization.k8s.io selfsubjectaccessreviews -", true),
        (user.clone(), "list - pods default", false),
        (node.clone(), "watch discovery.k8s.io endpointslices -", true),
        (node.clone(), "watch - services -", true),
        (node.clone(), "list - namespaces -", true),
        (node.clone(), "list - secrets -", false),
        (node.clone(), &format!("create {certificates} certificatesigningrequests/selfnodeclient -"), true),
        (node, &format!("create {certificates} certificatesigningrequests/nodeclient -"), false),
        (joiner.clone(), &format!("create {certificates} certificatesigningrequests -"), true),
        (joiner.clone(), &format!("create {certificates} certificatesigningrequests/nodeclient -"), true),
        (joiner, "list - nodes -", false),
        (account("deployment-controller"), "create apps replicasets blue", true),
        (account("deployment-controller"), "get - secrets blue", false),
        (
            account("certificate-controller"),
            &format!("update {certificates} certificatesigningrequests/approval -"),
            true,
        ),
        (account("certificate-controller"), &format!("approve {certificates} signers -"), false),
        (account("generic-garbage-collector"), "delete apps deployments blue", true),
        (scheduler, "create - pods/binding blue", true),
        (Identity::user("kube-apiserver-kubelet-client", &[]), "create - nodes/proxy -", true),
        (Identity::user("root", &["system:masters"]), "delete - nodes -", true),
    ];
    for (identity, text, allowed) in table {
        assert_eq!(authorizer.authorize(&identity, &asks(text)).is_allowed(), allowed, "{} {text}", identity.name);
    }
}

#[tokio::test]
async fn aggregated_roles_are_whole_from_the_start() {
    let server = bootstrapped().await;
    let objects = server.objects.lock().unwrap();
    let role = |name: &str| {
        objects[&format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}")]["rules"].as_array().unwrap().len()
    };
    assert!(role("view") > 5 && role("edit") > role("view") && role("admin") > role("edit"));
}

/// The real engine over a store in memory, with the real authoriser.
async fn engine() -> (bramble_store::Store, Authorizer, impl Fn(Identity) -> Client) {
    let store = bramble_store::Store::open(bramble_store::Config::memory()).unwrap();
    let clock = || std::time::Duration::from_secs(1_800_000_000);
    let ranges = crate::registry::ServiceRanges::default();
    let authorizer = Authorizer::new();
    authorizer.follow(&store).await.unwrap();
    let kinds = crate::kinds::Kinds::builtin();
    let registry = crate::registry::Registry::new(store.clone(), kinds, clock, ranges, authorizer.clone());
    let advertised = facts().advertised;
    let api = Arc::new(crate::api::Api::new(Arc::new(registry), authorizer.clone(), None, clock, advertised));
    (store, authorizer, move |identity| Client::new(Arc::new(crate::api::InProcess::new(api.clone(), identity))))
}

#[tokio::test]
async fn the_real_engine_takes_the_whole_set_and_then_holds_by_it() {
    let (store, authorizer, client) = engine().await;
    let root = client(Identity::user("system:apiserver", &["system:masters"]));
    ensure(&root, &facts()).await.unwrap();
    let after_first = store.revision();
    ensure(&root, &facts()).await.unwrap();
    assert_eq!(store.revision(), after_first);

    let pods = crate::client::Resource::new("", "v1", "pods");
    let controller = Identity::controller("replicaset");
    let list = Attributes { verb: "list".into(), resource: "pods".into(), ..Attributes::default() };
    while !authorizer.authorize(&controller, &list).is_allowed() {
        tokio::task::yield_now().await;
    }
    let options = crate::client::ListOptions::default();
    assert_eq!(client(controller).list(&pods, None, &options).await.unwrap().items.len(), 0);
    let refused = client(Identity::user("ann", &[])).list(&pods, Some("default"), &options).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let first = tokens::replace(&root, Some(1_800_000_600), "up").await.unwrap();
    tokens::create(&root, None, "by hand").await.unwrap();
    let second = tokens::replace(&root, Some(1_800_000_600), "up").await.unwrap();
    let known = tokens::list(&root, 1_800_000_000).await.unwrap();
    let has = |token: &crate::authn::tokens::Secret| known.iter().any(|info| token.reveal().starts_with(&info.id));
    assert_eq!((known.len(), has(&first), has(&second)), (2, false, true));

    let services = crate::client::Resource::new("", "v1", "services");
    let dns = root.get(&services, Some("kube-system"), "kube-dns").await.unwrap();
    assert_eq!(dns["spec"]["clusterIP"], "10.43.0.10");
}

#[tokio::test]
async fn tokens_are_made_and_revoked_and_keep_their_secret() {
    let server = bootstrapped().await;
    let client = Client::new(server.clone());
    let token = tokens::create(&client, Some(2_000_000_000), "for pi-2").await.unwrap();
    let (id, hidden) = crate::authn::bootstrap_token::split(token.reveal()).unwrap();
    let path = format!("/api/v1/namespaces/kube-system/secrets/bootstrap-token-{id}");
    let stored = server.objects.lock().unwrap()[&path].clone();
    let vouched = crate::authn::bootstrap_token::authenticate(token.reveal(), &stored, 1_999_999_999).unwrap();
    assert!(vouched.is_in("system:bootstrappers"));
    assert!(!format!("{token:?}").contains(hidden));
    tokens::revoke(&client, token.reveal()).await.unwrap();
    assert!(!server.objects.lock().unwrap().contains_key(&path));
    assert!(tokens::revoke(&client, "../../x").await.is_err());
}
