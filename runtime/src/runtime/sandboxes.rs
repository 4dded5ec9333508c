//! Shell: sandboxes from first to last.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Runtime, locked, shims::call};
use crate::{
    cgroup,
    config::{Resources, SandboxConfig},
    error::Error,
    layout::namespace_path,
    record::{self, SandboxRecord, ShimRecord},
    rootfs,
    shim::exit::now_ns,
    status::{ContainerStatus, SandboxStatus, Stats},
    wire::{ID_MAX, Request, Verb},
};

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn check_id(id: &str) -> Result<(), Error> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.is_empty() || id.len() > ID_MAX || !id.chars().all(fine) {
        return Err(Error::Invalid(format!("{id:?} is no id")));
    }
    Ok(())
}

impl Runtime {
    /// Makes the namespaces, the pod's cgroup and the shim.
    pub fn run_sandbox(&self, config: &SandboxConfig) -> Result<SandboxStatus, Error> {
        check_id(&config.id)?;
        if config.hostname.len() > 64 {
            return Err(Error::Invalid(format!("hostname {:?} is longer than 64 bytes", config.hostname)));
        }
        let dir = self.layout.sandbox_dir(&config.id);
        if locked(&self.sandboxes).contains_key(&config.id) || dir.exists() {
            return Err(Error::AlreadyExists { what: "sandbox", id: config.id.clone() });
        }
        let record = SandboxRecord { config: config.clone(), created_at: now_ns() };
        fs::create_dir_all(dir.join("c")).map_err(Error::io("make", &dir))?;
        locked(&self.sandboxes).insert(config.id.clone(), Arc::new(record.clone()));
        let made = self.make_sandbox(&dir, &record);
        if let Err(error) = made {
            let _ = self.remove_sandbox(&config.id);
            return Err(error);
        }
        tracing::info!(
            sandbox_id = config.id,
            namespace = config.pod.namespace,
            name = config.pod.name,
            "sandbox made"
        );
        Ok(self.sandbox_status(&record))
    }

    fn make_sandbox(&self, dir: &Path, record: &SandboxRecord) -> Result<(), Error> {
        record::write_json(&dir.join("sandbox.json"), record)?;
        fs::write(dir.join("hostname"), format!("{}\n", record.config.hostname)).map_err(Error::io("write", dir))?;
        let path = self.layout.pod_cgroup(&record.config.cgroup_parent);
        let groups = cgroup::create_pod(&self.host.hierarchy, &path, &record.config.resources)?;
        self.start_shim(&record.config.id, "new", &groups)?;
        Ok(())
    }

    fn sandbox_status(&self, record: &SandboxRecord) -> SandboxStatus {
        let config = &record.config;
        let dir = self.layout.sandbox_dir(&config.id);
        let netns = namespace_path(&dir, "net");
        let shim = self.shim_alive(&config.id);
        SandboxStatus {
            id: config.id.clone(),
            pod: config.pod.clone(),
            ready: dir.join("shim").exists() && !dir.join("stopped").exists(),
            created_at: record.created_at,
            netns_path: (!config.host_network && netns.exists()).then_some(netns),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            cgroup_path: format!("/{}", self.layout.pod_cgroup(&config.cgroup_parent)),
            log_dir: config.log_dir.clone(),
            shim_pid: shim.map(|s| s.pid as u32),
        }
    }

    /// All sandboxes, those of an earlier process of this instance too.
    pub fn sandboxes(&self) -> Result<Vec<SandboxStatus>, Error> {
        let records: Vec<_> = locked(&self.sandboxes).values().cloned().collect();
        Ok(records.iter().map(|record| self.sandbox_status(record)).collect())
    }

    /// The sandboxes of one pod, and their containers.
    pub fn pod(&self, uid: &str) -> Result<(Vec<SandboxStatus>, Vec<ContainerStatus>), Error> {
        let of_pod = |record: &&Arc<SandboxRecord>| record.config.pod.uid == uid;
        let records: Vec<_> = locked(&self.sandboxes).values().filter(of_pod).cloned().collect();
        let sandboxes: Vec<_> = records.iter().map(|record| self.sandbox_status(record)).collect();
        let mut containers = self.container_records();
        containers.retain(|(_, record)| sandboxes.iter().any(|sandbox| sandbox.id == record.sandbox_id));
        Ok((sandboxes, containers.iter().map(|(id, record)| self.status(id, record)).collect()))
    }

    /// One sandbox.
    pub fn sandbox(&self, id: &str) -> Result<SandboxStatus, Error> {
        self.sandbox_record(id).map(|record| self.sandbox_status(&record))
    }

    /// Kills what runs in it; its namespaces, its cgroup and its shim go. Its containers' statuses stay.
    pub fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let record = self.sandbox_record(id)?;
        let dir = self.layout.sandbox_dir(id);
        if dir.join("stopped").exists() {
            return Ok(());
        }
        for (container_id, container) in self.container_records() {
            if container.sandbox_id == id {
                self.kill_container(&container_id, &container)?;
            }
        }
        self.source.forget_shim(id);
        let shim: Option<ShimRecord> = record::read_json(&dir.join("shim"));
        let _ = call(&dir, &Request::new(Verb::Quit), &[]);
        let path = self.layout.pod_cgroup(&record.config.cgroup_parent);
        if let Some(shim) = shim {
            end_process(shim.pid, Some(shim.start_time));
            if shim.reaper > 0 {
                self.end_reaper(&dir, shim.reaper);
            }
        }
        cgroup::kill(&self.host.hierarchy, &path, &[]);
        for mount in ["ns/net", "ns/uts", "ns/ipc", "ns/pid", "ns/user", "shm"] {
            rootfs::unmount(&dir.join(mount));
        }
        cgroup::remove(&self.host.hierarchy, &path, &self.layout.cgroup_root)?;
        record::write(&dir.join("stopped"), b"")
    }

    /// The reaper is the one whose pid namespace the sandbox holds.
    fn end_reaper(&self, dir: &Path, pid: i32) {
        use std::os::unix::fs::MetadataExt;
        let inode = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        let theirs = inode(Path::new(&format!("/proc/{pid}/ns/pid")));
        if theirs.is_some() && theirs == inode(&namespace_path(dir, "pid")) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            end_process(pid, None);
        }
    }

    /// Removes it with its containers. One that is gone already is no error, also when another process of this instance
    /// (`down` beside an agent that ends) was faster.
    pub fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        if self.sandbox_record(id).is_err() {
            return Ok(());
        }
        match self.stop_sandbox(id) {
            Err(_) if !self.layout.sandbox_dir(id).exists() => {}
            stopped => stopped?,
        }
        for (container_id, container) in self.container_records() {
            if container.sandbox_id == id {
                self.remove_container(&container_id)?;
            }
        }
        let dir = self.layout.sandbox_dir(id);
        for mount in rootfs::mounts_below(&dir) {
            rootfs::unmount(&mount);
        }
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &dir)(e)),
            _ => {}
        }
        locked(&self.sandboxes).remove(id);
        Ok(())
    }

    /// What the pod's cgroup has used.
    pub fn sandbox_stats(&self, id: &str) -> Result<Stats, Error> {
        let record = self.sandbox_record(id)?;
        cgroup::stats(&self.host.hierarchy, &self.layout.pod_cgroup(&record.config.cgroup_parent))
    }

    /// Changes the limits of the pod's cgroup.
    pub fn update_sandbox_resources(&self, id: &str, resources: &Resources) -> Result<(), Error> {
        let record = self.sandbox_record(id)?;
        cgroup::update(&self.layout.pod_cgroup(&record.config.cgroup_parent), resources)
    }
}

/// Waits until a process has ended; one that does not end by itself within the patience is killed.
fn end_process(pid: i32, start_time: Option<u64>) {
    let Some(process) = rustix::process::Pid::from_raw(pid) else { return };
    let Ok(pidfd) = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()) else { return };
    if start_time.is_some_and(|wanted| record::start_time(pid) != wanted) {
        return;
    }
    let patience = rustix::time::Timespec { tv_sec: 2, tv_nsec: 0 };
    let mut polls = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    if rustix::event::poll(&mut polls, Some(&patience)) == Ok(0) {
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        let _ = rustix::event::poll(&mut polls, Some(&patience));
    }
}

/// Looks until something is there; for the moments between a kill and its exit file.
pub(super) fn until(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + KILL_PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
