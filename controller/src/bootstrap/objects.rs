//! Pure: what every cluster starts with besides its policy: namespaces, priorities, the API's own Service, trust for joiners.

use core::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::policy;
use crate::authz::aggregation::aggregate;
use crate::client::Resource;

/// What the objects say about this cluster.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The address that nodes and pods reach the API server by; never loopback.
    pub advertised: SocketAddr,
    /// The first service address, for the Service `kubernetes`.
    pub api_service: IpAddr,
    /// The tenth address of each service range, for the Service `kube-dns`; the primary one first.
    pub dns_service: Vec<IpAddr>,
    /// The ranges of pods' and of Services' addresses, as a board that joins is told them.
    pub ranges: [String; 2],
    /// The authority's certificate, PEM.
    pub authority_pem: String,
    /// There may be other API servers: the endpoints of `kubernetes` are kept elsewhere, for all of them.
    pub peers: bool,
}

/// How an object that exists is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// It belongs to the user.
    Leave,
    /// These fields are brought to what is wanted.
    Fields(&'static [&'static str]),
    /// RBAC's rule: what is missing is added, unless `autoupdate` is `"false"`.
    Policy,
}

/// One object to ensure.
pub(super) struct Wanted {
    pub(super) resource: Resource,
    pub(super) care: Care,
    pub(super) object: Value,
}

const NAMESPACES: Resource = Resource::new("", "v1", "namespaces");

/// Everything in the order in which it is ensured: a stage needs the stages before it.
pub(super) fn stages(facts: &Facts) -> Vec<Vec<Wanted>> {
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
    let namespaces = namespaces.map(|name| Wanted {
        resource: NAMESPACES,
        care: Care::Leave,
        object: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
    });
    let mut rest = policies();
    rest.extend(priorities());
    rest.extend(own_services(facts));
    rest.extend(trust(facts));
    vec![namespaces.into(), rest]
}

fn policies() -> Vec<Wanted> {
    let mut objects = policy::objects();
    // Roles that gather others are created whole, so that nobody waits for the aggregation controller. A gathered role may
    // gather itself: view, then edit, then admin.
    loop {
        let before = objects.clone();
        for role in &mut objects {
            if let Some(rules) = aggregate(role, before.iter().filter(|other| other["kind"] == "ClusterRole")) {
                role["rules"] = Value::Array(rules);
            }
        }
        if objects == before {
            break;
        }
    }
    let of = |kind: &str| match kind {
        "Role" => "roles",
        "ClusterRole" => "clusterroles",
        "RoleBinding" => "rolebindings",
        _ => "clusterrolebindings",
    };
    let wanted = objects.into_iter().map(|object| Wanted {
        resource: Resource::new("rbac.authorization.k8s.io", "v1", of(object["kind"].as_str().unwrap_or_default())),
        care: Care::Policy,
        object,
    });
    wanted.collect()
}

fn priorities() -> [Wanted; 2] {
    let class = |name: &str, value: i64, description: &str| Wanted {
        resource: Resource::new("scheduling.k8s.io", "v1", "priorityclasses"),
        care: Care::Leave,
        object: json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description}),
    };
    [
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

fn own_services(facts: &Facts) -> Vec<Wanted> {
    let family = if facts.advertised.is_ipv6() { "IPv6" } else { "IPv4" };
    let (address, port) = (facts.advertised.ip().to_string(), facts.advertised.port());
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    // A board without a network has only loopback's address, which nobody else can use and no endpoint may have.
    let reachable = !facts.advertised.ip().is_loopback();
    let subsets = if reachable { json!([{"addresses": [{"ip": address}], "ports": ports}]) } else { json!([]) };
    let behind = if reachable { json!([{"addresses": [address], "conditions": {"ready": true}}]) } else { json!([]) };
    let services = Resource::new("", "v1", "services");
    let api = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": facts.api_service, "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "endpoints": behind, "ports": ports});
    // Every board answers this address itself, so the Service selects nothing.
    let dns = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}},
        "spec": {"type": "ClusterIP", "clusterIP": facts.dns_service.first(), "clusterIPs": facts.dns_service,
            "ipFamilyPolicy": if facts.dns_service.len() > 1 { "RequireDualStack" } else { "SingleStack" }, "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}]}});
    let mut wanted = vec![
        Wanted { resource: services.clone(), care: Care::Leave, object: api },
        Wanted { resource: services, care: Care::Leave, object: dns },
    ];
    if facts.peers {
        return wanted;
    }
    wanted.extend([
        Wanted { resource: Resource::new("", "v1", "endpoints"), care: Care::Fields(&["subsets"]), object: endpoints },
        Wanted {
            resource: Resource::new("discovery.k8s.io", "v1", "endpointslices"),
            care: Care::Fields(&["endpoints", "ports"]),
            object: slice,
        },
    ]);
    wanted
}

fn trust(facts: &Facts) -> [Wanted; 2] {
    let config_map = |namespace: &str, name: &str, data: Value| Wanted {
        resource: Resource::new("", "v1", "configmaps"),
        care: Care::Fields(&["data"]),
        object: json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}),
    };
    [
        config_map(
            "kube-public",
            "cluster-info",
            json!({"kubeconfig": cluster_info(facts), "cluster-cidr": facts.ranges[0], "service-cidr": facts.ranges[1]}),
        ),
        config_map("kube-system", "extension-apiserver-authentication", json!({"client-ca-file": facts.authority_pem})),
    ]
}

/// kubeadm's kubeconfig without a user: where the cluster is and what vouches for it.
fn cluster_info(facts: &Facts) -> String {
    use base64::Engine;
    let authority = base64::prelude::BASE64_STANDARD.encode(&facts.authority_pem);
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: https://{}\n  name: \"\"\n\
         contexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n",
        facts.advertised
    )
}
