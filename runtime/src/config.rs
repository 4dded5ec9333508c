//! Pure: what the agent asks for: the configuration of sandboxes, containers and exec sessions, modelled on CRI v1.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Digest of an image's configuration, `sha256:<hex>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageId(pub String);

/// Whose sandbox it is; carried for the reader of a listing, never interpreted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

/// A user-namespace mapping: ids 0..size inside are host_id..host_id+size outside, for users and groups alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id on the host.
    pub host_id: u32,
    /// How many ids (65536 for a pod).
    pub size: u32,
}

/// A pod's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Unique id, by `new_id()`.
    pub id: String,
    /// Whose sandbox it is.
    pub pod: PodIdentity,
    /// Hostname in the pod's UTS namespace; ignored with `host_network`.
    pub hostname: String,
    /// Kept and listed, never interpreted.
    pub labels: BTreeMap<String, String>,
    /// Kept and listed, never interpreted.
    pub annotations: BTreeMap<String, String>,
    /// Use the host's network and UTS namespaces.
    pub host_network: bool,
    /// Use the host's pid namespace.
    pub host_pid: bool,
    /// Use the host's ipc namespace.
    pub host_ipc: bool,
    /// One pid namespace for all containers, held by a tiny reaper.
    pub share_process_namespace: bool,
    /// A user namespace for the pod.
    pub userns: Option<IdMap>,
    /// Namespaced sysctls, dotted names.
    pub sysctls: BTreeMap<String, String>,
    /// The pod's cgroup below `Layout::cgroup_root`, for example `kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Limits of the pod's cgroup.
    pub resources: Resources,
    /// Where the containers' `log_path`s begin.
    pub log_dir: PathBuf,
}

/// What a cgroup may use; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative weight, 2..=262144 (1024 a core); translated on cgroup v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU a period; clamped to >= 1000, negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds, default 100000.
    pub cpu_period: Option<u64>,
    /// Bytes; negative is unlimited.
    pub memory_limit: Option<i64>,
    /// List of cpus, for example `0-1`.
    pub cpuset_cpus: Option<String>,
    /// List of memory nodes.
    pub cpuset_mems: Option<String>,
    /// -1000..=1000; raised to what this process may set when it lacks CAP_SYS_RESOURCE.
    pub oom_score_adj: Option<i32>,
    /// Number of tasks; 0 or negative is unlimited.
    pub pids_limit: Option<i64>,
}

/// A container's root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// A directory that is ready; it is used as it is.
    Path(PathBuf),
    /// Mounted by the runtime as overlayfs, unmounted when the container is removed.
    Layers {
        /// Topmost first, as overlayfs orders them.
        lower: Vec<PathBuf>,
        /// The writable directory, made if missing.
        upper: PathBuf,
        /// The work directory beside `upper`, made if missing.
        work: PathBuf,
    },
}

impl Default for Rootfs {
    fn default() -> Rootfs {
        Rootfs::Path(PathBuf::new())
    }
}

/// How mounts travel between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// The container sees later mounts of the host.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A bind mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the host; must exist.
    pub source: PathBuf,
    /// In the container; made if missing.
    pub target: PathBuf,
    /// Not writable.
    pub readonly: bool,
    /// Also the mounts below it are not writable.
    pub recursive_read_only: bool,
    /// How mounts travel.
    pub propagation: Propagation,
}

/// A device node handed to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// On the host, for example `/dev/gpiochip0`.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

/// Capabilities to add to and drop from the default set; names with or without `CAP_`, `ALL` for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Granted too.
    pub add: Vec<String>,
    /// Taken away.
    pub drop: Vec<String>,
}

/// Which system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Our table of the usual default profile.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
    /// A profile file in Docker's or OCI's JSON form.
    Localhost(PathBuf),
}

/// A resource limit of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// For example `RLIMIT_NOFILE`.
    pub kind: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit; lowered to our own without CAP_SYS_RESOURCE.
    pub hard: u64,
}

/// What a container may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// `user[:group]`, names or numbers, as an image gives it; looked up in the rootfs. `run_as_user` wins.
    pub user: Option<String>,
    /// Numeric user.
    pub run_as_user: Option<u32>,
    /// Numeric primary group; needs a user to have an effect on its lookup.
    pub run_as_group: Option<u32>,
    /// Further groups, fsGroup among them.
    pub supplemental_groups: Vec<u32>,
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Added and dropped capabilities.
    pub capabilities: Capabilities,
    /// The root file system is not writable.
    pub read_only_rootfs: bool,
    /// No process gains privileges by exec.
    pub no_new_privileges: bool,
    /// System calls.
    pub seccomp: Seccomp,
    /// `None`: the default list.
    pub masked_paths: Option<Vec<String>>,
    /// `None`: the default list.
    pub readonly_paths: Option<Vec<String>>,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Unique id, by `new_id()`; empty to have one made.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// How many containers of this name came before.
    pub attempt: u32,
    /// Listed in the status.
    pub image: ImageId,
    /// The file system.
    pub rootfs: Rootfs,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment, `KEY=value`.
    pub env: Vec<String>,
    /// Where the program starts; made if missing; empty is `/`.
    pub working_dir: String,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<DeviceMapping>,
    /// Kept and listed, never interpreted.
    pub labels: BTreeMap<String, String>,
    /// Kept and listed, never interpreted.
    pub annotations: BTreeMap<String, String>,
    /// Below `SandboxConfig::log_dir`, for example `web/0.log`; empty for no log.
    pub log_path: PathBuf,
    /// Bytes at which the log is rotated; 0 is 10 MiB.
    pub log_max_bytes: u64,
    /// How many log files there may be, the current one included; 0 is 5.
    pub log_max_files: u32,
    /// Keep stdin open for attach; else it is `/dev/null`.
    pub stdin: bool,
    /// Close stdin when the first attach that used it ends.
    pub stdin_once: bool,
    /// A terminal.
    pub tty: bool,
    /// Limits of the container's cgroup.
    pub resources: Resources,
    /// Limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// What it may do.
    pub security: Security,
    /// Signal that asks it to stop, kept for the caller.
    pub stop_signal: Option<i32>,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// A further process in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecConfig {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<String>,
    /// A terminal, and its first size.
    pub tty: Option<Size>,
    /// Give the process a stdin.
    pub stdin: bool,
    /// Milliseconds after which the process is killed; `None` is no limit.
    pub timeout_ms: Option<u32>,
}
