//! Shell: snapshots of the running store by the clock, into a folder or a bucket: the newest are kept, older ones go.
//!
//! A snapshot has its name only when it is whole, so that no place ever shows half of one. Where a restart falls between
//! two, the next one comes when it would have come: the names tell when the last was. Each place goes by its own clock, so
//! that a bucket out of reach does not keep the folder waiting.
//!
//! * [`folder`], [`bucket`]: the places; `bucket` speaks S3's protocol itself.
//! * `names`: what a snapshot is called, and which are too many.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bramble_store::{SnapshotError, Store};
use tokio::runtime::Handle;

use crate::serve::wall_clock;

pub mod bucket;
pub mod folder;
mod names;

pub use bucket::{Bucket, BucketError};

use names::{excess, name_of, newest, time_of};

/// After a failure it is tried again so soon, or sooner where snapshots are more frequent.
const RETRY: Duration = Duration::from_secs(300);
/// An upload of this age is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// When, how many, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From one to the next.
    pub every: Duration,
    /// So many are kept; at least one.
    pub keep: usize,
    /// Where.
    pub place: Place,
}

/// Where snapshots lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Made for root alone where it is missing.
    Folder(PathBuf),
    /// It must be there.
    Bucket(Bucket),
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Folder(dir) => dir.display().fmt(formatter),
            Place::Bucket(bucket) => bucket.fmt(formatter),
        }
    }
}

/// Why there is no new snapshot, or an old one is still there.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store could not be read, or the folder not be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An old one could not be removed.
    #[error("cannot remove a former snapshot")]
    Remove(#[source] io::Error),
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// Takes snapshots for ever.
pub async fn run(store: Store, schedule: Schedule) {
    let place = &schedule.place;
    let again = RETRY.min(schedule.every);
    let mut pause = first_pause(&schedule).await.unwrap_or_else(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, %place, "cannot see former snapshots");
        again
    });
    loop {
        tokio::time::sleep(pause).await;
        let (store, task) = (store.clone(), schedule.clone());
        pause = match tokio::task::spawn_blocking(move || take(&store, &task)).await {
            Ok(Ok(name)) => {
                tracing::info!(name, %place, "snapshot saved");
                schedule.every
            }
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, %place, "no snapshot");
                again
            }
            Err(error) => {
                tracing::error!(%error, %place, "no snapshot");
                again
            }
        };
    }
}

async fn first_pause(schedule: &Schedule) -> Result<Duration, BackupError> {
    let there = match &schedule.place {
        Place::Folder(dir) => folder::list(dir),
        Place::Bucket(bucket) => bucket.list().await?,
    };
    let last = newest(there.iter().map(|(name, _)| name.as_str()));
    // A last one from the future is a clock that was wrong; then the next comes after a whole period.
    let since = last.map_or(schedule.every, |last| wall_clock().saturating_sub(Duration::from_secs(last)));
    Ok(schedule.every.saturating_sub(since))
}

/// One snapshot, and the end of those that are too many. Blocks; needs a running event loop.
fn take(store: &Store, schedule: &Schedule) -> Result<String, BackupError> {
    let now = wall_clock();
    let name = name_of(now.as_secs());
    match &schedule.place {
        Place::Folder(dir) => {
            folder::save(dir, &name, store)?;
            for old in excess(folder::list(dir), schedule.keep) {
                folder::remove(dir, &old).map_err(BackupError::Remove)?;
            }
        }
        Place::Bucket(bucket) => {
            upload(bucket, &name, store)?;
            let abandoned = now.saturating_sub(ABANDONED).as_secs();
            Handle::current().block_on(async {
                for old in excess(bucket.list().await?, schedule.keep) {
                    bucket.remove(&old).await?;
                }
                bucket.sweep(|name| time_of(name).is_some_and(|time| time < abandoned)).await
            })?;
        }
    }
    Ok(name)
}

fn upload(bucket: &Bucket, name: &str, store: &Store) -> Result<(), BackupError> {
    let mut upload = bucket.upload(name)?;
    let written = store.snapshot(&mut upload).map_err(BackupError::from);
    let finished = written.and_then(|_| upload.finish().map_err(BackupError::from));
    finished.map_err(|error| upload.abort().map_or(error, BackupError::from))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use bramble_store::{Config, Durability, Precondition, Write, inspect};

    use super::*;

    #[tokio::test]
    async fn snapshots_come_by_the_clock_and_the_newest_stay() {
        let dir = std::env::temp_dir().join(format!("bramble-backup-{}", std::process::id()));
        let store = Store::open(Config::memory()).unwrap();
        let write = Write::put("configmaps/default/a", Precondition::Absent, "1");
        store.write(vec![write], Durability::Durable).await.unwrap();
        let schedule = Schedule { every: Duration::from_secs(3600), keep: 2, place: Place::Folder(dir.clone()) };
        fs::create_dir_all(&dir).unwrap();
        let now = wall_clock().as_secs();
        for age in [7000, 9000, 12_000] {
            fs::write(dir.join(name_of(now - age)), "old").unwrap();
        }
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        assert_eq!(first_pause(&schedule).await.unwrap(), Duration::ZERO, "the last one is too old");
        let name = take(&store, &schedule).unwrap();
        assert_eq!(inspect(File::open(dir.join(&name)).unwrap()).unwrap().records, 1);
        let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<String> = entries.collect();
        left.sort();
        assert_eq!(left, [name_of(now - 7000), name, "notes.txt".into()]);
        let pause = first_pause(&schedule).await.unwrap();
        assert!(pause > Duration::from_secs(3500) && pause <= Duration::from_secs(3600), "{pause:?}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_and_leaves_nothing() {
        let store = Store::open(Config::memory()).unwrap();
        let place = Place::Folder("/proc/version/x".into());
        let schedule = Schedule { every: Duration::from_secs(1), keep: 1, place };
        assert!(matches!(take(&store, &schedule), Err(BackupError::Snapshot(SnapshotError::Io(_)))));
    }
}
