//! Pure: the row of PodDisruptionBudget.

use serde_json::{Value, json};

use super::column::{age, age_of, name};
use super::strategy::{Strategy, keep_status};
use super::{Column, Kind, Subresource};
use crate::object::Object;
use crate::schema::field_error::{FieldError, Path};
use crate::schema::selector::validate_label_selector;

/// What the status counts; nothing is known of a new budget.
const COUNTS: [&str; 4] = ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"];
const BOUNDS: [&str; 2] = ["minAvailable", "maxUnavailable"];

pub(super) fn kind() -> Kind {
    Kind {
        short_names: vec!["pdb".into()],
        columns: vec![
            name(),
            Column::text("Min Available"),
            Column::text("Max Unavailable"),
            Column::of("Allowed Disruptions", "integer"),
            age(),
        ],
        row: |budget, now| {
            let bound = |field| match budget.get(&["spec", field]) {
                Some(Value::String(text)) => text.as_str().into(),
                Some(Value::Number(number)) => number.to_string().into(),
                _ => Value::from("N/A"),
            };
            let allowed = budget.integer(&["status", "disruptionsAllowed"]).unwrap_or_default();
            vec![
                budget.name().into(),
                bound("minAvailable"),
                bound("maxUnavailable"),
                allowed.into(),
                age_of(budget, now),
            ]
        },
        subresources: vec![Subresource::Status],
        strategy: Strategy {
            prepare_create: |budget| {
                let counts = COUNTS.map(|field| (field.to_owned(), json!(0)));
                budget.set(&["status"], Value::Object(counts.into_iter().collect()));
            },
            prepare_update: keep_status,
            generation: true,
            unconditional_update: false,
            validate,
            validate_status,
            ..Strategy::default()
        },
        ..Kind::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
    }
}

fn validate(budget: &Object) -> Vec<FieldError> {
    let spec = Path::Field(&Path::Root, "spec");
    let mut errors = Vec::new();
    let bounds = BOUNDS.map(|field| (field, budget.get(&["spec", field]).filter(|bound| !bound.is_null())));
    if bounds.iter().all(|(_, bound)| bound.is_some()) {
        let value = budget.get(&["spec"]).cloned().unwrap_or_default();
        errors.push(FieldError::invalid(spec, value, "minAvailable and maxUnavailable cannot be both set"));
    }
    for (field, bound) in bounds {
        let Some(bound) = bound else { continue };
        let path = Path::Field(&spec, field);
        errors.extend(wrong_bound(bound).map(|why| FieldError::invalid(path, bound.clone(), why)));
    }
    if let Some(selector) = budget.get(&["spec", "selector"]).filter(|selector| !selector.is_null()) {
        errors.extend(validate_label_selector(selector, Path::Field(&spec, "selector")));
    }
    errors
}

/// Neither a count nor a share of at most the whole.
fn wrong_bound(bound: &Value) -> Option<&'static str> {
    let Value::String(text) = bound else {
        return bound.as_i64().filter(|count| *count < 0).map(|_| "must be greater than or equal to 0");
    };
    let digits = text.strip_suffix('%').filter(|digits| !digits.is_empty());
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.map(str::parse::<u64>) {
        None => Some("must be an integer or percentage (e.g '5%%')"),
        Some(Ok(share)) if share <= 100 => None,
        Some(_) => Some("must not be greater than 100%"),
    }
}

fn validate_status(new: &Object, _: &Object) -> Vec<FieldError> {
    let negative = |field: &&str| new.integer(&["status", field]).filter(|count| *count < 0);
    let found = COUNTS.iter().filter_map(|field| Some((field, negative(field)?)));
    found
        .map(|(field, count)| {
            FieldError::invalid(format!("status.{field}"), count, "must be greater than or equal to 0")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(spec: Value) -> Vec<String> {
        let budget =
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec});
        validate(&Object::from_value(budget).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn bounds_are_counts_or_shares_and_one_of_them() {
        for right in
            [json!({"minAvailable": 0}), json!({"maxUnavailable": "100%"}), json!({"minAvailable": "0%"}), json!({})]
        {
            assert_eq!(said(right), Vec::<String>::new());
        }
        for (spec, words) in [
            (json!({"minAvailable": -1}), "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"),
            (
                json!({"maxUnavailable": "101%"}),
                r#"spec.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#,
            ),
            (
                json!({"minAvailable": "one"}),
                r#"spec.minAvailable: Invalid value: "one": must be an integer or percentage (e.g '5%%')"#,
            ),
        ] {
            assert_eq!(said(spec), [words]);
        }
        let both = said(json!({"minAvailable": 1, "maxUnavailable": 1}));
        assert!(both[0].ends_with("minAvailable and maxUnavailable cannot be both set"), "{both:?}");
    }
}
