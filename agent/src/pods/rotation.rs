//! Shell: logs of containers are rotated by size, so that a chatty container does not fill the card.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::board::Board;
use super::{ContainerRuntime, InstanceState};

/// Upstream's `containerLogMaxSize`, `containerLogMaxFiles` and `containerLogMonitorInterval`.
const MAX_BYTES: u64 = 10 << 20;
const MAX_FILES: usize = 5;
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Looks at the logs of running containers for ever; a look is one `stat` a container.
pub(super) async fn run(board: Arc<Board>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut running = Vec::new();
        for pod in board.table.pods() {
            let instances = pod.containers.iter().filter_map(|container| container.current.as_ref());
            let alive = instances.filter(|one| one.state == InstanceState::Running);
            running.extend(alive.map(|one| (one.id.clone(), one.log_path.clone())));
        }
        if running.is_empty() {
            continue;
        }
        let stamp = super::time::rfc3339(board.now_ms()).replace(['-', ':'], "").replace('T', "-");
        let looked = board.blocking(move |runtime| {
            for (id, log) in running {
                if fs::metadata(&log).is_ok_and(|meta| meta.len() >= MAX_BYTES) {
                    rotate(runtime, &id, &log, stamp.trim_end_matches('Z'));
                }
            }
            Ok(())
        });
        if let Err(error) = looked.await {
            warn!(%error, "rotating logs");
        }
    }
}

fn rotate(runtime: &dyn ContainerRuntime, id: &str, log: &Path, stamp: &str) {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    let rotated = PathBuf::from(name);
    if let Err(error) = fs::rename(log, &rotated) {
        return warn!(log = %log.display(), %error, "rotating a log");
    }
    if let Err(error) = runtime.reopen_log(id) {
        // The container goes on writing to the file under its former name.
        let _ = fs::rename(&rotated, log);
        return warn!(log = %log.display(), error = %error.chain(), "reopening a log");
    }
    for old in surplus(rotated_files(log)) {
        debug!(log = %old.display(), "removing an old log");
        let _ = fs::remove_file(old);
    }
}

/// The rotated files of a log: its name, a dot, and a stamp.
fn rotated_files(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let of_log =
        entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)));
    of_log.map(|entry| entry.path()).collect()
}

/// Beside the log itself so many rotated files stay; stamps sort by age.
fn surplus(mut rotated: Vec<PathBuf>) -> Vec<PathBuf> {
    rotated.sort();
    rotated.truncate(rotated.len().saturating_sub(MAX_FILES - 1));
    rotated
}

/// Removes a log with everything that was rotated off it.
pub(super) fn remove(log: &Path) {
    for file in rotated_files(log) {
        let _ = fs::remove_file(file);
    }
    let _ = fs::remove_file(log);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_go() {
        let files: Vec<PathBuf> = (0..6).map(|n| PathBuf::from(format!("/l/0.log.2026112{n}-000000"))).collect();
        let gone = surplus(files.clone());
        assert_eq!(gone, files[..2]);
        assert!(surplus(files[..3].to_vec()).is_empty());
    }
}
