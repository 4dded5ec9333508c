//! Pure: the rows of Deployments, ReplicaSets and ReplicationControllers.

use serde_json::Value;

use super::column::{age, age_of, name, or_none};
use super::pod::validate::validate_template;
use super::strategy::{Strategy, drop_status, immutable, keep_status};
use super::{Column, Field, Kind, Subresource};
use crate::object::Object;
use crate::schema::field_error::{FieldError, Path};
use crate::schema::selector::{LabelSelector, validate_label_selector};

const SUBRESOURCES: [Subresource; 2] = [Subresource::Scale, Subresource::Status];
const REPLICAS: Field = Field { zero: "0", ..Field::new("status.replicas", &["status", "replicas"]) };

fn strategy() -> Strategy {
    Strategy {
        prepare_create: drop_status,
        prepare_update: keep_status,
        generation: true,
        validate,
        validate_update: |new, old| immutable(new, old, &["spec", "selector"]).into_iter().collect(),
        ..Strategy::default()
    }
}

fn template_columns(mut columns: Vec<Column>) -> Vec<Column> {
    columns.extend([Column::text("Containers").wide(), Column::text("Images").wide(), Column::text("Selector").wide()]);
    columns
}

pub(super) fn deployment() -> Kind {
    let columns = vec![
        name(),
        Column::text("Ready"),
        Column::of("Up-to-date", "string"),
        Column::of("Available", "string"),
        age(),
    ];
    Kind {
        short_names: vec!["deploy".into()],
        categories: vec!["all".into()],
        columns: template_columns(columns),
        row: deployment_row,
        subresources: SUBRESOURCES.to_vec(),
        strategy: Strategy { validate: validate_deployment, ..strategy() },
        ..Kind::new("apps", "v1", "Deployment", "deployments")
    }
}

/// A template without a controller of its own.
pub(super) fn pod_template() -> Kind {
    Kind {
        columns: vec![name(), Column::text("Containers"), Column::text("Images"), Column::text("Pod Labels"), age()],
        row: |object, now| {
            let of = |field: &str| {
                let containers = object.items(&["template", "spec", "containers"]).iter();
                containers.map(|container| container[field].as_str().unwrap_or_default()).collect::<Vec<_>>().join(",")
            };
            let labels = object.map(&["template", "metadata", "labels"]).into_iter().flatten();
            let labels: Vec<String> =
                labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
            let labels = or_none(&labels.join(",")).into();
            vec![object.name().into(), of("name").into(), of("image").into(), labels, age_of(object, now)]
        },
        strategy: Strategy { generation: true, ..Strategy::default() },
        ..Kind::new("", "v1", "PodTemplate", "podtemplates")
    }
}

/// A state that a controller may go back to.
pub(super) fn controller_revision() -> Kind {
    Kind {
        columns: vec![name(), Column::text("Controller"), Column::of("Revision", "string"), age()],
        row: |object, now| {
            let owner = object.controller();
            let owner = owner.map(|owner| format!("{}/{}", owner.kind.to_lowercase(), owner.name));
            let revision = object.integer(&["revision"]).unwrap_or_default();
            let owner = or_none(owner.as_deref().unwrap_or_default()).into();
            vec![object.name().into(), owner, revision.into(), age_of(object, now)]
        },
        strategy: Strategy {
            validate_update: |new, old| immutable(new, old, &["data"]).into_iter().collect(),
            ..Strategy::default()
        },
        ..Kind::new("apps", "v1", "ControllerRevision", "controllerrevisions")
    }
}

fn replica_columns() -> Vec<Column> {
    let number = |name| Column::of(name, "integer");
    template_columns(vec![name(), number("Desired"), number("Current"), number("Ready"), age()])
}

pub(super) fn replica_set() -> Kind {
    Kind {
        short_names: vec!["rs".into()],
        categories: vec!["all".into()],
        columns: replica_columns(),
        row: replica_row,
        fields: vec![REPLICAS],
        subresources: SUBRESOURCES.to_vec(),
        strategy: strategy(),
        ..Kind::new("apps", "v1", "ReplicaSet", "replicasets")
    }
}

pub(super) fn replication_controller() -> Kind {
    Kind {
        short_names: vec!["rc".into()],
        categories: vec!["all".into()],
        columns: replica_columns(),
        row: replica_row,
        fields: vec![REPLICAS],
        subresources: SUBRESOURCES.to_vec(),
        strategy: Strategy {
            prepare_create: |object| {
                drop_status(object);
                complete_controller(object);
            },
            validate: validate_controller,
            validate_update: |_, _| Vec::new(),
            orphans_by_default: true,
            ..strategy()
        },
        ..Kind::new("", "v1", "ReplicationController", "replicationcontrollers")
    }
}

/// The old kind takes its selector and labels from its template.
fn complete_controller(object: &mut Object) {
    let Some(labels) = object.get(&["spec", "template", "metadata", "labels"]).cloned() else { return };
    if object.map(&["spec", "selector"]).is_none_or(serde_json::Map::is_empty) {
        object.set(&["spec", "selector"], labels.clone());
    }
    if object.labels().is_none_or(serde_json::Map::is_empty) {
        object.set(&["metadata", "labels"], labels);
    }
    if object.integer(&["spec", "replicas"]).is_none() {
        object.set(&["spec", "replicas"], 1);
    }
}

/// What all of them need: a selector that selects their template, and a count.
fn validate(object: &Object) -> Vec<FieldError> {
    const SELECTOR: Path<'static> = Path::Field(&Path::Field(&Path::Root, "spec"), "selector");
    let mut errors = validate_count(object);
    let Some(selector) = object.get(&["spec", "selector"]) else {
        errors.push(FieldError::required("spec.selector", ""));
        return errors;
    };
    errors.extend(validate_label_selector(selector, SELECTOR));
    let selects = selector.as_object().is_some_and(|map| {
        map.values().any(|part| {
            part.as_object().is_some_and(|m| !m.is_empty()) || part.as_array().is_some_and(|l| !l.is_empty())
        })
    });
    if !selects {
        errors.push(FieldError::invalid("spec.selector", selector.clone(), "empty selector is invalid for deployment"));
    }
    if let Ok(parsed) = LabelSelector::from_object(selector) {
        errors.extend(validate_template_labels(object, &parsed));
    }
    errors.extend(validate_restart(object));
    errors.extend(validate_template(object));
    errors
}

fn validate_count(object: &Object) -> Vec<FieldError> {
    let replicas = object.integer(&["spec", "replicas"]).unwrap_or_default();
    let mut errors = Vec::new();
    if replicas < 0 {
        errors.push(FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0"));
    }
    let ready = object.integer(&["spec", "minReadySeconds"]).unwrap_or_default();
    if ready < 0 {
        errors.push(FieldError::invalid("spec.minReadySeconds", ready, "must be greater than or equal to 0"));
    }
    errors
}

fn validate_template_labels(object: &Object, selector: &LabelSelector) -> Option<FieldError> {
    let empty = serde_json::Map::new();
    let labels = object.map(&["spec", "template", "metadata", "labels"]).unwrap_or(&empty);
    if selector.matches(labels) {
        return None;
    }
    let why = "`selector` does not match template `labels`";
    Some(FieldError::invalid("spec.template.metadata.labels", Value::Object(labels.clone()), why))
}

fn validate_restart(object: &Object) -> Option<FieldError> {
    let policy = object.text(&["spec", "template", "spec", "restartPolicy"]);
    let wrong = !["", "Always"].contains(&policy);
    wrong.then(|| FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]))
}

fn validate_controller(object: &Object) -> Vec<FieldError> {
    let mut errors = validate_count(object);
    match object.map(&["spec", "selector"]).filter(|selector| !selector.is_empty()) {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(selector) => errors.extend(validate_template_labels(object, &LabelSelector::from_map(selector))),
    }
    if object.get(&["spec", "template"]).is_none() {
        errors.push(FieldError::required("spec.template", ""));
    }
    errors.extend(validate_restart(object));
    errors.extend(validate_template(object));
    errors
}

fn validate_deployment(object: &Object) -> Vec<FieldError> {
    let mut errors = validate(object);
    let kind = object.text(&["spec", "strategy", "type"]);
    let rolling = object.get(&["spec", "strategy", "rollingUpdate"]);
    match kind {
        "Recreate" if rolling.is_some_and(|rolling| !rolling.is_null()) => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        }
        "" | "Recreate" => {}
        "RollingUpdate" => {
            let zero = |field: &str| {
                let value = rolling.and_then(|rolling| rolling.get(field));
                value.is_some_and(|value| *value == 0 || *value == "0%" || *value == "0")
            };
            if zero("maxUnavailable") && zero("maxSurge") {
                let why = "may not be 0 when `maxSurge` is 0";
                let value = rolling.map(|rolling| rolling["maxUnavailable"].clone()).unwrap_or_default();
                errors.push(FieldError::invalid("spec.strategy.rollingUpdate.maxUnavailable", value, why));
            }
        }
        other => errors.push(FieldError::not_supported("spec.strategy.type", other, &["Recreate", "RollingUpdate"])),
    }
    if let Some(limit) = object.integer(&["spec", "revisionHistoryLimit"]).filter(|limit| *limit < 0) {
        errors.push(FieldError::invalid("spec.revisionHistoryLimit", limit, "must be greater than or equal to 0"));
    }
    let deadline = object.integer(&["spec", "progressDeadlineSeconds"]);
    let ready = object.integer(&["spec", "minReadySeconds"]).unwrap_or_default();
    if let Some(seconds) = deadline.filter(|seconds| *seconds < 0) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("spec.progressDeadlineSeconds", seconds, why));
    }
    if let Some(seconds) = deadline.filter(|seconds| *seconds <= ready) {
        let why = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid("spec.progressDeadlineSeconds", seconds, why));
    }
    errors
}

fn template_cells(object: &Object, cells: &mut Vec<Value>) {
    let containers = object.items(&["spec", "template", "spec", "containers"]);
    let joined = |field: &str| {
        let values: Vec<&str> = containers.iter().filter_map(|container| container[field].as_str()).collect();
        values.join(",")
    };
    cells.push(joined("name").into());
    cells.push(joined("image").into());
    let selector = object.get(&["spec", "selector"]);
    cells.push(or_none(&super::column::selector_text(selector)).into());
}

fn deployment_row(object: &Object, now: i64) -> Vec<Value> {
    let status = |field: &str| object.integer(&["status", field]).unwrap_or_default();
    let desired = object.integer(&["spec", "replicas"]).unwrap_or_default();
    let mut cells = vec![
        object.name().into(),
        format!("{}/{desired}", status("readyReplicas")).into(),
        status("updatedReplicas").into(),
        status("availableReplicas").into(),
        age_of(object, now),
    ];
    template_cells(object, &mut cells);
    cells
}

fn replica_row(object: &Object, now: i64) -> Vec<Value> {
    let status = |field: &str| object.integer(&["status", field]).unwrap_or_default();
    let mut cells = vec![
        object.name().into(),
        object.integer(&["spec", "replicas"]).unwrap_or_default().into(),
        status("replicas").into(),
        status("readyReplicas").into(),
        age_of(object, now),
    ];
    template_cells(object, &mut cells);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hello(spec: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "hello"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_selector_must_select_the_template() {
        let good = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}});
        assert_eq!(validate_deployment(&hello(good)), []);
        let other = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}}});
        let wrong = validate_deployment(&hello(other));
        assert_eq!(
            wrong[0].to_string(),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
        );
        assert_eq!(validate_deployment(&hello(json!({})))[0].to_string(), "spec.selector: Required value");
    }

    #[test]
    fn prints_counts() {
        let mut object = hello(json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}));
        object.set(&["status", "readyReplicas"], 2);
        let cells = deployment_row(&object, 0);
        assert_eq!(cells[1], "2/3");
        assert_eq!(cells[5..], [json!("c"), json!("i"), json!("a=b")]);
    }
}
