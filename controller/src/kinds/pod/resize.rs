//! Pure: the resize subresource: what of a write counts, and what may change; upstream's `ValidatePodResize`.

use serde_json::{Map, Value};

use super::qos_class;
use super::validate::{items, text, validate};
use crate::kinds::strategy::keep;
use crate::object::Object;
use crate::schema::field_error::{FieldError, Path};

const SPEC: Path<'static> = Path::new("spec");
const LISTS: [&str; 2] = ["containers", "initContainers"];
/// The kubelet's copy of a static pod says so.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Keeps all of the old pod but its containers' resources and resize policies. Containers that were added, renamed or
/// moved stay as they were sent: validation refuses them by name.
pub(super) fn prepare(new: &mut Object, old: &Object) {
    let wanted = LISTS.map(|list| new.items(&["spec", list]).to_vec());
    keep(new, old, "spec");
    keep(new, old, "status");
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        match old.get(&["metadata", field]) {
            Some(value) => new.set(&["metadata", field], value.clone()),
            None => drop(new.remove(&["metadata", field])),
        }
    }
    for (list, wanted) in LISTS.into_iter().zip(wanted) {
        let had = old.items(&["spec", list]);
        if is_same_order(&wanted, had) {
            let merged = had.iter().zip(&wanted).map(|(had, wanted)| resized(had, wanted));
            if !had.is_empty() {
                new.set(&["spec", list], merged.collect::<Vec<_>>());
            }
        } else {
            new.set(&["spec", list], wanted);
        }
    }
}

fn is_same_order(new: &[Value], old: &[Value]) -> bool {
    new.len() == old.len() && new.iter().zip(old).all(|(new, old)| new["name"] == old["name"])
}

fn resized(had: &Value, wanted: &Value) -> Value {
    let mut container = had.as_object().cloned().unwrap_or_default();
    for field in ["resources", "resizePolicy"] {
        match wanted.get(field) {
            Some(value) => container.insert(field.to_owned(), value.clone()),
            None => container.remove(field),
        };
    }
    Value::Object(container)
}

/// What is wrong with a resize.
pub(super) fn validate_resize(new: &Object, old: &Object) -> Vec<FieldError> {
    if old.annotations().is_some_and(|all| all.contains_key(MIRROR)) {
        return vec![FieldError::forbidden("", "static pods cannot be resized")];
    }
    let mut errors = validate(new);
    let class = match old.text(&["status", "qosClass"]) {
        "" => qos_class(old),
        class => class,
    };
    if qos_class(new) != class {
        errors.push(FieldError::invalid(SPEC, class, "Pod QOS Class may not change as a result of resizing"));
    }
    if !is_supported(old) {
        errors.push(FieldError::forbidden(SPEC, "Pod running on node without support for resize"));
    }
    if ["requests", "limits"]
        .iter()
        .any(|list| old.map(&["spec", "resources", list]).is_some_and(|all| !all.is_empty()))
    {
        let why = "resize of pods with pod-level resources is forbidden when \
                   InPlacePodLevelResourcesVerticalScalingEnabled feature gate is disabled";
        errors.push(FieldError::forbidden("", why));
        return errors;
    }
    let order: Vec<FieldError> = LISTS.iter().flat_map(|list| order_errors(new, old, list)).collect();
    if !order.is_empty() {
        errors.extend(order);
        return errors;
    }
    for list in LISTS {
        for (at, (new, old)) in new.items(&["spec", list]).iter().zip(old.items(&["spec", list])).enumerate() {
            errors.extend(container_errors(new, old, list, at));
        }
    }
    errors
}

/// A node that can resize reports the resources of what runs.
fn is_supported(pod: &Object) -> bool {
    let running = pod.items(&["status", "containerStatuses"]).iter().find(|one| one["state"].get("running").is_some());
    running.is_none_or(|one| one.get("resources").is_some())
}

fn order_errors(new: &Object, old: &Object, list: &str) -> Vec<FieldError> {
    let path = SPEC.child(list);
    let (new, old) = (new.items(&["spec", list]), old.items(&["spec", list]));
    if new.len() != old.len() {
        return vec![FieldError::forbidden(path, format!("{list} may not be added or removed on resize"))];
    }
    let moved = new.iter().zip(old).enumerate().filter(|(_, (new, old))| new["name"] != old["name"]);
    let why = format!("{list} may not be renamed or reordered on resize");
    moved.map(|(at, _)| FieldError::forbidden(path.index(at).child("name"), &*why)).collect()
}

fn container_errors(new: &Value, old: &Value, list: &str, at: usize) -> Vec<FieldError> {
    let changed = |resources: fn(&Value) -> Value| resources(new) != resources(old);
    let sidecar = text(old, "restartPolicy") == "Always";
    if list == "initContainers" && !sidecar {
        let why = "resources for non-sidecar init containers are immutable";
        return changed(normal).then(|| FieldError::forbidden(SPEC, why)).into_iter().collect();
    }
    let path = SPEC.child(list);
    let path = path.index(at);
    let path = path.child("resources");
    let mut errors = Vec::new();
    for amounts in ["requests", "limits"] {
        if is_any_removed(&new["resources"][amounts], &old["resources"][amounts]) {
            errors.push(FieldError::forbidden(path.child(amounts), format!("resource {amounts} cannot be removed")));
        }
    }
    if changed(fixed) {
        let why = match list {
            "containers" => "only cpu and memory resources are mutable",
            _ => "only cpu and memory resources for sidecar containers are mutable",
        };
        errors.push(FieldError::forbidden(SPEC, why));
    }
    errors
}

fn is_any_removed(new: &Value, old: &Value) -> bool {
    old.as_object().into_iter().flatten().any(|(name, _)| new.get(name).is_none())
}

/// A container without what a resize may change.
fn fixed(container: &Value) -> Value {
    let mut container = container.clone();
    for amounts in ["requests", "limits"] {
        if let Some(amounts) = container.get_mut("resources").and_then(|all| all.get_mut(amounts)?.as_object_mut()) {
            amounts.retain(|name, _| name != "cpu" && name != "memory");
        }
    }
    normal(&container)
}

/// A container whose empty lists of resources and policies are left out: upstream finds them equal to none.
fn normal(container: &Value) -> Value {
    let mut container = container.as_object().cloned().unwrap_or_default();
    if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
        resources.retain(|_, value| !is_empty(value));
    }
    container.retain(|name, value| !matches!(name.as_str(), "resources" | "resizePolicy") || !is_empty(value));
    Value::Object(container)
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty) || (value.is_array() && items(value).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A running pod: a container, a sidecar and a plain init container.
    fn pod(container: Value, sidecar: Value, init: Value) -> Object {
        let policy = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
        Object::from_value(json!({
            "metadata": {"name": "p", "labels": {"app": "a"}},
            "spec": {
                "containers": [{"name": "c", "image": "i", "resources": container, "resizePolicy": policy}],
                "initContainers": [
                    {"name": "s", "image": "i", "restartPolicy": "Always", "resources": sidecar},
                    {"name": "n", "image": "i", "resources": init},
                ],
            },
            "status": {
                "qosClass": "Burstable",
                "containerStatuses": [{"name": "c", "state": {"running": {}}, "resources": {}}],
            },
        }))
        .unwrap()
    }

    fn cpu(amount: &str) -> Value {
        json!({"requests": {"cpu": amount}, "limits": {"cpu": "2"}})
    }

    fn old() -> Object {
        pod(cpu("1"), cpu("1"), cpu("1"))
    }

    fn errors(mut new: Object, old: &Object) -> Vec<String> {
        prepare(&mut new, old);
        validate_resize(&new, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn cpu_and_memory_of_containers_and_sidecars_change() {
        assert_eq!(errors(pod(cpu("2"), cpu("500m"), cpu("1")), &old()), [""; 0]);
        let more = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        assert_eq!(errors(pod(more, cpu("1"), cpu("1")), &old()), [""; 0]);
    }

    #[test]
    fn other_changes_are_refused_in_upstreams_words() {
        let disk = json!({"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "2"}});
        let all = [
            (pod(disk.clone(), cpu("1"), cpu("1")), "spec: Forbidden: only cpu and memory resources are mutable"),
            (
                pod(cpu("1"), disk, cpu("1")),
                "spec: Forbidden: only cpu and memory resources for sidecar containers are mutable",
            ),
            (
                pod(cpu("1"), cpu("1"), cpu("2")),
                "spec: Forbidden: resources for non-sidecar init containers are immutable",
            ),
            (
                pod(json!({"limits": {"cpu": "2"}}), cpu("1"), cpu("1")),
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ),
            (
                pod(cpu("1"), json!({"requests": {"cpu": "1"}}), cpu("1")),
                "spec.initContainers[0].resources.limits: Forbidden: resource limits cannot be removed",
            ),
            (
                pod(cpu("3"), cpu("1"), cpu("1")),
                "spec.containers[0].resources.requests: Invalid value: \"3\": must be less than or equal to cpu limit of 2",
            ),
        ];
        for (new, expected) in all {
            assert_eq!(errors(new, &old()), [expected]);
        }
        let mut policy = old();
        policy.set(&["spec", "containers"], json!([{"name": "c", "image": "i", "resources": cpu("1")}]));
        assert_eq!(errors(policy, &old()), ["spec: Forbidden: only cpu and memory resources are mutable"]);
    }

    #[test]
    fn containers_are_neither_renamed_nor_added() {
        let mut renamed = old();
        renamed.set(&["spec", "containers"], json!([{"name": "d", "image": "i", "resources": cpu("1")}]));
        let why = "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize";
        assert_eq!(errors(renamed, &old()), [why]);
        let mut fewer = old();
        fewer.remove(&["spec", "initContainers"]);
        let why = "spec.initContainers: Forbidden: initContainers may not be added or removed on resize";
        assert_eq!(errors(fewer, &old()), [why]);
    }

    #[test]
    fn the_class_of_service_stays() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let all = |amounts: &Value| json!({"requests": amounts, "limits": amounts});
        let mut old = pod(all(&both), all(&both), all(&both));
        old.set(&["status", "qosClass"], "Guaranteed");
        let less = json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": both});
        let why = "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing";
        assert_eq!(errors(pod(less, all(&both), all(&both)), &old), [why]);
    }

    #[test]
    fn static_pods_and_nodes_that_cannot_are_refused() {
        let mut unable = old();
        unable.set(&["status", "containerStatuses"], json!([{"name": "c", "state": {"running": {}}}]));
        let why = "spec: Forbidden: Pod running on node without support for resize";
        assert_eq!(errors(pod(cpu("2"), cpu("1"), cpu("1")), &unable), [why]);
        let mut mirror = old();
        mirror.set(&["metadata", "annotations"], json!({MIRROR: "x"}));
        assert_eq!(errors(old(), &mirror), [": Forbidden: static pods cannot be resized"]);
    }

    #[test]
    fn nothing_but_resources_goes_with_a_resize() {
        let mut new = pod(cpu("2"), cpu("1"), cpu("1"));
        new.set(&["metadata", "labels"], json!({"app": "other"}));
        new.set(&["spec", "nodeName"], "elsewhere");
        prepare(&mut new, &old());
        assert_eq!(new, pod(cpu("2"), cpu("1"), cpu("1")));
    }
}
