//! Shell: a directory whose content changes all at once.
//!
//! ```text
//!  volume/key        -> ..data/key
//!  volume/..data     -> ..2026_11_22_03_46_56.1   (replaced by rename)
//!  volume/..2026_11_22_03_46_56.1/key
//! ```
//! This is the layout of upstream's atomic writer, which programs that watch for changes know.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::content::{File, Files};
use super::{VolumeError, directory};

const DATA: &str = "..data";

/// Makes the volume hold exactly these files; nothing happens when it does already. Returns whether it changed.
pub(super) fn write(volume: &Path, files: &Files) -> Result<bool, VolumeError> {
    directory::make(volume, 0o755)?;
    let current = fs::read_link(volume.join(DATA)).ok().map(|target| volume.join(target));
    if current.as_deref().is_some_and(|current| holds(current, files)) {
        return Ok(false);
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = format!("..{}.{:09}", since.as_secs(), since.subsec_nanos());
    let fresh = volume.join(&stamp);
    fill(&fresh, files)?;
    let next = volume.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&stamp, &next).map_err(host("link", &next))?;
    fs::rename(&next, volume.join(DATA)).map_err(host("rename", &next))?;
    link_names(volume, files)?;
    if let Some(old) = current {
        directory::remove(&old)?;
    }
    Ok(true)
}

fn fill(dir: &Path, files: &Files) -> Result<(), VolumeError> {
    directory::make(dir, 0o755)?;
    for (name, file) in files {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            directory::make(parent, 0o755)?;
        }
        fs::write(&path, &file.bytes).map_err(host("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).map_err(host("set the mode of", &path))?;
        if file.user.is_some() || file.group.is_some() {
            chown(&path, file.user, file.group).map_err(host("give away", &path))?;
        }
    }
    Ok(())
}

/// The first components of all names are links into `..data`; links to what is gone go too.
fn link_names(volume: &Path, files: &Files) -> Result<(), VolumeError> {
    let first = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    for name in files.keys().map(|name| first(name)) {
        let link = volume.join(&name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(&name), &link).map_err(host("link", &link))?;
        }
    }
    for entry in fs::read_dir(volume).map_err(host("read", volume))?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with("..") && !files.keys().any(|known| first(known) == name) {
            fs::remove_file(entry.path()).map_err(host("remove", &entry.path()))?;
        }
    }
    Ok(())
}

fn holds(dir: &Path, files: &Files) -> bool {
    let same = |(name, file): (&String, &File)| {
        let path = dir.join(name);
        fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == file.mode)
            && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
    };
    files.iter().all(same) && count(dir) == files.len()
}

fn count(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn host(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path: PathBuf = path.to_owned();
    move |error| VolumeError::Host { what, path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { bytes: text.as_bytes().to_vec(), mode: 0o644, user: None, group: None };
        pairs.iter().map(|(name, text)| ((*name).to_owned(), file(text))).collect()
    }

    #[test]
    fn content_changes_at_once_and_old_names_go() {
        let dir = std::env::temp_dir().join(format!("bramble-writer-{}", std::process::id()));
        let volume = dir.join("v");
        assert!(write(&volume, &files(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert!(!write(&volume, &files(&[("a", "1"), ("sub/b", "2")])).unwrap(), "the same is no change");
        assert_eq!(fs::read_to_string(volume.join("sub/b")).unwrap(), "2");
        assert!(write(&volume, &files(&[("a", "3")])).unwrap());
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert!(!volume.join("sub").exists());
        let left = fs::read_dir(&volume).unwrap().count();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(left, 3, "..data, its directory, a");
    }
}
