//! Pure: the Node authoriser: a node may read what the pods bound to it refer to, and nothing else.
//!
//! `system:node:<name>` in group `system:nodes` is the node `<name>`. The graph holds, for every bound pod, the names of what
//! it refers to; a few shared strings a pod. What is not subdivided here follows the static rules of the role `system:node`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::names::{Name, Names};
use super::pod_references::{Referent, references};
use super::rule::Rule;
use super::{Attributes, Decision};
use crate::identity::Identity;

/// The namespace that holds the leases of nodes.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node behind an identity, if it is one.
pub fn node_name(identity: &Identity) -> Option<&str> {
    let name = identity.name.strip_prefix("system:node:")?;
    identity.is_in("system:nodes").then_some(name)
}

struct PodEntry {
    node: Name,
    references: Box<[(Referent, Name)]>,
}

struct VolumeEntry {
    claim: (Name, Name),
    secrets: Box<[(Name, Name)]>,
}

/// Pods by node and what they refer to; volumes by the claim that holds them; attachments by node.
#[derive(Default)]
pub(crate) struct Graph {
    names: Names,
    pods: BTreeMap<(Name, Name), PodEntry>,
    by_node: BTreeMap<Name, BTreeSet<(Name, Name)>>,
    volumes: BTreeMap<Name, VolumeEntry>,
    attachments: BTreeMap<Name, Name>,
    /// Which there are: as long as there are some, boards must know the addresses of all pods.
    policies: BTreeSet<(Name, Name)>,
    rules: Box<[Rule]>,
}

impl Graph {
    /// An empty graph with the static rules of the role `system:node`.
    pub(crate) fn new(rules: &Value) -> Graph {
        let mut names = Names::default();
        let rules = Rule::parse_list(&mut names, Some(rules));
        Graph { names, rules, ..Graph::default() }
    }

    /// Takes in a pod; one that is bound to no node opens nothing.
    pub(crate) fn put_pod(&mut self, namespace: &str, name: &str, pod: &Value) {
        self.remove_pod(namespace, name);
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        if node.is_empty() {
            return;
        }
        let found = references(pod);
        let node = self.names.get(node);
        let key = (self.names.get(namespace), self.names.get(name));
        let references = found.into_iter().map(|(kind, name)| (kind, self.names.get(name))).collect();
        self.by_node.entry(node.clone()).or_default().insert(key.clone());
        self.pods.insert(key, PodEntry { node, references });
    }

    /// Forgets a pod.
    pub(crate) fn remove_pod(&mut self, namespace: &str, name: &str) {
        let key = (Name::from(namespace), Name::from(name));
        let Some(entry) = self.pods.remove(&key) else { return };
        if let Some(pods) = self.by_node.get_mut(&entry.node) {
            pods.remove(&key);
            if pods.is_empty() {
                self.by_node.remove(&entry.node);
            }
        }
    }

    /// Forgets all pods, before a new list is taken in.
    pub(crate) fn clear_pods(&mut self) {
        self.pods.clear();
        self.by_node.clear();
    }

    /// Forgets all persistent volumes.
    pub(crate) fn clear_volumes(&mut self) {
        self.volumes.clear();
    }

    /// Forgets all volume attachments.
    pub(crate) fn clear_attachments(&mut self) {
        self.attachments.clear();
    }

    /// Takes in a persistent volume.
    pub(crate) fn put_volume(&mut self, name: &str, volume: &Value) {
        self.volumes.remove(name);
        let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let claim = (text("/spec/claimRef/namespace"), text("/spec/claimRef/name"));
        if claim.1.is_empty() {
            return;
        }
        let secrets =
            ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"].into_iter().filter_map(|field| {
                let name = text(&format!("/spec/csi/{field}/name"));
                let namespace = text(&format!("/spec/csi/{field}/namespace"));
                (!name.is_empty()).then(|| (Name::from(namespace), Name::from(name)))
            });
        let entry = VolumeEntry { claim: (Name::from(claim.0), Name::from(claim.1)), secrets: secrets.collect() };
        self.volumes.insert(Name::from(name), entry);
    }

    /// Forgets a persistent volume.
    pub(crate) fn remove_volume(&mut self, name: &str) {
        self.volumes.remove(name);
    }

    /// Takes in a volume attachment.
    pub(crate) fn put_attachment(&mut self, name: &str, attachment: &Value) {
        let node = attachment.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        self.attachments.insert(Name::from(name), Name::from(node));
    }

    /// Forgets a volume attachment.
    pub(crate) fn remove_attachment(&mut self, name: &str) {
        self.attachments.remove(name);
    }

    /// Takes in a network policy.
    pub(crate) fn put_policy(&mut self, namespace: &str, name: &str) {
        self.policies.insert((Name::from(namespace), Name::from(name)));
    }

    /// Forgets a network policy.
    pub(crate) fn remove_policy(&mut self, namespace: &str, name: &str) {
        self.policies.remove(&(Name::from(namespace), Name::from(name)));
    }

    /// Forgets all network policies.
    pub(crate) fn clear_policies(&mut self) {
        self.policies.clear();
    }

    /// The node bound to a pod, if the pod is known and bound.
    pub(crate) fn node_of_pod(&self, namespace: &str, name: &str) -> Option<&str> {
        self.pods.get(&(Name::from(namespace), Name::from(name))).map(|entry| &*entry.node)
    }

    /// The Node authoriser's answer.
    pub(crate) fn authorize(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        let Some(node) = node_name(identity) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", identity.name));
        }
        let answer = match (&*attributes.api_group, &*attributes.resource) {
            ("", "secrets" | "configmaps") => read(attributes).and_then(|()| self.related(node, attributes)),
            ("", "persistentvolumeclaims") if attributes.subresource == "status" => match &*attributes.verb {
                "update" | "patch" => self.related(node, attributes),
                _ => Err("can only get/update/patch this type".into()),
            },
            ("", "persistentvolumeclaims" | "persistentvolumes")
            | ("resource.k8s.io", "resourceclaims")
            | ("storage.k8s.io", "volumeattachments") => get(attributes).and_then(|()| self.related(node, attributes)),
            ("", "serviceaccounts") => self.service_account(node, attributes),
            ("coordination.k8s.io", "leases") => lease(node, attributes),
            ("storage.k8s.io", "csinodes") => csi_node(node, attributes),
            ("", "nodes") => own_node(node, attributes),
            ("", "pods") => self.pod(node, attributes),
            _ if self.rules.iter().any(|rule| rule.allows(attributes)) => Ok(()),
            _ => Err(String::new()),
        };
        match answer {
            Ok(()) => Decision::Allow(String::new()),
            Err(reason) => Decision::NoOpinion(reason),
        }
    }

    fn service_account(&self, node: &str, attributes: &Attributes) -> Result<(), String> {
        match (&*attributes.verb, &*attributes.subresource) {
            ("get", "") => read(attributes).and_then(|()| self.related(node, attributes)),
            ("create", _) if attributes.name.is_empty() => {
                Err("can only create tokens for individual service accounts".into())
            }
            ("create", "token") => self.related(node, attributes),
            ("create", _) => Err("can only create token subresource of serviceaccount".into()),
            _ => Err("can only create tokens for individual service accounts".into()),
        }
    }

    fn pod(&self, node: &str, attributes: &Attributes) -> Result<(), String> {
        match (&*attributes.subresource, &*attributes.verb) {
            ("", "get") => self.related(node, attributes),
            ("", "list" | "watch") if selects(&attributes.field_selector, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !attributes.name.is_empty() => self.related(node, attributes),
            ("", "list" | "watch") if !self.policies.is_empty() && attributes.namespace.is_empty() => Ok(()),
            ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".into()),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn related(&self, node: &str, attributes: &Attributes) -> Result<(), String> {
        let Attributes { namespace, name, resource, .. } = attributes;
        if name.is_empty() {
            return Err("No Object name found".into());
        }
        let found = match &**resource {
            "pods" => self.node_of_pod(namespace, name) == Some(node),
            "volumeattachments" => self.attachments.get(&**name).is_some_and(|own| **own == *node),
            "persistentvolumes" => self.volumes.get(&**name).is_some_and(|volume| self.claims(node, volume)),
            "configmaps" => self.refers(node, namespace, Referent::ConfigMap, name),
            "persistentvolumeclaims" => self.refers(node, namespace, Referent::PersistentVolumeClaim, name),
            "serviceaccounts" => self.refers(node, namespace, Referent::ServiceAccount, name),
            "resourceclaims" => self.refers(node, namespace, Referent::ResourceClaim, name),
            "secrets" => {
                self.refers(node, namespace, Referent::Secret, name) || self.volume_secret(node, namespace, name)
            }
            _ => false,
        };
        if found { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
    }

    fn refers(&self, node: &str, namespace: &str, kind: Referent, name: &str) -> bool {
        let Some(pods) = self.by_node.get(node) else { return false };
        pods.iter().filter(|(own, _)| **own == *namespace).any(|key| {
            let references = self.pods.get(key).map(|entry| &*entry.references).unwrap_or_default();
            references.iter().any(|(own_kind, own)| *own_kind == kind && **own == *name)
        })
    }

    fn claims(&self, node: &str, volume: &VolumeEntry) -> bool {
        self.refers(node, &volume.claim.0, Referent::PersistentVolumeClaim, &volume.claim.1)
    }

    fn volume_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        let names = |(own_namespace, own): &(Name, Name)| **own_namespace == *namespace && **own == *name;
        self.volumes.values().any(|volume| volume.secrets.iter().any(names) && self.claims(node, volume))
    }
}

/// Whether a raw field selector demands `field=value` (or `==`).
pub(crate) fn selects(selector: &str, field: &str, value: &str) -> bool {
    required(selector, field) == Some(value)
}

/// The value that a raw field selector demands of a field by equality.
pub(crate) fn required<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|term| {
        let (own, value) = term.split_once('=')?;
        (own == field).then(|| value.strip_prefix('=').unwrap_or(value))
    })
}

fn read(attributes: &Attributes) -> Result<(), String> {
    if !matches!(&*attributes.verb, "get" | "list" | "watch") {
        Err("can only read resources of this type".into())
    } else if !attributes.subresource.is_empty() {
        Err("cannot read subresource".into())
    } else if attributes.namespace.is_empty() {
        Err("can only read namespaced object of this type".into())
    } else {
        Ok(())
    }
}

fn get(attributes: &Attributes) -> Result<(), String> {
    if attributes.verb != "get" {
        Err("can only get individual resources of this type".into())
    } else if !attributes.subresource.is_empty() {
        Err("cannot get subresource".into())
    } else {
        Ok(())
    }
}

fn lease(node: &str, attributes: &Attributes) -> Result<(), String> {
    let Attributes { verb, namespace, name, .. } = attributes;
    if !matches!(&**verb, "get" | "create" | "update" | "patch" | "delete") {
        Err("can only get, create, update, patch, or delete a node lease".into())
    } else if namespace != LEASE_NAMESPACE {
        Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"))
    } else if verb != "create" && name != node {
        Err("can only access node lease with the same name as the requesting node".into())
    } else {
        Ok(())
    }
}

fn csi_node(node: &str, attributes: &Attributes) -> Result<(), String> {
    let Attributes { verb, subresource, name, .. } = attributes;
    if !matches!(&**verb, "get" | "create" | "update" | "patch" | "delete") {
        Err("can only get, create, update, patch, or delete a CSINode".into())
    } else if !subresource.is_empty() {
        Err("cannot authorize CSINode subresources".into())
    } else if verb != "create" && name != node {
        Err("can only access CSINode with the same name as the requesting node".into())
    } else {
        Ok(())
    }
}

fn own_node(node: &str, attributes: &Attributes) -> Result<(), String> {
    match (&*attributes.subresource, &*attributes.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match &*attributes.name {
            own if own == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> Graph {
        let mut graph = Graph::new(&json!([{"verbs": ["create"], "apiGroups": [""], "resources": ["events"]}]));
        let pod = |node: &str, secret: &str| {
            json!({"spec": {"nodeName": node, "serviceAccountName": "bot",
                "volumes": [{"secret": {"secretName": secret}}, {"persistentVolumeClaim": {"claimName": "data"}}]}})
        };
        graph.put_pod("blue", "web", &pod("pi-1", "s1"));
        graph.put_pod("blue", "db", &pod("pi-2", "s2"));
        graph.put_volume(
            "pv",
            &json!({"spec": {"claimRef": {"namespace": "blue", "name": "data"},
            "csi": {"nodeStageSecretRef": {"namespace": "csi", "name": "disk"}}}}),
        );
        graph.put_attachment("va", &json!({"spec": {"nodeName": "pi-1"}}));
        graph
    }

    fn node(name: &str) -> Identity {
        Identity { name: format!("system:node:{name}"), groups: vec!["system:nodes".into()], ..Identity::default() }
    }

    fn wants(text: &str) -> Attributes {
        // verb group/resource[/sub] namespace name
        let words: Vec<&str> = text.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        Attributes {
            verb: words[0].into(),
            api_group: words[1].into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: words[3].into(),
            name: words[4].into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_node_reaches_what_its_pods_refer_to() {
        let graph = graph();
        let table = [
            ("get - secrets blue s1", true),
            ("watch - secrets blue s1", true),
            ("get - secrets blue s2", false),
            ("get - secrets red s1", false),
            ("list - secrets blue -", false),
            ("update - secrets blue s1", false),
            ("get - secrets csi disk", true),
            ("get - persistentvolumes - pv", true),
            ("get - persistentvolumeclaims blue data", true),
            ("patch - persistentvolumeclaims/status blue data", true),
            ("create - serviceaccounts/token blue bot", true),
            ("create - serviceaccounts/token blue other", false),
            ("get - serviceaccounts blue bot", true),
            ("get storage.k8s.io volumeattachments - va", true),
            ("get - pods blue web", true),
            ("get - pods blue db", false),
            ("list - pods - -", false),
            ("patch - pods/status blue db", true),
            ("get - nodes - pi-1", true),
            ("get - nodes - pi-2", false),
            ("list - nodes - -", false),
            ("patch - nodes/status - pi-1", true),
            ("update coordination.k8s.io leases kube-node-lease pi-1", true),
            ("update coordination.k8s.io leases kube-node-lease pi-2", false),
            ("update coordination.k8s.io leases default pi-1", false),
            ("create - events default -", true),
            ("delete - events default x", false),
        ];
        for (text, allowed) in table {
            assert_eq!(graph.authorize(&node("pi-1"), &wants(text)).is_allowed(), allowed, "{text}");
        }
    }

    #[test]
    fn pods_are_listed_only_with_the_own_name_selected() {
        let graph = graph();
        let list = |selector: &str| Attributes { field_selector: selector.into(), ..wants("list - pods - -") };
        assert!(graph.authorize(&node("pi-1"), &list("spec.nodeName=pi-1")).is_allowed());
        assert!(graph.authorize(&node("pi-1"), &list("status.phase!=Failed,spec.nodeName==pi-1")).is_allowed());
        assert!(!graph.authorize(&node("pi-1"), &list("spec.nodeName=pi-2")).is_allowed());
        assert!(!graph.authorize(&node("pi-1"), &list("spec.nodeName!=pi-1")).is_allowed());
    }

    #[test]
    fn all_pods_are_listed_only_while_there_is_a_policy_to_keep() {
        let mut graph = graph();
        let may = |graph: &Graph, what: &str| graph.authorize(&node("pi-1"), &wants(what)).is_allowed();
        assert!(!may(&graph, "list - pods - -"));
        graph.put_policy("blue", "deny");
        assert!(may(&graph, "list - pods - -") && may(&graph, "watch - pods - -"));
        assert!(!may(&graph, "list - pods green -") && !may(&graph, "get - pods green other"));
        graph.remove_policy("blue", "deny");
        assert!(!may(&graph, "list - pods - -"));
    }

    #[test]
    fn a_pod_that_went_takes_its_rights_along() {
        let mut graph = graph();
        graph.remove_pod("blue", "web");
        assert!(!graph.authorize(&node("pi-1"), &wants("get - secrets blue s1")).is_allowed());
        assert!(!graph.authorize(&node("pi-1"), &wants("get - persistentvolumes - pv")).is_allowed());
    }

    #[test]
    fn only_members_of_the_group_are_nodes() {
        let stranger = Identity { name: "system:node:pi-1".into(), ..Identity::default() };
        assert_eq!(graph().authorize(&stranger, &wants("get - secrets blue s1")), Decision::NoOpinion(String::new()));
        assert_eq!(node_name(&node("pi-1")), Some("pi-1"));
    }
}
