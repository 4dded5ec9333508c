//! Shell: snapshots in a folder of this machine, or of one that is mounted.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use bramble_store::{SnapshotError, Store};

use super::names::is_ours;

/// Names and sizes of the snapshots in it; none where there is no folder.
pub fn list(dir: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let size = entry.metadata().ok()?.len();
        Some((entry.file_name().into_string().ok().filter(|name| is_ours(name))?, size))
    });
    named.collect()
}

/// Writes one under another name, and gives it its own when it is whole.
pub(super) fn save(dir: &Path, name: &str, store: &Store) -> Result<(), SnapshotError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
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
    fs::rename(&half, dir.join(name))?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// Removes one.
pub(super) fn remove(dir: &Path, name: &str) -> io::Result<()> {
    fs::remove_file(dir.join(name))
}
