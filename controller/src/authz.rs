//! Pure: may this identity do that?
//!
//! The chain is Node, then RBAC, as upstream's `--authorization-mode=Node,RBAC`: the first that allows or denies decides, and
//! what nobody allows is refused. [`Authorizer`] answers synchronously from a compact index; `follow` keeps it by watches.

pub mod aggregation;
pub mod escalation;
mod follow;
mod names;
pub mod node;
pub mod pod_references;
mod rbac;
pub mod restriction;
pub mod review;
mod rule;
pub mod signing;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;

pub use self::rule::Rule;
use crate::bootstrap::policy;
use crate::identity::Identity;

/// What a request wants to do, in the words of RBAC. An empty `resource` means a non-resource request for `path`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or a special verb as `bind`.
    /// For a non-resource request the HTTP method in lower case.
    pub verb: String,
    /// Empty for the core group.
    pub api_group: String,
    /// `v1`.
    pub api_version: String,
    /// The plural, empty for a non-resource request.
    pub resource: String,
    /// `status`, `log`, ...; empty for the resource itself.
    pub subresource: String,
    /// Empty for a cluster-scoped request and for all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// The URL's path, for non-resource requests.
    pub path: String,
    /// The raw `fieldSelector` of a list, watch or deletecollection; the Node authoriser reads it.
    pub field_selector: String,
}

/// An authoriser's answer with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed.
    Allow(String),
    /// Refused, and nobody later in the chain is asked.
    Deny(String),
    /// Not this authoriser's to decide; the end of the chain refuses.
    NoOpinion(String),
}

impl Decision {
    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// The reason, empty if there is none to tell.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        }
    }
}

/// The rules that hold for somebody in a namespace.
#[derive(Debug, Default)]
pub struct Rules {
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
    /// More may be allowed than the rules say: the Node authoriser does not enumerate.
    pub incomplete: bool,
    /// Roles that are bound and do not exist, and other obstacles.
    pub errors: Vec<String>,
}

/// What the decisions are made from.
pub(crate) struct State {
    pub(crate) rbac: rbac::Index,
    pub(crate) graph: node::Graph,
}

/// The resources that the index is made of, as resource prefixes of the store; `follow` watches them.
pub(crate) const FOLLOWED: [&str; 8] = [
    "roles.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "pods",
    "persistentvolumes",
    "volumeattachments.storage.k8s.io",
    "networkpolicies.networking.k8s.io",
];

/// The union of the Node and RBAC authorisers over one index. Cheap to clone; all clones share the index.
#[derive(Clone)]
pub struct Authorizer {
    state: Arc<RwLock<State>>,
}

impl Default for Authorizer {
    fn default() -> Authorizer {
        Authorizer::new()
    }
}

impl Authorizer {
    /// An authoriser that knows no role yet: only `system:masters` and, by the static rules, nodes are allowed anything.
    pub fn new() -> Authorizer {
        let graph = node::Graph::new(&policy::node_rules());
        Authorizer { state: Arc::new(RwLock::new(State { rbac: rbac::Index::default(), graph })) }
    }

    /// Decides one request.
    pub fn authorize(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        if identity.is_in("system:masters") {
            return Decision::Allow(String::new());
        }
        let named = with_selected_name(attributes);
        let attributes = named.as_ref().unwrap_or(attributes);
        let state = self.read();
        let by_node = state.graph.authorize(identity, attributes);
        if !matches!(by_node, Decision::NoOpinion(_)) {
            return by_node;
        }
        match state.rbac.authorize(identity, attributes) {
            Decision::NoOpinion(reason) => Decision::NoOpinion(joined(by_node.reason(), &reason)),
            decided => decided,
        }
    }

    /// All rules that hold for the identity in a namespace.
    pub fn rules_for(&self, identity: &Identity, namespace: &str) -> Rules {
        let (rules, mut errors) = self.read().rbac.rules_for(identity, namespace);
        let incomplete = node::node_name(identity).is_some();
        if incomplete {
            errors.insert(0, "node authorizer does not support user rule resolution".into());
        }
        Rules { rules, incomplete, errors }
    }

    /// Takes in an object; `resource` is the plural, with or without its group. What is not indexed is passed over.
    pub fn put(&self, resource: &str, namespace: &str, name: &str, object: &Value) {
        let mut state = self.write();
        match (plural(resource), rbac_kind(resource)) {
            (_, Some(kind)) => state.rbac.put(kind, namespace, name, object),
            ("pods", _) => state.graph.put_pod(namespace, name, object),
            ("persistentvolumes", _) => state.graph.put_volume(name, object),
            ("volumeattachments", _) => state.graph.put_attachment(name, object),
            ("networkpolicies", _) => state.graph.put_policy(namespace, name),
            _ => {}
        }
    }

    /// Forgets an object.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.write();
        match (plural(resource), rbac_kind(resource)) {
            (_, Some(kind)) => state.rbac.remove(kind, namespace, name),
            ("pods", _) => state.graph.remove_pod(namespace, name),
            ("persistentvolumes", _) => state.graph.remove_volume(name),
            ("volumeattachments", _) => state.graph.remove_attachment(name),
            ("networkpolicies", _) => state.graph.remove_policy(namespace, name),
            _ => {}
        }
    }

    /// Takes in a whole list in place of what was known of the resource, in one step.
    pub(crate) fn replace(&self, resource: &str, objects: &[(String, String, Value)]) {
        let mut state = self.write();
        match (plural(resource), rbac_kind(resource)) {
            (_, Some(kind)) => {
                state.rbac.clear(kind);
                objects.iter().for_each(|(namespace, name, object)| state.rbac.put(kind, namespace, name, object));
            }
            ("pods", _) => {
                state.graph.clear_pods();
                objects.iter().for_each(|(namespace, name, object)| state.graph.put_pod(namespace, name, object));
            }
            ("persistentvolumes", _) => {
                state.graph.clear_volumes();
                objects.iter().for_each(|(_, name, object)| state.graph.put_volume(name, object));
            }
            ("volumeattachments", _) => {
                state.graph.clear_attachments();
                objects.iter().for_each(|(_, name, object)| state.graph.put_attachment(name, object));
            }
            ("networkpolicies", _) => {
                state.graph.clear_policies();
                objects.iter().for_each(|(namespace, name, _)| state.graph.put_policy(namespace, name));
            }
            _ => {}
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rights of `wanted` (JSON rules) that `held` does not cover, as JSON rules with one resource each.
pub(crate) fn uncovered_rules(held: Option<&Value>, wanted: Option<&Value>) -> Vec<Value> {
    let mut names = names::Names::default();
    let (held, wanted) = (Rule::parse_list(&mut names, held), Rule::parse_list(&mut names, wanted));
    let missing = rule::compacted(rule::uncovered(&held, &wanted));
    missing.iter().map(Rule::to_json).collect()
}

fn plural(resource: &str) -> &str {
    resource.split_once('.').map_or(resource, |(plural, _)| plural)
}

fn rbac_kind(resource: &str) -> Option<rbac::Kind> {
    match plural(resource) {
        "roles" => Some(rbac::Kind::Role),
        "clusterroles" => Some(rbac::Kind::ClusterRole),
        "rolebindings" => Some(rbac::Kind::RoleBinding),
        "clusterrolebindings" => Some(rbac::Kind::ClusterRoleBinding),
        _ => None,
    }
}

/// A list or watch that selects one object by `metadata.name` counts as one for that object.
fn with_selected_name(attributes: &Attributes) -> Option<Attributes> {
    let on_collection = matches!(&*attributes.verb, "list" | "watch" | "deletecollection");
    if !on_collection || !attributes.name.is_empty() || attributes.field_selector.is_empty() {
        return None;
    }
    let name = node::required(&attributes.field_selector, "metadata.name")?.to_owned();
    Some(Attributes { name, ..attributes.clone() })
}

fn joined(first: &str, second: &str) -> String {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second.to_owned(),
        (_, true) => first.to_owned(),
        _ => format!("{first}, {second}"),
    }
}

/// The whole message of a 403 in upstream's wording:
/// `pods "x" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "default"`.
pub fn forbidden_message(identity: &Identity, attributes: &Attributes, reason: &str) -> String {
    let Attributes { verb, api_group, resource, subresource, namespace, name, path, .. } = attributes;
    let user = &identity.name;
    let ending = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if resource.is_empty() {
        return format!("forbidden: User {user:?} cannot {verb} path {path:?}{ending}");
    }
    let qualified = if api_group.is_empty() { resource.clone() } else { format!("{resource}.{api_group}") };
    let subject = if name.is_empty() { qualified } else { format!("{qualified} {name:?}") };
    let target = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    format!(
        "{subject} is forbidden: User {user:?} cannot {verb} resource {target:?} in API group {api_group:?} {scope}{ending}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_speaks_as_upstream_does() {
        let x = Identity { name: "x".into(), ..Identity::default() };
        let list = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden_message(&x, &list, ""),
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        let scale = Attributes {
            verb: "update".into(),
            api_group: "apps".into(),
            resource: "deployments".into(),
            subresource: "scale".into(),
            name: "web".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden_message(&x, &scale, "why"),
            r#"deployments.apps "web" is forbidden: User "x" cannot update resource "deployments/scale" in API group "apps" at the cluster scope: why"#
        );
        let path = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert_eq!(forbidden_message(&x, &path, ""), r#"forbidden: User "x" cannot get path "/metrics""#);
    }
}
