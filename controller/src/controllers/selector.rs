//! Pure: label selectors, compiled once when an object enters the view.

use serde_json::Value;

use super::text::{Interner, Labels, Str, at, list_at, str_at};

/// One term of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Requirement {
    pub(crate) key: Str,
    pub(crate) operator: Operator,
    pub(crate) values: Box<[Str]>,
}

/// `Gt` and `Lt` occur in node selectors only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// All terms must hold; no terms match everything. A selector that is absent is `Option::None`, which matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selector(Box<[Requirement]>);

impl Selector {
    /// A `metav1.LabelSelector`; absent selects nothing.
    pub(crate) fn from_label_selector(selector: Option<&Value>, interner: &mut Interner) -> Option<Selector> {
        let selector = selector.filter(|value| !value.is_null())?;
        let mut terms = equalities(selector.get("matchLabels"), interner);
        for expression in list_at(selector, &["matchExpressions"]) {
            terms.push(requirement(expression, interner)?);
        }
        Some(Selector(terms.into()))
    }

    /// A plain map, as Services and ReplicationControllers have it; absent or empty selects nothing.
    pub(crate) fn from_map(map: Option<&Value>, interner: &mut Interner) -> Option<Selector> {
        let terms = equalities(map, interner);
        if terms.is_empty() { None } else { Some(Selector(terms.into())) }
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|term| term.holds(labels.get(&term.key)))
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.0.is_empty()
    }
}

fn equalities(map: Option<&Value>, interner: &mut Interner) -> Vec<Requirement> {
    let Some(map) = map.and_then(Value::as_object) else { return Vec::new() };
    map.iter()
        .map(|(key, value)| Requirement {
            key: interner.text(key),
            operator: Operator::In,
            values: Box::new([interner.text(value.as_str().unwrap_or_default())]),
        })
        .collect()
}

/// A selector term with `key`, `operator` and `values`; an unknown operator makes the whole selector match nothing.
pub(crate) fn requirement(expression: &Value, interner: &mut Interner) -> Option<Requirement> {
    let operator = match str_at(expression, &["operator"]) {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return None,
    };
    let key = interner.text(at(expression, &["key"]).and_then(Value::as_str)?);
    let values = list_at(expression, &["values"]).iter().filter_map(Value::as_str);
    Some(Requirement { key, operator, values: values.map(|text| interner.text(text)).collect() })
}

impl Requirement {
    /// Does the term hold for this value of its key?
    pub(crate) fn holds(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|known| known.as_ref() == value);
        let compare = |ordering: std::cmp::Ordering| {
            let left = value.and_then(|value| value.parse::<i64>().ok());
            let right = self.values.first().and_then(|value| value.parse::<i64>().ok());
            matches!((left, right), (Some(left), Some(right)) if left.cmp(&right) == ordering)
        };
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compare(std::cmp::Ordering::Greater),
            Operator::Lt => compare(std::cmp::Ordering::Less),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: Value, labels: Value) -> bool {
        let mut interner = Interner::default();
        let labels = interner.labels(Some(&labels));
        Selector::from_label_selector(Some(&selector), &mut interner).is_some_and(|selector| selector.matches(&labels))
    }

    #[test]
    fn label_selectors() {
        assert!(selects(json!({}), json!({"a": "b"})));
        assert!(!selects(Value::Null, json!({"a": "b"})));
        assert!(selects(json!({"matchLabels": {"a": "b"}}), json!({"a": "b", "c": "d"})));
        assert!(!selects(json!({"matchLabels": {"a": "x"}}), json!({"a": "b"})));
        let not_in = json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]});
        assert!(selects(not_in.clone(), json!({})));
        assert!(!selects(not_in, json!({"a": "b"})));
        assert!(!selects(json!({"matchExpressions": [{"key": "a", "operator": "Odd"}]}), json!({"a": "b"})));
    }

    #[test]
    fn an_empty_map_selects_nothing() {
        assert_eq!(Selector::from_map(Some(&json!({})), &mut Interner::default()), None);
    }
}
