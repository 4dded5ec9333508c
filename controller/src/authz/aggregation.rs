//! Pure: the rules of an aggregated ClusterRole, for the controller `clusterrole-aggregation`.

use serde_json::Value;

/// The rules that `role` should have: those of all ClusterRoles that one of its selectors chooses, by name, without
/// duplicates. `None` if the role does not aggregate.
pub fn aggregate<'a>(role: &Value, all: impl Iterator<Item = &'a Value>) -> Option<Vec<Value>> {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors")?.as_array()?;
    let own = name(role);
    let mut chosen: Vec<&Value> =
        all.filter(|other| name(other) != own && selectors.iter().any(|selector| selects(selector, other))).collect();
    chosen.sort_by_key(|other| name(other));
    let mut rules: Vec<Value> = Vec::new();
    for rule in chosen.iter().filter_map(|other| other.get("rules")?.as_array()).flatten() {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    Some(rules)
}

fn name(role: &Value) -> &str {
    role.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn selects(selector: &Value, role: &Value) -> bool {
    let label = |key: &str| role.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let exact = selector.get("matchLabels").and_then(Value::as_object);
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    exact.into_iter().flatten().all(|(key, value)| label(key) == value.as_str())
        && expressions.into_iter().flatten().all(|expression| {
            let value = label(expression.get("key").and_then(Value::as_str).unwrap_or_default());
            let among = expression
                .get("values")
                .and_then(Value::as_array)
                .is_some_and(|values| values.iter().any(|own| own.as_str().is_some() && own.as_str() == value));
            match expression.get("operator").and_then(Value::as_str) {
                Some("In") => among,
                Some("NotIn") => !among,
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chosen_rules_are_joined_by_name_once() {
        let rule = |resource: &str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
        let role = |name: &str, label: &str, rules: Value| json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
        let view = json!({"metadata": {"name": "view", "labels": {"to-view": "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]}, "rules": [rule("stale")]});
        let all = [
            role("b", "to-view", json!([rule("services"), rule("pods")])),
            role("a", "to-view", json!([rule("pods")])),
            role("c", "to-edit", json!([rule("secrets")])),
            view.clone(),
        ];
        assert_eq!(aggregate(&view, all.iter()), Some(vec![rule("pods"), rule("services")]));
        assert_eq!(aggregate(&all[0], all.iter()), None);
    }
}
