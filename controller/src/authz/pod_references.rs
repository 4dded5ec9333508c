//! Pure: what a pod refers to, and so what its node must be able to read.

use serde_json::Value;

/// The kinds of objects that a node may read because a pod of its own refers to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Referent {
    /// `configmaps`
    ConfigMap,
    /// `secrets`
    Secret,
    /// `persistentvolumeclaims`
    PersistentVolumeClaim,
    /// `serviceaccounts`
    ServiceAccount,
    /// `resourceclaims`
    ResourceClaim,
}

impl Referent {
    /// The resource's plural.
    pub fn plural(self) -> &'static str {
        match self {
            Referent::ConfigMap => "configmaps",
            Referent::Secret => "secrets",
            Referent::PersistentVolumeClaim => "persistentvolumeclaims",
            Referent::ServiceAccount => "serviceaccounts",
            Referent::ResourceClaim => "resourceclaims",
        }
    }
}

/// All references of a pod within its namespace, without duplicates. Mirror pods have none, whatever they say: their node
/// made them, and must gain nothing by it.
pub fn references(pod: &Value) -> Vec<(Referent, &str)> {
    if is_mirror(pod) { Vec::new() } else { all_references(pod) }
}

/// Whether the pod is a node's image of a static pod.
pub fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
}

/// All references of a pod, mirror or not.
pub fn all_references(pod: &Value) -> Vec<(Referent, &str)> {
    let Some(spec) = pod.get("spec") else { return Vec::new() };
    let mut found = Vec::new();
    push(&mut found, Referent::ServiceAccount, spec.get("serviceAccountName"));
    for secret in items(spec, "imagePullSecrets") {
        push(&mut found, Referent::Secret, secret.get("name"));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items(spec, list).iter().for_each(|container| of_container(&mut found, container));
    }
    items(spec, "volumes").iter().for_each(|volume| of_volume(&mut found, volume));
    for claim in items(spec, "resourceClaims") {
        push(&mut found, Referent::ResourceClaim, claim.get("resourceClaimName"));
    }
    for claim in pod.get("status").map(|status| items(status, "resourceClaimStatuses")).unwrap_or_default() {
        push(&mut found, Referent::ResourceClaim, claim.get("resourceClaimName"));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn of_container<'a>(found: &mut Vec<(Referent, &'a str)>, container: &'a Value) {
    for source in items(container, "envFrom") {
        push(found, Referent::ConfigMap, source.pointer("/configMapRef/name"));
        push(found, Referent::Secret, source.pointer("/secretRef/name"));
    }
    for variable in items(container, "env") {
        push(found, Referent::ConfigMap, variable.pointer("/valueFrom/configMapKeyRef/name"));
        push(found, Referent::Secret, variable.pointer("/valueFrom/secretKeyRef/name"));
    }
}

fn of_volume<'a>(found: &mut Vec<(Referent, &'a str)>, volume: &'a Value) {
    push(found, Referent::ConfigMap, volume.pointer("/configMap/name"));
    push(found, Referent::Secret, volume.pointer("/secret/secretName"));
    push(found, Referent::PersistentVolumeClaim, volume.pointer("/persistentVolumeClaim/claimName"));
    for plugin in ["azureFile", "cephfs", "cinder", "csi", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
        let Some(source) = volume.get(plugin) else { continue };
        push(found, Referent::Secret, source.pointer("/secretRef/name"));
        push(found, Referent::Secret, source.pointer("/nodePublishSecretRef/name"));
        push(found, Referent::Secret, source.get("secretName"));
    }
    for source in volume.get("projected").map(|projected| items(projected, "sources")).unwrap_or_default() {
        push(found, Referent::ConfigMap, source.pointer("/configMap/name"));
        push(found, Referent::Secret, source.pointer("/secret/name"));
    }
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn push<'a>(found: &mut Vec<(Referent, &'a str)>, referent: Referent, name: Option<&'a Value>) {
    if let Some(name) = name.and_then(Value::as_str).filter(|name| !name.is_empty()) {
        found.push((referent, name));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place_that_can_refer_is_seen() {
        let pod = json!({
            "metadata": {"name": "web"},
            "spec": {
                "serviceAccountName": "bot",
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1"}}]}],
                "containers": [{"env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
                "volumes": [
                    {"configMap": {"name": "c3"}}, {"secret": {"secretName": "s3"}},
                    {"persistentVolumeClaim": {"claimName": "data"}},
                    {"csi": {"nodePublishSecretRef": {"name": "s4"}}},
                    {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "s5"}}]}}]
            }
        });
        let found = references(&pod);
        let of = |wanted| found.iter().filter(|(kind, _)| *kind == wanted).map(|(_, name)| *name).collect::<Vec<_>>();
        assert_eq!(of(Referent::ConfigMap), ["c1", "c2", "c3", "kube-root-ca.crt"]);
        assert_eq!(of(Referent::Secret), ["pull", "s1", "s2", "s3", "s4", "s5"]);
        assert_eq!(of(Referent::PersistentVolumeClaim), ["data"]);
        assert_eq!(of(Referent::ServiceAccount), ["bot"]);
    }

    #[test]
    fn a_mirror_pod_opens_nothing() {
        let pod = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"volumes": [{"secret": {"secretName": "s"}}]}});
        assert!(references(&pod).is_empty());
    }
}
