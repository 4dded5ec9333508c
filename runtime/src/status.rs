//! Pure: what the runtime reports.

use std::{collections::BTreeMap, path::PathBuf};

use crate::config::{ImageId, PodIdentity};

/// A sandbox as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxStatus {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub pod: PodIdentity,
    /// Whether its namespaces and its shim are there; after `stop_sandbox` it is false.
    pub ready: bool,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// The bind mount that holds the network namespace; `None` with host_network.
    pub netns_path: Option<PathBuf>,
    /// As configured.
    pub labels: BTreeMap<String, String>,
    /// As configured.
    pub annotations: BTreeMap<String, String>,
    /// Full path of the pod's cgroup, with a leading slash, without a controller.
    pub cgroup_path: String,
    /// As configured.
    pub log_dir: PathBuf,
    /// The shim.
    pub shim_pid: Option<u32>,
}

/// Where in its life a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its process lives.
    Running,
    /// Its process has ended.
    Exited,
    /// Its process has ended and nobody saw how.
    Unknown,
}

impl ContainerState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Exited => "exited",
            ContainerState::Unknown => "unknown",
        }
    }
}

/// A container as it is. Times are unix nanoseconds, 0 for not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// The sandbox that it is in.
    pub sandbox_id: String,
    /// Name in the pod.
    pub name: String,
    /// How many of this name came before.
    pub attempt: u32,
    /// Where in its life it is.
    pub state: ContainerState,
    /// The process, while it runs.
    pub pid: Option<u32>,
    /// When it was made.
    pub created_at: i64,
    /// When its process was started.
    pub started_at: i64,
    /// When its process ended.
    pub finished_at: i64,
    /// 0..=255, 128 + signal for a killed one; `None` before the end and when nobody saw it.
    pub exit_code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// Why it could not start.
    pub message: String,
    /// As configured.
    pub image: ImageId,
    /// Absolute path of the log; empty without one.
    pub log_path: PathBuf,
    /// As configured.
    pub labels: BTreeMap<String, String>,
    /// As configured.
    pub annotations: BTreeMap<String, String>,
    /// As configured.
    pub stop_signal: Option<i32>,
    /// As configured.
    pub tty: bool,
    /// As configured.
    pub stdin: bool,
}

/// What a cgroup has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Nanoseconds of CPU since its start.
    pub cpu_usage_ns: u64,
    /// Bytes charged.
    pub memory_usage_bytes: u64,
    /// Bytes charged without inactive file pages: what eviction looks at.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory in bytes.
    pub memory_rss_bytes: u64,
    /// Number of tasks.
    pub pids: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A container's process was started.
    Started,
    /// A container's process has ended; its status says how.
    Exited,
    /// A shim died; call `Runtime::adopt`.
    ShimLost,
}

/// Something happened in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// The sandbox.
    pub sandbox_id: String,
    /// The container, if it is about one.
    pub container_id: Option<String>,
    /// What.
    pub kind: EventKind,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Sandboxes with all that was in them.
    pub sandboxes: usize,
    /// Containers.
    pub containers: usize,
    /// Mount points.
    pub mounts: usize,
    /// Cgroup directories.
    pub cgroups: usize,
    /// Killed processes.
    pub processes: usize,
}

impl SweepReport {
    /// Whether nothing was left over.
    pub fn is_clean(&self) -> bool {
        *self == SweepReport::default()
    }
}
