//! Pure: a container's environment and the expansion of `$(NAME)`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::quantity::milli;
use super::spec::{Container, Pod};

/// ConfigMaps and Secrets that a pod refers to; a name that is known to be absent has no object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, Option<Arc<Value>>>,
    pub(crate) secrets: BTreeMap<String, Option<Arc<Value>>>,
}

/// A Service as environment variables need it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceLink {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) cluster_ip: String,
    /// Name, port, protocol.
    pub(crate) ports: Vec<(String, u16, String)>,
}

impl ServiceLink {
    /// Every pod is told of it.
    pub(crate) fn is_the_api(&self) -> bool {
        self.namespace == "default" && self.name == "kubernetes"
    }
}

/// The Services of a cluster by namespace and name.
pub(crate) type ServiceLinks = BTreeMap<(String, String), ServiceLink>;

/// What fields of the pod resolve to, beside the pod itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) node_name: String,
    pub(crate) host_ips: Vec<IpAddr>,
    pub(crate) pod_ips: Vec<IpAddr>,
    /// Whole processors and bytes, for limits that are not set.
    pub(crate) node_cpus: u64,
    pub(crate) node_memory_bytes: u64,
    pub(crate) node_storage_bytes: u64,
}

/// The environment in the order of definition, the last definition of a name winning. The error is the message of
/// `CreateContainerConfigError`.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    image_env: &[String],
    sources: &Sources,
    services: &[ServiceLink],
    facts: &Facts,
) -> Result<Vec<(String, String)>, String> {
    let mut env = Ordered::default();
    for pair in image_env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        env.set(name, value.to_owned());
    }
    let links = service_variables(pod, services);
    for (name, value) in &links {
        env.set(name, value.clone());
    }
    // References see services, envFrom and what was defined above, but not the image's environment (as upstream).
    let mut visible: BTreeMap<String, String> = links.into_iter().collect();
    for (name, value) in from_sources(pod, container, sources)? {
        env.set(&name, value.clone());
        visible.insert(name, value);
    }
    for variable in &container.env {
        let value = match &variable.value_from {
            None => Some(expand(&variable.value, &|name| visible.get(name).cloned())),
            Some(source) => {
                if let Some(field) = &source.field_ref {
                    Some(field_value(pod, &field.field_path, facts)?)
                } else if let Some(field) = &source.resource_field_ref {
                    let of =
                        if field.container_name.is_empty() { container } else { named(pod, &field.container_name)? };
                    Some(resource_value(of, &field.resource, &field.divisor, facts)?)
                } else if let Some(key) = &source.config_map_key_ref {
                    key_value(pod, &sources.config_maps, &key.name, &key.key, key.optional, "configmap", "ConfigMap")?
                } else if let Some(key) = &source.secret_key_ref {
                    key_value(pod, &sources.secrets, &key.name, &key.key, key.optional, "secret", "Secret")?
                } else {
                    Some(String::new())
                }
            }
        };
        if let Some(value) = value {
            env.set(&variable.name, value.clone());
            visible.insert(variable.name.clone(), value);
        }
    }
    Ok(env.0)
}

#[derive(Default)]
struct Ordered(Vec<(String, String)>);

impl Ordered {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, slot)) => *slot = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

fn named<'a>(pod: &'a Pod, name: &str) -> Result<&'a Container, String> {
    pod.container(name).map(|(_, container)| container).ok_or_else(|| format!("container {name} not found"))
}

fn from_sources(pod: &Pod, container: &Container, sources: &Sources) -> Result<Vec<(String, String)>, String> {
    let _ = pod;
    let mut all = Vec::new();
    for from in &container.env_from {
        let (map, reference, kind) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(reference), _) => (&sources.config_maps, reference, "configmap"),
            (_, Some(reference)) => (&sources.secrets, reference, "secret"),
            _ => continue,
        };
        match map.get(&reference.name).and_then(Option::as_ref) {
            Some(object) => {
                for (key, value) in data(object) {
                    if let Ok(text) = String::from_utf8(value) {
                        all.push((format!("{}{key}", from.prefix), text));
                    }
                }
            }
            None if reference.optional => {}
            None => return Err(format!("{kind} \"{}\" not found", reference.name)),
        }
    }
    Ok(all)
}

fn key_value(
    pod: &Pod,
    map: &BTreeMap<String, Option<Arc<Value>>>,
    name: &str,
    key: &str,
    optional: bool,
    kind: &str,
    title: &str,
) -> Result<Option<String>, String> {
    let Some(object) = map.get(name).and_then(Option::as_ref) else {
        return if optional { Ok(None) } else { Err(format!("{kind} \"{name}\" not found")) };
    };
    match data(object).remove(key) {
        Some(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {title} {}/{name}", pod.metadata.namespace)),
    }
}

/// The keys of a ConfigMap (data and binaryData) or a Secret (data in base64) as bytes.
pub(crate) fn data(object: &Value) -> BTreeMap<String, Vec<u8>> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let is_secret = object["kind"] == "Secret";
    let mut all = BTreeMap::new();
    for field in ["data", "binaryData"] {
        let Some(entries) = object[field].as_object() else { continue };
        for (key, value) in entries {
            let text = value.as_str().unwrap_or_default();
            let encoded = is_secret || field == "binaryData";
            let bytes = if encoded { STANDARD.decode(text).unwrap_or_default() } else { text.as_bytes().to_vec() };
            all.insert(key.clone(), bytes);
        }
    }
    all
}

/// A field of the pod as a string, of `fieldRef`.
pub(crate) fn field_value(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let pod_ips = if pod.spec.host_network { &facts.host_ips } else { &facts.pod_ips };
    let meta = &pod.metadata;
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    Ok(match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => quoted(&meta.labels),
        "metadata.annotations" => quoted(&meta.annotations),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => join(&facts.host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => join(pod_ips),
        _ => match (keyed("metadata.labels['"), keyed("metadata.annotations['")) {
            (Some(key), _) => meta.labels.get(key).cloned().unwrap_or_default(),
            (_, Some(key)) => meta.annotations.get(key).cloned().unwrap_or_default(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        },
    })
}

/// `key="value"` lines, as downward API files hold maps.
fn quoted(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// A resource of a container in units of the divisor, rounded up; limits that are not set are the node's.
pub(crate) fn resource_value(
    container: &Container,
    resource: &str,
    divisor: &Value,
    facts: &Facts,
) -> Result<String, String> {
    let (list, name) = match resource.split_once('.') {
        Some(("limits", name)) => (&container.resources.limits, name),
        Some(("requests", name)) => (&container.resources.requests, name),
        _ => return Err(format!("unsupported container resource: {resource}")),
    };
    let of_node = || {
        let units = match name {
            "cpu" => facts.node_cpus,
            "memory" => facts.node_memory_bytes,
            "ephemeral-storage" => facts.node_storage_bytes,
            _ => 0,
        };
        i128::from(units) * 1000
    };
    let is_limit = resource.starts_with("limits");
    let value = list.get(name).and_then(milli).unwrap_or_else(|| if is_limit { of_node() } else { 0 });
    let divisor = milli(divisor).filter(|divisor| *divisor > 0).unwrap_or(1000);
    Ok((value / divisor + i128::from(value % divisor != 0)).to_string())
}

/// Docker's link variables of the services that a pod sees: its own namespace's unless it does not want them, and
/// always the API's own.
fn service_variables(pod: &Pod, services: &[ServiceLink]) -> Vec<(String, String)> {
    let links = pod.spec.enable_service_links.unwrap_or(true);
    let mut all = Vec::new();
    for service in services {
        let master = service.is_the_api();
        let own = links && service.namespace == pod.metadata.namespace;
        if !(master || own) || service.cluster_ip.is_empty() || service.cluster_ip == "None" {
            continue;
        }
        let prefix = service.name.to_ascii_uppercase().replace(['-', '.'], "_");
        let Some((_, first, protocol)) = service.ports.first() else { continue };
        let host = if service.cluster_ip.contains(':') {
            format!("[{}]", service.cluster_ip)
        } else {
            service.cluster_ip.clone()
        };
        let mut put = |suffix: &str, value: String| all.push((format!("{prefix}_{suffix}"), value));
        put("SERVICE_HOST", service.cluster_ip.clone());
        put("SERVICE_PORT", first.to_string());
        for (name, port, _) in service.ports.iter().filter(|(name, ..)| !name.is_empty()) {
            put(&format!("SERVICE_PORT_{}", name.to_ascii_uppercase().replace('-', "_")), port.to_string());
        }
        put("PORT", format!("{}://{host}:{first}", protocol.to_ascii_lowercase()));
        for (_, port, protocol) in &service.ports {
            let lower = protocol.to_ascii_lowercase();
            let base = format!("PORT_{port}_{protocol}");
            put(&base, format!("{lower}://{host}:{port}"));
            put(&format!("{base}_PROTO"), lower);
            put(&format!("{base}_PORT"), port.to_string());
            put(&format!("{base}_ADDR"), service.cluster_ip.clone());
        }
    }
    all
}

/// `$(NAME)` becomes the value, `$$` one dollar; unknown names stay as they are.
pub(crate) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix('$') {
            out.push('$');
            rest = next;
        } else if let Some((name, next)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            out.push_str(&lookup(name).unwrap_or_else(|| format!("$({name})")));
            rest = next;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_expanded_as_upstream_does() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, wanted) in
            [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("a$", "a$"), ("$(A", "$(A"), ("$A", "$A"), ("$$$(A)", "$1")]
        {
            assert_eq!(expand(text, &lookup), wanted, "{text}");
        }
    }

    #[test]
    fn an_environment_has_every_source() {
        let pod = Pod::read(&json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "x"}},
            "spec": {"containers": [{
                "name": "c",
                "resources": {"limits": {"memory": "64Mi"}},
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
                "env": [
                    {"name": "A", "value": "$(P_K)!"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "O", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}},
                ],
            }]},
        }))
        .unwrap();
        let mut sources = Sources::default();
        let config_map = json!({"kind": "ConfigMap", "data": {"K": "v"}});
        sources.config_maps.insert("cm".into(), Some(Arc::new(config_map)));
        sources.secrets.insert("s".into(), Some(Arc::new(json!({"kind": "Secret", "data": {"k": "aGk="}}))));
        let api = ServiceLink {
            namespace: "default".into(),
            name: "kubernetes".into(),
            cluster_ip: "10.43.0.1".into(),
            ports: vec![("https".into(), 443, "TCP".into())],
        };
        let facts = Facts { pod_ips: vec!["10.42.0.2".parse().unwrap()], ..Facts::default() };
        let container = &pod.spec.containers[0];
        let env = environment(&pod, container, &["PATH=/bin".into(), "A=0".into()], &sources, &[api], &facts).unwrap();
        let get = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        for (name, value) in [
            ("PATH", "/bin"),
            ("P_K", "v"),
            ("A", "v!"),
            ("IP", "10.42.0.2"),
            ("APP", "x"),
            ("MEM", "64"),
            ("S", "hi"),
            ("KUBERNETES_SERVICE_HOST", "10.43.0.1"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT_443_TCP_ADDR", "10.43.0.1"),
        ] {
            assert_eq!(get(name), Some(value), "{name}");
        }
        assert_eq!(get("O"), None);
        let missing = environment(&pod, container, &[], &Sources::default(), &[], &facts);
        assert_eq!(missing.unwrap_err(), "configmap \"cm\" not found");
    }
}
