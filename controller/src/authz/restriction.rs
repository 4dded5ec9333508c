//! Pure: the admission plugin NodeRestriction: what the Node authoriser cannot see because it lies in the object.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Attributes;
use super::node::node_name;
use super::pod_references::{all_references, is_mirror};
use crate::identity::Identity;
use crate::pki::request::Request as CertificateRequest;

/// Labels under kubernetes.io and k8s.io that a node may set on itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Label domains that belong to nodes as a whole.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// What an admission plugin is asked about; a patch is an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// A deletion.
    Delete,
}

/// One write as admission sees it, with the facts that the checks need.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// What is done.
    pub operation: Operation,
    /// The request.
    pub attributes: &'a Attributes,
    /// The object as it would be stored; for a subresource its own kind (Eviction, TokenRequest).
    pub object: Option<&'a Value>,
    /// The stored object, for updates and deletions.
    pub old: Option<&'a Value>,
    /// The stored pod that an eviction or a token request names.
    pub pod: Option<&'a Value>,
    /// The uid of the stored Node of the asking node.
    pub node_uid: Option<&'a str>,
}

/// Whether the write is within a node's rights; the error is the message behind `... is forbidden: `. Everybody who is not a
/// node passes.
pub fn check(identity: &Identity, write: &Write<'_>) -> Result<(), String> {
    let Some(node) = node_name(identity) else { return Ok(()) };
    if node.is_empty() {
        return Err(format!("could not determine node from user {:?}", identity.name));
    }
    let Attributes { api_group, resource, subresource, .. } = write.attributes;
    match (&**api_group, &**resource, &**subresource) {
        ("", "pods", "") => pod(node, write),
        ("", "pods", "status") => pod_status(node, write),
        ("", "pods", "eviction") => match write.pod {
            Some(pod) if on_node(pod) != node => {
                Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
            }
            _ => Ok(()),
        },
        ("", "pods", other) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(node, write),
        ("", "persistentvolumeclaims", "status") => claim_status(node, write),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".into()),
        ("", "serviceaccounts", "token") if write.operation == Operation::Create => token(node, write),
        ("coordination.k8s.io", "leases", _) => lease(node, write),
        ("storage.k8s.io", "csinodes", _) if name_of(write) != node => {
            Err("can only access CSINode with the same name as the requesting node".into())
        }
        ("certificates.k8s.io", "certificatesigningrequests", _) => certificate_request(node, write),
        _ => Ok(()),
    }
}

fn text<'a>(value: Option<&'a Value>, pointer: &str) -> &'a str {
    value.and_then(|value| value.pointer(pointer)).and_then(Value::as_str).unwrap_or_default()
}

fn on_node(pod: &Value) -> &str {
    text(Some(pod), "/spec/nodeName")
}

fn name_of<'a>(write: &Write<'a>) -> &'a str {
    let named = text(write.object, "/metadata/name");
    if write.operation == Operation::Create && !named.is_empty() { named } else { &write.attributes.name }
}

fn at<'a>(value: Option<&'a Value>, pointer: &str) -> Option<&'a Value> {
    value.and_then(|value| value.pointer(pointer)).filter(|value| !value.is_null())
}

fn pod(node: &str, write: &Write<'_>) -> Result<(), String> {
    match write.operation {
        Operation::Create => mirror_pod(node, write),
        Operation::Delete if write.old.is_some_and(|pod| on_node(pod) != node) => {
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        Operation::Delete => Ok(()),
        Operation::Update => {
            Err(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"))
        }
    }
}

fn mirror_pod(node: &str, write: &Write<'_>) -> Result<(), String> {
    let Some(pod) = write.object else { return Err("unexpected type".into()) };
    if !is_mirror(pod) {
        return Err(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
        ));
    }
    if on_node(pod) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners =
        pod.pointer("/metadata/ownerReferences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let not_itself = || Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    let owner = match owners {
        [] => return not_itself(),
        [owner] => Some(owner),
        _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if (text(owner, "/apiVersion"), text(owner, "/kind"), text(owner, "/name")) != ("v1", "Node", node) {
        return not_itself();
    }
    if at(owner, "/controller") != Some(&Value::Bool(true)) {
        return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if at(owner, "/blockOwnerDeletion") == Some(&Value::Bool(true)) {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let (uid, known) = (text(owner, "/uid"), write.node_uid.unwrap_or_default());
    if uid != known {
        return Err(format!("node {node} UID mismatch: expected {uid} got {known}"));
    }
    match all_references(pod).first() {
        Some((referent, _)) => Err(format!("node {node:?} can not create pods that reference {}", referent.plural())),
        None => Ok(()),
    }
}

fn pod_status(node: &str, write: &Write<'_>) -> Result<(), String> {
    if write.operation != Operation::Update {
        return Err("unexpected operation".into());
    }
    let differs = |pointer: &str| at(write.object, pointer) != at(write.old, pointer);
    if text(write.old, "/spec/nodeName") != node {
        Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
    } else if labels(write.object) != labels(write.old) {
        Err(format!("node {node:?} cannot update labels through pod status"))
    } else if differs("/status/resourceClaimStatuses") {
        Err(format!("node {node:?} cannot update resource claim statues"))
    } else if differs("/status/extendedResourceClaimStatus") {
        Err(format!("node {node:?} cannot update extended resource claim status"))
    } else {
        Ok(())
    }
}

fn labels(object: Option<&Value>) -> BTreeSet<(&str, &str)> {
    let labels = at(object, "/metadata/labels").and_then(Value::as_object);
    labels.into_iter().flatten().map(|(key, value)| (&**key, value.as_str().unwrap_or_default())).collect()
}

fn own_node(node: &str, write: &Write<'_>) -> Result<(), String> {
    let requested = name_of(write);
    if requested != node {
        return Err(format!("node {node:?} is not allowed to modify node {requested:?}"));
    }
    if write.operation == Operation::Delete {
        return Ok(());
    }
    let empty = |value: Option<&Value>| value.and_then(Value::as_array).is_none_or(Vec::is_empty);
    let differs = |pointer: &str| {
        let (new, old) = (at(write.object, pointer), at(write.old, pointer));
        new != old && !(empty(new) && empty(old))
    };
    if write.operation == Operation::Update {
        if differs("/spec/taints") {
            return Err(format!("node {node:?} is not allowed to modify taints"));
        }
        if differs("/metadata/ownerReferences") {
            return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    let (new, old) = (labels(write.object), labels(write.old));
    let changed: BTreeSet<&str> = new.symmetric_difference(&old).map(|(key, _)| *key).collect();
    let forbidden: Vec<&str> = changed.into_iter().filter(|key| is_forbidden_label(key)).collect();
    match (forbidden.is_empty(), write.operation) {
        (true, _) => Ok(()),
        (false, Operation::Create) => {
            Err(format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", ")))
        }
        (false, _) => Err(format!("is not allowed to modify labels: {}", forbidden.join(", "))),
    }
}

fn is_forbidden_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    reserved && !OWN_LABELS.contains(&key) && !OWN_DOMAINS.into_iter().any(within)
}

fn claim_status(node: &str, write: &Write<'_>) -> Result<(), String> {
    if write.operation != Operation::Update {
        return Err("unexpected operation".into());
    }
    let stripped = |object: Option<&Value>| {
        let mut object = object.cloned().unwrap_or_default();
        for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
            if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
                status.remove(field);
            }
        }
        for field in ["resourceVersion", "managedFields"] {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove(field);
            }
        }
        object
    };
    if stripped(write.object) == stripped(write.old) {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions"))
}

fn token(node: &str, write: &Write<'_>) -> Result<(), String> {
    let bound = |field: &str| text(write.object, &format!("/spec/boundObjectRef/{field}"));
    if (bound("apiVersion"), bound("kind")) != ("v1", "Pod") || bound("name").is_empty() {
        return Err("node requested token not bound to a pod".into());
    }
    if bound("uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".into());
    }
    let Some(pod) = write.pod else { return Ok(()) };
    if bound("uid") != text(Some(pod), "/metadata/uid") {
        return Err(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            bound("uid")
        ));
    }
    if on_node(pod) != node {
        return Err("node requested token bound to a pod scheduled on a different node".into());
    }
    let audiences =
        at(write.object, "/spec/audiences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let audience = match audiences {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err("node may only request 0 or 1 audiences".into()),
    };
    if mounts_audience(pod, audience) {
        return Ok(());
    }
    Err(format!(
        "audience {audience:?} not found in pod spec volume, system:node:{node} is not authorized to request tokens for this audience"
    ))
}

fn mounts_audience(pod: &Value, audience: &str) -> bool {
    let volumes = at(Some(pod), "/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    let sources = volumes.filter_map(|volume| volume.pointer("/projected/sources")?.as_array()).flatten();
    sources
        .filter_map(|source| source.get("serviceAccountToken"))
        .any(|token| text(Some(token), "/audience") == audience)
}

fn lease(node: &str, write: &Write<'_>) -> Result<(), String> {
    if write.attributes.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    if name_of(write) != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn certificate_request(node: &str, write: &Write<'_>) -> Result<(), String> {
    let signer = text(write.object, "/spec/signerName");
    if !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet") {
        return Ok(());
    }
    let request = CertificateRequest::from_base64(text(write.object, "/spec/request"))
        .map_err(|error| format!("unable to parse csr: {error}"))?;
    if request.common_name != format!("system:node:{node}") {
        return Err(format!("can only create a node CSR with CN=system:node:{node}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Identity {
        Identity { name: "system:node:pi-1".into(), groups: vec!["system:nodes".into()], ..Identity::default() }
    }

    fn on(group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            api_group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    fn verdict(
        operation: Operation,
        attributes: &Attributes,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), String> {
        let write = Write { operation, attributes, object: Some(object), old, pod: None, node_uid: Some("u1") };
        check(&node(), &write)
    }

    #[test]
    fn a_node_changes_only_itself_and_not_its_taints() {
        let own = on("", "nodes", "", "pi-1");
        let plain = json!({"metadata": {"name": "pi-1", "labels": {"kubernetes.io/hostname": "pi-1", "rack": "1"}}});
        assert_eq!(verdict(Operation::Create, &own, &plain, None), Ok(()));
        let role = json!({"metadata": {"name": "pi-1", "labels": {"node-role.kubernetes.io/control-plane": ""}}});
        assert_eq!(
            verdict(Operation::Create, &own, &role, None),
            Err("node \"pi-1\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane"
                .into())
        );
        let tainted = json!({"metadata": {"name": "pi-1"}, "spec": {"taints": [{"key": "a"}]}});
        let bare = json!({"metadata": {"name": "pi-1"}, "spec": {"taints": []}});
        assert_eq!(
            verdict(Operation::Update, &own, &bare, Some(&tainted)),
            Err("node \"pi-1\" is not allowed to modify taints".into())
        );
        let other = on("", "nodes", "", "pi-2");
        assert_eq!(
            verdict(Operation::Update, &other, &json!({"metadata": {"name": "pi-2"}}), None),
            Err("node \"pi-1\" is not allowed to modify node \"pi-2\"".into())
        );
    }

    #[test]
    fn restricted_labels() {
        for (key, forbidden) in [
            ("rack", false),
            ("kubernetes.io/hostname", false),
            ("x.kubelet.kubernetes.io/y", false),
            ("node.kubernetes.io/y", false),
            ("node-restriction.kubernetes.io/z", true),
            ("a.node-restriction.kubernetes.io/z", true),
            ("node-role.kubernetes.io/worker", true),
            ("kubernetes.io/metadata.name", true),
            ("xkubernetes.io/y", false),
        ] {
            assert_eq!(is_forbidden_label(key), forbidden, "{key}");
        }
    }

    #[test]
    fn status_is_for_own_pods_and_keeps_labels() {
        let status = on("", "pods/status", "default", "web");
        let own = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": "pi-1"}});
        let foreign = json!({"spec": {"nodeName": "pi-2"}});
        let relabelled = json!({"metadata": {"labels": {"a": "c"}}, "spec": {"nodeName": "pi-1"}});
        assert_eq!(verdict(Operation::Update, &status, &own, Some(&own)), Ok(()));
        assert!(verdict(Operation::Update, &status, &foreign, Some(&foreign)).is_err());
        assert!(verdict(Operation::Update, &status, &relabelled, Some(&own)).unwrap_err().contains("labels"));
    }

    #[test]
    fn tokens_are_bound_to_own_pods_and_their_audiences() {
        let attributes = on("", "serviceaccounts/token", "default", "bot");
        let pod = json!({"metadata": {"uid": "p1"}, "spec": {"nodeName": "pi-1", "volumes": [{"projected": {"sources":
            [{"serviceAccountToken": {"path": "token"}}, {"serviceAccountToken": {"audience": "vault"}}]}}]}});
        let request = |uid: &str, audiences: Value| json!({"spec": {"audiences": audiences, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid}}});
        let ask = |request: &Value, pod: &Value| {
            let write = Write {
                operation: Operation::Create,
                attributes: &attributes,
                object: Some(request),
                old: None,
                pod: Some(pod),
                node_uid: None,
            };
            check(&node(), &write)
        };
        assert_eq!(ask(&request("p1", json!([])), &pod), Ok(()));
        assert_eq!(ask(&request("p1", json!(["vault"])), &pod), Ok(()));
        assert!(ask(&request("p1", json!(["other"])), &pod).is_err());
        assert!(ask(&request("p2", json!([])), &pod).is_err());
        assert!(ask(&json!({"spec": {}}), &pod).is_err());
        let elsewhere = json!({"metadata": {"uid": "p1"}, "spec": {"nodeName": "pi-2"}});
        assert_eq!(
            ask(&request("p1", json!([])), &elsewhere),
            Err("node requested token bound to a pod scheduled on a different node".into())
        );
    }

    #[test]
    fn leases_and_mirror_pods() {
        let lease = on("coordination.k8s.io", "leases", "kube-node-lease", "");
        assert_eq!(verdict(Operation::Create, &lease, &json!({"metadata": {"name": "pi-1"}}), None), Ok(()));
        assert!(verdict(Operation::Create, &lease, &json!({"metadata": {"name": "pi-2"}}), None).is_err());
        let pods = on("", "pods", "default", "");
        let mut mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "h"}, "ownerReferences":
            [{"apiVersion": "v1", "kind": "Node", "name": "pi-1", "uid": "u1", "controller": true}]}, "spec": {"nodeName": "pi-1"}});
        assert_eq!(verdict(Operation::Create, &pods, &mirror, None), Ok(()));
        mirror["spec"]["volumes"] = json!([{"secret": {"secretName": "s"}}]);
        assert!(verdict(Operation::Create, &pods, &mirror, None).unwrap_err().ends_with("reference secrets"));
        assert!(verdict(Operation::Create, &pods, &json!({}), None).is_err());
    }
}
