//! Pure: the values that upstream's code fills in where a manifest is silent.
//!
//! [`ALWAYS`] holds the defaults that depend on nothing; the functions below it hold the others, one per type. Types are
//! visited from the outside in, plain (not pointer) objects that are absent count as empty, as in Go.

use serde_json::{Map, Value, json};

use super::conform::droppable;
use super::table::{Element, Scalar, Shape, TypeId, type_named};

mod always;

use always::ALWAYS;

/// Fills in an object of a built-in kind. Applying it twice changes nothing.
pub fn default(kind: TypeId, object: &mut Map<String, Value>) {
    default_own(kind, object);
    for field in kind.json_fields() {
        let name = field.name();
        match field.element() {
            Element::Scalar(_) => {
                if let Some(text) = field.default()
                    && unset(kind, name, object)
                {
                    let value = serde_json::from_str(text).expect("the table holds JSON");
                    if !droppable(field, &value) {
                        object.insert(name.to_owned(), value);
                    }
                }
            }
            Element::Object(inner) => match (field.shape(), object.get_mut(name)) {
                (Shape::One | Shape::Inline, Some(Value::Object(child))) => default(inner, child),
                (Shape::One, None) if !field.is_pointer() => {
                    let mut child = Map::new();
                    default(inner, &mut child);
                    if !child.is_empty() {
                        object.insert(name.to_owned(), Value::Object(child));
                    }
                }
                (Shape::List, Some(Value::Array(items))) => {
                    items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| default(inner, item));
                }
                (Shape::Map, Some(Value::Object(entries))) => {
                    entries.values_mut().filter_map(Value::as_object_mut).for_each(|item| default(inner, item));
                }
                _ => {}
            },
        }
    }
}

/// The defaults of the type itself and of those inlined in it.
fn default_own(kind: TypeId, object: &mut Map<String, Value>) {
    conditional(kind.name(), object);
    let row = ALWAYS.partition_point(|(name, ..)| *name < kind.name());
    for (_, field, value) in ALWAYS[row..].iter().take_while(|(name, ..)| *name == kind.name()) {
        if unset(kind, field, object) {
            object.insert((*field).to_owned(), serde_json::from_str(value).expect("a constant of this file"));
        }
    }
    for field in kind.fields().filter(|field| field.shape() == Shape::Inline) {
        if let Element::Object(inner) = field.element() {
            default_own(inner, object);
        }
    }
}

/// Absent, or the zero of a plain field.
fn unset(kind: TypeId, name: &str, object: &Map<String, Value>) -> bool {
    match (object.get(name), kind.field(name)) {
        (None | Some(Value::Null), _) => true,
        (Some(value), Some(field)) if !field.is_pointer() => match (field.shape(), field.element()) {
            (Shape::One, Element::Scalar(Scalar::String)) => value == "",
            (Shape::One, Element::Scalar(Scalar::Int32 | Scalar::Int64)) => value == 0,
            _ => false,
        },
        _ => false,
    }
}

fn conditional(kind: &str, object: &mut Map<String, Value>) {
    match kind {
        "core.v1.Container" | "core.v1.EphemeralContainerCommon" => container(object),
        "core.v1.ImageVolumeSource" => pull_policy(object, "reference", "pullPolicy"),
        "core.v1.Pod" => pod(object),
        "core.v1.PodSpec" => pod_spec(object),
        "core.v1.Volume" => volume(object),
        "core.v1.Service" => service(object),
        "core.v1.ReplicationController" => replication_controller(object),
        "core.v1.Namespace" => namespace(object),
        "core.v1.NodeStatus" => copy_unset(object, "capacity", "allocatable"),
        "core.v1.LimitRangeItem" => limit_range_item(object),
        "apps.v1.DeploymentStrategy" => {
            rolling(object, &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))])
        }
        "apps.v1.DaemonSetUpdateStrategy" => rolling(object, &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]),
        "apps.v1.StatefulSetUpdateStrategy" => {
            rolling(object, &[("partition", json!(0)), ("maxUnavailable", json!(1))])
        }
        "batch.v1.Job" => job(object),
        "autoscaling.v2.HorizontalPodAutoscalerSpec" => autoscaler(object),
        "networking.v1.NetworkPolicySpec" => network_policy(object),
        "rbac.v1.Subject" => subject(object),
        "apiextensions.v1.CustomResourceDefinitionSpec" => custom_resource(object),
        _ => {}
    }
}

fn set_default(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let slot = object.entry(name).or_insert(Value::Null);
    if slot.is_null() || *slot == "" {
        *slot = value.into();
    }
}

fn child<'a>(object: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name)?.as_object_mut()
}

fn made<'a>(object: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.entry(name).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

fn items<'a>(object: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn copy_unset(object: &mut Map<String, Value>, from: &str, to: &str) {
    if !object.contains_key(to)
        && let Some(value) = object.get(from).cloned()
    {
        object.insert(to.to_owned(), value);
    }
}

/// Whether an image without a digest has no tag or the tag `latest`: it is pulled always.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn pull_policy(object: &mut Map<String, Value>, image: &str, policy: &str) {
    let value = if is_latest(text(object, image)) { "Always" } else { "IfNotPresent" };
    set_default(object, policy, value);
}

fn container(object: &mut Map<String, Value>) {
    pull_policy(object, "image", "imagePullPolicy");
    set_default(object, "terminationMessagePath", "/dev/termination-log");
    set_default(object, "terminationMessagePolicy", "File");
}

fn pod(object: &mut Map<String, Value>) {
    let Some(spec) = child(object, "spec") else { return };
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            let Some(resources) = child(container, "resources") else { continue };
            let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { continue };
            if let Some(requests) = made(resources, "requests") {
                for (name, value) in limits {
                    requests.entry(name).or_insert(value);
                }
            }
        }
    }
    set_default(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            for port in items(spec, list).flat_map(|container| items(container, "ports")) {
                if port.get("hostPort").is_none_or(|port| *port == 0) {
                    let port_number = port.get("containerPort").cloned().unwrap_or_default();
                    port.insert("hostPort".to_owned(), port_number);
                }
            }
        }
    }
}

/// The deprecated name of the service account follows the present one, and the other way round.
fn pod_spec(object: &mut Map<String, Value>) {
    copy_unset(object, "serviceAccount", "serviceAccountName");
    copy_unset(object, "serviceAccountName", "serviceAccount");
}

fn volume(object: &mut Map<String, Value>) {
    if !object.keys().any(|key| key != "name") {
        object.insert("emptyDir".to_owned(), json!({}));
    }
}

fn service(object: &mut Map<String, Value>) {
    let Some(spec) = child(object, "spec") else { return };
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            if let Some(config) = made(spec, "sessionAffinityConfig").and_then(|config| made(config, "clientIP")) {
                config.entry("timeoutSeconds").or_insert(json!(10800));
            }
        }
        "" | "None" => {
            spec.remove("sessionAffinityConfig");
        }
        _ => {}
    }
    for port in items(spec, "ports") {
        let target = port.get("targetPort");
        if target.is_none_or(|target| target.is_null() || *target == 0 || *target == "") {
            let number = port.get("port").cloned().unwrap_or(json!(0));
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = match text(spec, "type") {
        "" => "ClusterIP".to_owned(),
        kind => kind.to_owned(),
    };
    let balanced = kind == "LoadBalancer";
    let has_external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if balanced || kind == "NodePort" || (kind == "ClusterIP" && has_external) {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if balanced || kind == "NodePort" || kind == "ClusterIP" {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if balanced {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(status) = child(object, "status").and_then(|status| child(status, "loadBalancer")) {
            for ingress in items(status, "ingress").filter(|ingress| !text(ingress, "ip").is_empty()) {
                set_default(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn replication_controller(object: &mut Map<String, Value>) {
    let template = object.get("spec").and_then(|spec| spec.get("template"));
    let labels = template.and_then(|template| template.pointer("/metadata/labels")).cloned();
    let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|labels| !labels.is_empty())) else {
        return;
    };
    if let Some(spec) = child(object, "spec")
        && spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        spec.insert("selector".to_owned(), labels.clone());
    }
    label_like(object, labels);
}

fn label_like(object: &mut Map<String, Value>, labels: Value) {
    if let Some(metadata) = made(object, "metadata")
        && metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        metadata.insert("labels".to_owned(), labels);
    }
}

fn namespace(object: &mut Map<String, Value>) {
    let Some(metadata) = child(object, "metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if !name.is_empty()
        && let Some(labels) = made(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

fn limit_range_item(object: &mut Map<String, Value>) {
    if text(object, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(source) = object.get(from).and_then(Value::as_object).cloned() else { continue };
        if let Some(target) = made(object, to) {
            for (name, value) in source {
                target.entry(name).or_insert(value);
            }
        }
    }
}

/// `rollingUpdate` of a strategy, if that is what its type says or is silent about.
fn rolling(object: &mut Map<String, Value>, values: &[(&str, Value)]) {
    if !matches!(text(object, "type"), "" | "RollingUpdate") {
        return;
    }
    if let Some(update) = made(object, "rollingUpdate") {
        for (name, value) in values {
            update.entry(*name).or_insert_with(|| value.clone());
        }
    }
}

fn job(object: &mut Map<String, Value>) {
    let labels = object.get("spec").and_then(|spec| spec.pointer("/template/metadata/labels")).cloned();
    if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|labels| !labels.is_empty())) {
        label_like(object, labels);
    }
    let Some(spec) = child(object, "spec") else { return };
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".to_owned(), json!(1));
    }
    let backoff = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    let replacement = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    let values = [
        ("parallelism", json!(1)),
        ("backoffLimit", json!(backoff)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!(replacement)),
        ("manualSelector", json!(false)),
    ];
    for (name, value) in values {
        spec.entry(name).or_insert(value);
    }
}

fn autoscaler(object: &mut Map<String, Value>) {
    if object.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let metric = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        object.insert("metrics".to_owned(), metric);
    }
    let Some(behavior) = child(object, "behavior") else { return };
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    for (rules, window, policies) in
        [("scaleUp", Some(0), json!([pods, percent])), ("scaleDown", None, json!([percent]))]
    {
        if let Some(rules) = made(behavior, rules) {
            rules.entry("selectPolicy").or_insert(json!("Max"));
            rules.entry("policies").or_insert(policies);
            if let Some(window) = window {
                rules.entry("stabilizationWindowSeconds").or_insert(json!(window));
            }
        }
    }
}

fn network_policy(object: &mut Map<String, Value>) {
    if object.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let egress = object.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        object.insert("policyTypes".to_owned(), types);
    }
}

fn subject(object: &mut Map<String, Value>) {
    if matches!(text(object, "kind"), "User" | "Group") {
        set_default(object, "apiGroup", "rbac.authorization.k8s.io");
    }
}

fn custom_resource(object: &mut Map<String, Value>) {
    if let Some(names) = child(object, "names") {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            set_default(names, "singular", kind.to_lowercase());
            set_default(names, "listKind", format!("{kind}List"));
        }
    }
    object.entry("conversion").or_insert(json!({"strategy": "None"}));
}

/// The defaults of a pod template on its own, for those who make pods from one.
pub fn default_pod_template(template: &mut Map<String, Value>) {
    if let Some(kind) = type_named("core.v1.PodTemplateSpec") {
        default(kind, template);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::lookup_api_version;

    fn defaulted(object: Value) -> Value {
        let mut object = object.as_object().unwrap().clone();
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap().to_owned();
        let kind = lookup_api_version(&text("apiVersion"), &text("kind")).unwrap();
        default(kind, &mut object);
        let once = object.clone();
        default(kind, &mut object);
        assert_eq!(once, object);
        Value::Object(object)
    }

    #[test]
    fn the_table_is_sorted_and_names_real_fields() {
        assert!(ALWAYS.is_sorted_by_key(|(name, ..)| *name));
        for (name, field, value) in ALWAYS {
            let kind = type_named(name).unwrap_or_else(|| panic!("{name}"));
            assert!(kind.field(field).is_some(), "{name}.{field}");
            serde_json::from_str::<Value>(value).unwrap();
        }
    }

    /// Objects that upstream's own defaulting filled in (v1.35.0): `[given, filled]` on each line.
    const GOLDEN: &str = include_str!("../../schema/golden/defaults.jsonl");

    /// Without what upstream's writer adds: empty structs, zero values that it never leaves out.
    fn said(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let kept = map.iter().map(|(name, value)| (name, said(value))).filter(|(name, value)| {
                    let quiet = value.is_null() || *value == json!({}) || *value == "" || *value == 0;
                    !(quiet || *name == "serviceAccount" || *name == "serviceAccountName" || *name == "phase")
                });
                Value::Object(kept.map(|(name, value)| (name.clone(), value)).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(said).collect()),
            other => other.clone(),
        }
    }

    #[test]
    fn what_upstream_fills_in_is_filled_in() {
        for line in GOLDEN.lines() {
            let [given, filled]: [Value; 2] = serde_json::from_str(line).unwrap();
            assert_eq!(said(&defaulted(given.clone())), said(&filled), "{given}");
        }
    }

    #[test]
    fn deployment() {
        let object = defaulted(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {
            "containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
                "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "s", "secret": {"secretName": "x"}}]}}}}));
        assert_eq!(
            object["spec"],
            json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "template": {"spec": {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                    "securityContext": {}, "terminationGracePeriodSeconds": 30,
                    "volumes": [{"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                    "containers": [{"name": "a", "image": "nginx", "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                        "resources": {"limits": {"cpu": "1"}},
                        "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "failureThreshold": 3,
                            "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}}]}}})
        );
        assert!(object.get("status").is_none() && object.get("metadata").is_none());
    }

    #[test]
    fn pod_and_service() {
        let object = defaulted(
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"hostNetwork": true, "serviceAccountName": "x",
            "containers": [{"name": "a", "image": "r:5000/a:1", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}]}}),
        );
        let container = &object["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        assert_eq!(container["resources"]["requests"], json!({"cpu": "1"}));
        assert_eq!(container["ports"][0]["hostPort"], 80);
        assert_eq!(object["spec"]["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(object["spec"]["serviceAccount"], "x");
        assert_eq!(object["spec"]["enableServiceLinks"], true);
        let object = defaulted(
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"type": "NodePort", "ports": [{"port": 80}]}}),
        );
        assert_eq!(
            object["spec"],
            json!({"type": "NodePort", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
        );
    }

    #[test]
    fn others() {
        let object = defaulted(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}));
        assert_eq!(object["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
        assert_eq!(object["status"], json!({"phase": "Active"}));
        let object = defaulted(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}));
        assert_eq!(object["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
        assert_eq!(object["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
        assert!(object["subjects"][1].get("apiGroup").is_none());
        let object = defaulted(
            json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
        );
        assert_eq!((&object["spec"]["completions"], &object["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
        assert!(is_latest("a:latest") && is_latest("r:5000/a") && !is_latest("a@sha256:x") && !is_latest("r:5000/a:1"));
    }
}
