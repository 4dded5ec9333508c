//! Shell: a pod's volumes: made before its containers, kept up to date while it lives, gone with it.
//!
//! Volumes with content of the API (configMap, secret, projected, downwardAPI) lie in one tmpfs of the instance, so
//! that no secret touches the card and no mount is needed for each; their content changes atomically (`..data`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::instance::Instance;
use crate::pods::env::{Facts, Sources};
use crate::pods::spec::Pod;

mod content;
mod directory;
mod mount;
mod sub_path;
mod token;
mod writer;

pub(crate) use content::references;
pub(crate) use sub_path::resolve as resolve_sub_paths;
pub(crate) use token::Tokens;

/// Where volumes lie.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// `<data-dir>/agent/pods`: emptyDir, /etc/hosts, termination messages.
    pub(crate) pods: PathBuf,
    /// `<run-dir>/volumes`, a tmpfs of ours: content of the API.
    pub(crate) memory: PathBuf,
}

impl Places {
    /// Those of an instance.
    pub(crate) fn of(instance: &Instance) -> Self {
        Self { pods: instance.data_dir.join("agent/pods"), memory: instance.run_dir.join("volumes") }
    }

    /// The pod's directory on disk.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// Makes what every pod needs.
    pub(crate) fn prepare(&self) -> Result<(), VolumeError> {
        directory::make(&self.pods, 0o750)?;
        mount::memory(&self.memory, "0755", None)
    }
}

/// Why a volume is not there; Display is the message of the event `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// A ConfigMap or Secret that is not optional does not exist, or lacks a key.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    Missing { volume: String, message: String },
    /// The host refused.
    #[error("{what} {path}: {error}")]
    Host { what: &'static str, path: PathBuf, error: std::io::Error },
}

/// Sets all volumes of the pod up, or brings them up to date, and answers where each lies. Idempotent. Blocks.
pub(crate) fn set_up(
    places: &Places,
    pod: &Pod,
    sources: &Sources,
    facts: &Facts,
    tokens: &BTreeMap<(String, String), String>,
) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let uid = &pod.metadata.uid;
    let mut all = BTreeMap::new();
    for volume in &pod.spec.volumes {
        let name = volume["name"].as_str().unwrap_or_default();
        let path = if let Some(host_path) = volume.get("hostPath") {
            directory::host_path(name, host_path)?
        } else if let Some(files) = content::files(pod, volume, sources, facts, tokens)? {
            let path = places.memory.join(uid).join(name);
            writer::write(&path, &files)?;
            path
        } else if volume.get("emptyDir").is_some() || volume.get("ephemeral").is_some() {
            let path = places.pod(uid).join("volumes").join(name);
            empty_dir(&path, &volume["emptyDir"], pod)?;
            path
        } else {
            let message = "no volume plugin matched".to_owned();
            return Err(VolumeError::Missing { volume: name.to_owned(), message });
        };
        all.insert(name.to_owned(), path);
    }
    Ok(all)
}

fn empty_dir(path: &Path, spec: &Value, pod: &Pod) -> Result<(), VolumeError> {
    directory::make(path, 0o777)?;
    if spec["medium"] == "Memory" {
        let limit = crate::pods::quantity::units(&spec["sizeLimit"]).filter(|limit| *limit > 0);
        mount::memory(path, "0777", limit.and_then(|limit| u64::try_from(limit).ok()))?;
    }
    match pod.spec.security_context.fs_group {
        Some(group) => directory::give_to_group(path, group),
        None => Ok(()),
    }
}

/// Takes away whatever volumes of this instance stand on the host: mounts, directories, the tmpfs. For `bramble down`.
///
/// # Errors
/// The host's; nothing that was there before is touched.
pub fn purge(instance: &Instance) -> std::io::Result<()> {
    let places = Places::of(instance);
    mount::purge(&places).map_err(std::io::Error::other)
}

/// Removes everything of a pod; what is not there is no error.
pub(crate) fn tear_down(places: &Places, uid: &str) -> Result<(), VolumeError> {
    for root in [places.pod(uid), places.memory.join(uid)] {
        mount::unmount_below(&root)?;
        directory::remove(&root)?;
    }
    Ok(())
}

/// The uids of pods that have something here, for the sweep after a restart.
pub(crate) fn known(places: &Places) -> Vec<String> {
    let mut all = Vec::new();
    for root in [&places.pods, &places.memory] {
        let Ok(entries) = std::fs::read_dir(root) else { continue };
        all.extend(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()));
    }
    all.sort();
    all.dedup();
    all
}

/// Writes a file that belongs to the pod itself, in place, because it is bind mounted as a file.
pub(crate) fn own_file(path: &Path, text: &str) -> Result<(), VolumeError> {
    let host = |error| VolumeError::Host { what: "write", path: path.to_owned(), error };
    if let Some(dir) = path.parent() {
        directory::make(dir, 0o755)?;
    }
    if std::fs::read_to_string(path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    std::fs::write(path, text).map_err(host)
}

/// An object of the API, absent or present.
pub(crate) type Found = Option<Arc<Value>>;
