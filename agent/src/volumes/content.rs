//! Pure: the files of volumes whose content comes from the API.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Found, VolumeError};
use crate::pods::env::{Facts, Sources, data, field_value, resource_value};
use crate::pods::spec::Pod;

/// One file: bytes, mode, owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
}

/// Files by their path in the volume.
pub(super) type Files = BTreeMap<String, File>;

/// The ConfigMaps and Secrets that a pod refers to in volumes, environment and pull secrets.
pub(crate) fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let name = |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    for volume in &pod.spec.volumes {
        config_maps.extend(name(&volume["configMap"]["name"]));
        secrets.extend(name(&volume["secret"]["secretName"]));
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            config_maps.extend(name(&source["configMap"]["name"]));
            secrets.extend(name(&source["secret"]["name"]));
        }
    }
    for (_, container) in pod.all_containers() {
        for from in &container.env_from {
            config_maps.extend(from.config_map_ref.as_ref().map(|reference| reference.name.clone()));
            secrets.extend(from.secret_ref.as_ref().map(|reference| reference.name.clone()));
        }
        for source in container.env.iter().filter_map(|variable| variable.value_from.as_ref()) {
            config_maps.extend(source.config_map_key_ref.as_ref().map(|key| key.name.clone()));
            secrets.extend(source.secret_key_ref.as_ref().map(|key| key.name.clone()));
        }
    }
    secrets.extend(pod.spec.image_pull_secrets.iter().map(|secret| secret.name.clone()));
    config_maps.remove("");
    secrets.remove("");
    (config_maps, secrets)
}

/// The tokens that a volume wants: audience and lifetime in seconds.
pub(super) fn token_requests(pod: &Pod) -> Vec<(String, String, u64)> {
    let mut all = Vec::new();
    for volume in &pod.spec.volumes {
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            if let Some(token) = source.get("serviceAccountToken") {
                let audience = token["audience"].as_str().unwrap_or_default().to_owned();
                let path = format!(
                    "{}/{}",
                    volume["name"].as_str().unwrap_or_default(),
                    token["path"].as_str().unwrap_or_default()
                );
                all.push((path, audience, token["expirationSeconds"].as_u64().unwrap_or(3600)));
            }
        }
    }
    all
}

/// The files of a volume, or none if it is of another type.
pub(super) fn files(
    pod: &Pod,
    volume: &Value,
    sources: &Sources,
    facts: &Facts,
    tokens: &BTreeMap<(String, String), String>,
) -> Result<Option<Files>, VolumeError> {
    let name = volume["name"].as_str().unwrap_or_default();
    let failed = |message| VolumeError::Missing { volume: name.to_owned(), message };
    let mode =
        |source: &Value| source["defaultMode"].as_u64().and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
    let mut build = Build { pod, facts, files: Files::new(), mode: 0o644 };
    if let Some(source) = volume.get("configMap") {
        build.mode = mode(source);
        let found = sources.config_maps.get(source["name"].as_str().unwrap_or_default());
        build.object(source, found, "configmap", "name").map_err(failed)?;
    } else if let Some(source) = volume.get("secret") {
        build.mode = mode(source);
        let found = sources.secrets.get(source["secretName"].as_str().unwrap_or_default());
        build.object(source, found, "secret", "secretName").map_err(failed)?;
    } else if let Some(source) = volume.get("downwardAPI") {
        build.mode = mode(source);
        build.downward(&source["items"]).map_err(failed)?;
    } else if let Some(projected) = volume.get("projected") {
        build.mode = mode(projected);
        for source in projected["sources"].as_array().into_iter().flatten() {
            build.projected(name, source, sources, tokens).map_err(failed)?;
        }
    } else {
        return Ok(None);
    }
    build.own();
    Ok(Some(build.files))
}

struct Build<'a> {
    pod: &'a Pod,
    facts: &'a Facts,
    files: Files,
    mode: u32,
}

impl Build<'_> {
    fn put(&mut self, path: &str, bytes: Vec<u8>, mode: Option<u64>) {
        let mode = mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(self.mode);
        self.files.insert(path.to_owned(), File { bytes, mode, user: None, group: None });
    }

    fn object(&mut self, source: &Value, found: Option<&Found>, kind: &str, name_field: &str) -> Result<(), String> {
        let name = source[name_field].as_str().unwrap_or_default();
        let optional = source["optional"] == true;
        let Some(object) = found.and_then(Option::as_ref) else {
            return if optional { Ok(()) } else { Err(format!("{kind} \"{name}\" not found")) };
        };
        let mut data = data(object);
        let Some(items) = source["items"].as_array().filter(|items| !items.is_empty()) else {
            for (key, bytes) in data {
                self.put(&key, bytes, None);
            }
            return Ok(());
        };
        for item in items {
            let key = item["key"].as_str().unwrap_or_default();
            match data.remove(key) {
                Some(bytes) => self.put(item["path"].as_str().unwrap_or(key), bytes, item["mode"].as_u64()),
                None if optional => {}
                None => {
                    return Err(format!(
                        "references non-existent {} key: {key}",
                        if kind == "configmap" { "config" } else { kind }
                    ));
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: &Value) -> Result<(), String> {
        for item in items.as_array().into_iter().flatten() {
            let value = if let Some(path) = item["fieldRef"]["fieldPath"].as_str() {
                field_value(self.pod, path, self.facts)?
            } else {
                let reference = &item["resourceFieldRef"];
                let name = reference["containerName"].as_str().unwrap_or_default();
                let (_, container) = self.pod.container(name).ok_or_else(|| format!("container {name} not found"))?;
                resource_value(
                    container,
                    reference["resource"].as_str().unwrap_or_default(),
                    &reference["divisor"],
                    self.facts,
                )?
            };
            self.put(item["path"].as_str().unwrap_or_default(), value.into_bytes(), item["mode"].as_u64());
        }
        Ok(())
    }

    fn projected(
        &mut self,
        volume: &str,
        source: &Value,
        sources: &Sources,
        tokens: &BTreeMap<(String, String), String>,
    ) -> Result<(), String> {
        if let Some(config_map) = source.get("configMap") {
            let found = sources.config_maps.get(config_map["name"].as_str().unwrap_or_default());
            self.object(config_map, found, "configmap", "name")
        } else if let Some(secret) = source.get("secret") {
            let found = sources.secrets.get(secret["name"].as_str().unwrap_or_default());
            self.object(secret, found, "secret", "name")
        } else if let Some(downward) = source.get("downwardAPI") {
            self.downward(&downward["items"])
        } else if let Some(token) = source.get("serviceAccountToken") {
            let path = token["path"].as_str().unwrap_or_default();
            let audience = token["audience"].as_str().unwrap_or_default();
            let token = tokens.get(&(format!("{volume}/{path}"), audience.to_owned()));
            let token = token.ok_or_else(|| "failed to fetch token".to_owned())?;
            // A token is for its pod's users only.
            self.put(path, token.clone().into_bytes(), Some(0o600));
            let security = &self.pod.spec.security_context;
            let file = self.files.get_mut(path).expect("it was put right above");
            match (security.fs_group, single_user(self.pod)) {
                (Some(_), _) => file.mode = 0o640,
                (None, Some(user)) => file.user = Some(user),
                (None, None) => file.mode = 0o644,
            }
            Ok(())
        } else {
            Ok(())
        }
    }

    /// fsGroup owns every file and may read it.
    fn own(&mut self) {
        if let Some(group) = self.pod.spec.security_context.fs_group {
            for file in self.files.values_mut() {
                file.group = Some(group);
                file.mode |= 0o440;
            }
        }
    }
}

/// The one user that all containers run as, if there is one.
fn single_user(pod: &Pod) -> Option<u32> {
    let mut users = pod
        .all_containers()
        .map(|(_, container)| container.security_context.run_as_user.or(pod.spec.security_context.run_as_user));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_projected_volume_holds_token_authority_and_namespace() {
        let pod =
            Pod::read(&json!({"metadata": {"namespace": "n"}, "spec": {"volumes": [{"name": "kube-api", "projected": {
            "defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]}}]}}))
            .unwrap();
        assert_eq!(references(&pod).0, BTreeSet::from(["kube-root-ca.crt".to_owned()]));
        assert_eq!(token_requests(&pod), [("kube-api/token".to_owned(), String::new(), 3607)]);
        let mut sources = Sources::default();
        let root = json!({"kind": "ConfigMap", "data": {"ca.crt": "PEM"}});
        sources.config_maps.insert("kube-root-ca.crt".into(), Some(Arc::new(root)));
        let tokens = BTreeMap::from([(("kube-api/token".to_owned(), String::new()), "jwt".to_owned())]);
        let files = files(&pod, &pod.spec.volumes[0], &sources, &Facts::default(), &tokens).unwrap().unwrap();
        let text = |name: &str| String::from_utf8(files[name].bytes.clone()).unwrap();
        assert_eq!((text("token"), text("ca.crt"), text("namespace")), ("jwt".into(), "PEM".into(), "n".into()));
        let missing = super::files(&pod, &pod.spec.volumes[0], &Sources::default(), &Facts::default(), &tokens);
        assert_eq!(
            missing.unwrap_err().to_string(),
            "MountVolume.SetUp failed for volume \"kube-api\" : configmap \"kube-root-ca.crt\" not found"
        );
    }
}
