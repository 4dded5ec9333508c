//! Pure: the table of default roles and bindings, read into objects.

use serde_json::{Map, Value, json};

/// Upstream's defaults of v1.35 and ours; the format stands at its top.
const TABLE: &str = include_str!("policy.table");

/// The API version of RBAC's kinds.
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";

/// All default ClusterRoles, Roles, ClusterRoleBindings and RoleBindings, roles first.
pub fn objects() -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        if let Some(rule) = line.strip_prefix("  ") {
            let rules = out.last_mut().and_then(|role| role.get_mut("rules")).and_then(Value::as_array_mut);
            rules.expect("the table is part of the program: a rule follows its role").push(parse_rule(rule));
        } else {
            out.push(parse_object(line));
        }
    }
    out
}

/// The rules of the role `system:node`, which the Node authoriser applies to every node.
pub(crate) fn node_rules() -> Value {
    let node = objects().into_iter().find(|object| object["metadata"]["name"] == "system:node");
    node.map(|mut role| role["rules"].take()).unwrap_or_default()
}

fn parse_object(line: &str) -> Value {
    let mut words = line.split(' ');
    let kind = words.next().unwrap_or_default();
    let mut object = json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {}});
    let name = words.next().unwrap_or_default();
    let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    let mut labels = Map::new();
    labels.insert("kubernetes.io/bootstrapping".into(), json!("rbac-defaults"));
    if kind.ends_with("Binding") {
        let (role_kind, role) = words.next().and_then(|word| word.split_once('=')).unwrap_or_default();
        object["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role});
        object["subjects"] = words.filter_map(|word| word.split_once('=')).map(subject).collect();
    } else {
        object["rules"] = json!([]);
        let mut gathered = Vec::new();
        let mut gathering = false;
        for word in words {
            match (word, gathering) {
                ("label" | "gather", _) => gathering = word == "gather",
                (label, true) => gathered.push(json!({"matchLabels": {full_label(label): "true"}})),
                (label, false) => {
                    labels.insert(full_label(label), json!("true"));
                }
            }
        }
        if !gathered.is_empty() {
            object["aggregationRule"] = json!({"clusterRoleSelectors": gathered});
        }
    }
    object["metadata"] = json!({"name": name, "labels": labels,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn full_label(word: &str) -> String {
    word.replace("rbac:", "rbac.authorization.k8s.io/")
}

fn subject((kind, name): (&str, &str)) -> Value {
    match name.split_once('/') {
        Some((namespace, name)) => json!({"kind": kind, "namespace": namespace, "name": name}),
        None => json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}),
    }
}

fn parse_rule(line: &str) -> Value {
    let fields: Vec<Vec<&str>> = line.split(" | ").map(|field| field.split(' ').collect()).collect();
    match fields.as_slice() {
        [verbs, url, paths] if *url == ["url"] => json!({"verbs": verbs, "nonResourceURLs": paths}),
        [verbs, groups, resources, names @ ..] => {
            let groups: Vec<&str> = groups.iter().map(|group| if *group == "core" { "" } else { group }).collect();
            let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
            if let [names] = names {
                rule["resourceNames"] = json!(names);
            }
            rule
        }
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
        objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name).unwrap()
    }

    #[test]
    fn every_line_becomes_a_whole_object() {
        let objects = objects();
        for object in &objects {
            let kind = object["kind"].as_str().unwrap();
            assert!(["ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"].contains(&kind), "{object}");
            assert_eq!(object["metadata"]["namespace"].is_null(), kind.starts_with("Cluster"), "{object}");
            for rule in object["rules"].as_array().into_iter().flatten() {
                assert!(rule.is_object(), "{object}");
            }
        }
        let keys: BTreeSet<_> = objects.iter().map(|o| (o["kind"].to_string(), o["metadata"].to_string())).collect();
        assert_eq!(keys.len(), objects.len());
    }

    #[test]
    fn every_binding_has_its_role() {
        let objects = objects();
        for binding in objects.iter().filter(|o| !o["roleRef"].is_null()) {
            let found = objects.iter().any(|role| {
                role["kind"] == binding["roleRef"]["kind"]
                    && role["metadata"]["name"] == binding["roleRef"]["name"]
                    && (role["kind"] == "ClusterRole"
                        || role["metadata"]["namespace"] == binding["metadata"]["namespace"])
            });
            assert!(found, "{binding}");
            assert!(
                !binding["subjects"].as_array().unwrap().is_empty() || binding["metadata"]["name"] == "system:node"
            );
        }
    }

    #[test]
    fn the_forms_of_the_table() {
        let objects = objects();
        assert_eq!(
            named(&objects, "ClusterRole", "cluster-admin")["rules"],
            json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}])
        );
        let edit = named(&objects, "ClusterRole", "edit");
        assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        assert_eq!(
            edit["aggregationRule"]["clusterRoleSelectors"],
            json!([{"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}}])
        );
        assert_eq!(
            named(&objects, "RoleBinding", "system::leader-locking-kube-scheduler")["subjects"],
            json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-scheduler"},
                {"kind": "ServiceAccount", "namespace": "kube-system", "name": "kube-scheduler"}])
        );
        assert!(node_rules().as_array().unwrap().len() > 15);
    }
}
