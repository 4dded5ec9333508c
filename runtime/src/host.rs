//! Shell: what this machine and this process can do, read once.

use std::{fs, path::PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::cgroup::Hierarchy;

/// Capability names in the order of their bits (linux/capability.h).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const LIMITS: [(&str, Resource); 7] = [
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_STACK", Resource::Stack),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_NICE", Resource::Nice),
];

/// What a specification is clamped to.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Names of the capabilities in our own effective and bounding sets.
    pub(crate) capabilities: Vec<&'static str>,
    /// Our own oom_score_adj, below which we may not go without CAP_SYS_RESOURCE.
    pub(crate) oom_score_adj: i32,
    /// Our own hard limits, above which nothing goes without CAP_SYS_RESOURCE.
    pub(crate) hard_limits: Vec<(&'static str, u64)>,
    /// Descriptors of a process, above which no limit goes, whoever asks.
    pub(crate) open_files_max: u64,
    /// Whether the kernel counts swap for each cgroup v2.
    pub(crate) counts_swap: bool,
    pub(crate) hierarchy: Hierarchy,
}

impl Host {
    pub(crate) fn read() -> Host {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let set = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|v| u64::from_str_radix(v.trim(), 16).ok()).unwrap_or(0)
        };
        let held = set("CapEff:") & set("CapBnd:");
        let adj = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|v| v.trim().parse().ok()).unwrap_or(0);
        let limit = |(name, resource)| (name, getrlimit(resource).maximum.unwrap_or(u64::MAX));
        let open_files_max = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|v| v.trim().parse().ok());
        let hierarchy = Hierarchy::detect();
        let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let swaps = fs::exists("/proc/swaps").unwrap_or(false) && !line.split(' ').any(|word| word == "swapaccount=0");
        Host {
            capabilities: capability_names(held),
            oom_score_adj: adj,
            hard_limits: LIMITS.map(limit).to_vec(),
            open_files_max: open_files_max.unwrap_or(u64::MAX),
            counts_swap: swaps && hierarchy == Hierarchy::V2,
            hierarchy,
        }
    }

    pub(crate) fn hard_limit(&self, kind: &str) -> Option<u64> {
        self.hard_limits.iter().find(|(name, _)| *name == kind).map(|(_, limit)| *limit)
    }

    pub(crate) fn may(&self, capability: &str) -> bool {
        self.capabilities.contains(&capability)
    }
}

pub(crate) fn capability_names(bits: u64) -> Vec<&'static str> {
    let bit = |index: usize| bits >> index & 1 == 1;
    CAPABILITIES.iter().enumerate().filter(|(index, _)| bit(*index)).map(|(_, name)| *name).collect()
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

pub(crate) fn device(path: &std::path::Path) -> Option<Node> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = fs::metadata(path).ok()?;
    let block = meta.file_type().is_block_device();
    (block || meta.file_type().is_char_device()).then(|| Node {
        path: path.to_path_buf(),
        block,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

/// All device nodes below a directory, for privileged containers; terminals and shared memory are each container's own.
pub(crate) fn devices(folder: &std::path::Path) -> Vec<Node> {
    const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts"];
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() || OWN.iter().any(|own| entry.file_name() == **own) {
            continue;
        }
        if kind.is_dir() {
            found.extend(devices(&entry.path()));
        } else {
            found.extend(device(&entry.path()));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names() {
        assert_eq!(capability_names(0b1000001), ["CAP_CHOWN", "CAP_SETGID"]);
        assert_eq!(CAPABILITIES[24], "CAP_SYS_RESOURCE");
        assert_eq!(CAPABILITIES[40], "CAP_CHECKPOINT_RESTORE");
    }
}
