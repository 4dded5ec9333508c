//! Pure: a ClusterRole with an aggregation rule has the rules of all roles that it selects.

use serde_json::{Value, json};

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Need, Plan};
use super::text::{digest, list_at};
use super::view::policy::ClusterRole;
use super::view::{Change, Key, View};

/// The row; a key is a role that aggregates.
pub(super) const CONTROLLER: Controller = Controller {
    account: "clusterrole-aggregation-controller",
    component: "clusterrole-aggregation-controller",
    watches: &[KindId::CLUSTER_ROLES],
    keys,
    plan,
};

fn selects(role: &ClusterRole, other: &ClusterRole) -> bool {
    role.aggregates.iter().any(|selector| selector.matches(&other.meta.labels))
}

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    for (key, object) in view.all(KindId::CLUSTER_ROLES) {
        let Some(role) = object.as_cluster_role().filter(|role| !role.aggregates.is_empty()) else { continue };
        let meets = change.sides().filter_map(|side| side.as_cluster_role()).any(|other| selects(role, other));
        if meets || key == change.key {
            keys.push(key);
        }
    }
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(role) = view.as_cluster_role(key).filter(|role| !role.aggregates.is_empty()) else {
        return Plan::default();
    };
    let selected: Vec<Key> = view
        .all(KindId::CLUSTER_ROLES)
        .filter(|(other, object)| other != key && object.as_cluster_role().is_some_and(|other| selects(role, other)))
        .map(|(other, _)| other)
        .collect();
    let missing: Vec<Need> = selected
        .iter()
        .filter(|other| !context.reads.objects.contains_key(other))
        .map(|other| Need::Object(other.clone()))
        .collect();
    if !missing.is_empty() {
        return Plan::needs(missing);
    }
    let mut rules: Vec<Value> = Vec::new();
    // By name, and each rule once.
    for object in selected.iter().filter_map(|other| context.reads.objects.get(other)?.as_ref()) {
        for rule in list_at(object, &["rules"]) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    if digest(&Value::from(rules.clone())) == role.rules {
        return Plan::default();
    }
    let (uid, revision) = (role.meta.uid, Some(role.meta.revision));
    let merge = json!({ "rules": rules });
    Plan::act(Action::Edit { key: key.clone(), subresource: None, uid, revision, merge })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    #[test]
    fn rules_are_gathered_and_follow() {
        let mut world = World::new(&[&CONTROLLER]);
        let role = |name: &str, labels: Value, rules: Value| {
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": { "name": name, "labels": labels }, "rules": rules })
        };
        let mut all = role("all", json!({}), Value::Null);
        all["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { "part": "yes" } }] });
        let all = world.put(all);
        let one = world.put(role("one", json!({ "part": "yes" }), json!([{ "verbs": ["get"] }])));
        world.put(role("two", json!({ "part": "yes" }), json!([{ "verbs": ["list"] }, { "verbs": ["get"] }])));
        world.settle();
        assert_eq!(world.objects[&all]["rules"], json!([{ "verbs": ["get"] }, { "verbs": ["list"] }]));
        world.remove(&one);
        world.settle();
        assert_eq!(world.objects[&all]["rules"], json!([{ "verbs": ["list"] }, { "verbs": ["get"] }]));
    }
}
