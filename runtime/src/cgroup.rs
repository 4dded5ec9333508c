//! Shell: the cgroups of pods and containers on v1, hybrid and v2: limits, statistics, killing, removal.
//!
//! Pods' groups are made through cgroups-rs; a container's own is made by libcontainer, below its pod's. Hot paths
//! (statistics, removal) read and remove single files themselves: cgroups-rs reads a dozen a controller.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cgroups_rs::{
    Cgroup, Controller, MaxValue, cpu::CpuController, cpuset::CpuSetController, hierarchies, memory::MemController,
    pid::PidController,
};

use crate::{config::Resources, error::Error, status::Stats};

const MOUNT: &str = "/sys/fs/cgroup";
/// What a pod's group limits and counts.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
/// The kernel refuses less (1 ms).
pub(crate) const QUOTA_MIN_US: i64 = 1000;
/// A killed process leaves its cgroup a moment after it has died.
const EMPTY_PATIENCE: Duration = Duration::from_secs(5);

/// How cgroups are mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// The mount points of all v1 hierarchies.
    V1(Vec<PathBuf>),
    V2,
}

impl Hierarchy {
    pub(crate) fn detect() -> Hierarchy {
        if hierarchies::is_cgroup2_unified_mode() {
            return Hierarchy::V2;
        }
        let mounts = fs::read_dir(MOUNT).into_iter().flatten().flatten().map(|e| e.path());
        let mut mounts: Vec<PathBuf> = mounts.filter(|p| p.join("cgroup.procs").exists() && !p.is_symlink()).collect();
        mounts.sort();
        Hierarchy::V1(mounts)
    }

    fn roots(&self) -> Vec<PathBuf> {
        match self {
            Hierarchy::V1(mounts) => mounts.clone(),
            Hierarchy::V2 => vec![MOUNT.into()],
        }
    }

    /// The directory with the memory counters.
    pub(crate) fn memory_dir(&self, path: &str) -> PathBuf {
        self.controller_dir("memory", path)
    }

    fn controller_dir(&self, controller: &str, path: &str) -> PathBuf {
        match self {
            Hierarchy::V1(_) => Path::new(MOUNT).join(controller).join(path.trim_matches('/')),
            Hierarchy::V2 => Path::new(MOUNT).join(path.trim_matches('/')),
        }
    }

    /// The v1 hierarchies that a container sees, as (name, path of its own group).
    pub(crate) fn visible(&self, path: &str) -> Vec<(String, PathBuf)> {
        let Hierarchy::V1(mounts) = self else { return Vec::new() };
        let seen = ["cpu", "cpuacct", "cpuset", "memory", "pids"];
        let names = mounts.iter().filter_map(|m| m.file_name()?.to_str());
        let names = names.filter(|name| name.split(',').any(|part| seen.contains(&part)));
        names.map(|name| (name.to_string(), self.controller_dir(name, path))).collect()
    }
}

fn handle(path: &str) -> Cgroup {
    let mut controllers: Vec<String> = CONTROLLERS.iter().map(|c| c.to_string()).collect();
    controllers.push("cpuset".into());
    Cgroup::load_with_specified_controllers(hierarchies::auto(), path.trim_matches('/'), controllers)
}

fn failed(path: &str) -> impl FnOnce(cgroups_rs::error::Error) -> Error {
    let path = PathBuf::from(path);
    move |e| Error::Io { what: "set limits of cgroup", path, source: io::Error::other(e.to_string()) }
}

/// Makes a pod's group with its limits. Returns the files into which a process writes `0` to join it: on v1 `tasks`,
/// since moving oneself as a single thread needs no lock that waits for an RCU grace period (8 to 18 ms).
pub(crate) fn create_pod(hierarchy: &Hierarchy, path: &str, resources: &Resources) -> Result<Vec<PathBuf>, Error> {
    let mut joined = Vec::new();
    match hierarchy {
        Hierarchy::V1(_) => {
            for controller in CONTROLLERS {
                let dir = hierarchy.controller_dir(controller, path);
                fs::create_dir_all(&dir).map_err(Error::io("make cgroup", &dir))?;
                joined.push(dir.join("tasks"));
            }
            if resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some() {
                let dir = hierarchy.controller_dir("cpuset", path);
                fs::create_dir_all(&dir).map_err(Error::io("make cgroup", &dir))?;
            }
        }
        Hierarchy::V2 => {
            let controllers = ["cpuset", "cpu", "memory", "pids"].map(String::from).to_vec();
            let pod = path.trim_matches('/');
            let auto = hierarchies::auto();
            Cgroup::new_with_specified_controllers(auto, format!("{pod}/shim"), Some(controllers))
                .map_err(failed(path))?;
            joined.push(hierarchy.controller_dir("", path).join("shim/cgroup.procs"));
        }
    }
    update(path, resources)?;
    Ok(joined)
}

/// Sets the limits that are given.
pub(crate) fn update(path: &str, resources: &Resources) -> Result<(), Error> {
    let group = handle(path);
    if let Some(cpu) = group.controller_of::<CpuController>() {
        if let Some(shares) = resources.cpu_shares {
            let shares = if group.v2() { weight(shares) } else { shares.clamp(2, 262_144) };
            cpu.set_shares(shares).map_err(failed(path))?;
        }
        if resources.cpu_quota.is_some() || resources.cpu_period.is_some() {
            let quota = resources.cpu_quota.map(clamp_quota);
            cpu.set_cfs_quota_and_period(quota, resources.cpu_period).map_err(failed(path))?;
        }
    }
    if let (Some(memory), Some(limit)) = (group.controller_of::<MemController>(), resources.memory_limit) {
        memory.set_limit(limit).map_err(failed(path))?;
    }
    if let (Some(pids), Some(limit)) = (group.controller_of::<PidController>(), resources.pids_limit) {
        let limit = if limit > 0 { MaxValue::Value(limit) } else { MaxValue::Max };
        pids.set_pid_max(limit).map_err(failed(path))?;
    }
    if let Some(cpuset) = group.controller_of::<CpuSetController>()
        && cpuset.exists()
    {
        if let Some(cpus) = &resources.cpuset_cpus {
            cpuset.set_cpus(cpus).map_err(failed(path))?;
        }
        if let Some(mems) = &resources.cpuset_mems {
            cpuset.set_mems(mems).map_err(failed(path))?;
        }
    }
    Ok(())
}

/// Unlimited stays; anything else is at least what the kernel takes.
pub(crate) fn clamp_quota(quota: i64) -> i64 {
    if quota <= 0 { -1 } else { quota.max(QUOTA_MIN_US) }
}

/// cgroup v2's weight for v1's shares (KEP-2254).
fn weight(shares: u64) -> u64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

fn number(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// What a group has used.
pub(crate) fn stats(hierarchy: &Hierarchy, path: &str) -> Result<Stats, Error> {
    let memory = hierarchy.memory_dir(path);
    let stat = fs::read_to_string(memory.join("memory.stat")).map_err(Error::io("read", &memory))?;
    let pids = number(hierarchy.controller_dir("pids", path).join("pids.current")).unwrap_or(0);
    let (cpu, usage, inactive, rss) = match hierarchy {
        Hierarchy::V1(_) => (
            number(hierarchy.controller_dir("cpuacct", path).join("cpuacct.usage")),
            number(memory.join("memory.usage_in_bytes")),
            field(&stat, "total_inactive_file"),
            field(&stat, "total_rss"),
        ),
        Hierarchy::V2 => {
            let cpu = fs::read_to_string(memory.join("cpu.stat")).unwrap_or_default();
            (
                field(&cpu, "usage_usec").map(|us| us * 1000),
                number(memory.join("memory.current")),
                field(&stat, "inactive_file"),
                field(&stat, "anon"),
            )
        }
    };
    let usage = usage.unwrap_or(0);
    Ok(Stats {
        cpu_usage_ns: cpu.unwrap_or(0),
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(inactive.unwrap_or(0)),
        memory_rss_bytes: rss.unwrap_or(0),
        pids,
    })
}

fn subtree(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            subtree(&entry.path(), found);
        }
    }
    found.push(dir.to_path_buf());
}

/// Kills what is in a group and below it, except the processes in `spare`. Returns how many.
pub(crate) fn kill(hierarchy: &Hierarchy, path: &str, spare: &[u32]) -> usize {
    let mut dirs = Vec::new();
    for root in hierarchy.roots() {
        let dir = root.join(path.trim_matches('/'));
        if dir.exists() {
            subtree(&dir, &mut dirs);
        }
    }
    let mut killed = std::collections::BTreeSet::new();
    for dir in dirs {
        let Ok(procs) = fs::read_to_string(dir.join("cgroup.procs")) else { continue };
        let pids = procs.lines().filter_map(|line| line.parse::<i32>().ok());
        for pid in pids.filter(|pid| *pid > 1 && !spare.contains(&(*pid as u32))) {
            if killed.insert(pid)
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    killed.len()
}

/// Removes a group with all below it from every hierarchy, waiting for killed processes to leave. Returns how many
/// directories went. Parents that are empty then go too, up to and with `root`.
pub(crate) fn remove(hierarchy: &Hierarchy, path: &str, root: &str) -> Result<usize, Error> {
    let patience = Instant::now() + EMPTY_PATIENCE;
    let mut removed = 0;
    for mount in hierarchy.roots() {
        let dir = mount.join(path.trim_matches('/'));
        let mut dirs = Vec::new();
        if dir.exists() {
            subtree(&dir, &mut dirs);
        }
        for dir in dirs {
            remove_dir(&dir, patience)?;
            removed += 1;
        }
        let top = mount.join(root.trim_matches('/'));
        let mut parent = dir.parent();
        while let Some(next) = parent.filter(|p| p.starts_with(&top) && *p != mount) {
            if fs::remove_dir(next).is_err() {
                break;
            }
            parent = next.parent();
        }
    }
    Ok(removed)
}

/// A group is busy until its last dead process has been reaped; there is no event for it on v1.
fn remove_dir(dir: &Path, patience: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_micros(500);
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < patience => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(e) => return Err(Error::io("remove cgroup", dir)(e)),
        }
    }
}

/// Every directory of this instance below a hierarchy's mount, deepest first.
pub(crate) fn all_below(hierarchy: &Hierarchy, root: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for mount in hierarchy.roots() {
        let dir = mount.join(root.trim_matches('/'));
        if dir.exists() {
            subtree(&dir, &mut dirs);
        }
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_never_below_what_the_kernel_takes() {
        assert_eq!([clamp_quota(1), clamp_quota(999), clamp_quota(5000)], [1000, 1000, 5000]);
        assert_eq!([clamp_quota(0), clamp_quota(-7)], [-1, -1]);
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!([weight(2), weight(1024), weight(262_144)], [1, 39, 10_000]);
    }
}
