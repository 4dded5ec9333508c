//! Pure: ServiceAccount: every pod acts as an account and, unless told not to, mounts its token.

use serde_json::{Value, json};

use crate::object::Object;

/// The account of pods that name none.
const DEFAULT: &str = "default";
/// Where a token and the cluster's CA are found in a container.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds: an hour and a little, which the token issuer knows as "nobody chose" (KEP 1205).
const TOKEN_SECONDS: i64 = 3607;
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Pods that an agent shows of its own files.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Does this pod get an account? Mirror pods may have none.
pub fn wants_account(pod: &Object) -> bool {
    pod.annotation(MIRROR).is_none()
}

/// What is wrong with a mirror pod's use of the API.
pub fn judge_mirror(pod: &Object) -> Result<(), String> {
    if !pod.text(&["spec", "serviceAccountName"]).is_empty() {
        return Err("a mirror pod may not reference service accounts".to_owned());
    }
    let volumes = pod.items(&["spec", "volumes"]).iter();
    let tokens = |volume: &Value| {
        volume["projected"]["sources"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one.get("serviceAccountToken").is_some()))
    };
    if volumes.clone().any(|volume| volume.get("secret").is_some()) {
        return Err("a mirror pod may not reference secrets".to_owned());
    }
    if volumes.clone().any(tokens) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections".to_owned());
    }
    Ok(())
}

/// The account's name, filled in.
pub fn name(pod: &mut Object) -> String {
    let spec = |field: &str| pod.text(&["spec", field]).to_owned();
    let name = [spec("serviceAccountName"), spec("serviceAccount"), DEFAULT.to_owned()];
    let name = name.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    pod.set(&["spec", "serviceAccountName"], name.as_str());
    pod.set(&["spec", "serviceAccount"], name.as_str());
    name
}

/// Adds what the account brings: its token's volume and mounts, its pull secrets. `suffix` ends the volume's name.
pub fn apply(pod: &mut Object, account: &Object, suffix: &str) {
    let asked = pod.get(&["spec", "automountServiceAccountToken"]).and_then(Value::as_bool);
    let offered = account.get(&["automountServiceAccountToken"]).and_then(Value::as_bool);
    if asked.or(offered).unwrap_or(true) {
        mount(pod, suffix);
    }
    let secrets = account.items(&["imagePullSecrets"]);
    if pod.items(&["spec", "imagePullSecrets"]).is_empty() && !secrets.is_empty() {
        pod.set(&["spec", "imagePullSecrets"], secrets.to_vec());
    }
}

fn mount(pod: &mut Object, suffix: &str) {
    let present = pod.items(&["spec", "volumes"]).iter().filter_map(|volume| volume["name"].as_str());
    let name = present
        .into_iter()
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map_or_else(|| format!("{VOLUME_PREFIX}{suffix}"), str::to_owned);
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let mut containers = pod.items(&["spec", list]).to_vec();
        for container in &mut containers {
            let mut mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            container["volumeMounts"] = mounts.into();
            mounted = true;
        }
        if !containers.is_empty() {
            pod.set(&["spec", list], containers);
        }
    }
    let mut volumes = pod.items(&["spec", "volumes"]).to_vec();
    if mounted && volumes.iter().all(|volume| volume["name"] != name.as_str()) {
        volumes.push(volume(&name));
        pod.set(&["spec", "volumes"], volumes);
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_its_token_once() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"mountPath": MOUNT_PATH, "name": "x"}]}]}});
        let mut pod = Object::from_value(pod).unwrap();
        assert_eq!(name(&mut pod), "default");
        apply(&mut pod, &Object::default(), "abcde");
        let once = pod.clone();
        apply(&mut pod, &Object::default(), "fghij");
        assert_eq!(pod, once);
        assert_eq!(pod.items(&["spec", "volumes"])[0]["name"], "kube-api-access-abcde");
        assert_eq!(pod.items(&["spec", "containers"])[0]["volumeMounts"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod.items(&["spec", "containers"])[1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn an_account_may_decline() {
        let mut pod = Object::from_value(json!({"spec": {"containers": [{"name": "a"}]}})).unwrap();
        let account = json!({"automountServiceAccountToken": false, "imagePullSecrets": [{"name": "r"}]});
        apply(&mut pod, &Object::from_value(account).unwrap(), "abcde");
        assert!(pod.items(&["spec", "volumes"]).is_empty());
        assert_eq!(pod.items(&["spec", "imagePullSecrets"])[0]["name"], "r");
    }
}
