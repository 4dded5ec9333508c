//! Shell: the door of the runtime: sandboxes, containers, sessions, events.
//!
//! Every call may block; call it from a blocking thread. Nothing here forks or calls libcontainer: it starts verbs and
//! asks shims.

mod containers;
mod dev;
mod events;
mod sandboxes;
mod shims;
mod streams;
mod sweep;

use std::{
    collections::BTreeMap,
    fs,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

pub use self::events::Events;
use crate::{
    cgroup::Hierarchy,
    error::Error,
    host::Host,
    layout::Layout,
    record::{self, ContainerRecord, SandboxRecord},
    status::SweepReport,
};

/// This binary, also after its file was replaced by an update.
const PROGRAM: &str = "/proc/self/exe";

/// A new unique id for a sandbox or a container: 32 hex digits.
pub fn new_id() -> String {
    let mut bytes = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).expect("the kernel has randomness");
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// One instance's sandboxes and containers.
#[derive(Debug)]
pub struct Runtime {
    layout: Layout,
    host: Host,
    program: PathBuf,
    source: Arc<events::Source>,
    sandboxes: Mutex<BTreeMap<String, Arc<SandboxRecord>>>,
    containers: Mutex<BTreeMap<String, Arc<ContainerRecord>>>,
    /// Second holders of terminals' masters and of stdin's writing ends, so that they outlive a shim.
    keepers: Mutex<BTreeMap<String, OwnedFd>>,
    adopting: Mutex<()>,
    exit_info: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these maps whole: each change is one call.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Runtime {
    /// Takes over what an earlier process of this instance left running; dead shims are replaced.
    pub fn open(layout: Layout) -> Result<Runtime, Error> {
        Runtime::open_with(layout, true)
    }

    /// As `open`, but never asks the kernel for the exit code of an adopted process, as before Linux 6.15.
    pub fn open_without_exit_info(layout: Layout) -> Result<Runtime, Error> {
        Runtime::open_with(layout, false)
    }

    fn open_with(layout: Layout, exit_info: bool) -> Result<Runtime, Error> {
        let host = Host::read();
        forget_earlier_boot(&layout, &host.hierarchy)?;
        for dir in [layout.sandboxes_dir(), layout.exits_dir()] {
            // A container's root in a user namespace passes through on its way to its rootfs; it can list nothing.
            let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&dir);
            made.map_err(Error::io("make", &dir))?;
        }
        let runtime = Runtime {
            source: events::Source::new(&layout.exits_dir())?,
            layout,
            host,
            program: PROGRAM.into(),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            keepers: Mutex::default(),
            adopting: Mutex::default(),
            exit_info,
        };
        runtime.load();
        runtime.readopt();
        Ok(runtime)
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What happens from now on. There is one queue: one reader.
    pub fn events(&self) -> Result<Events, Error> {
        Ok(self.source.events())
    }

    fn load(&self) {
        for sandbox_dir in subdirectories(&self.layout.sandboxes_dir()) {
            let Some(record) = record::read_json::<SandboxRecord>(&sandbox_dir.join("sandbox.json")) else { continue };
            for container_dir in subdirectories(&sandbox_dir.join("c")) {
                let record: Option<ContainerRecord> = record::read_json(&container_dir.join("record.json"));
                if let Some(record) = record {
                    locked(&self.containers).insert(record.config.id.clone(), Arc::new(record));
                }
            }
            locked(&self.sandboxes).insert(record.config.id.clone(), Arc::new(record));
        }
    }

    fn readopt(&self) {
        let ids: Vec<String> = locked(&self.sandboxes).keys().cloned().collect();
        for id in ids {
            match self.shim_alive(&id) {
                Some(shim) => self.source.watch_shim(&id, shim.pid),
                None => {
                    if let Err(error) = self.adopt(&id) {
                        tracing::warn!(sandbox_id = id, error = error.chain(), "sandbox not adopted");
                    }
                }
            }
        }
        for (id, container) in self.container_records() {
            if container.config.tty || container.config.stdin {
                self.keep(&id, &container);
            }
        }
    }

    fn sandbox_record(&self, id: &str) -> Result<Arc<SandboxRecord>, Error> {
        let found = locked(&self.sandboxes).get(id).cloned();
        found.ok_or_else(|| Error::NotFound { what: "sandbox", id: id.to_string() })
    }

    fn container_record(&self, id: &str) -> Result<Arc<ContainerRecord>, Error> {
        let found = locked(&self.containers).get(id).cloned();
        found.ok_or_else(|| Error::NotFound { what: "container", id: id.to_string() })
    }

    fn container_records(&self) -> Vec<(String, Arc<ContainerRecord>)> {
        locked(&self.containers).iter().map(|(id, record)| (id.clone(), Arc::clone(record))).collect()
    }

    fn exit_path(&self, sandbox_id: &str, id: &str) -> PathBuf {
        self.layout.exits_dir().join(format!("{sandbox_id}.{id}.exit"))
    }
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// No container survives a boot; what a run dir on a disk says about an earlier one is history.
fn forget_earlier_boot(layout: &Layout, hierarchy: &Hierarchy) -> Result<(), Error> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let file = layout.run_dir.join("boot_id");
    if fs::read_to_string(&file).is_ok_and(|old| old == boot_id) {
        return Ok(());
    }
    // After a boot only files are there. Where the mark itself was lost there may be more, and nobody owns it.
    sweep::clear(hierarchy, layout, &mut SweepReport::default())?;
    fs::create_dir_all(&layout.run_dir).map_err(Error::io("make", &layout.run_dir))?;
    record::write(&file, boot_id.as_bytes())
}
