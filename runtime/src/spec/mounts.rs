//! Pure: what is mounted into a container, in order.

use std::path::Path;

use serde_json::{Value, json};

use super::Inputs;
use crate::{
    cgroup::Hierarchy,
    config::{Mount, Propagation},
};

fn mount(kind: &str, source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "type": kind, "source": source, "destination": destination, "options": options })
}

/// The kernel's file systems, then the pod's own files, then what the container asks for, parents before children.
pub(super) fn all(inputs: &Inputs<'_>) -> Vec<Value> {
    let mut mounts = kernel(inputs);
    if !inputs.sandbox.hostname.is_empty() && !inputs.sandbox.host_network {
        let hostname = inputs.sandbox_dir.join("hostname");
        mounts.push(mount("bind", &hostname.to_string_lossy(), "/etc/hostname", &["rbind", "rprivate", "rw"]));
    }
    let own = |value: &Value| {
        let destination = value["destination"].as_str().unwrap_or_default();
        !inputs.container.mounts.iter().any(|m| m.target == Path::new(destination))
    };
    mounts.retain(own);
    let mut asked: Vec<&Mount> = inputs.container.mounts.iter().collect();
    asked.sort_by_key(|m| m.target.components().count());
    mounts.extend(asked.into_iter().map(bind));
    mounts
}

fn kernel(inputs: &Inputs<'_>) -> Vec<Value> {
    let privileged = inputs.container.security.privileged;
    let hard = ["nosuid", "noexec", "nodev"];
    let sys: &[&str] = if privileged { &["nosuid", "noexec", "nodev"] } else { &["nosuid", "noexec", "nodev", "ro"] };
    let shm = if inputs.sandbox.host_ipc { "/dev/shm".into() } else { inputs.sandbox_dir.join("shm") };
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &hard),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("mqueue", "mqueue", "/dev/mqueue", &hard),
        mount("sysfs", "sysfs", "/sys", sys),
        mount("bind", &shm.to_string_lossy(), "/dev/shm", &["rbind", "rprivate", "rw"]),
    ];
    cgroups(inputs, &mut mounts);
    mounts
}

/// On v1 a mount of type cgroup ignores `ro`, so a container could raise its own limit: bind its own groups instead.
fn cgroups(inputs: &Inputs<'_>, mounts: &mut Vec<Value>) {
    let access = if inputs.container.security.privileged { "rw" } else { "ro" };
    match &inputs.host.hierarchy {
        Hierarchy::V2 => {
            let options = ["nosuid", "noexec", "nodev", "relatime", access];
            mounts.push(mount("cgroup", "cgroup", "/sys/fs/cgroup", &options));
        }
        Hierarchy::V1(_) => {
            let options = ["nosuid", "noexec", "nodev", "mode=755", "size=64k"];
            mounts.push(mount("tmpfs", "tmpfs", "/sys/fs/cgroup", &options));
            for (name, own) in inputs.host.hierarchy.visible(inputs.cgroup_path) {
                let destination = format!("/sys/fs/cgroup/{name}");
                let options = ["rbind", "rprivate", access, "nosuid", "noexec", "nodev"];
                mounts.push(mount("bind", &own.to_string_lossy(), &destination, &options));
            }
        }
    }
}

fn bind(asked: &Mount) -> Value {
    let mut options = vec!["rbind"];
    options.push(match asked.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    });
    options.push(match (asked.readonly, asked.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    });
    mount("bind", &asked.source.to_string_lossy(), &asked.target.to_string_lossy(), &options)
}

/// libcontainer ignores propagation per mount; per container it keeps it: the widest that any mount asks for.
pub(super) fn rootfs_propagation(mounts: &[Mount]) -> Option<&'static str> {
    let wants = |p: Propagation| mounts.iter().any(|m| m.propagation == p);
    if wants(Propagation::Bidirectional) {
        Some("shared")
    } else if wants(Propagation::HostToContainer) {
        None
    } else {
        Some("private")
    }
}
