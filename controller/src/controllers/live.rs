//! Shell: the controllers and the scheduler against our own API server, all in this process; every wait is on a watch.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Client, ListOptions, PatchKind, Resource, Step};
use crate::serve;

const PODS: Resource = Resource::new("", "v1", "pods");
const NODES: Resource = Resource::new("", "v1", "nodes");
const SERVICES: Resource = Resource::new("", "v1", "services");
const ENDPOINTS: Resource = Resource::new("", "v1", "endpoints");
const NAMESPACES: Resource = Resource::new("", "v1", "namespaces");
const EVENTS: Resource = Resource::new("", "v1", "events");
const SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
const DEPLOYMENTS: Resource = Resource::new("apps", "v1", "deployments");
const REPLICA_SETS: Resource = Resource::new("apps", "v1", "replicasets");

/// A test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    client: Client,
    _tasks: JoinSet<()>,
    dir: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

async fn cluster(name: &str) -> Cluster {
    cluster_with(name, |_| {}).await
}

async fn cluster_with(name: &str, change: impl FnOnce(&mut serve::Options)) -> Cluster {
    let dir = std::env::temp_dir().join(format!("bramble-live-{name}-{}", std::process::id()));
    let mut options = serve::Options::new(dir.clone(), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), "pi-1");
    options.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    change(&mut options);
    let (told, ready) = tokio::sync::oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let result = serve::run(options, std::future::pending(), |ready| drop(told.send(ready.admin.0.clone()))).await;
        panic!("the control plane ended: {result:?}");
    });
    let client = tokio::time::timeout(PATIENCE, ready).await.unwrap().unwrap();
    Cluster { client, _tasks: tasks, dir }
}

impl Cluster {
    /// Waits until an object of the kind is as wanted.
    async fn until(&self, of: &Resource, namespace: Option<&str>, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut follow = self.client.follow(of, namespace, ListOptions::default());
        let wait = async {
            loop {
                match follow.next().await {
                    Step::Applied(object) if wanted(&object) => return object,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {}", of.plural))
    }

    async fn gone(&self, of: &Resource, namespace: Option<&str>, name: &str) {
        let mut follow = self.client.follow(of, namespace, ListOptions::default());
        let wait = async {
            let mut there = false;
            loop {
                match follow.next().await {
                    Step::Reset => there = false,
                    Step::Applied(object) => there |= object["metadata"]["name"] == name,
                    Step::Synced(_) if !there => return,
                    Step::Deleted(object) if object["metadata"]["name"] == name => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{name} stays"));
    }

    async fn node(&self, name: &str) {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        self.client.create(&NODES, None, &node).await.unwrap();
        let status = json!({ "status": {
            "allocatable": { "cpu": "4", "memory": "4Gi", "pods": "110" },
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        } });
        let strategic = (PatchKind::Strategic, &status);
        self.client.patch(&NODES, None, name, Some("status"), strategic).await.unwrap();
    }

    /// Plays the agents: bound pods run, deleted pods end.
    fn agents(&mut self) {
        let client = self.client.clone();
        self._tasks.spawn(async move {
            let mut follow = client.follow(&PODS, None, ListOptions::default());
            let mut next = 1;
            loop {
                let Step::Applied(pod) = follow.next().await else { continue };
                let namespace = pod["metadata"]["namespace"].as_str();
                let name = pod["metadata"]["name"].as_str().unwrap();
                if !pod["metadata"]["deletionTimestamp"].is_null() {
                    let now = crate::client::DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
                    drop(client.delete(&PODS, namespace, name, &now).await);
                } else if pod["spec"]["nodeName"].is_string() && pod["status"]["podIP"].is_null() {
                    next += 1;
                    let ip = format!("10.42.0.{next}");
                    let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
                        "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
                    let strategic = (PatchKind::Strategic, &status);
                    drop(client.patch(&PODS, namespace, name, Some("status"), strategic).await);
                }
            }
        });
    }
}

fn web(namespace: &str, image: &str) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "namespace": namespace, "name": "web" },
        "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "main", "image": image,
                "ports": [{ "name": "http", "containerPort": 8080 }] }] } } } })
}

#[tokio::test]
async fn a_deployment_comes_up_rolls_and_goes() {
    let mut cluster = cluster("deployment").await;
    cluster.node("pi-1").await;
    cluster.agents();
    let client = cluster.client.clone();
    client.create(&NAMESPACES, None, &json!({ "metadata": { "name": "shop" } })).await.unwrap();
    cluster.until(&Resource::new("", "v1", "serviceaccounts"), Some("shop"), |_| true).await;
    cluster
        .until(&Resource::new("", "v1", "configmaps"), Some("shop"), |map| {
            map["metadata"]["name"] == "kube-root-ca.crt"
        })
        .await;
    client.create(&DEPLOYMENTS, Some("shop"), &web("shop", "one")).await.unwrap();
    let service = json!({ "metadata": { "namespace": "shop", "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] } });
    client.create(&SERVICES, Some("shop"), &service).await.unwrap();
    let complete = |deployment: &Value| {
        deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
            && deployment["status"]["updatedReplicas"] == 3
            && deployment["status"]["availableReplicas"] == 3
            && deployment["status"]["replicas"] == 3
    };
    cluster.until(&DEPLOYMENTS, Some("shop"), complete).await;
    let three = |slice: &Value| slice["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 3);
    cluster.until(&SLICES, Some("shop"), three).await;
    let addresses = |endpoints: &Value| {
        endpoints["subsets"][0]["addresses"].as_array().is_some_and(|addresses| addresses.len() == 3)
    };
    cluster.until(&ENDPOINTS, Some("shop"), addresses).await;
    cluster
        .until(&NODES, None, |node| node["spec"]["podCIDR"] == "10.42.0.0/24" && node["spec"]["taints"].is_null())
        .await;
    cluster.until(&EVENTS, Some("shop"), |event| event["reason"] == "Scheduled").await;
    cluster.until(&EVENTS, Some("shop"), |event| event["reason"] == "ScalingReplicaSet").await;

    let image = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "two" }]);
    client.patch(&DEPLOYMENTS, Some("shop"), "web", None, (PatchKind::Json, &image)).await.unwrap();
    let second = |deployment: &Value| {
        complete(deployment) && deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    };
    cluster.until(&DEPLOYMENTS, Some("shop"), second).await;
    let sets = client.list(&REPLICA_SETS, Some("shop"), &ListOptions::default()).await.unwrap().items;
    assert_eq!(sets.len(), 2);

    client.delete(&NAMESPACES, None, "shop", &crate::client::DeleteOptions::default()).await.unwrap();
    cluster.gone(&NAMESPACES, None, "shop").await;
}

#[tokio::test]
async fn a_pod_without_a_node_is_told_why_and_leaves_with_its_owner() {
    let mut cluster = cluster("pending").await;
    cluster.agents();
    let client = cluster.client.clone();
    cluster.until(&Resource::new("", "v1", "serviceaccounts"), Some("default"), |_| true).await;
    client.create(&DEPLOYMENTS, Some("default"), &web("default", "one")).await.unwrap();
    let told = |pod: &Value| {
        pod["status"]["conditions"].as_array().into_iter().flatten().any(|condition| {
            condition["reason"] == "Unschedulable" && condition["message"] == "no nodes available to schedule pods"
        })
    };
    let pod = cluster.until(&PODS, Some("default"), told).await;
    cluster.node("pi-1").await;
    cluster.until(&PODS, Some("default"), |pod| pod["spec"]["nodeName"] == "pi-1").await;
    client.delete(&DEPLOYMENTS, Some("default"), "web", &crate::client::DeleteOptions::default()).await.unwrap();
    cluster.gone(&PODS, Some("default"), pod["metadata"]["name"].as_str().unwrap()).await;
}

#[tokio::test]
async fn a_board_is_approved_and_signed_for_and_orphans_stay() {
    use base64::Engine;
    let mut cluster = cluster("board").await;
    cluster.agents();
    let client = cluster.client.clone();
    let mut wish = rcgen::CertificateParams::default();
    wish.distinguished_name = rcgen::DistinguishedName::new();
    wish.distinguished_name.push(rcgen::DnType::CommonName, "system:node:pi-1");
    wish.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    let pem = wish.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let requests = Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests");
    let request = json!({ "metadata": { "name": "pi-1" }, "spec": {
        "request": base64::engine::general_purpose::STANDARD.encode(pem),
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["digital signature", "client auth"] } });
    client.create(&requests, None, &request).await.unwrap();
    let signed = cluster.until(&requests, None, |request| request["status"]["certificate"].is_string()).await;
    assert_eq!(signed["status"]["conditions"][0]["reason"], "AutoApproved");

    let secrets = Resource::new("", "v1", "secrets");
    let secret = json!({ "metadata": { "name": "robot", "annotations": { "kubernetes.io/service-account.name": "default" } },
        "type": "kubernetes.io/service-account-token" });
    cluster.until(&Resource::new("", "v1", "serviceaccounts"), Some("default"), |_| true).await;
    client.create(&secrets, Some("default"), &secret).await.unwrap();
    cluster.until(&secrets, Some("default"), |secret| secret["data"]["token"].is_string()).await;

    client.create(&DEPLOYMENTS, Some("default"), &web("default", "one")).await.unwrap();
    cluster.until(&REPLICA_SETS, Some("default"), |set| set["status"]["replicas"] == 3).await;
    let orphan = crate::client::DeleteOptions { propagation_policy: "Orphan", ..Default::default() };
    client.delete(&DEPLOYMENTS, Some("default"), "web", &orphan).await.unwrap();
    cluster.gone(&DEPLOYMENTS, Some("default"), "web").await;
    let set = cluster.until(&REPLICA_SETS, Some("default"), |set| set["metadata"]["ownerReferences"].is_null()).await;
    let foreground = crate::client::DeleteOptions { propagation_policy: "Foreground", ..Default::default() };
    let name = set["metadata"]["name"].as_str().unwrap();
    client.delete(&REPLICA_SETS, Some("default"), name, &foreground).await.unwrap();
    cluster.gone(&REPLICA_SETS, Some("default"), name).await;
    assert!(client.list(&PODS, Some("default"), &ListOptions::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_site_is_told_on_nodes_and_on_volumes() {
    const VOLUMES: Resource = Resource::new("", "v1", "persistentvolumes");
    const ZONE: &str = "topology.kubernetes.io/zone";
    let site = b"region = \"home\"\n[[zone]]\nname = \"attic\"\nboards = [\"pi-1\"]\n";
    let site = std::sync::Arc::new(crate::controllers::Site::parse(site).unwrap());
    let cluster = cluster_with("site", |options| options.site = Some(site)).await;
    let client = cluster.client.clone();
    let taint =
        json!({ "key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule" });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "pi-1" },
        "spec": { "taints": [taint] } });
    client.create(&NODES, None, &node).await.unwrap();
    let status = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.7" }],
        "conditions": [{ "type": "Ready", "status": "False", "message": "node is shutting down",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    client.patch(&NODES, None, "pi-1", Some("status"), (PatchKind::Strategic, &status)).await.unwrap();
    let settled = |node: &Value| {
        let taints = node["spec"]["taints"].to_string();
        let conditions = node["status"]["conditions"].to_string();
        conditions.contains("RouteCreated") && !taints.contains("uninitialized") && taints.contains("/shutdown")
    };
    let node = cluster.until(&NODES, None, settled).await;
    assert_eq!(
        (&node["metadata"]["labels"][ZONE], &node["spec"]["providerID"]),
        (&json!("attic"), &json!("bramble://pi-1"))
    );

    let volume = json!({ "metadata": { "name": "data" }, "spec": { "capacity": { "storage": "1Gi" },
        "accessModes": ["ReadWriteOnce"], "local": { "path": "/srv" },
        "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
            { "key": "kubernetes.io/hostname", "operator": "In", "values": ["pi-1"] }] }] } } } });
    client.create(&VOLUMES, None, &volume).await.unwrap();
    let volume = cluster.until(&VOLUMES, None, |volume| volume["metadata"]["labels"][ZONE] == "attic").await;
    assert_eq!(volume["metadata"]["labels"]["topology.kubernetes.io/region"], "home");
    assert_eq!(volume["status"]["phase"], "Pending");
    let hinted = json!({ "metadata": { "name": "hinted", "labels": { ZONE: "attic" } }, "spec": {
        "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/srv" } } });
    client.create(&VOLUMES, None, &hinted).await.unwrap();
    cluster
        .until(&VOLUMES, None, |volume| {
            volume["metadata"]["name"] == "hinted" && volume["spec"]["nodeAffinity"].to_string().contains("attic")
        })
        .await;
}
