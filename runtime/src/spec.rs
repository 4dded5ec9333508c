//! Pure: a container's OCI specification from its configuration and the facts of its host.

mod capabilities;
mod mounts;
mod seccomp;

use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::{
    cgroup::clamp_quota,
    config::{ContainerConfig, Resources, Rlimit, SandboxConfig, Seccomp},
    error::Error,
    host::{Host, Node},
    layout::namespace_path,
    passwd::User,
};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Not to be seen in a container.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Not to be written in a container.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Character devices of every container, as (major, minor): null, zero, full, random, urandom, tty, console, ptmx.
const DEVICES: [(i64, i64); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
/// Major number of pseudo terminals.
const PTS: i64 = 136;

/// All that a specification is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) sandbox: &'a SandboxConfig,
    pub(crate) container: &'a ContainerConfig,
    pub(crate) host: &'a Host,
    pub(crate) sandbox_dir: &'a Path,
    pub(crate) rootfs: &'a Path,
    /// Absolute, without a controller.
    pub(crate) cgroup_path: &'a str,
    pub(crate) user: &'a User,
    /// Each with its path in the container and its permissions.
    pub(crate) devices: &'a [(Node, String, String)],
    /// Text of a Localhost profile.
    pub(crate) seccomp_profile: Option<&'a str>,
}

/// The specification; it is checked against OCI's types on the way.
pub(crate) fn specification(inputs: &Inputs<'_>) -> Result<Spec, Error> {
    let capabilities = capabilities::granted(&inputs.container.security, inputs.host);
    let seccomp = seccomp_of(inputs, &capabilities)?;
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": process(inputs, &capabilities),
        "root": { "path": inputs.rootfs, "readonly": inputs.container.security.read_only_rootfs },
        "mounts": mounts::all(inputs),
        "linux": linux(inputs),
    });
    if let Some(seccomp) = seccomp {
        spec["linux"]["seccomp"] = seccomp;
    }
    serde_json::from_value(spec).map_err(|e| Error::Invalid(format!("container specification: {e}")))
}

fn seccomp_of(inputs: &Inputs<'_>, capabilities: &[String]) -> Result<Option<Value>, Error> {
    let security = &inputs.container.security;
    if security.privileged {
        return Ok(None);
    }
    let architecture = std::env::consts::ARCH;
    match &security.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => Ok(Some(seccomp::runtime_default(architecture, capabilities))),
        Seccomp::Localhost(_) => {
            let text = inputs.seccomp_profile.unwrap_or_default();
            seccomp::localhost(text, architecture, capabilities).map(Some)
        }
    }
}

fn process(inputs: &Inputs<'_>, capabilities: &[String]) -> Value {
    let container = inputs.container;
    let cwd = if container.working_dir.is_empty() { "/" } else { &container.working_dir };
    let mut process = json!({
        "terminal": container.tty,
        "user": { "uid": inputs.user.uid, "gid": inputs.user.gid, "additionalGids": inputs.user.groups },
        "args": container.args,
        "env": environment(inputs),
        "cwd": cwd,
        // No inheritable ones: CVE-2022-24769.
        "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        "rlimits": rlimits(&container.rlimits, inputs.host),
    });
    if container.security.no_new_privileges {
        // Written out as false it would keep a seccomp profile from loading.
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(score) = container.resources.oom_score_adj {
        process["oomScoreAdj"] = json!(oom_score_adj(score, inputs.host));
    }
    process
}

/// Without CAP_SYS_RESOURCE a score below our own is refused.
fn oom_score_adj(wanted: i32, host: &Host) -> i32 {
    let wanted = wanted.clamp(-1000, 1000);
    if host.may("CAP_SYS_RESOURCE") { wanted } else { wanted.max(host.oom_score_adj) }
}

fn rlimits(wanted: &[Rlimit], host: &Host) -> Vec<Value> {
    let limit = |rlimit: &Rlimit| {
        let most = if rlimit.kind == "RLIMIT_NOFILE" { host.open_files_max } else { u64::MAX };
        let own = host.hard_limit(&rlimit.kind).filter(|_| !host.may("CAP_SYS_RESOURCE"));
        let hard = rlimit.hard.min(most).min(own.unwrap_or(u64::MAX));
        json!({ "type": rlimit.kind, "soft": rlimit.soft.min(hard), "hard": hard })
    };
    wanted.iter().map(limit).collect()
}

fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut env = inputs.container.env.clone();
    let has = |env: &[String], key: &str| env.iter().any(|e| e.split('=').next() == Some(key));
    if !has(&env, "PATH") {
        env.push(DEFAULT_PATH.into());
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", inputs.user.home));
    }
    if !has(&env, "HOSTNAME") && !inputs.sandbox.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", inputs.sandbox.hostname));
    }
    if inputs.container.tty && !has(&env, "TERM") {
        env.push("TERM=xterm".into());
    }
    env
}

fn linux(inputs: &Inputs<'_>) -> Value {
    let security = &inputs.container.security;
    let paths = |given: &Option<Vec<String>>, default: &[&str]| -> Vec<String> {
        if security.privileged {
            return Vec::new();
        }
        given.clone().unwrap_or_else(|| default.iter().map(|p| p.to_string()).collect())
    };
    let mut linux = json!({
        "namespaces": namespaces(inputs),
        "cgroupsPath": inputs.cgroup_path,
        "resources": resources(&inputs.container.resources, inputs.host),
        "maskedPaths": paths(&security.masked_paths, &MASKED),
        "readonlyPaths": paths(&security.readonly_paths, &READ_ONLY),
        "devices": nodes(inputs),
    });
    linux["resources"]["devices"] = device_rules(inputs);
    if let Some(propagation) = mounts::rootfs_propagation(&inputs.container.mounts) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    linux
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<Value> {
    let sandbox = inputs.sandbox;
    let held = |kind: &str, file: &str| json!({ "type": kind, "path": namespace_path(inputs.sandbox_dir, file) });
    let mut namespaces = vec![json!({ "type": "mount" })];
    if sandbox.userns.is_some() {
        namespaces.push(held("user", "user"));
    }
    if !sandbox.host_network {
        namespaces.push(held("network", "net"));
        namespaces.push(held("uts", "uts"));
    }
    if !sandbox.host_ipc {
        namespaces.push(held("ipc", "ipc"));
    }
    match (sandbox.host_pid, sandbox.share_process_namespace) {
        (true, _) => {}
        (false, true) => namespaces.push(held("pid", "pid")),
        (false, false) => namespaces.push(json!({ "type": "pid" })),
    }
    if inputs.host.hierarchy == crate::cgroup::Hierarchy::V2 && !inputs.container.security.privileged {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    namespaces
}

/// The nodes to make, those apart that a mount brings.
fn nodes(inputs: &Inputs<'_>) -> Vec<Value> {
    let mounted =
        |path: &str| inputs.container.mounts.iter().any(|mount| std::path::Path::new(path).starts_with(&mount.target));
    let made = inputs.devices.iter().filter(|(_, path, _)| !mounted(path));
    made.map(|(node, path, _)| device(node, path)).collect()
}

fn resources(wanted: &Resources, host: &Host) -> Value {
    let mut out = json!({ "cpu": {}, "memory": {} });
    if let Some(shares) = wanted.cpu_shares {
        out["cpu"]["shares"] = json!(shares.clamp(2, 262_144));
    }
    if let Some(quota) = wanted.cpu_quota {
        out["cpu"]["quota"] = json!(clamp_quota(quota));
        out["cpu"]["period"] = json!(wanted.cpu_period.unwrap_or(100_000));
    }
    if let Some(cpus) = wanted.cpuset_cpus.as_ref().filter(|c| !c.is_empty()) {
        out["cpu"]["cpus"] = json!(cpus);
    }
    if let Some(mems) = wanted.cpuset_mems.as_ref().filter(|c| !c.is_empty()) {
        out["cpu"]["mems"] = json!(mems);
    }
    if let Some(limit) = wanted.memory_limit.filter(|l| *l > 0) {
        out["memory"]["limit"] = json!(limit);
        // Memory and swap together, as OCI has it: on a board with compressed swap a limit would end nobody otherwise. The
        // one byte makes no page; libcgroups takes a difference of zero for nothing to set.
        if host.counts_swap {
            out["memory"]["swap"] = json!(limit.saturating_add(1));
        }
    }
    if let Some(limit) = wanted.pids_limit.filter(|l| *l > 0) {
        out["pids"] = json!({ "limit": limit });
    }
    out
}

fn device(node: &Node, path: &str) -> Value {
    json!({
        "path": path, "type": if node.block { "b" } else { "c" }, "major": node.major, "minor": node.minor,
        "fileMode": node.mode, "uid": node.uid, "gid": node.gid,
    })
}

/// Nothing, then the making of nodes, then what every container has, then what this one was given.
fn device_rules(inputs: &Inputs<'_>) -> Value {
    if inputs.container.security.privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let allow = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = json!({ "allow": true, "type": kind, "access": access });
        if let Some(major) = major {
            rule["major"] = json!(major);
        }
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    rules.push(allow("c", None, None, "m"));
    rules.push(allow("b", None, None, "m"));
    rules.extend(DEVICES.iter().map(|(major, minor)| allow("c", Some(*major), Some(*minor), "rwm")));
    rules.push(allow("c", Some(PTS), None, "rwm"));
    for (node, _, permissions) in inputs.devices {
        let kind = if node.block { "b" } else { "c" };
        let access = if permissions.is_empty() { "rwm" } else { permissions };
        rules.push(allow(kind, Some(node.major.into()), Some(node.minor.into()), access));
    }
    Value::Array(rules)
}

#[cfg(test)]
mod tests;
