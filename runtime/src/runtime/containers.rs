//! Shell: containers from first to last.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Runtime, dev, locked, new_id, sandboxes::check_id, sandboxes::until};
use crate::{
    cgroup,
    config::{ContainerConfig, Resources, Rootfs, Seccomp},
    error::Error,
    host::{self, Node},
    layout::namespace_path,
    passwd::{self, User},
    record::{self, ContainerRecord, Exit, SandboxRecord},
    rootfs,
    shim::{exit::now_ns, spawn},
    spec::{Inputs, specification},
    status::{ContainerState, ContainerStatus, EventKind, RuntimeEvent, Stats},
    wire::{PATH_MAX, Request, Verb},
};

/// The exit code of a container that could not be started, as containerd reports it.
const START_FAILED: i32 = 128;

impl Runtime {
    /// Mounts the rootfs and writes the specification; starts nothing. Returns the id.
    pub fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String, Error> {
        let sandbox = self.sandbox_record(sandbox_id)?;
        let mut config = config.clone();
        config.mounts = dev::spread(config.mounts);
        if config.id.is_empty() {
            config.id = new_id();
        }
        check_id(&config.id)?;
        if config.args.is_empty() {
            return Err(Error::Invalid("no command specified".into()));
        }
        let id = config.id.clone();
        let dir = self.layout.container_dir(sandbox_id, &id);
        if dir.exists() || locked(&self.containers).contains_key(&id) {
            return Err(Error::AlreadyExists { what: "container", id });
        }
        fs::create_dir_all(&dir).map_err(Error::io("make", &dir))?;
        match self.make_container(&sandbox, config, &dir) {
            Ok(record) => {
                locked(&self.containers).insert(id.clone(), Arc::new(record));
                Ok(id)
            }
            Err(error) => {
                rootfs::unmount(&dir.join("rootfs"));
                let _ = fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    fn make_container(
        &self,
        sandbox: &SandboxRecord,
        config: ContainerConfig,
        dir: &Path,
    ) -> Result<ContainerRecord, Error> {
        let userns = sandbox.config.userns;
        let sandbox_dir = self.layout.sandbox_dir(&sandbox.config.id);
        let (root, mounted) = match &config.rootfs {
            Rootfs::Path(path) => (path.clone(), false),
            Rootfs::Layers { lower, upper, work } => {
                let target = dir.join("rootfs");
                let held = userns.map(|map| (map, namespace_path(&sandbox_dir, "user")));
                rootfs::mount_overlay(lower, upper, work, &target, held)?;
                (target, true)
            }
        };
        let accounts = |file| rootfs::read_in(&root, file);
        let user = passwd::resolve(&config.security, &accounts("/etc/passwd"), &accounts("/etc/group"))?;
        let outside = |id: u32| userns.map_or(id, |map| map.host_id + id);
        let owner = (outside(user.uid), outside(user.gid));
        rootfs::make_working_dir(&root, &config.mounts, &config.working_dir, owner)?;
        for mount in &config.mounts {
            mount.source.metadata().map_err(Error::io("find mount source", &mount.source))?;
        }
        let parent = self.layout.pod_cgroup(&sandbox.config.cgroup_parent);
        let record = ContainerRecord {
            sandbox_id: sandbox.config.id.clone(),
            created_at: now_ns(),
            uid: owner.0,
            gid: owner.1,
            cgroup_path: format!("/{parent}/{}", config.id),
            mounted,
            config,
        };
        self.check_paths(&record)?;
        let spec = self.make_specification(sandbox, &record, &sandbox_dir, &root, &user)?;
        record::write(&dir.join("config.json"), spec.as_bytes())?;
        if let Some(folder) = self.log_path(&record).parent().filter(|_| !record.config.log_path.as_os_str().is_empty())
        {
            fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        }
        record::write_json(&dir.join("record.json"), &record)?;
        Ok(record)
    }

    fn make_specification(
        &self,
        sandbox: &SandboxRecord,
        record: &ContainerRecord,
        sandbox_dir: &Path,
        root: &Path,
        user: &User,
    ) -> Result<String, Error> {
        let config = &record.config;
        let profile = match &config.security.seccomp {
            Seccomp::Localhost(path) => Some(fs::read_to_string(path).map_err(Error::io("read", path))?),
            _ => None,
        };
        let spec = specification(&Inputs {
            sandbox: &sandbox.config,
            container: config,
            host: &self.host,
            sandbox_dir,
            rootfs: root,
            cgroup_path: &record.cgroup_path,
            user,
            devices: &devices(config)?,
            seccomp_profile: profile.as_deref(),
        })?;
        serde_json::to_string(&spec).map_err(|e| Error::Invalid(format!("container specification: {e}")))
    }

    /// A message to the shim holds only so much.
    fn check_paths(&self, record: &ContainerRecord) -> Result<(), Error> {
        let longest = [self.log_path(record), self.host.hierarchy.memory_dir(&record.cgroup_path)];
        match longest.into_iter().find(|path| path.as_os_str().len() > PATH_MAX) {
            Some(path) => Err(Error::Invalid(format!("{} is longer than {PATH_MAX} bytes", path.display()))),
            None => Ok(()),
        }
    }

    /// Empty without a log.
    pub(super) fn log_path(&self, record: &ContainerRecord) -> PathBuf {
        if record.config.log_path.as_os_str().is_empty() {
            return PathBuf::new();
        }
        match self.sandbox_record(&record.sandbox_id) {
            Ok(sandbox) => sandbox.config.log_dir.join(&record.config.log_path),
            Err(_) => PathBuf::new(),
        }
    }

    /// Makes and starts the process. An error's message says why the program could not run.
    pub fn start_container(&self, id: &str) -> Result<(), Error> {
        let record = self.container_record(id)?;
        let state = self.status(id, &record).state;
        if state != ContainerState::Created {
            return Err(Error::State { id: id.to_string(), state: state.name(), wanted: "created" });
        }
        let request = self.container_request(Verb::Start, id, &record);
        let (_, master) = self.run_verb(&record.sandbox_id, &request, &[])?;
        if let Some(master) = master {
            locked(&self.keepers).insert(id.to_string(), master);
        } else if record.config.stdin {
            self.keep(id, &record);
        }
        self.source.tell_started(RuntimeEvent {
            sandbox_id: record.sandbox_id.clone(),
            container_id: Some(id.to_string()),
            kind: EventKind::Started,
        });
        Ok(())
    }

    /// Has the shim fork a verb, and waits for the verb's own word.
    pub(super) fn run_verb(
        &self,
        sandbox_id: &str,
        request: &Request,
        fds: &[OwnedFd],
    ) -> Result<(i32, Option<OwnedFd>), Error> {
        let failed = |message: String| Error::Shim { id: sandbox_id.to_string(), message };
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| failed(e.to_string()))?;
        let mut given = vec![theirs.as_fd()];
        given.extend(fds.iter().map(|fd| fd.as_fd()));
        match self.ask(sandbox_id, request, &given)? {
            Ok(_) => {}
            Err(errno) => return Err(failed(std::io::Error::from_raw_os_error(errno).to_string())),
        }
        drop(given);
        drop(theirs);
        let mut bytes = [0u8; 8192];
        let (count, mut back) = spawn::receive(ours.as_fd(), &mut bytes).map_err(|e| failed(e.to_string()))?;
        let text = String::from_utf8_lossy(&bytes[..count]);
        match text.split_once(' ') {
            Some(("ok", pid)) => Ok((pid.parse().unwrap_or(0), back.pop())),
            Some(("err", message)) => Err(Error::Start(message.to_string())),
            _ => Err(Error::Start("the helper process died before it could start the program".into())),
        }
    }

    /// Holds what must outlive the shim.
    pub(super) fn keep(&self, id: &str, record: &ContainerRecord) {
        let dir = self.layout.sandbox_dir(&record.sandbox_id);
        let mut request = Request::new(Verb::Keeper);
        request.id = id.try_into().unwrap_or_default();
        if let Ok(Some(fd)) = super::shims::call(&dir, &request, &[]) {
            locked(&self.keepers).insert(id.to_string(), fd);
        }
    }

    /// Signals its first process; an ended one is no error.
    pub fn signal_container(&self, id: &str, signal: i32) -> Result<(), Error> {
        let record = self.container_record(id)?;
        let mut request = Request::new(Verb::Signal);
        request.id = id.try_into().unwrap_or_default();
        request.number = signal as u32;
        if self.status(id, &record).state != ContainerState::Running {
            return Ok(());
        }
        match self.ask(&record.sandbox_id, &request, &[]) {
            Ok(Ok(_) | Err(libc::ESRCH)) => Ok(()),
            Ok(Err(errno)) => {
                Err(Error::io("signal", format!("container {id}"))(std::io::Error::from_raw_os_error(errno)))
            }
            // No shim, and none to be had: a kill came while its sandbox was made or stopped. Nobody would ever see its end.
            Err(error) => self.end_unattended(id, &record).map_err(|_| error),
        }
    }

    /// Ends a container that no shim attends, and tells its end as one that nobody saw.
    fn end_unattended(&self, id: &str, record: &ContainerRecord) -> Result<(), Error> {
        cgroup::kill(&self.host.hierarchy, &record.cgroup_path, &[]);
        let exit = self.exit_path(&record.sandbox_id, id);
        if exit.exists() { Ok(()) } else { record::write_unseen_end(&exit) }
    }

    /// Kills it with all its processes and waits until its end is recorded.
    pub(super) fn kill_container(&self, id: &str, record: &ContainerRecord) -> Result<(), Error> {
        let ended = || self.status(id, record).state != ContainerState::Running;
        if !ended() {
            self.signal_container(id, libc::SIGKILL)?;
        }
        cgroup::kill(&self.host.hierarchy, &record.cgroup_path, &[]);
        if until(ended) {
            return Ok(());
        }
        Err(Error::State { id: id.to_string(), state: "running after SIGKILL", wanted: "exited" })
    }

    /// Kills it if it runs, and removes all but its log and its writable layer. One that is gone is no error.
    pub fn remove_container(&self, id: &str) -> Result<(), Error> {
        let Ok(record) = self.container_record(id) else { return Ok(()) };
        self.kill_container(id, &record)?;
        locked(&self.keepers).remove(id);
        let sandbox_dir = self.layout.sandbox_dir(&record.sandbox_id);
        let dir = self.layout.container_dir(&record.sandbox_id, id);
        rootfs::unmount(&dir.join("rootfs"));
        cgroup::remove(&self.host.hierarchy, &record.cgroup_path, &record.cgroup_path)?;
        let _ = fs::remove_dir_all(sandbox_dir.join("oci").join(id));
        let _ = fs::remove_file(self.exit_path(&record.sandbox_id, id));
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", dir)(e)),
            _ => {}
        }
        locked(&self.containers).remove(id);
        Ok(())
    }

    /// All containers.
    pub fn containers(&self) -> Result<Vec<ContainerStatus>, Error> {
        Ok(self.container_records().iter().map(|(id, record)| self.status(id, record)).collect())
    }

    /// The ids of a sandbox's containers.
    pub fn containers_of(&self, sandbox_id: &str) -> Vec<String> {
        let of_sandbox = |(_, record): &(&String, &Arc<ContainerRecord>)| record.sandbox_id == sandbox_id;
        locked(&self.containers).iter().filter(of_sandbox).map(|(id, _)| id.clone()).collect()
    }

    /// One container.
    pub fn container(&self, id: &str) -> Result<ContainerStatus, Error> {
        self.container_record(id).map(|record| self.status(id, &record))
    }

    pub(super) fn status(&self, id: &str, record: &ContainerRecord) -> ContainerStatus {
        let dir = self.layout.container_dir(&record.sandbox_id, id);
        // The end is looked for first: one that ends between the two looks is still running, not never started.
        let exit: Option<Exit> = record::read_json(&self.exit_path(&record.sandbox_id, id));
        let started = record::started(&dir);
        let message = fs::read_to_string(dir.join("message")).unwrap_or_default();
        let state = match (&exit, &started) {
            (Some(exit), _) if exit.code < 0 => ContainerState::Unknown,
            (Some(_), _) => ContainerState::Exited,
            (None, Some(_)) => ContainerState::Running,
            (None, None) if !message.is_empty() => ContainerState::Exited,
            (None, None) => ContainerState::Created,
        };
        let config = &record.config;
        let failed = started.is_none() && !message.is_empty();
        let code = exit.filter(|e| e.code >= 0).map(|e| e.code);
        ContainerStatus {
            id: id.to_string(),
            sandbox_id: record.sandbox_id.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            state,
            pid: started.filter(|_| state == ContainerState::Running).map(|s| s.pid as u32),
            created_at: record.created_at,
            started_at: started.map_or(0, |s| s.started_at),
            finished_at: exit.map_or(0, |e| e.finished_at),
            exit_code: if failed { Some(START_FAILED) } else { code },
            signal: exit.map(|e| e.signal).filter(|s| *s != 0 && !failed),
            oom_killed: exit.is_some_and(|e| e.oom_killed && e.code != 0),
            message,
            image: config.image.clone(),
            log_path: self.log_path(record),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            stop_signal: config.stop_signal,
            tty: config.tty,
            stdin: config.stdin,
        }
    }

    /// What the container's cgroup has used.
    pub fn container_stats(&self, id: &str) -> Result<Stats, Error> {
        cgroup::stats(&self.host.hierarchy, &self.container_record(id)?.cgroup_path)
    }

    /// Changes the limits of a running container.
    pub fn update_resources(&self, id: &str, resources: &Resources) -> Result<(), Error> {
        cgroup::update(&self.container_record(id)?.cgroup_path, resources)
    }
}

/// The host's nodes with their paths in the container; a privileged container gets all there are.
fn devices(config: &ContainerConfig) -> Result<Vec<(Node, String, String)>, Error> {
    let mut found = Vec::new();
    if config.security.privileged {
        let all = host::devices(Path::new("/dev"));
        found.extend(
            all.into_iter()
                .map(|node| (node.path.to_string_lossy().into_owned(), node))
                .map(|(p, n)| (n, p, "rwm".into())),
        );
    }
    for mapping in &config.devices {
        let path = &mapping.host_path;
        let node =
            host::device(path).ok_or_else(|| Error::Invalid(format!("{} is not a device node", path.display())))?;
        let inside = mapping.container_path.to_string_lossy().into_owned();
        found.retain(|(_, path, _)| *path != inside);
        found.push((node, inside, mapping.permissions.clone()));
    }
    Ok(found)
}
