//! Pure: what the schema alone can say about an object: required fields and enumerations.
//!
//! The rules that need more than one field stand with the kind. `status` is left out: its writers are components.

use serde_json::{Map, Value};

use super::field_error::{FieldError, Path};
use super::table::{Element, Field, Scalar, Shape, TypeId};

/// Fields that the published schema requires and upstream's server does not.
const LENIENT: [&str; 8] = [
    "core.v1.PodAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    "core.v1.PodAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    "core.v1.HTTPHeader.value",
    "core.v1.Sysctl.value",
    "discovery.v1.EndpointSlice.endpoints",
    "meta.v1.GroupResource.group",
    "authentication.v1.TokenRequestSpec.audiences",
    "storage.v1.CSINodeSpec.drivers",
];
/// Fields whose enumeration upstream checks with words of its own, or not at all.
const FREE: [&str; 3] = [
    "meta.v1.LabelSelectorRequirement.operator",
    "core.v1.NodeSelectorRequirement.operator",
    "core.v1.Toleration.operator",
];

/// The errors that the schema sees, in the order of the fields' names. Call it after defaulting.
pub fn validate(kind: TypeId, object: &Map<String, Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let fields = kind.json_fields();
    for field in fields.iter().filter(|field| !matches!(field.name(), "metadata" | "status")) {
        check(kind, *field, object.get(field.name()), Path::new(field.name()), &mut errors);
    }
    errors
}

/// The same for a part of an object, such as a pod template's spec, at its path.
pub fn validate_at(kind: TypeId, object: &Map<String, Value>, path: Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(kind, object, path, &mut errors);
    errors
}

fn walk(kind: TypeId, object: &Map<String, Value>, path: Path<'_>, errors: &mut Vec<FieldError>) {
    for field in kind.json_fields() {
        check(kind, field, object.get(field.name()), path.child(field.name()), errors);
    }
}

fn check(kind: TypeId, field: Field, value: Option<&Value>, path: Path<'_>, errors: &mut Vec<FieldError>) {
    let value = value.filter(|value| !value.is_null());
    let Some(value) = value.filter(|value| !is_empty(field, value)) else {
        // An absent plain object is an empty one, whose own fields may be required.
        if let (Shape::One, Element::Object(inner), false) = (field.shape(), field.element(), field.is_pointer()) {
            if field.is_required() || value.is_some() {
                walk(inner, &Map::new(), path, errors);
            }
        } else if field.is_required() && needs_value(field) && !listed(&LENIENT, kind, field) {
            errors.push(FieldError::required(path, ""));
        }
        return;
    };
    match (field.shape(), field.element(), value) {
        (Shape::List, _, Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                check_element(kind, field, item, path.index(index), errors);
            }
        }
        (Shape::Map, Element::Object(inner), Value::Object(entries)) => {
            for (key, item) in entries {
                if let Value::Object(item) = item {
                    walk(inner, item, path.key(key), errors);
                }
            }
        }
        (Shape::One | Shape::Inline, ..) => check_element(kind, field, value, path, errors),
        _ => {}
    }
}

fn check_element(kind: TypeId, field: Field, value: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    match (field.element(), value) {
        (Element::Object(inner), Value::Object(object)) => walk(inner, object, path, errors),
        (Element::Scalar(Scalar::String), Value::String(text)) => {
            let mut known = field.enum_values();
            if known.len() > 0 && !known.any(|known| known == text) && !listed(&FREE, kind, field) {
                let known: Vec<&str> = field.enum_values().collect();
                errors.push(FieldError::not_supported(path, text.as_str(), &known));
            }
        }
        _ => {}
    }
}

fn is_empty(field: Field, value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty() && !field.is_pointer(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Numbers and truth values have a zero that upstream's rules speak about themselves.
fn needs_value(field: Field) -> bool {
    match (field.shape(), field.element()) {
        (Shape::List, _) => true,
        (Shape::One, Element::Object(_)) => field.is_pointer(),
        (Shape::One, Element::Scalar(scalar)) => matches!(scalar, Scalar::String | Scalar::Bytes),
        _ => false,
    }
}

fn listed(list: &[&str], kind: TypeId, field: Field) -> bool {
    list.iter().any(|entry| {
        entry
            .strip_suffix(field.name())
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|owner| owner == kind.name())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{defaults, lookup_api_version, type_named};
    use serde_json::json;

    fn errors(object: Value) -> Vec<String> {
        let mut object = object.as_object().unwrap().clone();
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap().to_owned();
        let kind = lookup_api_version(&text("apiVersion"), &text("kind")).unwrap();
        defaults::default(kind, &mut object);
        validate(kind, &object).iter().map(FieldError::to_string).collect()
    }

    #[test]
    fn required_and_enumerated() {
        assert_eq!(
            errors(
                json!({"apiVersion": "v1", "kind": "Pod", "spec": {"restartPolicy": "Sometimes", "containers": [{"image": "a"}]}})
            ),
            [
                "spec.containers[0].name: Required value",
                r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure""#,
            ]
        );
        assert_eq!(errors(json!({"apiVersion": "v1", "kind": "Pod"})), ["spec.containers: Required value"]);
        assert_eq!(
            errors(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"containers": []}}}})
            ),
            ["spec.selector: Required value", "spec.template.spec.containers: Required value"]
        );
        assert_eq!(
            errors(
                json!({"apiVersion": "v1", "kind": "Service", "spec": {"type": "X", "ports": [{"port": 1, "protocol": "tcp"}]}})
            ),
            [
                r#"spec.ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP""#,
                r#"spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
            ]
        );
    }

    #[test]
    fn whole_objects_pass() {
        for object in [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount"}),
            json!({"apiVersion": "v1", "kind": "Secret"}),
            json!({"apiVersion": "v1", "kind": "Endpoints", "subsets": [{"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 1}]}]}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": []}),
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": "a"}}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": null}),
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get"}}}),
            json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 0}),
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
            json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"kind": "Pod"}, "reason": "x"}),
        ] {
            assert_eq!(errors(object.clone()), Vec::<String>::new(), "{object}");
        }
    }

    #[test]
    fn exceptions_name_real_fields() {
        for entry in LENIENT.iter().chain(&FREE) {
            let (kind, field) = entry.rsplit_once('.').unwrap();
            assert!(type_named(kind).unwrap_or_else(|| panic!("{kind}")).field(field).is_some(), "{entry}");
        }
    }
}
