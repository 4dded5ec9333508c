//! Pure: what is known of each attached sandbox. It is kept below the data dir: addresses that plugins gave outlive a reboot,
//! so what takes them back must too.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::records::Records;

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

/// The attachments of an instance's pods.
pub(super) fn records(data_dir: &Path) -> Records<Attachment> {
    Records::below(&data_dir.join("agent").join("cni"))
}
