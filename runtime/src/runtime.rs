//! Shell: the door of the runtime: sandboxes, containers, sessions, events.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::ExitCode,
};

use crate::{
    config::{ContainerConfig, ExecConfig, Resources, SandboxConfig, Size},
    error::Error,
    layout::Layout,
    session::Session,
    status::{ContainerStatus, RuntimeEvent, SandboxStatus, Stats, SweepReport},
};

/// The hidden verbs of the binary. Call it first in `main`, before any thread exists; `None` means that the arguments are not ours.
pub fn helper_main(_args: &[OsString]) -> Option<ExitCode> {
    None
}

/// A new unique id for a sandbox or a container: 32 hex digits.
pub fn new_id() -> String {
    let mut bytes = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).expect("the kernel has randomness");
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What happened since the last look.
#[derive(Debug)]
pub struct Events {
    fd: OwnedFd,
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Events {
    /// What happened; empties the queue, so that the descriptor is not readable any more.
    pub fn drain(&self) -> Result<Vec<RuntimeEvent>, Error> {
        Ok(Vec::new())
    }
}

/// One instance's sandboxes and containers. Every call may block; call it from a blocking thread.
#[derive(Debug)]
pub struct Runtime {
    layout: Layout,
}

fn unfinished<T>() -> Result<T, Error> {
    Err(Error::Invalid("not built yet".into()))
}

impl Runtime {
    /// Takes over what an earlier process of this instance left running.
    pub fn open(layout: Layout) -> Result<Runtime, Error> {
        Ok(Runtime { layout })
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes the namespaces, the pod's cgroup and the shim.
    pub fn run_sandbox(&self, _config: &SandboxConfig) -> Result<SandboxStatus, Error> {
        unfinished()
    }

    /// Kills what runs in it; its namespaces and its shim go. Its containers' statuses stay.
    pub fn stop_sandbox(&self, _id: &str) -> Result<(), Error> {
        unfinished()
    }

    /// Removes it with its containers.
    pub fn remove_sandbox(&self, _id: &str) -> Result<(), Error> {
        unfinished()
    }

    /// All sandboxes, those of an earlier process of this instance too.
    pub fn sandboxes(&self) -> Result<Vec<SandboxStatus>, Error> {
        unfinished()
    }

    /// Replaces a dead shim; the containers go on. Does nothing while it lives.
    pub fn adopt(&self, _sandbox_id: &str) -> Result<(), Error> {
        unfinished()
    }

    /// Mounts the rootfs and writes the specification; starts nothing. Returns the id.
    pub fn create_container(&self, _sandbox_id: &str, _config: &ContainerConfig) -> Result<String, Error> {
        unfinished()
    }

    /// Makes and starts the process.
    pub fn start_container(&self, _id: &str) -> Result<(), Error> {
        unfinished()
    }

    /// Signals its first process; an ended one is no error.
    pub fn signal_container(&self, _id: &str, _signal: i32) -> Result<(), Error> {
        unfinished()
    }

    /// Kills it if it runs, and removes all but its log and its writable layer.
    pub fn remove_container(&self, _id: &str) -> Result<(), Error> {
        unfinished()
    }

    /// All containers.
    pub fn containers(&self) -> Result<Vec<ContainerStatus>, Error> {
        unfinished()
    }

    /// One container.
    pub fn container(&self, _id: &str) -> Result<ContainerStatus, Error> {
        unfinished()
    }

    /// A further process in a running container.
    pub fn exec(&self, _id: &str, _config: &ExecConfig) -> Result<Session, Error> {
        unfinished()
    }

    /// The running container's own stdio, from now on.
    pub fn attach(&self, _id: &str, _stdin: bool) -> Result<Session, Error> {
        unfinished()
    }

    /// Sets the size of the container's own terminal.
    pub fn resize(&self, _id: &str, _size: Size) -> Result<(), Error> {
        unfinished()
    }

    /// Opens the log file anew, after somebody else rotated it.
    pub fn reopen_log(&self, _id: &str) -> Result<(), Error> {
        unfinished()
    }

    /// What the pod's cgroup has used.
    pub fn sandbox_stats(&self, _id: &str) -> Result<Stats, Error> {
        unfinished()
    }

    /// What the container's cgroup has used.
    pub fn container_stats(&self, _id: &str) -> Result<Stats, Error> {
        unfinished()
    }

    /// Changes the limits of a running container.
    pub fn update_resources(&self, _id: &str, _resources: &Resources) -> Result<(), Error> {
        unfinished()
    }

    /// Changes the limits of the pod's cgroup.
    pub fn update_sandbox_resources(&self, _id: &str, _resources: &Resources) -> Result<(), Error> {
        unfinished()
    }

    /// What happens from now on.
    pub fn events(&self) -> Result<Events, Error> {
        unfinished()
    }

    /// Removes every leftover of this instance that belongs to no sandbox in `keep`, and counts it.
    pub fn sweep(&self, _keep: &BTreeSet<String>) -> Result<SweepReport, Error> {
        unfinished()
    }

    /// Removes everything of this instance; images stay.
    pub fn purge(&self) -> Result<SweepReport, Error> {
        unfinished()
    }
}
