//! Pure: the Node object of this board: registration, status, conditions; its shell posts them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::pods::NodeImage;
use crate::pods::time::rfc3339;

mod facts;
mod post;

pub use facts::{ClusterAddresses, addresses, boot_id, gather, own_address};
pub(crate) use post::renewed_every;
pub use post::{LEASE_DURATION, NodeOptions, NodeSignals, run};

/// The Kubernetes version that this kubelet speaks.
pub const KUBELET_VERSION: &str = "v1.35.0+bramble";

/// The condition of a node whose address is somebody else's too. Upstream has none for it.
const CONFLICT: &str = "AddressConflict";

/// What Ready says of a board that is being shut down, in upstream's words.
const SHUTTING_DOWN: &str = "node is shutting down";

/// Images in the node's status, largest first, as upstream's `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;

/// What is true of the board and does not change while it is up, plus its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `uname -n`.
    pub host_name: String,
    /// In Go's spelling: `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// From os-release.
    pub os_image: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// What the board is, such as `Raspberry Pi 4 Model B Rev 1.4`; empty where nobody says it.
    pub model: String,
    /// From the firmware, else the machine id.
    pub system_uuid: String,
    /// Changes with each boot.
    pub boot_id: String,
    /// Online processors.
    pub cpus: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes.
    pub swap_bytes: u64,
    /// Bytes of the file system that holds the data directory.
    pub storage_bytes: u64,
    /// The primary address first.
    pub addresses: Vec<IpAddr>,
}

/// What is kept back from pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// Millicores.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

/// What changes by the minute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    /// Why pods cannot run, joined by commas; none is ready.
    pub not_ready: Vec<String>,
    /// Under eviction's threshold.
    pub memory_pressure: bool,
    /// Under eviction's threshold.
    pub disk_pressure: bool,
    /// Under eviction's threshold.
    pub pid_pressure: bool,
    /// Images that are present.
    pub images: Vec<NodeImage>,
    /// Extended resources (devices): name and count.
    pub devices: Vec<(String, u64)>,
    /// Addresses of the board that somebody else has too, and who.
    pub shared: BTreeMap<IpAddr, String>,
}

/// What the board says of itself at registration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// The node's name.
    pub name: String,
    /// `--node-labels`.
    pub labels: Vec<(String, String)>,
    /// `--register-with-taints`: key, value, effect.
    pub taints: Vec<(String, String, String)>,
}

/// The labels that every kubelet sets.
#[must_use]
pub fn labels(registration: &Registration, facts: &Facts) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, value) in &registration.labels {
        labels.insert(key.clone(), json!(value));
    }
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/arch"), json!(facts.architecture));
        labels.insert(format!("{prefix}/os"), json!("linux"));
    }
    labels.insert("kubernetes.io/hostname".to_owned(), json!(registration.name));
    labels
}

/// What every kubelet says of itself that is no label, and the board's model.
#[must_use]
pub fn annotations(facts: &Facts) -> Map<String, Value> {
    let mut annotations = Map::new();
    annotations.insert("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), json!("true"));
    if !facts.model.is_empty() {
        annotations.insert("bramble.dev/board-model".to_owned(), json!(facts.model));
    }
    annotations
}

/// The whole object for `POST /api/v1/nodes`.
#[must_use]
pub fn object(registration: &Registration, facts: &Facts, status: &Value) -> Value {
    let mut spec = Map::new();
    if !registration.taints.is_empty() {
        let taints: Vec<Value> = registration
            .taints
            .iter()
            .map(|(key, value, effect)| json!({"key": key, "value": value, "effect": effect}))
            .collect();
        spec.insert("taints".to_owned(), json!(taints));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": registration.name,
            "labels": labels(registration, facts),
            "annotations": annotations(facts),
        },
        "spec": spec,
        "status": status,
    })
}

/// The whole status; `former` is the status as the server has it, for transition times.
#[must_use]
pub fn status(
    registration: &Registration,
    facts: &Facts,
    reserved: Reserved,
    health: &Health,
    former: &Value,
    now_ms: i64,
) -> Value {
    let capacity = resources(facts, Reserved { cpu_milli: 0, memory_bytes: 0 }, 0, health);
    // Upstream keeps ten percent of the node's file system back by its hard eviction threshold.
    let allocatable = resources(facts, reserved, facts.storage_bytes / 10, health);
    let mut addresses: Vec<Value> =
        facts.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": registration.name}));
    json!({
        "addresses": addresses,
        "allocatable": allocatable,
        "capacity": capacity,
        "conditions": conditions(health, former, now_ms),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "images": images(&health.images),
        "nodeInfo": node_info(facts),
        "features": {"supplementalGroupsPolicy": true},
        "runtimeHandlers": [{"name": "", "features": {"recursiveReadOnlyMounts": true, "userNamespaces": true}}],
    })
}

fn node_info(facts: &Facts) -> Value {
    json!({
        "architecture": facts.architecture,
        "bootID": facts.boot_id,
        "containerRuntimeVersion": concat!("bramble://", env!("CARGO_PKG_VERSION")),
        "kernelVersion": facts.kernel_version,
        "kubeProxyVersion": "",
        "kubeletVersion": KUBELET_VERSION,
        "machineID": facts.machine_id,
        "operatingSystem": "linux",
        "osImage": facts.os_image,
        "swap": {"capacity": facts.swap_bytes},
        "systemUUID": facts.system_uuid,
    })
}

fn resources(facts: &Facts, reserved: Reserved, storage_reserved: u64, health: &Health) -> Value {
    let milli = (facts.cpus * 1000).saturating_sub(reserved.cpu_milli);
    let cpu = if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") };
    let mut resources = json!({
        "cpu": cpu,
        "memory": format!("{}Ki", facts.memory_bytes.saturating_sub(reserved.memory_bytes) / 1024),
        "ephemeral-storage": if storage_reserved == 0 {
            format!("{}Ki", facts.storage_bytes / 1024)
        } else {
            facts.storage_bytes.saturating_sub(storage_reserved).to_string()
        },
        "hugepages-2Mi": "0",
        "pods": "110",
    });
    for (name, count) in &health.devices {
        resources[name] = json!(count.to_string());
    }
    resources
}

fn images(images: &[NodeImage]) -> Vec<Value> {
    let mut sorted: Vec<&NodeImage> = images.iter().filter(|image| !image.names.is_empty()).collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.names.cmp(&b.names)));
    sorted.iter().take(MAX_IMAGES).map(|image| json!({"names": image.names, "sizeBytes": image.size})).collect()
}

fn conditions(health: &Health, former: &Value, now_ms: i64) -> Vec<Value> {
    let pressure = |kind, under: bool, bad: (&'static str, &'static str), good: (&'static str, &'static str)| {
        let (reason, message) = if under { bad } else { good };
        (kind, under, reason, message.to_owned())
    };
    let ready = if health.not_ready.is_empty() {
        ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("Ready", false, "KubeletNotReady", health.not_ready.join(", "))
    };
    let all = [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready,
    ];
    let now = rfc3339(now_ms);
    let conflict = conflict(health, condition(former, CONFLICT).is_some());
    all.into_iter()
        .chain(conflict)
        .map(|(kind, value, reason, message)| {
            let status = if value { "True" } else { "False" };
            let before = condition(former, kind).filter(|before| before["status"] == status);
            let since = before.and_then(|before| before["lastTransitionTime"].as_str()).unwrap_or(&now);
            json!({
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": since,
            })
        })
        .collect()
}

/// Whether somebody else on the LAN has an address of the board's; said only where it once was so.
fn conflict(health: &Health, was_told: bool) -> Option<(&'static str, bool, &'static str, String)> {
    let shared: Vec<String> = health.shared.iter().map(|(ip, by)| format!("{ip} is also at {by}")).collect();
    if shared.is_empty() {
        let alone = (CONFLICT, false, "NoDuplicateAddress", "nobody else has this node's addresses".to_owned());
        return was_told.then_some(alone);
    }
    let message = format!("{}; give one of both another address", shared.join(", "));
    Some((CONFLICT, true, "DuplicateAddress", message))
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|one| one["type"] == kind)
}

/// True if `new` says something other than `old` besides heartbeat times and key order.
#[must_use]
pub fn differs(old: &Value, new: &Value) -> bool {
    let Value::Object(fields) = new else { return true };
    fields.iter().any(|(field, value)| match field.as_str() {
        "conditions" => {
            let Some(conditions) = value.as_array() else { return true };
            conditions.iter().any(|one| {
                let Some(before) = condition(old, one["type"].as_str().unwrap_or_default()) else { return true };
                ["status", "reason", "message"].iter().any(|field| before[field] != one[field])
            })
        }
        // Fields that an older API server may not know.
        "features" | "runtimeHandlers" => false,
        "nodeInfo" => value.as_object().is_some_and(|info| {
            info.iter().any(|(key, value)| key != "swap" && value != "" && old["nodeInfo"][key] != *value)
        }),
        "images" if value.as_array().is_some_and(Vec::is_empty) => {
            old[field].as_array().is_some_and(|images| !images.is_empty())
        }
        _ => old[field] != *value,
    })
}

/// The strategic merge patch that brings `status` to the server. Addresses are replaced as a whole, because two of one
/// type would be merged by their type.
#[must_use]
pub fn status_patch(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(addresses) = status["addresses"].as_array_mut() {
        addresses.push(json!({"$patch": "replace"}));
    }
    json!({"status": status})
}

/// The Lease in `kube-node-lease`.
#[must_use]
pub fn lease(name: &str, node_uid: &str, duration: Duration, now_ms: i64) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": "kube-node-lease",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid}],
        },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": duration.as_secs(),
            "renewTime": crate::pods::time::micro_time(now_ms),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            architecture: "arm64".into(),
            cpus: 4,
            memory_bytes: 1 << 30,
            storage_bytes: 10_240,
            addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            ..Facts::default()
        }
    }

    fn at(health: &Health, former: &Value, now_ms: i64) -> Value {
        let registration = Registration { name: "pi-1".into(), ..Registration::default() };
        status(&registration, &facts(), Reserved { cpu_milli: 100, memory_bytes: 100 << 20 }, health, former, now_ms)
    }

    #[test]
    fn a_healthy_board_is_ready_with_upstreams_words() {
        let status = at(&Health::default(), &Value::Null, 0);
        let ready = condition(&status, "Ready").unwrap();
        assert_eq!(ready["reason"], "KubeletReady");
        assert_eq!(ready["message"], "kubelet is posting ready status");
        assert_eq!(status["capacity"]["cpu"], "4");
        assert_eq!(status["allocatable"]["cpu"], "3900m");
        assert_eq!(status["allocatable"]["memory"], "946176Ki");
        assert_eq!(status["addresses"][2], json!({"type": "Hostname", "address": "pi-1"}));
    }

    #[test]
    fn a_board_says_what_it_is_and_what_it_waits_for() {
        let taints = vec![("a/b".into(), "true".into(), "NoSchedule".into())];
        let registration = Registration { name: "pi-1".into(), taints, ..Registration::default() };
        let facts = Facts { model: "Raspberry Pi 4 Model B Rev 1.4".into(), ..facts() };
        let node = object(&registration, &facts, &Value::Null);
        assert_eq!(node["metadata"]["annotations"]["bramble.dev/board-model"], "Raspberry Pi 4 Model B Rev 1.4");
        assert_eq!(node["spec"]["taints"], json!([{"key": "a/b", "value": "true", "effect": "NoSchedule"}]));
        assert_eq!(annotations(&Facts::default()).len(), 1, "nobody knows what it is");
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let first = at(&Health::default(), &Value::Null, 0);
        let second = at(&Health::default(), &first, 60_000);
        let ready = condition(&second, "Ready").unwrap();
        assert_eq!(ready["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(ready["lastHeartbeatTime"], "1970-01-01T00:01:00Z");
        assert!(!differs(&first, &second), "heartbeats alone are no change");
        let broken = Health { not_ready: vec!["no pod range".into()], ..Health::default() };
        let third = at(&broken, &second, 90_000);
        assert_eq!(condition(&third, "Ready").unwrap()["lastTransitionTime"], "1970-01-01T00:01:30Z");
        assert!(differs(&second, &third));
    }

    #[test]
    fn an_address_of_two_hosts_is_told_and_only_then() {
        let first = at(&Health::default(), &Value::Null, 0);
        assert!(condition(&first, CONFLICT).is_none());
        let shared = [("10.0.0.5".parse().unwrap(), "02:00:00:00:00:07 on eth0".to_owned())].into();
        let second = at(&Health { shared, ..Health::default() }, &first, 60_000);
        let told = condition(&second, CONFLICT).unwrap();
        assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("DuplicateAddress")));
        let message = "10.0.0.5 is also at 02:00:00:00:00:07 on eth0; give one of both another address";
        assert_eq!(told["message"], message);
        assert_eq!(condition(&second, "Ready").unwrap()["status"], "True", "its pods go on");
        let third = at(&Health::default(), &second, 90_000);
        let told = condition(&third, CONFLICT).unwrap();
        assert_eq!((&told["status"], &told["reason"]), (&json!("False"), &json!("NoDuplicateAddress")));
    }

    #[test]
    fn the_patch_replaces_addresses_whole() {
        let patch = status_patch(&at(&Health::default(), &Value::Null, 0));
        let addresses = patch["status"]["addresses"].as_array().unwrap();
        assert_eq!(addresses.last().unwrap(), &json!({"$patch": "replace"}));
    }
}
