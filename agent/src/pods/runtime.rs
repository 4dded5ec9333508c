//! Shell: the door to the runtime: synchronous, so every call of it is made on a blocking thread.

use std::io::Read;
use std::sync::Arc;

use bramble_runtime::image::Images as ImageStore;
use bramble_runtime::reference::Reference;
use bramble_runtime::{
    ContainerConfig, ContainerStatus, Error, Events, ExecConfig, Rootfs, Runtime, SandboxConfig, SandboxStatus,
};

/// What came of a command in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// None when nobody saw it end.
    pub code: Option<i32>,
    /// Standard output and error, at most [`MAX_EXEC_OUTPUT`] bytes.
    pub output: String,
}

/// Upstream keeps as much of a probe's output.
const MAX_EXEC_OUTPUT: u64 = 10 << 10;

/// Sandboxes and containers; see `bramble_runtime::Runtime` for what each does.
pub trait ContainerRuntime: Send + Sync {
    /// Makes and starts a sandbox.
    ///
    /// # Errors
    /// The runtime's.
    fn run_sandbox(&self, config: &SandboxConfig) -> Result<SandboxStatus, Error>;
    /// Stops a sandbox with its containers.
    ///
    /// # Errors
    /// The runtime's.
    fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Removes a sandbox with its containers.
    ///
    /// # Errors
    /// The runtime's.
    fn remove_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Every sandbox of this instance.
    ///
    /// # Errors
    /// The runtime's.
    fn sandboxes(&self) -> Result<Vec<SandboxStatus>, Error>;
    /// Replaces a dead shim.
    ///
    /// # Errors
    /// The runtime's.
    fn adopt(&self, sandbox_id: &str) -> Result<(), Error>;
    /// Mounts the image's layers and makes a container of it; `reference` is the image as written in the pod.
    ///
    /// # Errors
    /// The runtime's.
    fn create_container(&self, sandbox_id: &str, config: ContainerConfig, reference: &str) -> Result<String, Error>;
    /// Starts a container's process.
    ///
    /// # Errors
    /// The runtime's.
    fn start_container(&self, id: &str) -> Result<(), Error>;
    /// Signals a container's first process.
    ///
    /// # Errors
    /// The runtime's.
    fn signal_container(&self, id: &str, signal: i32) -> Result<(), Error>;
    /// Removes a container and what it wrote.
    ///
    /// # Errors
    /// The runtime's.
    fn remove_container(&self, id: &str) -> Result<(), Error>;
    /// Opens a log anew after it was renamed.
    ///
    /// # Errors
    /// The runtime's.
    fn reopen_log(&self, id: &str) -> Result<(), Error>;
    /// Every container of this instance.
    ///
    /// # Errors
    /// The runtime's.
    fn containers(&self) -> Result<Vec<ContainerStatus>, Error>;
    /// The sandboxes of one pod, and their containers.
    ///
    /// # Errors
    /// The runtime's.
    fn pod(&self, uid: &str) -> Result<(Vec<SandboxStatus>, Vec<ContainerStatus>), Error>;
    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// The runtime's.
    fn exec(&self, id: &str, config: &ExecConfig) -> Result<ExecOutcome, Error>;
    /// What happens from now on.
    ///
    /// # Errors
    /// The runtime's.
    fn events(&self) -> Result<Option<Events>, Error>;
}

/// The runtime of this board with its image store.
pub struct BoardRuntime {
    runtime: Arc<Runtime>,
    images: Arc<ImageStore>,
}

impl BoardRuntime {
    /// Joins the two halves.
    #[must_use]
    pub fn new(runtime: Arc<Runtime>, images: Arc<ImageStore>) -> Self {
        Self { runtime, images }
    }
}

fn refused(message: String) -> Error {
    Error::Io { what: "prepare", path: "image".into(), source: std::io::Error::other(message) }
}

impl ContainerRuntime for BoardRuntime {
    fn run_sandbox(&self, config: &SandboxConfig) -> Result<SandboxStatus, Error> {
        self.runtime.run_sandbox(config)
    }

    fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.runtime.stop_sandbox(id)
    }

    fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let of_sandbox = self.runtime.containers_of(id);
        self.runtime.remove_sandbox(id)?;
        of_sandbox.iter().try_for_each(|id| self.images.discard(id)).map_err(|error| refused(error.to_string()))
    }

    fn sandboxes(&self) -> Result<Vec<SandboxStatus>, Error> {
        self.runtime.sandboxes()
    }

    fn adopt(&self, sandbox_id: &str) -> Result<(), Error> {
        self.runtime.adopt(sandbox_id)
    }

    fn create_container(
        &self,
        sandbox_id: &str,
        mut config: ContainerConfig,
        reference: &str,
    ) -> Result<String, Error> {
        let name = Reference::parse(reference).map_err(|error| refused(error.to_string()))?.to_string();
        let image = self.images.get(&name).map_err(|error| refused(error.to_string()))?;
        let image = image.ok_or_else(|| refused(format!("image {reference} is not present")))?;
        let snapshot = self.images.prepare(&config.id, &image).map_err(|error| refused(error.to_string()))?;
        config.rootfs = Rootfs::Layers { lower: snapshot.lower, upper: snapshot.upper, work: snapshot.work };
        self.runtime.create_container(sandbox_id, &config)
    }

    fn start_container(&self, id: &str) -> Result<(), Error> {
        self.runtime.start_container(id)
    }

    fn signal_container(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.runtime.signal_container(id, signal)
    }

    fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.runtime.remove_container(id)?;
        self.images.discard(id).map_err(|error| refused(error.to_string()))
    }

    fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.runtime.reopen_log(id)
    }

    fn containers(&self) -> Result<Vec<ContainerStatus>, Error> {
        self.runtime.containers()
    }

    fn pod(&self, uid: &str) -> Result<(Vec<SandboxStatus>, Vec<ContainerStatus>), Error> {
        self.runtime.pod(uid)
    }

    fn exec(&self, id: &str, config: &ExecConfig) -> Result<ExecOutcome, Error> {
        let mut session = self.runtime.exec(id, config)?;
        drop(session.stdin.take());
        let mut output = Vec::new();
        // One after the other: a command that fills the second pipe while the first is open is ended by its time-out.
        for end in [session.stdout.take(), session.stderr.take()].into_iter().flatten() {
            let room = MAX_EXEC_OUTPUT.saturating_sub(output.len() as u64);
            let mut file = std::fs::File::from(end);
            let _ = (&mut file).take(room).read_to_end(&mut output);
            let _ = std::io::copy(&mut file, &mut std::io::sink());
        }
        let status = session.wait()?;
        Ok(ExecOutcome {
            code: status.map(|status| status.code),
            output: String::from_utf8_lossy(&output).into_owned(),
        })
    }

    fn events(&self) -> Result<Option<Events>, Error> {
        self.runtime.events().map(Some)
    }
}
