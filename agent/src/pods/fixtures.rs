//! Pure: small builders for tests of plan and status.

use std::collections::BTreeMap;

use bramble_runtime::{ContainerState, ContainerStatus, ImageId, PodIdentity, SandboxStatus};
use serde_json::{Value, json};

use super::spec::Pod;
use super::state::{Instance, Memory, Observed, Pull, Readiness};

/// A pod `p` in `n` with this spec.
pub(crate) fn pod(spec: Value) -> Pod {
    Pod::read(&json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).expect("a pod")
}

/// Volumes are mounted, every image is there.
pub(crate) fn memory(pod: &Pod) -> Memory {
    let images = pod
        .all_containers()
        .map(|(_, container)| (container.name.clone(), Pull::Ready(container.image.clone(), Box::default())));
    Memory { volumes: Readiness::Ready, images: images.collect(), ..Memory::default() }
}

pub(crate) fn sandbox() -> SandboxStatus {
    SandboxStatus {
        id: "s".into(),
        pod: PodIdentity { namespace: "n".into(), name: "p".into(), uid: "u".into(), attempt: 0 },
        ready: true,
        created_at: 0,
        netns_path: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_path: String::new(),
        log_dir: "/logs".into(),
        shim_pid: None,
    }
}

/// `name` is `container` or `container/attempt`; the id is `name-attempt`.
pub(crate) fn instance(name: &str, state: ContainerState, exit_code: Option<i32>) -> Instance {
    let (name, attempt) = name.split_once('/').unwrap_or((name, "0"));
    let status = ContainerStatus {
        id: format!("{name}-{attempt}"),
        sandbox_id: "s".into(),
        name: name.into(),
        attempt: attempt.parse().expect("a number"),
        state,
        pid: None,
        created_at: 1_000_000,
        started_at: 1_000_000,
        finished_at: if state == ContainerState::Running { 0 } else { 5_000_000_000 },
        exit_code,
        signal: None,
        oom_killed: false,
        message: String::new(),
        image: ImageId::default(),
        log_path: "/logs/x".into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        stop_signal: None,
        tty: false,
        stdin: false,
    };
    Instance { status, termination: String::new() }
}

pub(crate) fn running(name: &str) -> Instance {
    instance(name, ContainerState::Running, None)
}

pub(crate) fn exited(name: &str, code: i32) -> Instance {
    instance(name, ContainerState::Exited, Some(code))
}

/// A ready sandbox with these instances.
pub(crate) fn observed(instances: Vec<Instance>) -> Observed {
    let ips = vec!["10.42.0.2".parse().expect("an address")];
    Observed { sandbox: Some(sandbox()), ips, instances, ..Observed::default() }
}
