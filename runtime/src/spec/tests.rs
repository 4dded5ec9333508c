//! Pure: what specifications must say.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::{
    cgroup::Hierarchy,
    config::{Capabilities, IdMap, Mount, Propagation, Security},
    host::CAPABILITIES,
};

fn host() -> Host {
    let capabilities = CAPABILITIES.iter().copied().filter(|c| *c != "CAP_SYS_RESOURCE").collect();
    let mounts = ["cpu", "memory", "freezer"].map(|c| Path::new("/sys/fs/cgroup").join(c)).to_vec();
    let hard_limits = vec![("RLIMIT_NOFILE", 4096)];
    Host {
        capabilities,
        oom_score_adj: -5,
        hard_limits,
        open_files_max: 1 << 20,
        counts_swap: false,
        hierarchy: Hierarchy::V1(mounts),
    }
}

fn made(sandbox: &SandboxConfig, container: &ContainerConfig) -> Value {
    let user = User { uid: 7, gid: 8, groups: vec![8], home: "/data".into() };
    let inputs = Inputs {
        sandbox,
        container,
        host: &host(),
        sandbox_dir: Path::new("/run/b/pods/s"),
        rootfs: Path::new("/run/b/pods/s/c/x/rootfs"),
        cgroup_path: "/b/kubepods/podx/x",
        user: &user,
        devices: &[],
        seccomp_profile: None,
    };
    serde_json::to_value(specification(&inputs).unwrap()).unwrap()
}

fn container() -> ContainerConfig {
    ContainerConfig { args: vec!["/bin/true".into()], ..ContainerConfig::default() }
}

fn find<'a>(list: &'a Value, key: &str, wanted: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|item| item[key] == wanted)
}

#[test]
fn namespaces_are_joined_by_path() {
    let spec = made(&SandboxConfig::default(), &container());
    let namespaces = &spec["linux"]["namespaces"];
    assert_eq!(find(namespaces, "type", "network").unwrap()["path"], "/run/b/pods/s/ns/net");
    assert!(find(namespaces, "type", "pid").unwrap().get("path").is_none());
    assert!(find(namespaces, "type", "user").is_none());
    let sandbox = SandboxConfig {
        host_network: true,
        share_process_namespace: true,
        userns: Some(IdMap { host_id: 100_000, size: 65_536 }),
        ..SandboxConfig::default()
    };
    let namespaces = &made(&sandbox, &container())["linux"]["namespaces"];
    assert!(find(namespaces, "type", "network").is_none() && find(namespaces, "type", "uts").is_none());
    assert_eq!(find(namespaces, "type", "pid").unwrap()["path"], "/run/b/pods/s/ns/pid");
    assert_eq!(find(namespaces, "type", "user").unwrap()["path"], "/run/b/pods/s/ns/user");
}

#[test]
fn no_new_privileges_is_never_written_as_false() {
    let spec = made(&SandboxConfig::default(), &container());
    assert!(spec["process"].get("noNewPrivileges").is_none_or(Value::is_null), "{}", spec["process"]);
    let security = Security { no_new_privileges: true, ..Security::default() };
    let spec = made(&SandboxConfig::default(), &ContainerConfig { security, ..container() });
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert!(spec["linux"]["seccomp"].is_object());
}

#[test]
fn scores_limits_and_quotas_are_clamped() {
    let resources = Resources {
        oom_score_adj: Some(-998),
        cpu_quota: Some(100),
        memory_limit: Some(1 << 20),
        ..Default::default()
    };
    let rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: u64::MAX, hard: u64::MAX }];
    let spec = made(&SandboxConfig::default(), &ContainerConfig { resources, rlimits, ..container() });
    assert_eq!(spec["process"]["oomScoreAdj"], -5);
    assert_eq!(spec["linux"]["resources"]["cpu"]["quota"], 1000);
    assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 1 << 20);
    assert_eq!(spec["process"]["rlimits"][0]["hard"], 4096);
    assert!(spec["linux"]["resources"].get("hugepageLimits").is_none_or(Value::is_null));
}

#[test]
fn propagation_is_the_widest_asked_for() {
    let with = |propagation| {
        let mounts = vec![Mount { source: "/a".into(), target: "/b".into(), propagation, ..Mount::default() }];
        made(&SandboxConfig::default(), &ContainerConfig { mounts, ..container() })["linux"]["rootfsPropagation"]
            .clone()
    };
    assert_eq!(with(Propagation::Private), "private");
    assert!(with(Propagation::HostToContainer).is_null());
    assert_eq!(with(Propagation::Bidirectional), "shared");
}

#[test]
fn cgroups_are_bound_read_only() {
    let spec = made(&SandboxConfig::default(), &container());
    let memory = find(&spec["mounts"], "destination", "/sys/fs/cgroup/memory").unwrap();
    assert_eq!(memory["source"], "/sys/fs/cgroup/memory/b/kubepods/podx/x");
    assert!(memory["options"].as_array().unwrap().iter().any(|o| o == "ro"));
    assert!(find(&spec["mounts"], "destination", "/sys/fs/cgroup/freezer").is_none());
    assert!(!spec["mounts"].as_array().unwrap().iter().any(|m| m["type"] == "cgroup"));
}

#[test]
fn own_mounts_replace_ours_and_parents_come_first() {
    let mount = |target: &str| Mount { source: "/src".into(), target: target.into(), ..Mount::default() };
    let mounts = vec![mount("/data/a/b"), mount("/dev/shm"), mount("/data")];
    let spec = made(&SandboxConfig::default(), &ContainerConfig { mounts, ..container() });
    let targets: Vec<&str> =
        spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(targets.iter().filter(|t| **t == "/dev/shm").count(), 1);
    let at = |wanted: &str| targets.iter().position(|t| *t == wanted).unwrap();
    assert!(at("/data") < at("/data/a/b"));
}

#[test]
fn privileged_means_all_of_it() {
    let security = Security { privileged: true, capabilities: Capabilities::default(), ..Security::default() };
    let spec = made(&SandboxConfig::default(), &ContainerConfig { security, ..container() });
    assert!(spec["linux"].get("seccomp").is_none_or(Value::is_null));
    assert_eq!(spec["linux"]["maskedPaths"], serde_json::json!([]));
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), CAPABILITIES.len() - 1);
    assert!(spec["process"].get("apparmorProfile").is_none_or(Value::is_null));
}

#[test]
fn the_environment_is_completed() {
    let container = ContainerConfig { env: vec!["HOME=/x".into()], tty: true, ..container() };
    let sandbox = SandboxConfig { hostname: "web-0".into(), ..SandboxConfig::default() };
    let env = made(&sandbox, &container)["process"]["env"].clone();
    let has = |wanted: &str| env.as_array().unwrap().iter().any(|e| e == wanted);
    assert!(has("HOME=/x") && has("HOSTNAME=web-0") && has("TERM=xterm") && has(DEFAULT_PATH));
}
