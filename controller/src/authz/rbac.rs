//! Pure: roles and bindings in compact form, and who may do what by them.
//!
//! A synchronous reducer: `put` and `remove` follow the four kinds, `authorize` and `rules_for` read. Only names, rules and
//! subjects are kept; a string that occurs in many of them is kept once.

use std::collections::BTreeMap;

use serde_json::Value;

use super::names::{Name, Names};
use super::rule::Rule;
use super::{Attributes, Decision};
use crate::identity::Identity;

/// One of the four kinds of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

/// The role that a binding grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleRef {
    pub(crate) kind: Name,
    pub(crate) name: Name,
}

#[derive(Debug)]
enum Subject {
    User(Name),
    Group(Name),
    /// The namespace is empty where the binding's own is meant.
    ServiceAccount {
        namespace: Name,
        name: Name,
    },
}

#[derive(Debug)]
struct Binding {
    role: RoleRef,
    subjects: Box<[Subject]>,
}

/// Everything that RBAC decides by.
#[derive(Default)]
pub(crate) struct Index {
    pub(crate) names: Names,
    /// Namespace (empty for cluster roles), then name.
    roles: BTreeMap<Name, BTreeMap<Name, Box<[Rule]>>>,
    bindings: BTreeMap<Name, BTreeMap<Name, Binding>>,
}

impl Index {
    /// Takes in an object of one of the four kinds.
    pub(crate) fn put(&mut self, kind: Kind, namespace: &str, name: &str, object: &Value) {
        let (namespace, name) = (self.names.get(namespace), self.names.get(name));
        match kind {
            Kind::Role | Kind::ClusterRole => {
                let rules = Rule::parse_list(&mut self.names, object.get("rules"));
                self.roles.entry(namespace).or_default().insert(name, rules);
            }
            Kind::RoleBinding | Kind::ClusterRoleBinding => {
                let binding = parse_binding(&mut self.names, object);
                self.bindings.entry(namespace).or_default().insert(name, binding);
            }
        }
    }

    /// Forgets an object.
    pub(crate) fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        match kind {
            Kind::Role | Kind::ClusterRole => remove(&mut self.roles, namespace, name),
            Kind::RoleBinding | Kind::ClusterRoleBinding => remove(&mut self.bindings, namespace, name),
        }
    }

    /// Forgets all objects of a kind, before a new list is taken in.
    pub(crate) fn clear(&mut self, kind: Kind) {
        match kind {
            Kind::Role => self.roles.retain(|namespace, _| namespace.is_empty()),
            Kind::ClusterRole => self.roles.retain(|namespace, _| !namespace.is_empty()),
            Kind::RoleBinding => self.bindings.retain(|namespace, _| namespace.is_empty()),
            Kind::ClusterRoleBinding => self.bindings.retain(|namespace, _| !namespace.is_empty()),
        }
    }

    /// RBAC's answer, with upstream's reason.
    pub(crate) fn authorize(&self, identity: &Identity, attributes: &Attributes) -> Decision {
        let mut missing = Vec::new();
        for (namespace, name, binding, subject) in self.bindings_of(identity, &attributes.namespace) {
            match self.rules_of(&binding.role, namespace) {
                Some(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                    return Decision::Allow(format!(
                        "RBAC: allowed by {}",
                        describe(namespace, name, binding, subject)
                    ));
                }
                Some(_) => {}
                None => missing.push(not_found(&binding.role)),
            }
        }
        match missing.as_slice() {
            [] => Decision::NoOpinion(String::new()),
            [one] => Decision::NoOpinion(format!("RBAC: {one}")),
            many => Decision::NoOpinion(format!("RBAC: [{}]", many.join(", "))),
        }
    }

    /// All rules that hold for the identity in a namespace (empty: only the cluster-wide ones), and what could not be resolved.
    pub(crate) fn rules_for(&self, identity: &Identity, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        for (namespace, _, binding, _) in self.bindings_of(identity, namespace) {
            match self.rules_of(&binding.role, namespace) {
                Some(found) => rules.extend_from_slice(found),
                None => missing.push(not_found(&binding.role)),
            }
        }
        (rules, missing)
    }

    /// The rules behind a reference made in `namespace`, if the role exists.
    pub(crate) fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<&[Rule]> {
        let namespace = match &*role.kind {
            "ClusterRole" => "",
            "Role" if !namespace.is_empty() => namespace,
            _ => return None,
        };
        self.roles.get(namespace)?.get(&role.name).map(|rules| &**rules)
    }

    fn bindings_of<'a>(
        &'a self,
        identity: &'a Identity,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a Name, &'a Binding, &'a Subject)> {
        let scopes = ["", namespace].into_iter().take(if namespace.is_empty() { 1 } else { 2 });
        scopes.filter_map(|scope| self.bindings.get_key_value(scope)).flat_map(move |(scope, bindings)| {
            bindings.iter().filter_map(move |(name, binding)| {
                let subject = binding.subjects.iter().find(|subject| subject.is(identity, scope))?;
                Some((scope, name, binding, subject))
            })
        })
    }
}

impl Subject {
    fn is(&self, identity: &Identity, scope: &str) -> bool {
        match self {
            Subject::User(name) => **name == *identity.name,
            Subject::Group(name) => identity.is_in(name),
            Subject::ServiceAccount { namespace, name } => {
                let namespace = if namespace.is_empty() { scope } else { namespace };
                let full = identity.name.strip_prefix("system:serviceaccount:");
                !namespace.is_empty() && full.and_then(|rest| rest.split_once(':')) == Some((namespace, name))
            }
        }
    }

    fn describe(&self, scope: &str) -> String {
        match self {
            Subject::User(name) => format!("User {name:?}"),
            Subject::Group(name) => format!("Group {name:?}"),
            Subject::ServiceAccount { namespace, name } => {
                let namespace = if namespace.is_empty() { scope } else { namespace };
                format!("ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

/// A `roleRef` from JSON.
pub(crate) fn parse_role_ref(names: &mut Names, binding: &Value) -> RoleRef {
    let text =
        |field: &str| binding.get("roleRef").and_then(|r| r.get(field)).and_then(Value::as_str).unwrap_or_default();
    RoleRef { kind: names.get(text("kind")), name: names.get(text("name")) }
}

/// `clusterrole.rbac.authorization.k8s.io "x" not found`.
pub(crate) fn not_found(role: &RoleRef) -> String {
    match &*role.kind {
        "Role" | "ClusterRole" => {
            format!("{}.rbac.authorization.k8s.io {:?} not found", role.kind.to_lowercase(), role.name)
        }
        other => format!("unsupported role reference kind: {other:?}"),
    }
}

fn parse_binding(names: &mut Names, object: &Value) -> Binding {
    let role = parse_role_ref(names, object);
    let subjects = object.get("subjects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let subjects = subjects.iter().filter_map(|subject| {
        let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = names.get(text("name"));
        match text("kind") {
            "User" => Some(Subject::User(name)),
            "Group" => Some(Subject::Group(name)),
            "ServiceAccount" => Some(Subject::ServiceAccount { namespace: names.get(text("namespace")), name }),
            _ => None,
        }
    });
    Binding { subjects: subjects.collect(), role }
}

fn describe(namespace: &str, name: &str, binding: &Binding, subject: &Subject) -> String {
    let RoleRef { kind, name: role } = &binding.role;
    let subject = subject.describe(namespace);
    if namespace.is_empty() {
        format!("ClusterRoleBinding {name:?} of {kind} {role:?} to {subject}")
    } else {
        format!("RoleBinding {:?} of {kind} {role:?} to {subject}", format!("{name}/{namespace}"))
    }
}

fn remove<T>(table: &mut BTreeMap<Name, BTreeMap<Name, T>>, namespace: &str, name: &str) {
    if let Some(inner) = table.get_mut(namespace) {
        inner.remove(name);
        if inner.is_empty() {
            table.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        let reader = json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]});
        index.put(Kind::ClusterRole, "", "reader", &reader);
        index.put(
            Kind::Role,
            "blue",
            "reader",
            &json!({"rules": [{"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"]}]}),
        );
        let binding = |kind: &str, role: &str, subject: Value| json!({"roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
        index.put(
            Kind::ClusterRoleBinding,
            "",
            "all",
            &binding("ClusterRole", "reader", json!({"kind": "Group", "name": "readers"})),
        );
        index.put(
            Kind::RoleBinding,
            "blue",
            "local",
            &binding("Role", "reader", json!({"kind": "ServiceAccount", "name": "bot"})),
        );
        index.put(Kind::RoleBinding, "blue", "lost", &binding("Role", "gone", json!({"kind": "User", "name": "eve"})));
        index
    }

    fn on(verb: &str, namespace: &str) -> Attributes {
        Attributes { verb: verb.into(), resource: "pods".into(), namespace: namespace.into(), ..Attributes::default() }
    }

    #[test]
    fn bindings_hold_in_their_scope() {
        let index = index();
        let reader = Identity { name: "r".into(), groups: vec!["readers".into()], ..Identity::default() };
        let bot = Identity::service_account("blue", "bot");
        let stranger = Identity::service_account("red", "bot");
        let table = [
            (&reader, on("list", ""), true),
            (&reader, on("list", "blue"), true),
            (&reader, on("delete", "blue"), false),
            (&bot, on("delete", "blue"), true),
            (&bot, on("delete", "red"), false),
            (&bot, on("delete", ""), false),
            (&stranger, on("delete", "blue"), false),
        ];
        for (identity, attributes, allowed) in table {
            assert_eq!(
                index.authorize(identity, &attributes).is_allowed(),
                allowed,
                "{} {attributes:?}",
                identity.name
            );
        }
    }

    #[test]
    fn reasons_are_upstreams() {
        let index = index();
        let reason = |identity: &Identity, verb| index.authorize(identity, &on(verb, "blue")).reason().to_owned();
        assert_eq!(
            reason(&Identity::service_account("blue", "bot"), "delete"),
            r#"RBAC: allowed by RoleBinding "local/blue" of Role "reader" to ServiceAccount "bot/blue""#
        );
        let eve = Identity { name: "eve".into(), ..Identity::default() };
        assert_eq!(reason(&eve, "get"), r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#);
    }

    #[test]
    fn what_is_removed_no_longer_counts() {
        let mut index = index();
        let reader = Identity { groups: vec!["readers".into()], ..Identity::default() };
        index.remove(Kind::ClusterRoleBinding, "", "all");
        assert!(!index.authorize(&reader, &on("list", "")).is_allowed());
        index.clear(Kind::RoleBinding);
        assert!(!index.authorize(&Identity::service_account("blue", "bot"), &on("delete", "blue")).is_allowed());
        assert_eq!(index.rules_for(&reader, "blue").0.len(), 0);
    }
}
