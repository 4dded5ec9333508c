//! Pure: nobody grants by RBAC what they do not hold, unless they may `escalate` or `bind`.

use serde_json::{Value, json};

use super::names::Names;
use super::rbac::{self, RoleRef};
use super::rule::{Rule, compacted, describe_all, quoted, uncovered};
use super::{Attributes, Authorizer};
use crate::identity::Identity;

/// The API group of RBAC's kinds.
const GROUP: &str = "rbac.authorization.k8s.io";

impl Authorizer {
    /// Whether the identity may write this Role, ClusterRole, RoleBinding or ClusterRoleBinding. `attributes` are those of the
    /// write, `old` is the stored object of an update. The error is the message behind `... is forbidden: ` (403), except
    /// [`Refusal::NoRole`], which is a 404.
    pub fn may_grant(
        &self,
        identity: &Identity,
        attributes: &Attributes,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Refusal> {
        if attributes.api_group != GROUP || !attributes.subresource.is_empty() || identity.is_in("system:masters") {
            return Ok(());
        }
        match &*attributes.resource {
            "roles" | "clusterroles" => self.may_write_role(identity, attributes, object, old),
            "rolebindings" | "clusterrolebindings" => self.may_write_binding(identity, attributes, object, old),
            _ => Ok(()),
        }
    }

    fn may_write_role(
        &self,
        identity: &Identity,
        attributes: &Attributes,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Refusal> {
        let escalate = Attributes { verb: "escalate".into(), field_selector: String::new(), ..attributes.clone() };
        let unchanged = old.is_some_and(|old| {
            old.get("rules") == object.get("rules") && old.get("aggregationRule") == object.get("aggregationRule")
        });
        if unchanged || self.authorize(identity, &escalate).is_allowed() {
            return Ok(());
        }
        let mut names = Names::default();
        let wanted = Rule::parse_list(&mut names, object.get("rules"));
        self.confirm(identity, &attributes.namespace, &wanted)?;
        if [Some(object), old].into_iter().flatten().any(has_aggregation) {
            let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]}]);
            let everything = Rule::parse_list(&mut names, Some(&everything));
            self.confirm(identity, &attributes.namespace, &everything).map_err(|_| {
                Refusal::Forbidden("must have cluster-admin privileges to use the aggregationRule".into())
            })?;
        }
        Ok(())
    }

    fn may_write_binding(
        &self,
        identity: &Identity,
        attributes: &Attributes,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Refusal> {
        let role = rbac::parse_role_ref(&mut Names::default(), object);
        let unchanged = old.is_some_and(|old| {
            old.get("subjects") == object.get("subjects") && old.get("roleRef") == object.get("roleRef")
        });
        if unchanged || self.may_bind(identity, &role, &attributes.namespace) {
            return Ok(());
        }
        let wanted = {
            let index = self.read();
            let rules = index.rbac.rules_of(&role, &attributes.namespace);
            rules.ok_or_else(|| Refusal::NoRole(rbac::not_found(&role)))?.to_vec()
        };
        self.confirm(identity, &attributes.namespace, &wanted)
    }

    fn may_bind(&self, identity: &Identity, role: &RoleRef, namespace: &str) -> bool {
        let resource = match &*role.kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            _ => return false,
        };
        let bind = Attributes {
            verb: "bind".into(),
            api_group: GROUP.into(),
            api_version: "*".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: role.name.to_string(),
            ..Attributes::default()
        };
        self.authorize(identity, &bind).is_allowed()
    }

    fn confirm(&self, identity: &Identity, namespace: &str, wanted: &[Rule]) -> Result<(), Refusal> {
        let (held, missing) = self.read().rbac.rules_for(identity, namespace);
        let lacking = compacted(uncovered(&held, wanted));
        if lacking.is_empty() {
            return Ok(());
        }
        let groups = quoted(identity.groups.iter().map(String::as_str));
        let mut message = format!(
            "user {:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}",
            identity.name,
            describe_all(&lacking)
        );
        match missing.as_slice() {
            [] => {}
            [one] => message.push_str(&format!("; resolution errors: [{one}]")),
            many => message.push_str(&format!("; resolution errors: [{}]", many.join(" "))),
        }
        Err(Refusal::Forbidden(message))
    }
}

/// Why a grant is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 403; the reason behind `... is forbidden: `.
    #[error("{0}")]
    Forbidden(String),
    /// 404; the whole message.
    #[error("{0}")]
    NoRole(String),
}

fn has_aggregation(role: &Value) -> bool {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
    selectors.is_some_and(|selectors| !selectors.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorizer() -> Authorizer {
        let authorizer = Authorizer::new();
        let rules = |verbs: Value, group: &str, resources: Value| json!({"rules": [{"verbs": verbs, "apiGroups": [group], "resources": resources}]});
        let bind = |role: &str, user: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": user}]});
        authorizer.put("clusterroles", "", "reader", &rules(json!(["get", "list"]), "", json!(["pods"])));
        authorizer.put(
            "clusterroles",
            "",
            "binder",
            &rules(json!(["bind", "escalate"]), GROUP, json!(["clusterroles"])),
        );
        authorizer.put("clusterroles", "", "strong", &rules(json!(["*"]), "", json!(["secrets"])));
        authorizer.put("clusterrolebindings", "", "1", &bind("reader", "ann"));
        authorizer.put("clusterrolebindings", "", "2", &bind("binder", "bob"));
        authorizer
    }

    fn user(name: &str) -> Identity {
        Identity { name: name.into(), groups: vec!["system:authenticated".into()], ..Identity::default() }
    }

    fn write(resource: &str) -> Attributes {
        Attributes {
            verb: "create".into(),
            api_group: GROUP.into(),
            resource: resource.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn one_grants_what_one_holds() {
        let authorizer = authorizer();
        let own = json!({"rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(authorizer.may_grant(&user("ann"), &write("clusterroles"), &own, None), Ok(()));
        let more = json!({"rules": [{"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(
            authorizer.may_grant(&user("ann"), &write("clusterroles"), &more, None),
            Err(Refusal::Forbidden(
                "user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
                 {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
                    .into()
            ))
        );
        assert_eq!(authorizer.may_grant(&user("bob"), &write("clusterroles"), &more, None), Ok(()));
        assert_eq!(authorizer.may_grant(&user("ann"), &write("clusterroles"), &more, Some(&more)), Ok(()));
    }

    #[test]
    fn binding_needs_the_rights_or_the_verb() {
        let authorizer = authorizer();
        let to = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": []});
        let bindings = write("clusterrolebindings");
        assert_eq!(authorizer.may_grant(&user("ann"), &bindings, &to("reader"), None), Ok(()));
        assert!(matches!(
            authorizer.may_grant(&user("ann"), &bindings, &to("strong"), None),
            Err(Refusal::Forbidden(_))
        ));
        assert_eq!(authorizer.may_grant(&user("bob"), &bindings, &to("strong"), None), Ok(()));
        assert_eq!(
            authorizer.may_grant(&user("ann"), &bindings, &to("gone"), None),
            Err(Refusal::NoRole("clusterrole.rbac.authorization.k8s.io \"gone\" not found".into()))
        );
    }

    #[test]
    fn aggregation_is_for_administrators() {
        let role = json!({"rules": [], "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
        assert_eq!(
            authorizer().may_grant(&user("ann"), &write("clusterroles"), &role, None),
            Err(Refusal::Forbidden("must have cluster-admin privileges to use the aggregationRule".into()))
        );
        let master = Identity { groups: vec!["system:masters".into()], ..user("root") };
        assert_eq!(authorizer().may_grant(&master, &write("clusterroles"), &role, None), Ok(()));
    }
}
