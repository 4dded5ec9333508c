//! Shell: directories of volumes, their owners, and what a hostPath must be.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::VolumeError;

fn host(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |error| VolumeError::Host { what, path, error }
}

/// Makes a directory with this mode, whatever the umask; one that is there stays as it is.
pub(super) fn make(path: &Path, mode: u32) -> Result<(), VolumeError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(host("make", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(host("set the mode of", path))
}

/// Removes a tree; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(host("remove", path)(error)),
        _ => Ok(()),
    }
}

/// fsGroup: the group owns everything, may write it, and what is made later belongs to it too. A root that is right
/// already is taken as right throughout (upstream's OnRootMismatch), because a card may hold millions of files.
pub(super) fn give_to_group(path: &Path, group: u32) -> Result<(), VolumeError> {
    let meta = fs::metadata(path).map_err(host("look at", path))?;
    if meta.gid() == group && meta.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(host("read", path))?.flatten() {
        let kind = entry.file_type().map_err(host("look at", path))?;
        let child = entry.path();
        if kind.is_dir() {
            give_to_group(&child, group)?;
        } else if kind.is_file() {
            chown(&child, None, Some(group)).map_err(host("give away", &child))?;
            let mode = entry.metadata().map_err(host("look at", &child))?.mode() | 0o660;
            fs::set_permissions(&child, fs::Permissions::from_mode(mode)).map_err(host("set the mode of", &child))?;
        }
    }
    chown(path, None, Some(group)).map_err(host("give away", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() | 0o2770)).map_err(host("set the mode of", path))
}

/// Checks (or makes) what `hostPath.type` asks for.
pub(super) fn host_path(volume: &str, source: &Value) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(source["path"].as_str().unwrap_or("/"));
    let kind = source["type"].as_str().unwrap_or_default();
    if kind == "DirectoryOrCreate" {
        make(&path, 0o755)?;
    }
    if kind == "FileOrCreate" && !path.exists() {
        fs::File::create(&path).map_err(host("make", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(host("set the mode of", &path))?;
    }
    let found = fs::metadata(&path).map(|meta| meta.file_type()).ok();
    let (fits, what) = match kind {
        "Directory" | "DirectoryOrCreate" => (found.is_some_and(|found| found.is_dir()), "a directory"),
        "File" | "FileOrCreate" => (found.is_some_and(|found| found.is_file()), "a file"),
        "Socket" => (found.is_some_and(|found| found.is_socket()), "a socket file"),
        "CharDevice" => (found.is_some_and(|found| found.is_char_device()), "a character device"),
        "BlockDevice" => (found.is_some_and(|found| found.is_block_device()), "a block device"),
        _ => {
            // As container runtimes do: what is not there becomes a directory.
            make_if_absent(&path)?;
            (true, "")
        }
    };
    if fits {
        return Ok(path);
    }
    let message = format!("hostPath type check failed: {} is not {what}", path.display());
    Err(VolumeError::Missing { volume: volume.to_owned(), message })
}

fn make_if_absent(path: &Path) -> Result<(), VolumeError> {
    if path.symlink_metadata().is_ok() { Ok(()) } else { make(path, 0o755) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_path_must_be_what_it_says() {
        assert!(host_path("v", &json!({"path": "/proc", "type": "Directory"})).is_ok());
        let error = host_path("v", &json!({"path": "/proc/version", "type": "Directory"})).unwrap_err();
        assert!(error.to_string().ends_with("hostPath type check failed: /proc/version is not a directory"));
        assert!(host_path("v", &json!({"path": "/dev/null", "type": "CharDevice"})).is_ok());
    }
}
