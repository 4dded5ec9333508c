//! Pure: what is wrong with a container: name, image, ports, environment, resources, mounts, probes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::validate::{items, text};
use crate::schema::field_error::{FieldError, Path};
use crate::schema::names;
use crate::schema::quantity::Quantity;

pub(super) fn validate_container(
    container: &Value,
    path: Path<'_>,
    volumes: &BTreeSet<&str>,
    host_network: bool,
    errors: &mut Vec<FieldError>,
) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    } else {
        let wrong = names::dns1123_label_errors(name).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(path.child("name"), name, why)));
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(path.child("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    validate_ports(container, path.child("ports"), host_network, errors);
    validate_env(container, path.child("env"), errors);
    validate_mounts(container, path.child("volumeMounts"), volumes, errors);
    validate_resources(&container["resources"], path.child("resources"), errors);
    validate_security(&container["securityContext"], path.child("securityContext"), errors);
    for (field, liveness) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        if let Some(probe) = container.get(field).filter(|probe| probe.is_object()) {
            validate_probe(probe, path.child(field), liveness, errors);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container["lifecycle"].get(hook).filter(|handler| handler.is_object()) {
            let lifecycle = path.child("lifecycle");
            validate_handler(handler, &["exec", "httpGet", "tcpSocket", "sleep"], lifecycle.child(hook), errors);
        }
    }
}

/// Only a sidecar, an init container that goes on, has probes and hooks.
pub(super) fn validate_sidecar(container: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    if container["restartPolicy"] == "Always" {
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(field).is_some_and(|value| !value.is_null()) {
            errors.push(FieldError::forbidden(
                path.child(field),
                "may not be set for init containers without restartPolicy=Always",
            ));
        }
    }
}

fn validate_ports(container: &Value, path: Path<'_>, host_network: bool, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (at, port) in items(&container["ports"]).iter().enumerate() {
        let here = path.index(at);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name_errors(name);
            let good = wrong.is_empty();
            errors.extend(wrong.into_iter().map(|why| FieldError::invalid(here.child("name"), name, why)));
            if good && !seen.insert(name) {
                errors.push(FieldError::duplicate(here.child("name"), name));
            }
        }
        let number = port["containerPort"].as_i64().unwrap_or_default();
        if number == 0 {
            errors.push(FieldError::required(here.child("containerPort"), ""));
        } else {
            let wrong = names::port_number_errors(number).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(here.child("containerPort"), number, why)));
        }
        if let Some(host) = port["hostPort"].as_i64().filter(|host| *host != 0) {
            let wrong = names::port_number_errors(host).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(here.child("hostPort"), host, why)));
            if host_network && host != number {
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(here.child("hostPort"), host, why));
            }
        }
    }
}

fn validate_env(container: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    for (at, variable) in items(&container["env"]).iter().enumerate() {
        let here = path.index(at);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.push(FieldError::required(here.child("name"), ""));
        } else {
            let wrong = names::env_var_name_errors(name).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(here.child("name"), name, why)));
        }
        let Some(source) = variable.get("valueFrom").filter(|source| source.is_object()) else { continue };
        let from = here.child("valueFrom");
        let given = source.as_object().map_or(0, serde_json::Map::len);
        if !text(variable, "value").is_empty() {
            errors.push(FieldError::invalid(from, "", "may not be specified when `value` is not empty"));
        } else if given == 0 {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            errors.push(FieldError::invalid(from, "", why));
        } else if given > 1 {
            errors.push(FieldError::invalid(from, "", "may not have more than one field specified at a time"));
        }
        if let Some(reference) = source.get("fieldRef") {
            validate_field_ref(reference, &ENV_FIELDS, from.child("fieldRef"), errors);
        }
        if let Some(reference) = source.get("resourceFieldRef") {
            validate_resource_ref(reference, from.child("resourceFieldRef"), errors);
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            if source.get(kind).is_some() && text(&source[kind], "key").is_empty() {
                errors.push(FieldError::required(from.child(kind).child("key"), ""));
            }
        }
    }
}

/// Fields of a pod that a reference may name at all; some only in an environment, some only in a volume.
const FIELDS: [&str; 15] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.host",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Those that a downward API volume shows.
pub(super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A reference to one of the pod's own fields.
pub(super) fn validate_field_ref(reference: &Value, known: &[&str], path: Path<'_>, errors: &mut Vec<FieldError>) {
    let field = text(reference, "fieldPath");
    let own = path.child("fieldPath");
    if field.is_empty() {
        errors.push(FieldError::required(own, ""));
        return;
    }
    let subscript = field.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    if let Some((map, key)) = subscript {
        let key = if map == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
        if !["metadata.annotations", "metadata.labels"].contains(&map) {
            let why = format!("error converting fieldPath: field label does not support subscript: {field}");
            errors.push(FieldError::invalid(own, field, why));
        } else {
            let wrong = names::qualified_name_errors(&key).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(path, key.as_str(), why)));
        }
    } else if !FIELDS.contains(&field) {
        let why = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(FieldError::invalid(own, field, why));
    } else if field != "spec.host" && !known.contains(&field) {
        errors.push(FieldError::not_supported(own, field, known));
    }
}

/// A reference to a container's requests or limits.
pub(super) fn validate_resource_ref(reference: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    let resource = text(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if resource.is_empty() {
        errors.push(FieldError::required(path.child("resource"), ""));
    } else if !huge && !RESOURCES.contains(&resource) {
        errors.push(FieldError::not_supported(path.child("resource"), resource, &RESOURCES));
    }
}

/// Ids and privileges of a container or, as far as it has them, of a pod.
pub(super) fn validate_security(context: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = context[field].as_i64().filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            let why = names::inclusive_range_error(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(path.child(field), id, why));
        }
    }
    if context["allowPrivilegeEscalation"] == false {
        let adds = items(&context["capabilities"]["add"]).iter().any(|one| one == "CAP_SYS_ADMIN");
        for (wrong, what) in
            [(context["privileged"] == true, "`privileged` to true"), (adds, "`capabilities.Add` CAP_SYS_ADMIN")]
        {
            if wrong {
                let why = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
                errors.push(FieldError::invalid(path, context.clone(), why));
            }
        }
    }
}

/// A resource that a container may ask for: one of the standard ones, or one with a domain.
fn resource_errors(resource: &str) -> Vec<String> {
    let mut errors = names::qualified_name_errors(resource);
    if errors.is_empty() && !resource.contains('/') {
        let container =
            ["cpu", "memory", "ephemeral-storage"].contains(&resource) || resource.starts_with("hugepages-");
        let known = container || ["pods", "services", "storage"].contains(&resource);
        if !known {
            errors.push("must be a standard resource type or fully qualified".to_owned());
        }
        if !container {
            errors.push("must be a standard resource for containers".to_owned());
        }
    }
    errors
}

fn validate_mounts(container: &Value, path: Path<'_>, volumes: &BTreeSet<&str>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (at, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let here = path.index(at);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(here.child("name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(here.child("name"), name));
        }
        if target.is_empty() {
            errors.push(FieldError::required(here.child("mountPath"), ""));
        } else if !seen.insert(target) {
            errors.push(FieldError::invalid(here.child("mountPath"), target, "must be unique"));
        }
        let sub = text(mount, "subPath");
        if sub.starts_with('/') {
            errors.push(FieldError::invalid(here.child("subPath"), sub, "must be a relative path"));
        } else if sub.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(here.child("subPath"), sub, "must not contain '..'"));
        }
    }
}

fn validate_resources(resources: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    let list = |field: &str| resources[field].as_object().into_iter().flatten();
    for field in ["limits", "requests"] {
        for (resource, value) in list(field) {
            let wrong = resource_errors(resource).into_iter();
            errors
                .extend(wrong.map(|why| FieldError::invalid(path.child(field).key(resource), resource.as_str(), why)));
            if Quantity::from_value(value).is_ok_and(Quantity::is_negative) {
                let (own, shown) = (path.child(field), value.as_str().unwrap_or_default());
                errors.push(FieldError::invalid(own.key(resource), shown, "must be greater than or equal to 0"));
            }
        }
    }
    for (resource, value) in list("requests") {
        let Some(limit) = resources["limits"].get(resource) else { continue };
        let (Ok(asked), Ok(most)) = (Quantity::from_value(value), Quantity::from_value(limit)) else { continue };
        if most.minus(asked).is_negative() {
            let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let why = format!("must be less than or equal to {resource} limit of {}", shown(limit));
            errors.push(FieldError::invalid(path.child("requests"), shown(value), why));
        }
    }
}

fn validate_probe(probe: &Value, path: Path<'_>, liveness: bool, errors: &mut Vec<FieldError>) {
    validate_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        if let Some(number) = probe[field].as_i64().filter(|number| *number < 0) {
            errors.push(FieldError::invalid(path.child(field), number, "must be greater than or equal to 0"));
        }
    }
    if let Some(number) = probe["successThreshold"].as_i64().filter(|number| liveness && *number > 1) {
        errors.push(FieldError::invalid(path.child("successThreshold"), number, "must be 1"));
    }
}

fn validate_handler(handler: &Value, kinds: &[&str], path: Path<'_>, errors: &mut Vec<FieldError>) {
    let given: Vec<&&str> = kinds.iter().filter(|kind| handler.get(**kind).is_some_and(|one| !one.is_null())).collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for more in given.iter().skip(1) {
        errors.push(FieldError::forbidden(path.child(more), "may not specify more than 1 handler type"));
    }
    if handler.get("exec").is_some() && items(&handler["exec"]["command"]).is_empty() {
        errors.push(FieldError::required(path.child("exec").child("command"), ""));
    }
    for kind in ["httpGet", "tcpSocket"] {
        let Some(port) = handler.get(kind).map(|one| &one["port"]) else { continue };
        let own = path.child(kind);
        let wrong = match port.as_str() {
            Some(name) => names::port_name_errors(name),
            None => names::port_number_errors(port.as_i64().unwrap_or_default()),
        };
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid(own.child("port"), port.clone(), why)));
    }
}
