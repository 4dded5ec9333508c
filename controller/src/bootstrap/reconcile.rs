//! Pure: what to do about an object that should be there, given what is.

use serde_json::{Map, Value};

use super::objects::Care;
use crate::authz::uncovered_rules;

/// The annotation that lets a user keep changes to the default policy.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Nothing,
    Create,
    Update(Value),
    /// A binding's role cannot change: delete it, then create it anew with this.
    Recreate(Value),
}

pub(super) fn plan(existing: Option<&Value>, wanted: &Value, care: Care) -> Action {
    let Some(existing) = existing else { return Action::Create };
    let changed = match care {
        Care::Leave => return Action::Nothing,
        Care::Fields(fields) => with_fields(existing, wanted, fields),
        Care::Policy if annotation(existing) == Some("false") => return Action::Nothing,
        Care::Policy if wanted.get("roleRef").is_some() => {
            let with_subjects = with_missing(existing, wanted, "subjects", |own, missing| !own.contains(missing));
            if existing.get("roleRef") != wanted.get("roleRef") {
                let mut anew = wanted.clone();
                anew["subjects"] = with_subjects["subjects"].clone();
                return Action::Recreate(anew);
            }
            with_subjects
        }
        Care::Policy if wanted.get("aggregationRule").is_some() => with_missing_selectors(existing, wanted),
        Care::Policy => with_missing_rules(existing, wanted),
    };
    let changed = if care == Care::Policy { with_metadata(changed, wanted) } else { changed };
    if changed == *existing { Action::Nothing } else { Action::Update(changed) }
}

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(AUTOUPDATE)?.as_str()
}

fn with_fields(existing: &Value, wanted: &Value, fields: &[&str]) -> Value {
    let mut changed = existing.clone();
    for field in fields {
        // The server fills in defaults, so a field counts as equal if it holds all that is wanted.
        if !contains(&changed[*field], &wanted[*field]) {
            changed[*field] = wanted[*field].clone();
        }
    }
    changed
}

/// Whether `own` says everything that `wanted` says; lists are compared item by item.
fn contains(own: &Value, wanted: &Value) -> bool {
    match (own, wanted) {
        (Value::Object(own), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| own.get(key).is_some_and(|own| contains(own, value)))
        }
        (Value::Array(own), Value::Array(wanted)) => {
            own.len() == wanted.len() && own.iter().zip(wanted).all(|(own, wanted)| contains(own, wanted))
        }
        _ => own == wanted,
    }
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn with_missing(existing: &Value, wanted: &Value, field: &str, is_missing: impl Fn(&[Value], &Value) -> bool) -> Value {
    let mut all = list(existing, field).to_vec();
    for item in list(wanted, field) {
        if is_missing(&all, item) {
            all.push(item.clone());
        }
    }
    let mut changed = existing.clone();
    if !all.is_empty() {
        changed[field] = Value::Array(all);
    }
    changed
}

fn with_missing_rules(existing: &Value, wanted: &Value) -> Value {
    let missing = uncovered_rules(existing.get("rules"), wanted.get("rules"));
    let mut changed = existing.clone();
    if !missing.is_empty() {
        changed["rules"] = list(existing, "rules").iter().cloned().chain(missing).collect();
    }
    changed
}

fn with_missing_selectors(existing: &Value, wanted: &Value) -> Value {
    let empty = Value::Null;
    let rule = |object: &Value| object.get("aggregationRule").unwrap_or(&empty).clone();
    let joined =
        with_missing(&rule(existing), &rule(wanted), "clusterRoleSelectors", |own, selector| !own.contains(selector));
    let mut changed = existing.clone();
    changed["aggregationRule"] = joined;
    changed
}

/// Labels and annotations of the default are put back, others stay.
fn with_metadata(mut changed: Value, wanted: &Value) -> Value {
    for field in ["labels", "annotations"] {
        let Some(ours) = wanted["metadata"].get(field).and_then(Value::as_object) else { continue };
        let metadata = changed["metadata"].as_object_mut();
        let Some(metadata) = metadata else { continue };
        let theirs = metadata.entry(field).or_insert_with(|| Value::Object(Map::new()));
        if let Some(theirs) = theirs.as_object_mut() {
            theirs.extend(ours.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(rules: Value) -> Value {
        json!({"kind": "ClusterRole", "metadata": {"name": "r", "labels": {"a": "b"}, "annotations": {AUTOUPDATE: "true"}}, "rules": rules})
    }

    fn get(resource: &str) -> Value {
        json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]})
    }

    #[test]
    fn missing_rules_come_back_and_added_ones_stay() {
        let wanted = role(json!([get("pods"), get("services")]));
        assert_eq!(plan(None, &wanted, Care::Policy), Action::Create);
        assert_eq!(plan(Some(&wanted), &wanted, Care::Policy), Action::Nothing);
        let other = role(json!([get("pods"), get("secrets")]));
        let Action::Update(merged) = plan(Some(&other), &wanted, Care::Policy) else { panic!() };
        assert_eq!(merged["rules"], json!([get("pods"), get("secrets"), get("services")]));
        let mut kept = other.clone();
        kept["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(plan(Some(&kept), &wanted, Care::Policy), Action::Nothing);
        let wider = role(json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
        assert_eq!(plan(Some(&wider), &wanted, Care::Policy), Action::Nothing);
    }

    #[test]
    fn bindings_regain_subjects_and_change_role_by_recreation() {
        let binding = |role: &str, users: &[&str]| {
            let subjects: Vec<Value> = users.iter().map(|user| json!({"kind": "User", "name": user})).collect();
            json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects})
        };
        let wanted = binding("r", &["ann"]);
        let Action::Update(merged) = plan(Some(&binding("r", &["bob"])), &wanted, Care::Policy) else { panic!() };
        assert_eq!(merged["subjects"], binding("r", &["bob", "ann"])["subjects"]);
        let Action::Recreate(anew) = plan(Some(&binding("x", &["bob"])), &wanted, Care::Policy) else { panic!() };
        assert_eq!(anew, binding("r", &["bob", "ann"]));
        assert_eq!(plan(Some(&wanted), &wanted, Care::Policy), Action::Nothing);
    }

    #[test]
    fn aggregated_rules_are_the_controllers() {
        let select = |label: &str| json!({"matchLabels": {label: "true"}});
        let mut wanted = role(json!([get("pods")]));
        wanted["aggregationRule"] = json!({"clusterRoleSelectors": [select("x")]});
        let mut existing = wanted.clone();
        existing["rules"] = json!([get("nodes")]);
        assert_eq!(plan(Some(&existing), &wanted, Care::Policy), Action::Nothing);
        existing["aggregationRule"] = json!({"clusterRoleSelectors": [select("y")]});
        let Action::Update(merged) = plan(Some(&existing), &wanted, Care::Policy) else { panic!() };
        assert_eq!(merged["aggregationRule"]["clusterRoleSelectors"], json!([select("y"), select("x")]));
    }

    #[test]
    fn fields_follow_and_defaults_do_not_disturb() {
        let wanted = json!({"ports": [{"port": 6443}], "endpoints": [1]});
        let defaulted = json!({"ports": [{"port": 6443, "protocol": "TCP"}], "endpoints": [1]});
        let care = Care::Fields(&["ports", "endpoints"]);
        assert_eq!(plan(Some(&defaulted), &wanted, care), Action::Nothing);
        let moved = json!({"ports": [{"port": 6444, "protocol": "TCP"}], "endpoints": [1]});
        assert!(
            matches!(plan(Some(&moved), &wanted, care), Action::Update(changed) if changed["ports"] == wanted["ports"])
        );
        assert_eq!(plan(Some(&moved), &wanted, Care::Leave), Action::Nothing);
    }
}
