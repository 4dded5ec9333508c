//! Shell: our own state files. Each is written once, whole or not at all, by the one who knows it; a container's state
//! is what files there are:
//!
//! ```text
//!  c/<id>/record.json (agent)  ->  c/<id>/started (verb)  ->  exits/<sandbox>.<id>.exit (shim)
//!        Created                       Running                       Exited | Unknown
//!                  c/<id>/message (verb): why it could not start
//! ```

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    config::{ContainerConfig, SandboxConfig},
    error::Error,
};

/// `<sandbox>/sandbox.json`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) config: SandboxConfig,
    pub(crate) created_at: i64,
}

/// `<sandbox>/c/<id>/record.json`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) config: ContainerConfig,
    pub(crate) sandbox_id: String,
    pub(crate) created_at: i64,
    /// The user that owns its stdio, on the host.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) cgroup_path: String,
    /// Whether `rootfs` below its directory is a mount of ours.
    pub(crate) mounted: bool,
}

/// `<sandbox>/c/<id>/started`
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) started_at: i64,
    /// Field 22 of /proc/<pid>/stat, which tells the process from a later one with its number.
    pub(crate) start_time: u64,
}

/// `exits/<sandbox>.<id>.exit`
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Exit {
    /// -1: nobody saw it.
    pub(crate) code: i32,
    pub(crate) signal: i32,
    pub(crate) oom_killed: bool,
    pub(crate) finished_at: i64,
}

/// `<sandbox>/shim`
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ShimRecord {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    /// The reaper of a shared pid namespace; 0 without one.
    pub(crate) reaper: i32,
}

/// Writes beside the place and renames, so that a reader sees the old file, the new one or none.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = PathBuf::from(aside);
    // Environments hold secrets.
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&aside).and_then(|mut file| file.write_all(bytes));
    written.map_err(Error::io("write", &aside))?;
    fs::rename(&aside, path).map_err(Error::io("rename to", path))
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    write(path, &bytes)
}

/// `None` when it is missing or damaged, which a rename cannot leave.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

pub(crate) fn started(container_dir: &Path) -> Option<Started> {
    read_json(&container_dir.join("started"))
}

/// When a process was started, in clock ticks since boot; 0 when there is none.
pub(crate) fn start_time(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().nth(19).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Whether this very process still lives (a zombie does not).
pub(crate) fn alive(pid: i32, started: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    !matches!(after_name.trim_start().chars().next(), None | Some('Z' | 'X')) && start_time(pid) == started
}

/// The end of a container that nobody saw: its code is unknown.
pub(crate) fn write_unseen_end(exit: &Path) -> Result<(), Error> {
    let unseen = serde_json::json!({
        "code": -1, "signal": 0, "oom_killed": false, "finished_at": crate::shim::exit::now_ns(),
    });
    write(exit, unseen.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one() {
        let me = std::process::id() as i32;
        assert!(alive(me, start_time(me)));
        assert!(!alive(me, start_time(me) + 1));
        assert!(!alive(-1, 0));
    }
}
