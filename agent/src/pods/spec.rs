//! Pure: the fields of a Pod that decide what runs; everything else stays in the raw object.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::ContainerKind;

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

macro_rules! fields {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(crate) struct $name {
            $($(#[$field_meta])* #[serde(deserialize_with = "nullable")] pub(crate) $field: $kind,)*
        }
    };
}

fields! {
    /// A pod bound to this board.
    Pod {
        metadata: Metadata,
        spec: PodSpec,
        status: Value,
        /// The addresses that it had, in the checkpoint, which keeps no status.
        former_ips: Vec<String>,
    }
}

fields! {
    Metadata {
        name: String,
        namespace: String,
        uid: String,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        deletion_timestamp: Option<String>,
        deletion_grace_period_seconds: Option<i64>,
        creation_timestamp: Option<String>,
        generation: Option<i64>,
    }
}

fields! {
    PodSpec {
        node_name: String,
        containers: Vec<Container>,
        init_containers: Vec<Container>,
        ephemeral_containers: Vec<Container>,
        volumes: Vec<Value>,
        restart_policy: String,
        termination_grace_period_seconds: Option<i64>,
        active_deadline_seconds: Option<i64>,
        dns_policy: String,
        dns_config: DnsConfig,
        host_network: bool,
        #[serde(rename = "hostPID")]
        host_pid: bool,
        #[serde(rename = "hostIPC")]
        host_ipc: bool,
        host_users: Option<bool>,
        share_process_namespace: bool,
        hostname: String,
        subdomain: String,
        #[serde(rename = "setHostnameAsFQDN")]
        set_hostname_as_fqdn: bool,
        hostname_override: Option<String>,
        host_aliases: Vec<HostAlias>,
        security_context: PodSecurity,
        service_account_name: String,
        image_pull_secrets: Vec<Reference>,
        enable_service_links: Option<bool>,
        automount_service_account_token: Option<bool>,
        priority: Option<i64>,
        priority_class_name: String,
        readiness_gates: Vec<ReadinessGate>,
        resources: Resources,
        overhead: BTreeMap<String, String>,
    }
}

fields! { Reference { name: String, } }
fields! { ReadinessGate { condition_type: String, } }
fields! { HostAlias { ip: String, hostnames: Vec<String>, } }
fields! { DnsConfig { nameservers: Vec<String>, searches: Vec<String>, options: Vec<DnsOption>, } }
fields! { DnsOption { name: String, value: Option<String>, } }
fields! { Sysctl { name: String, value: String, } }

fields! {
    PodSecurity {
        run_as_user: Option<u32>,
        run_as_group: Option<u32>,
        run_as_non_root: Option<bool>,
        fs_group: Option<u32>,
        fs_group_change_policy: Option<String>,
        supplemental_groups: Vec<u32>,
        supplemental_groups_policy: Option<String>,
        seccomp_profile: Option<SeccompProfile>,
        sysctls: Vec<Sysctl>,
    }
}

fields! { SeccompProfile { r#type: String, localhost_profile: Option<String>, } }

fields! {
    /// A container, an init container or an ephemeral container.
    Container {
        name: String,
        image: String,
        image_pull_policy: Option<String>,
        command: Vec<String>,
        args: Vec<String>,
        working_dir: String,
        env: Vec<EnvVar>,
        env_from: Vec<EnvFrom>,
        ports: Vec<Port>,
        resources: Resources,
        volume_mounts: Vec<VolumeMount>,
        volume_devices: Vec<Value>,
        liveness_probe: Option<Probe>,
        readiness_probe: Option<Probe>,
        startup_probe: Option<Probe>,
        lifecycle: Lifecycle,
        termination_message_path: Option<String>,
        termination_message_policy: Option<String>,
        security_context: Security,
        stdin: bool,
        stdin_once: bool,
        tty: bool,
        restart_policy: Option<String>,
        target_container_name: String,
    }
}

impl Container {
    /// An init container that stays: a sidecar.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

fields! { EnvVar { name: String, value: String, value_from: Option<EnvSource>, } }
fields! {
    EnvSource {
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceFieldRef>,
        config_map_key_ref: Option<KeyRef>,
        secret_key_ref: Option<KeyRef>,
    }
}
fields! { EnvFrom { prefix: String, config_map_ref: Option<OptionalRef>, secret_ref: Option<OptionalRef>, } }
fields! { OptionalRef { name: String, optional: bool, } }
fields! { KeyRef { name: String, key: String, optional: bool, } }
fields! { FieldRef { field_path: String, } }
fields! { ResourceFieldRef { container_name: String, resource: String, divisor: Value, } }
fields! {
    Port { name: String, container_port: u16, host_port: u16, #[serde(rename = "hostIP")] host_ip: String, protocol: String, }
}
fields! { Resources { limits: BTreeMap<String, Value>, requests: BTreeMap<String, Value>, } }
fields! {
    VolumeMount {
        name: String,
        mount_path: String,
        read_only: bool,
        sub_path: String,
        sub_path_expr: String,
        mount_propagation: Option<String>,
        recursive_read_only: Option<String>,
    }
}
fields! {
    Security {
        run_as_user: Option<u32>,
        run_as_group: Option<u32>,
        run_as_non_root: Option<bool>,
        privileged: bool,
        read_only_root_filesystem: bool,
        allow_privilege_escalation: Option<bool>,
        capabilities: Capabilities,
        seccomp_profile: Option<SeccompProfile>,
        proc_mount: Option<String>,
    }
}
fields! { Capabilities { add: Vec<String>, drop: Vec<String>, } }
fields! { Lifecycle { post_start: Option<Handler>, pre_stop: Option<Handler>, stop_signal: Option<String>, } }
fields! {
    /// One thing to do to a container: of probes and of hooks.
    Handler {
        exec: Option<ExecAction>,
        http_get: Option<HttpAction>,
        tcp_socket: Option<TcpAction>,
        grpc: Option<GrpcAction>,
        sleep: Option<SleepAction>,
    }
}
fields! { ExecAction { command: Vec<String>, } }
fields! { HttpAction { path: String, port: Value, host: String, scheme: String, http_headers: Vec<HttpHeader>, } }
fields! { HttpHeader { name: String, value: String, } }
fields! { TcpAction { port: Value, host: String, } }
fields! { GrpcAction { port: u16, service: String, } }
fields! { SleepAction { seconds: u64, } }
fields! {
    Probe {
        #[serde(flatten)]
        handler: Handler,
        initial_delay_seconds: u32,
        timeout_seconds: u32,
        period_seconds: u32,
        success_threshold: u32,
        failure_threshold: u32,
        termination_grace_period_seconds: Option<i64>,
    }
}

impl Pod {
    /// Reads an object of the API.
    #[cfg(test)]
    pub(crate) fn read(object: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(object)
    }

    /// `name_namespace(uid)`, as the kubelet prints a pod.
    pub(crate) fn display(&self) -> String {
        format!("{}_{}({})", self.metadata.name, self.metadata.namespace, self.metadata.uid)
    }

    /// Never, OnFailure or Always.
    pub(crate) fn restart_policy(&self) -> &str {
        if self.spec.restart_policy.is_empty() { "Always" } else { &self.spec.restart_policy }
    }

    /// Seconds between asking and killing: of the deletion, else of the spec.
    pub(crate) fn grace_s(&self) -> i64 {
        let grace = self.metadata.deletion_grace_period_seconds;
        grace.or(self.spec.termination_grace_period_seconds).unwrap_or(30).max(0)
    }

    /// True if somebody asked to delete it.
    pub(crate) fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Every container with the list that it comes from, in the order init, main, ephemeral.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = (ContainerKind, &Container)> {
        let kind = |kind| move |container| (kind, container);
        self.spec
            .init_containers
            .iter()
            .map(kind(ContainerKind::Init))
            .chain(self.spec.containers.iter().map(kind(ContainerKind::Main)))
            .chain(self.spec.ephemeral_containers.iter().map(kind(ContainerKind::Ephemeral)))
    }

    /// The container of this name.
    pub(crate) fn container(&self, name: &str) -> Option<(ContainerKind, &Container)> {
        self.all_containers().find(|(_, container)| container.name == name)
    }

    /// True for a pod that comes from the board itself: a folder, not the API.
    pub(crate) fn is_static(&self) -> bool {
        self.metadata.annotations.get("kubernetes.io/config.source").is_some_and(|source| source != "api")
    }

    /// True for the API's picture of a static pod.
    pub(crate) fn is_mirror(&self) -> bool {
        self.metadata.annotations.contains_key("kubernetes.io/config.mirror")
    }
}

impl Probe {
    pub(crate) fn timeout_s(&self) -> u32 {
        self.timeout_seconds.max(1)
    }

    pub(crate) fn period_s(&self) -> u32 {
        if self.period_seconds == 0 { 10 } else { self.period_seconds }
    }

    pub(crate) fn failures(&self) -> u32 {
        if self.failure_threshold == 0 { 3 } else { self.failure_threshold }
    }

    pub(crate) fn successes(&self) -> u32 {
        self.success_threshold.max(1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_read_with_nulls_and_unknown_fields() {
        let pod = Pod::read(&json!({
            "metadata": {"name": "a", "creationTimestamp": null, "labels": null, "x": 1},
            "spec": {
                "hostPID": true,
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostIP": "1.2.3.4"}],
                    "livenessProbe": {"httpGet": {"port": "web"}, "periodSeconds": 5}}],
                "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            },
        }))
        .unwrap();
        assert!(pod.spec.host_pid && pod.spec.init_containers[0].is_sidecar());
        let probe = pod.spec.containers[0].liveness_probe.as_ref().unwrap();
        assert_eq!(probe.handler.http_get.as_ref().unwrap().port, "web");
        assert_eq!((probe.period_s(), probe.timeout_s(), probe.failures()), (5, 1, 3));
        assert_eq!(pod.spec.containers[0].ports[0].host_ip, "1.2.3.4");
        assert_eq!(pod.grace_s(), 30);
    }
}
