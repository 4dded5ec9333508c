//! Shell: talking to shims, starting them, replacing them.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::Runtime;
use crate::{
    error::Error,
    record::{self, ContainerRecord, ShimRecord},
    shim::{exit::NO_EXIT_INFO, spawn},
    verbs,
    wire::{KILL_ALL, Request, STDIN, STDIN_ONCE, TTY, Verb},
};

/// Why a shim gave no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// Nobody listens: it is dead.
    Gone,
    Errno(i32),
}

/// One request, one answer.
pub(super) fn call(
    sandbox_dir: &Path,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<Option<OwnedFd>, CallError> {
    let connection = connect(sandbox_dir).map_err(|_| CallError::Gone)?;
    spawn::send(connection.as_fd(), &request.encode(), fds).map_err(|_| CallError::Gone)?;
    let mut answer = [0u8; 4];
    let (count, mut back) = spawn::receive(connection.as_fd(), &mut answer).map_err(|_| CallError::Gone)?;
    match (count, i32::from_le_bytes(answer)) {
        (4, 0) => Ok(back.pop()),
        (4, errno) => Err(CallError::Errno(errno)),
        _ => Err(CallError::Gone),
    }
}

/// By way of the directory's descriptor, since a socket's path ends at 108 bytes.
fn connect(sandbox_dir: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(sandbox_dir, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd());
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

impl CallError {
    pub(super) fn into_error(self, sandbox_id: &str) -> Error {
        let message = match self {
            CallError::Gone => "it does not answer".to_string(),
            CallError::Errno(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        };
        Error::Shim { id: sandbox_id.to_string(), message }
    }
}

impl Runtime {
    /// Asks, and replaces the shim once if it is dead.
    pub(super) fn ask(
        &self,
        sandbox_id: &str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Result<Option<OwnedFd>, i32>, Error> {
        let dir = self.layout.sandbox_dir(sandbox_id);
        for attempt in 0..2 {
            match call(&dir, request, fds) {
                Ok(fd) => return Ok(Ok(fd)),
                Err(CallError::Errno(errno)) => return Ok(Err(errno)),
                Err(CallError::Gone) if attempt == 0 => self.adopt(sandbox_id)?,
                Err(e) => return Err(e.into_error(sandbox_id)),
            }
        }
        Err(CallError::Gone.into_error(sandbox_id))
    }

    /// Runs the verb that forks a shim (and, for a new sandbox, makes its namespaces).
    pub(super) fn start_shim(
        &self,
        sandbox_id: &str,
        mode: &str,
        groups: &[impl AsRef<OsStr>],
    ) -> Result<ShimRecord, Error> {
        let dir = self.layout.sandbox_dir(sandbox_id);
        let failed = |message: String| Error::Shim { id: sandbox_id.to_string(), message };
        let output = Command::new(&self.program)
            .arg(verbs::SHIM)
            .arg(&dir)
            .arg(self.layout.exits_dir())
            .arg(mode)
            .args(groups)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()));
        }
        let shim: ShimRecord =
            record::read_json(&dir.join("shim")).ok_or_else(|| failed("it left no record".to_string()))?;
        self.source.watch_shim(sandbox_id, shim.pid);
        Ok(shim)
    }

    pub(super) fn shim_alive(&self, sandbox_id: &str) -> Option<ShimRecord> {
        let shim: ShimRecord = record::read_json(&self.layout.sandbox_dir(sandbox_id).join("shim"))?;
        record::alive(shim.pid, shim.start_time).then_some(shim)
    }

    /// Replaces a dead shim; the containers go on. Does nothing while it lives.
    pub fn adopt(&self, sandbox_id: &str) -> Result<(), Error> {
        let sandbox = self.sandbox_record(sandbox_id)?;
        let _one_at_a_time = self.adopting.lock().unwrap_or_else(|e| e.into_inner());
        let dir = self.layout.sandbox_dir(sandbox_id);
        if self.shim_alive(sandbox_id).is_some() || dir.join("stopped").exists() {
            return Ok(());
        }
        // Its maker was killed before the namespaces were whole: it was never ready, and is replaced.
        if !dir.join("shim").exists() {
            return Ok(());
        }
        let path = self.layout.pod_cgroup(&sandbox.config.cgroup_parent);
        let groups = crate::cgroup::create_pod(&self.host.hierarchy, &path, &Default::default())?;
        self.start_shim(sandbox_id, "adopt", &groups)?;
        for (id, container) in self.container_records() {
            if container.sandbox_id == sandbox_id {
                self.adopt_container(&dir, &id, &container);
            }
        }
        tracing::info!(sandbox_id, "shim replaced");
        Ok(())
    }

    fn adopt_container(&self, sandbox_dir: &Path, id: &str, container: &ContainerRecord) {
        let container_dir = sandbox_dir.join("c").join(id);
        let exit = self.exit_path(&container.sandbox_id, id);
        let Some(started) = record::started(&container_dir).filter(|_| !exit.exists()) else { return };
        let pidfd = rustix::process::Pid::from_raw(started.pid)
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
        // Opened first and compared then: the descriptor is of the process that has this start time now.
        let Some(pidfd) = pidfd.filter(|_| record::start_time(started.pid) == started.start_time) else {
            let _ = record::write_unseen_end(&exit);
            return;
        };
        let mut request = self.container_request(Verb::Adopt, id, container);
        request.pid = started.pid;
        if !self.exit_info {
            request.flags |= NO_EXIT_INFO;
        }
        let keeper = self.keepers.lock().unwrap_or_else(|e| e.into_inner()).get(id).and_then(|fd| fd.try_clone().ok());
        let mut fds = vec![pidfd.as_fd()];
        fds.extend(keeper.as_ref().map(|fd| fd.as_fd()));
        if let Err(error) = call(sandbox_dir, &request, &fds) {
            tracing::warn!(container_id = id, ?error, "container not adopted");
        }
    }

    /// A request with everything that the shim must know of a container.
    pub(super) fn container_request(&self, verb: Verb, id: &str, container: &ContainerRecord) -> Request {
        let config = &container.config;
        let mut request = Request::new(verb);
        let sandbox = self.sandbox_record(&container.sandbox_id).ok();
        let shares_pids = sandbox.is_some_and(|s| s.config.host_pid || s.config.share_process_namespace);
        let flags =
            [(config.tty, TTY), (config.stdin, STDIN), (config.stdin_once, STDIN_ONCE), (shares_pids, KILL_ALL)];
        request.flags = flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum();
        (request.uid, request.gid) = (container.uid, container.gid);
        request.log_max_bytes = config.log_max_bytes;
        request.log_max_files = config.log_max_files;
        let memory = self.host.hierarchy.memory_dir(&container.cgroup_path);
        // Paths that are too long were refused when the container was made.
        request.id = id.try_into().unwrap_or_default();
        request.log_path = self.log_path(container).to_string_lossy().as_ref().try_into().unwrap_or_default();
        request.cgroup = memory.to_string_lossy().as_ref().try_into().unwrap_or_default();
        request
    }
}
