//! Pure: label selectors (`metav1.LabelSelector`).

use std::collections::BTreeMap;

use serde_json::Value;

/// Labels of an object.
pub(super) type Labels = BTreeMap<Box<str>, Box<str>>;

/// The labels of an object's metadata.
pub(super) fn labels(object: &Value) -> Labels {
    let all = object["metadata"]["labels"].as_object().into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into()))).collect()
}

/// What must hold of labels; empty holds of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(Box<str>, Vec<Box<str>>),
    NotIn(Box<str>, Vec<Box<str>>),
    Exists(Box<str>),
    Absent(Box<str>),
    /// An operator that nobody knows selects nothing.
    Never,
}

impl Selector {
    pub(super) fn parse(selector: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().into();
        let equal = selector["matchLabels"].as_object().into_iter().flatten();
        let equal = equal.map(|(key, value)| Requirement::In(key.as_str().into(), vec![text(value)]));
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(|one| {
            let values = || one["values"].as_array().into_iter().flatten().map(text).collect();
            match one["operator"].as_str() {
                Some("In") => Requirement::In(text(&one["key"]), values()),
                Some("NotIn") => Requirement::NotIn(text(&one["key"]), values()),
                Some("Exists") => Requirement::Exists(text(&one["key"])),
                Some("DoesNotExist") => Requirement::Absent(text(&one["key"])),
                _ => Requirement::Never,
            }
        });
        Self(equal.chain(expressions).collect())
    }

    pub(super) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::Never => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_upstreams() {
        let pod = labels(&json!({"metadata": {"labels": {"app": "web", "tier": "front"}}}));
        for (selector, matches) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Gt"}]}), false),
        ] {
            assert_eq!(Selector::parse(&selector).matches(&pod), matches, "{selector}");
        }
    }
}
