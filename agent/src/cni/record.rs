//! Shell: what is known of each attached sandbox, one small file each below the data dir: addresses that plugins gave outlive
//! a reboot, so what takes them back must too.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What ADD was told, and what it answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// The pod's namespace.
    pub(super) netns: PathBuf,
    /// Where the plugins were.
    pub(super) folders: Vec<PathBuf>,
    /// The network as its file had it.
    pub(super) configuration: Value,
    /// `CNI_ARGS`.
    pub(super) arguments: String,
    /// What capable plugins were told.
    pub(super) runtime: Map<String, Value>,
    /// None while ADD runs, and after a crash in it.
    pub(super) result: Option<Value>,
    /// The pod's addresses in it.
    pub(super) ips: Vec<IpAddr>,
}

/// The directory of the records.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    pub(super) fn below(data_dir: &Path) -> Self {
        Self(data_dir.join("agent").join("cni"))
    }

    /// The sandboxes that there are records of.
    pub(super) fn sandboxes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect()
    }

    /// None where there is none, or one that a power cut halved.
    pub(super) fn load(&self, sandbox_id: &str) -> Option<Attachment> {
        serde_json::from_slice(&std::fs::read(self.path(sandbox_id)).ok()?).ok()
    }

    pub(super) fn save(&self, sandbox_id: &str, attachment: &Attachment) -> io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        let aside = self.0.join(format!("{sandbox_id}.new"));
        std::fs::write(&aside, serde_json::to_vec(attachment)?)?;
        std::fs::rename(aside, self.path(sandbox_id))
    }

    pub(super) fn remove(&self, sandbox_id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(sandbox_id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn path(&self, sandbox_id: &str) -> PathBuf {
        self.0.join(format!("{sandbox_id}.json"))
    }
}
