//! Pure: where everything of one instance lies on the host.

use std::path::{Path, PathBuf};

/// The places of one instance. Two instances differ in all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Durable: images, writable layers.
    pub data_dir: PathBuf,
    /// Volatile: sandboxes, sockets, exits. Emptied when the boot id changes.
    pub run_dir: PathBuf,
    /// The cgroup below which all pods lie, for example `bramble-1a2b3c4d`; no leading slash.
    pub cgroup_root: String,
    /// The instance's short name.
    pub instance: String,
}

impl Layout {
    /// One directory a sandbox.
    pub fn sandboxes_dir(&self) -> PathBuf {
        self.run_dir.join("pods")
    }

    /// A sandbox's directory.
    pub fn sandbox_dir(&self, sandbox_id: &str) -> PathBuf {
        self.sandboxes_dir().join(sandbox_id)
    }

    /// A container's directory.
    pub fn container_dir(&self, sandbox_id: &str, container_id: &str) -> PathBuf {
        self.sandbox_dir(sandbox_id).join("c").join(container_id)
    }

    /// Where the shims write `<container id>.exit`.
    pub fn exits_dir(&self) -> PathBuf {
        self.run_dir.join("exits")
    }

    /// The cgroup path of a pod, without a leading slash.
    pub fn pod_cgroup(&self, cgroup_parent: &str) -> String {
        format!("{}/{}", self.cgroup_root.trim_matches('/'), cgroup_parent.trim_matches('/'))
    }
}

/// The bind mount that holds a namespace of a sandbox.
pub(crate) fn namespace_path(sandbox_dir: &Path, kind: &str) -> PathBuf {
    sandbox_dir.join("ns").join(kind)
}
