//! Shell: snapshots of the running store by the clock: the newest are kept, older ones go.
//!
//! A snapshot is written under another name and takes its own when it is whole, so that a folder never holds half of one.
//! Where a restart falls between two, the next one comes when it would have come: the names tell when the last was.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_store::{SnapshotError, Store};

use crate::serve::wall_clock;

mod names;

use names::{excess, name_of, newest};

/// After a failure it is tried again so soon, or sooner where snapshots are more frequent.
const RETRY: Duration = Duration::from_secs(300);

/// When, how many, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From one to the next.
    pub every: Duration,
    /// So many are kept; at least one.
    pub keep: usize,
    /// The folder; made for root alone where it is missing.
    pub dir: PathBuf,
}

/// Takes snapshots for ever.
pub async fn run(store: Store, schedule: Schedule) {
    let mut pause = first_pause(&schedule);
    loop {
        tokio::time::sleep(pause).await;
        let (store, task) = (store.clone(), schedule.clone());
        pause = match tokio::task::spawn_blocking(move || take(&store, &task)).await {
            Ok(Ok(path)) => {
                tracing::info!(path = %path.display(), "snapshot saved");
                schedule.every
            }
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, dir = %schedule.dir.display(), "no snapshot");
                RETRY.min(schedule.every)
            }
            Err(error) => {
                tracing::error!(%error, "no snapshot");
                RETRY.min(schedule.every)
            }
        };
    }
}

fn first_pause(schedule: &Schedule) -> Duration {
    let last = newest(&entries(&schedule.dir));
    // A last one from the future is a clock that was wrong; then the next comes after a whole period.
    let since = last.map_or(schedule.every, |last| wall_clock().saturating_sub(Duration::from_secs(last)));
    schedule.every.saturating_sub(since)
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// One snapshot, and the end of those that are too many.
fn take(store: &Store, schedule: &Schedule) -> Result<PathBuf, SnapshotError> {
    let dir = &schedule.dir;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let path = dir.join(name_of(wall_clock().as_secs()));
    let half = dir.join("snapshot.part");
    let written = File::options().create(true).truncate(true).write(true).mode(0o600).open(&half);
    let result = written.map_err(SnapshotError::from).and_then(|file| {
        let revision = store.snapshot(io::BufWriter::new(&file))?;
        file.sync_all()?;
        Ok(revision)
    });
    if let Err(error) = result {
        // A full disk gets its space back.
        let _ = fs::remove_file(&half);
        return Err(error);
    }
    fs::rename(&half, &path)?;
    File::open(dir)?.sync_all()?;
    for old in excess(&entries(dir), schedule.keep) {
        fs::remove_file(dir.join(old))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use bramble_store::{Config, Durability, Precondition, Write, inspect};

    use super::*;

    #[tokio::test]
    async fn snapshots_come_by_the_clock_and_the_newest_stay() {
        let dir = std::env::temp_dir().join(format!("bramble-backup-{}", std::process::id()));
        let store = Store::open(Config::memory()).unwrap();
        let write = Write::put("configmaps/default/a", Precondition::Absent, "1");
        store.write(vec![write], Durability::Durable).await.unwrap();
        let schedule = Schedule { every: Duration::from_secs(3600), keep: 2, dir: dir.clone() };
        fs::create_dir_all(&dir).unwrap();
        let now = wall_clock().as_secs();
        for age in [7000, 9000, 12_000] {
            fs::write(dir.join(name_of(now - age)), "old").unwrap();
        }
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        assert_eq!(first_pause(&schedule), Duration::ZERO, "the last one is too old");
        let path = take(&store, &schedule).unwrap();
        assert_eq!(inspect(File::open(&path).unwrap()).unwrap().records, 1);
        let mut left = entries(&dir);
        left.sort();
        assert_eq!(left, [name_of(now - 7000), path.file_name().unwrap().to_str().unwrap().into(), "notes.txt".into()]);
        let pause = first_pause(&schedule);
        assert!(pause > Duration::from_secs(3500) && pause <= Duration::from_secs(3600), "{pause:?}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_and_leaves_nothing() {
        let store = Store::open(Config::memory()).unwrap();
        let schedule = Schedule { every: Duration::from_secs(1), keep: 1, dir: "/proc/version/x".into() };
        assert!(matches!(take(&store, &schedule), Err(SnapshotError::Io(_))));
    }
}
