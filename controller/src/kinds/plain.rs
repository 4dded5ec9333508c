//! Pure: the rows of kinds that hold data and little else: ConfigMap, Secret, ServiceAccount, Namespace, PriorityClass.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::column::{age, age_of, name};
use super::strategy::{Part, Strategy, immutable, keep, keep_status};
use super::{Column, Field, Kind, Subresource};
use crate::object::Object;
use crate::schema::field_error::FieldError;
use crate::schema::names;

/// The most that a ConfigMap or a Secret holds.
const DATA_BYTES_MAX: usize = 1 << 20;

pub(super) fn config_map() -> Kind {
    Kind {
        short_names: vec!["cm".into()],
        columns: vec![name(), Column::of("Data", "string"), age()],
        row: |object, now| vec![object.name().into(), count(object, &["data", "binaryData"]), age_of(object, now)],
        strategy: Strategy {
            validate: |object| validate_data(object, &["data", "binaryData"]),
            validate_update: |new, old| validate_immutable(new, old, &["data", "binaryData"]),
            ..Strategy::default()
        },
        ..Kind::new("", "v1", "ConfigMap", "configmaps")
    }
}

pub(super) fn secret() -> Kind {
    Kind {
        columns: vec![name(), Column::text("Type"), Column::of("Data", "string"), age()],
        row: |object, now| {
            let kind = object.text(&["type"]);
            vec![object.name().into(), kind.into(), count(object, &["data"]), age_of(object, now)]
        },
        fields: vec![Field::new("type", &["type"])],
        strategy: Strategy {
            prepare_create: complete_secret,
            prepare_update: |new, old| {
                if new.text(&["type"]).is_empty() {
                    keep(new, old, "type");
                }
                complete_secret(new);
            },
            validate: validate_secret,
            validate_update: |new, old| {
                let mut errors: Vec<FieldError> = immutable(new, old, &["type"]).into_iter().collect();
                errors.extend(validate_immutable(new, old, &["data"]));
                errors
            },
            ..Strategy::default()
        },
        ..Kind::new("", "v1", "Secret", "secrets")
    }
}

pub(super) fn service_account() -> Kind {
    Kind {
        short_names: vec!["sa".into()],
        columns: vec![name(), Column::of("Secrets", "string"), age()],
        row: |object, now| vec![object.name().into(), object.items(&["secrets"]).len().into(), age_of(object, now)],
        subresources: vec![Subresource::Token],
        strategy: Strategy { returns_deleted: true, ..Strategy::default() },
        ..Kind::new("", "v1", "ServiceAccount", "serviceaccounts")
    }
}

pub(super) fn namespace() -> Kind {
    Kind {
        short_names: vec!["ns".into()],
        namespaced: false,
        columns: vec![name(), Column::text("Status"), age()],
        row: |object, now| vec![object.name().into(), object.text(&["status", "phase"]).into(), age_of(object, now)],
        fields: vec![Field::new("status.phase", &["status", "phase"])],
        subresources: vec![Subresource::Finalize, Subresource::Status],
        strategy: Strategy {
            prepare_create: |object| {
                object.set(&["status"], json!({"phase": "Active"}));
                object.set(&["spec", "finalizers"], json!(["kubernetes"]));
                label_with_name(object);
            },
            prepare_update: |new, old| {
                keep_status(new, old);
                keep(new, old, "spec");
                label_with_name(new);
            },
            prepare_part: |part, new, old| {
                if part == Part::Finalize {
                    keep_status(new, old);
                }
            },
            prepare_delete: |object| object.set(&["status", "phase"], "Terminating"),
            name_errors: names::dns1123_label_errors,
            ..Strategy::default()
        },
        ..Kind::new("", "v1", "Namespace", "namespaces")
    }
}

pub(super) fn priority_class() -> Kind {
    Kind {
        short_names: vec!["pc".into()],
        namespaced: false,
        columns: vec![
            name(),
            Column::of("Value", "integer"),
            Column::of("Global-Default", "boolean"),
            age(),
            Column::text("PreemptionPolicy"),
        ],
        row: |object, now| {
            vec![
                object.name().into(),
                object.integer(&["value"]).unwrap_or_default().into(),
                object.flag(&["globalDefault"]).into(),
                age_of(object, now),
                object.text(&["preemptionPolicy"]).into(),
            ]
        },
        strategy: Strategy {
            prepare_create: |object| {
                if object.text(&["preemptionPolicy"]).is_empty() {
                    object.set(&["preemptionPolicy"], "PreemptLowerPriority");
                }
            },
            generation: true,
            validate: validate_priority,
            validate_update: |new, old| {
                let mut errors = Vec::new();
                if new.integer(&["value"]) != old.integer(&["value"]) {
                    errors.push(FieldError::forbidden("value", "may not be changed in an update."));
                }
                errors.extend(immutable(new, old, &["preemptionPolicy"]));
                errors
            },
            ..Strategy::default()
        },
        ..Kind::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
    }
}

/// The highest value that a user may choose.
const PRIORITY_MAX: i64 = 1_000_000_000;

fn validate_priority(object: &Object) -> Vec<FieldError> {
    let system = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
    let value = object.integer(&["value"]).unwrap_or_default();
    let mut errors = Vec::new();
    if object.name().starts_with("system-") {
        if !system.contains(&(object.name(), value)) {
            let why = "priority class names with 'system-' prefix are reserved for system use only";
            errors.push(FieldError::forbidden("metadata.name", why));
        }
    } else if value > PRIORITY_MAX {
        errors.push(FieldError::forbidden(
            "value",
            format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}"),
        ));
    }
    errors
}

fn count(object: &Object, fields: &[&str]) -> Value {
    fields.iter().filter_map(|field| object.map(&[field])).map(Map::len).sum::<usize>().into()
}

fn label_with_name(namespace: &mut Object) {
    let name = namespace.name().to_owned();
    namespace.set(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
}

/// `stringData` is written as plain text and kept as data.
fn complete_secret(secret: &mut Object) {
    if secret.text(&["type"]).is_empty() {
        secret.set(&["type"], "Opaque");
    }
    if let Some(Value::Object(plain)) = secret.remove(&["stringData"]) {
        for (key, value) in plain {
            secret.set(&["data", &key], BASE64_STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    }
}

fn validate_data(object: &Object, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for field in fields {
        for (key, value) in object.map(&[field]).into_iter().flatten() {
            let wrong = names::config_map_key_errors(key).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(format!("{field}[{key}]"), key.as_str(), why)));
            size += value.as_str().map(str::len).unwrap_or_default();
        }
    }
    if size > DATA_BYTES_MAX * 4 / 3 {
        errors.push(FieldError::too_long(fields[0], DATA_BYTES_MAX));
    }
    errors
}

/// What a secret of a known type must hold.
fn validate_secret(secret: &Object) -> Vec<FieldError> {
    let mut errors = validate_data(secret, &["data"]);
    let held = |key: &str| secret.text(&["data", key]);
    let has = |key: &str| secret.get(&["data", key]).is_some();
    let need = |key: &str| FieldError::required(format!("data[{key}]"), "");
    match secret.text(&["type"]) {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if secret.annotation(ACCOUNT).unwrap_or_default().is_empty() {
                errors.push(FieldError::required(format!("metadata.annotations[{ACCOUNT}]"), ""));
            }
        }
        "kubernetes.io/dockercfg" => errors.extend(validate_registries(secret, ".dockercfg")),
        "kubernetes.io/dockerconfigjson" => errors.extend(validate_registries(secret, ".dockerconfigjson")),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.extend(["username", "password"].map(need));
        }
        "kubernetes.io/ssh-auth" if held("ssh-privatekey").is_empty() => errors.push(need("ssh-privatekey")),
        "kubernetes.io/tls" => {
            errors.extend(["tls.crt", "tls.key"].into_iter().filter(|key| !has(key)).map(need));
        }
        _ => {}
    }
    errors
}

/// Credentials of registries are a JSON object; its text is not told.
fn validate_registries(secret: &Object, key: &str) -> Option<FieldError> {
    let field = format!("data[{key}]");
    let Some(encoded) = secret.get(&["data", key]).and_then(Value::as_str) else {
        return Some(FieldError::required(field, ""));
    };
    let bytes = BASE64_STANDARD.decode(encoded).unwrap_or_default();
    match serde_json::from_slice::<Map<String, Value>>(&bytes) {
        Ok(_) => None,
        Err(error) => Some(FieldError::invalid(field, "<secret contents redacted>", go_json_error(&bytes, &error))),
    }
}

/// The error in the words of Go's decoder, as far as there is one word for it.
fn go_json_error(bytes: &[u8], error: &serde_json::Error) -> String {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => "unexpected end of JSON input".to_owned(),
        Some(_) if error.is_eof() => "unexpected end of JSON input".to_owned(),
        Some(first) if !b"{[\"-0123456789tfn".contains(first) => {
            format!("invalid character '{}' looking for beginning of value", char::from(*first))
        }
        Some(_) => error.to_string(),
    }
}

fn validate_immutable(new: &Object, old: &Object, fields: &[&str]) -> Vec<FieldError> {
    if !old.flag(&["immutable"]) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let why = "field is immutable when `immutable` is set";
    if !new.flag(&["immutable"]) {
        errors.push(FieldError::forbidden("immutable", why));
    }
    let changed = fields.iter().filter(|field| new.get(&[field]) != old.get(&[field]));
    errors.extend(changed.map(|field| FieldError::forbidden(field, why)));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = Object::from_value(json!({"stringData": {"a": "b"}})).unwrap();
        complete_secret(&mut secret);
        assert_eq!(secret.into_value(), json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    }

    #[test]
    fn secrets_hold_what_their_type_says() {
        let errors = |value: Value| -> Vec<String> {
            validate_secret(&Object::from_value(value).unwrap()).iter().map(ToString::to_string).collect()
        };
        let tls = errors(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}));
        assert_eq!(tls, ["data[tls.key]: Required value"]);
        let docker = errors(json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}}));
        assert_eq!(
            docker,
            ["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": invalid character 'x' looking \
              for beginning of value"]
        );
        let account = errors(json!({"type": "kubernetes.io/service-account-token"}));
        assert_eq!(account, ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]);
        assert!(errors(json!({"type": "example.com/own", "data": {}})).is_empty());
    }

    #[test]
    fn immutable_data_stays() {
        let old = Object::from_value(json!({"immutable": true, "data": {"a": "b"}})).unwrap();
        let new = Object::from_value(json!({"immutable": true, "data": {"a": "c"}})).unwrap();
        let errors = validate_immutable(&new, &old, &["data"]);
        assert_eq!(errors[0].to_string(), "data: Forbidden: field is immutable when `immutable` is set");
        assert_eq!(validate_immutable(&old, &old, &["data"]), []);
    }
}
