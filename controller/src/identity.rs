//! Pure: who is asking: user name, uid, groups, extra.

use std::collections::BTreeMap;

/// An authenticated user, as `authentication.k8s.io/v1 UserInfo` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `system:serviceaccount:default:web`, `system:node:pi-1`, `alice`.
    pub name: String,
    /// Unique over time where the authenticator knows one, else empty.
    pub uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` among them.
    pub groups: Vec<String>,
    /// Further facts, such as the pod and the node of a service-account token.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A request without credentials.
    pub fn anonymous() -> Identity {
        Identity {
            name: "system:anonymous".into(),
            groups: vec!["system:unauthenticated".into()],
            ..Identity::default()
        }
    }

    /// A service account, with the groups that its tokens have.
    pub fn service_account(namespace: &str, name: &str) -> Identity {
        Identity {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".into(),
            ],
            ..Identity::default()
        }
    }

    /// A controller of ours: `system:serviceaccount:kube-system:<name>-controller`; `name` without the ending.
    pub fn controller(name: &str) -> Identity {
        Identity::service_account("kube-system", &format!("{name}-controller"))
    }

    /// A built-in component such as `system:kube-scheduler`.
    pub fn component(name: &str) -> Identity {
        Identity { name: name.into(), groups: vec!["system:authenticated".into()], ..Identity::default() }
    }

    /// Whether the identity belongs to the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// An authenticated user in these groups besides `system:authenticated`.
    pub fn user(name: &str, groups: &[&str]) -> Identity {
        let groups = groups.iter().chain(&["system:authenticated"]).map(|group| (*group).to_owned()).collect();
        Identity { name: name.into(), groups, ..Identity::default() }
    }

    /// The board's name, when an agent asks: `system:node:<name>` in `system:nodes`.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|name| !name.is_empty() && self.is_in("system:nodes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_name_and_group() {
        assert_eq!(Identity::user("system:node:pi-1", &["system:nodes"]).node_name(), Some("pi-1"));
        assert_eq!(Identity::user("system:node:pi-1", &[]).node_name(), None);
        assert_eq!(Identity::user("pi-1", &["system:nodes"]).node_name(), None);
    }
}
