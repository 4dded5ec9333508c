//! Pure: what is wrong with a pod's spec, in a pod or in a template; upstream's `ValidatePodSpec`, the most used parts.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::container::{
    VOLUME_FIELDS, validate_container, validate_field_ref, validate_resource_ref, validate_security, validate_sidecar,
};
use crate::object::Object;
use crate::schema::field_error::{FieldError, Path};
use crate::schema::names;
use crate::schema::selector::validate_label_selector;

/// The errors of a spec at a path.
pub(crate) fn validate_spec(spec: &Value, path: Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = validate_volumes(&spec["volumes"], path.child("volumes"), &mut errors);
    let containers = items(&spec["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(path.child("containers"), ""));
    }
    let host_network = spec["hostNetwork"] == true;
    let mut seen = BTreeSet::new();
    for (list, init) in [("containers", false), ("initContainers", true)] {
        for (at, container) in items(&spec[list]).iter().enumerate() {
            let here = path.child(list);
            let here = here.index(at);
            validate_container(container, here, &volumes, host_network, &mut errors);
            let name = text(container, "name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(here.child("name"), name));
            }
            if init {
                validate_sidecar(container, here, &mut errors);
            }
        }
    }
    validate_numbers(spec, path, &mut errors);
    validate_placement(spec, path, &mut errors);
    validate_host_aliases(items(&spec["hostAliases"]), path.child("hostAliases"), &mut errors);
    let context = path.child("securityContext");
    validate_security(&spec["securityContext"], context, &mut errors);
    validate_sysctls(items(&spec["securityContext"]["sysctls"]), context.child("sysctls"), &mut errors);
    errors
}

/// The longest name of a sysctl.
const SYSCTL_NAME_MAX: usize = 253;

fn validate_sysctls(sysctls: &[Value], path: Path<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (at, sysctl) in sysctls.iter().enumerate() {
        let here = path.index(at);
        let (field, name) = (here.child("name"), text(sysctl, "name"));
        if name.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if name.len() > SYSCTL_NAME_MAX || !name.split(['.', '/']).all(is_sysctl_segment) {
            let why = format!(
                "must have at most {SYSCTL_NAME_MAX} characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.push(FieldError::invalid(field, name, why));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(field, name));
        }
    }
}

fn is_sysctl_segment(segment: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = segment.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || matches!(byte, b'-' | b'_'))
}

/// The errors of a template's labels, annotations and spec.
pub(crate) fn validate_template(object: &Object) -> Vec<FieldError> {
    const TEMPLATE: Path<'static> = Path::Field(&Path::Field(&Path::Root, "spec"), "template");
    let Some(template) = object.get(&["spec", "template"]) else { return Vec::new() };
    let metadata = TEMPLATE.child("metadata");
    let mut errors = Vec::new();
    if let Some(labels) = template["metadata"].get("labels") {
        errors.extend(names::validate_labels(labels, metadata.child("labels")));
    }
    if let Some(annotations) = template["metadata"].get("annotations") {
        errors.extend(names::validate_annotations(annotations, metadata.child("annotations")));
    }
    errors.extend(validate_spec(&template["spec"], TEMPLATE.child("spec")));
    errors
}

pub(super) fn validate(pod: &Object) -> Vec<FieldError> {
    validate_spec(pod.get(&["spec"]).unwrap_or(&Value::Null), Path::new("spec"))
}

/// What may change of a pod that exists.
pub(super) fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = |pod: &Object| pod.map(&["spec"]).cloned().unwrap_or_default();
    let (before, mut now) = (spec(old), spec(new));
    let names_of = |spec: &Map<String, Value>, list: &str| items(spec.get(list).unwrap_or(&Value::Null)).len();
    for list in ["containers", "initContainers"] {
        if names_of(&before, list) != names_of(&now, list) {
            errors.push(FieldError::forbidden(format!("spec.{list}"), "pod updates may not add or remove containers"));
            return errors;
        }
        let images: Vec<Value> = items(before.get(list).unwrap_or(&Value::Null))
            .iter()
            .map(|container| container["image"].clone())
            .collect();
        for (container, image) in now.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().zip(images) {
            container["image"] = image;
        }
    }
    validate_kept(&before, &mut now, &mut errors);
    if now != before {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                   `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                   `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        errors.push(FieldError::forbidden("spec", why));
    }
    errors
}

/// Takes the changes that are allowed out of the new spec.
fn validate_kept(before: &Map<String, Value>, now: &mut Map<String, Value>, errors: &mut Vec<FieldError>) {
    let null = Value::Null;
    let tolerations = |spec: &Map<String, Value>| items(spec.get("tolerations").unwrap_or(&null)).to_vec();
    let (had, has) = (tolerations(before), tolerations(now));
    if had.iter().all(|one| has.contains(one)) {
        put_back(before, now, "tolerations");
    } else {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", why));
        put_back(before, now, "tolerations");
    }
    let seconds = |spec: &Map<String, Value>| spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    match (seconds(before), seconds(now)) {
        (Some(old), Some(new)) if new > old => {
            let why = format!("must be less than or equal to previous value {old}");
            errors.push(FieldError::invalid("spec.activeDeadlineSeconds", new, why));
        }
        (Some(_), None) => {
            errors.push(FieldError::invalid(
                "spec.activeDeadlineSeconds",
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
        }
        _ => {}
    }
    put_back(before, now, "activeDeadlineSeconds");
    let gates = |spec: &Map<String, Value>| items(spec.get("schedulingGates").unwrap_or(&null)).to_vec();
    if gates(now).iter().all(|gate| gates(before).contains(gate)) {
        put_back(before, now, "schedulingGates");
    }
    let negative = before.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|old| old < 0);
    if negative && now.get("terminationGracePeriodSeconds") == Some(&1.into()) {
        put_back(before, now, "terminationGracePeriodSeconds");
    }
}

fn put_back(before: &Map<String, Value>, now: &mut Map<String, Value>, field: &str) {
    match before.get(field) {
        Some(value) => now.insert(field.to_owned(), value.clone()),
        None => now.remove(field),
    };
}

fn validate_host_aliases(aliases: &[Value], path: Path<'_>, errors: &mut Vec<FieldError>) {
    for (at, alias) in aliases.iter().enumerate() {
        let here = path.index(at);
        let address = text(alias, "ip");
        if address.parse::<std::net::IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(here.child("ip"), address, why));
        }
        for (at, name) in items(&alias["hostnames"]).iter().filter_map(Value::as_str).enumerate() {
            let wrong = names::dns1123_subdomain_errors(name).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(here.child("hostnames").index(at), name, why)));
        }
    }
}

fn validate_numbers(spec: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = names::inclusive_range_error(1, i64::from(i32::MAX));
        errors.push(FieldError::invalid(path.child("activeDeadlineSeconds"), seconds, why));
    }
    if let Some(name) = spec["hostname"].as_str().filter(|name| !name.is_empty()) {
        let wrong = names::dns1123_label_errors(name).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(path.child("hostname"), name, why)));
    }
    for (at, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.push(FieldError::required(path.child("imagePullSecrets").index(at).child("name"), ""));
        }
    }
}

fn validate_placement(spec: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(selector) = spec.get("nodeSelector") {
        errors.extend(names::validate_labels(selector, path.child("nodeSelector")));
    }
    let tolerations = path.child("tolerations");
    for (at, toleration) in items(&spec["tolerations"]).iter().enumerate() {
        let here = tolerations.index(at);
        let (key, operator, effect) =
            (text(toleration, "key"), text(toleration, "operator"), text(toleration, "effect"));
        if !key.is_empty() {
            let wrong = names::qualified_name_errors(key).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(here.child("key"), key, why)));
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(here.child("operator"), operator, why));
        }
        match operator {
            "" | "Equal" => {}
            "Exists" if text(toleration, "value").is_empty() => {}
            "Exists" => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(here.child("operator"), text(toleration, "value"), why));
            }
            other => errors.push(FieldError::not_supported(here.child("operator"), other, &["Equal", "Exists"])),
        }
        if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(here.child("effect"), effect, why));
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let list = "requiredDuringSchedulingIgnoredDuringExecution";
        let (affinity, of_kind) = (path.child("affinity"), &spec["affinity"][kind][list]);
        let (affinity, terms) = (affinity.child(kind), items(of_kind));
        let affinity = affinity.child(list);
        for (at, term) in terms.iter().enumerate() {
            let here = affinity.index(at);
            if let Some(selector) = term.get("labelSelector") {
                errors.extend(validate_label_selector(selector, here.child("labelSelector")));
            }
            if text(term, "topologyKey").is_empty() {
                errors.push(FieldError::required(here.child("topologyKey"), "can not be empty"));
            }
        }
    }
}

/// Checks the volumes and returns their names.
fn validate_volumes<'a>(volumes: &'a Value, path: Path<'_>, errors: &mut Vec<FieldError>) -> BTreeSet<&'a str> {
    let mut known = BTreeSet::new();
    for (at, volume) in items(volumes).iter().enumerate() {
        let here = path.index(at);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.push(FieldError::required(here.child("name"), ""));
        } else {
            let wrong = names::dns1123_label_errors(name).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(here.child("name"), name, why)));
            if !known.insert(name) {
                errors.push(FieldError::duplicate(here.child("name"), name));
            }
        }
        let sources: Vec<&String> =
            volume.as_object().into_iter().flat_map(Map::keys).filter(|key| *key != "name").collect();
        match sources.as_slice() {
            [] => errors.push(FieldError::required(here, "must specify a volume type")),
            [only] => validate_source(&volume[only.as_str()], only, here.child(only), errors),
            [_, more @ ..] => errors
                .extend(more.iter().map(|source| {
                    FieldError::forbidden(here.child(source), "may not specify more than 1 volume type")
                })),
        }
    }
    known
}

fn validate_source(source: &Value, kind: &str, path: Path<'_>, errors: &mut Vec<FieldError>) {
    let mut require = |field: &str| {
        if text(source, field).is_empty() {
            errors.push(FieldError::required(path.child(field), ""));
        }
    };
    match kind {
        "hostPath" => require("path"),
        "secret" => require("secretName"),
        "configMap" => require("name"),
        "persistentVolumeClaim" => require("claimName"),
        _ => {}
    }
    if kind == "hostPath" && text(source, "path").split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path.child("path"), text(source, "path"), "must not contain '..'"));
    }
    if kind == "downwardAPI" {
        validate_downward(&source["items"], path, errors);
    }
    if kind == "projected" {
        for (at, projection) in items(&source["sources"]).iter().enumerate() {
            let sources = path.child("sources");
            let here = sources.index(at);
            validate_downward(&projection["downwardAPI"]["items"], here.child("downwardAPI"), errors);
        }
    }
    if matches!(kind, "secret" | "configMap") {
        if let Some(mode) = source["defaultMode"].as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
            let why = "must be a number between 0 and 0777 (octal), both inclusive";
            errors.push(FieldError::invalid(path.child("defaultMode"), mode, why));
        }
        validate_items(&source["items"], path.child("items"), errors);
    }
}

/// Files of the downward API; upstream's paths do not count them.
fn validate_downward(list: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    for item in items(list) {
        if text(item, "path").is_empty() {
            errors.push(FieldError::required(path.child("path"), ""));
        }
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(field), other) => {
                validate_field_ref(field, &VOLUME_FIELDS, path.child("fieldRef"), errors);
                if other.is_some() {
                    let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    errors.push(FieldError::invalid(path, "resource", why));
                }
            }
            (None, Some(resource)) if text(resource, "containerName").is_empty() => {
                errors.push(FieldError::required(path.child("resourceFieldRef").child("containerName"), ""));
            }
            (None, Some(resource)) => validate_resource_ref(resource, path.child("resourceFieldRef"), errors),
            (None, None) => {
                errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
            }
        }
    }
}

fn validate_items(list: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    for (at, item) in items(list).iter().enumerate() {
        let here = path.index(at);
        for field in ["key", "path"] {
            if text(item, field).is_empty() {
                errors.push(FieldError::required(here.child(field), ""));
            }
        }
        let target = text(item, "path");
        if target.starts_with('/') {
            errors.push(FieldError::invalid(here.child("path"), target, "must be a relative path"));
        } else if target.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(here.child("path"), target, "must not contain '..'"));
        }
    }
}

pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(spec: Value) -> Vec<String> {
        validate_spec(&spec, Path::new("spec")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wrong_specs_read_as_upstream() {
        let container =
            || json!({"name": "a", "image": "i", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"});
        let with = |field: &str, value: Value| {
            let mut one = container();
            one[field] = value;
            json!({"containers": [one]})
        };
        assert!(errors(json!({"containers": [container()]})).is_empty());
        for (spec, expected) in [
            (json!({}), "spec.containers: Required value"),
            (json!({"containers": [container(), container()]}), r#"spec.containers[1].name: Duplicate value: "a""#),
            (
                with("volumeMounts", json!([{"name": "v", "mountPath": "/x"}])),
                r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#,
            ),
            (
                with("resources", json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
                r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
            ),
            (
                with("ports", json!([{"containerPort": 70000}])),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (with("image", json!("")), "spec.containers[0].image: Required value"),
            (
                with("env", json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}])),
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting \
                 fieldPath: field label not supported: spec.foo",
            ),
            (
                with("securityContext", json!({"runAsUser": -1})),
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, \
                 inclusive",
            ),
            (
                with("livenessProbe", json!({})),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"containers": [container()], "volumes": [{"name": "v"}]}),
                "spec.volumes[0]: Required value: must specify a volume type",
            ),
        ] {
            assert_eq!(errors(spec), [expected]);
        }
    }

    #[test]
    fn sysctls_have_names_of_their_own_form() {
        let sysctls = ["kernel.shm_rmid_forced", "net/ipv4/x", "foo-", "bar..", "Upper", "net/ipv4/x"];
        let sysctls: Vec<Value> = sysctls.iter().map(|name| json!({"name": name, "value": "1"})).collect();
        let mut errors = Vec::new();
        validate_sysctls(&sysctls, Path::new("sysctls"), &mut errors);
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["sysctls[2].name", "sysctls[3].name", "sysctls[4].name", "sysctls[5].name"]);
    }

    #[test]
    fn only_images_change() {
        let pod = |image: &str, node: &str| {
            let spec = json!({"nodeName": node, "containers": [{"name": "a", "image": image}]});
            Object::from_value(json!({"spec": spec})).unwrap()
        };
        assert_eq!(validate_update(&pod("b", "n"), &pod("a", "n")), []);
        let wrong = validate_update(&pod("a", "m"), &pod("a", "n"));
        assert!(wrong[0].to_string().starts_with("spec: Forbidden: pod updates may not change fields other than"));
    }
}
