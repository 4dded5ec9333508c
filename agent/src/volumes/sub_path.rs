//! Shell: `subPath` and `subPathExpr`: a part of a volume, from which no symbolic link leads out.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat2};

use super::{Places, VolumeError, directory, mount};
use crate::pods::spec::{Container, Pod};

/// For each mount of the container with a subPath: a bind mount of ours that stands for it. A path that a container
/// could change between check and mount would lead anywhere, so it is opened once, beneath the volume, and bound by
/// its descriptor.
pub(crate) fn resolve(
    places: &Places,
    pod: &Pod,
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    expand: &dyn Fn(&str) -> String,
) -> Result<BTreeMap<usize, PathBuf>, VolumeError> {
    let mut all = BTreeMap::new();
    for (index, wanted) in container.volume_mounts.iter().enumerate() {
        let sub_path =
            if wanted.sub_path_expr.is_empty() { wanted.sub_path.clone() } else { expand(&wanted.sub_path_expr) };
        let Some(root) = volumes.get(&wanted.name).filter(|_| !sub_path.is_empty()) else { continue };
        let found = open_beneath(root, Path::new(&sub_path)).map_err(|error| VolumeError::Host {
            what: "open subPath",
            path: root.join(&sub_path),
            error,
        })?;
        let target = places.pod(&pod.metadata.uid).join("subpaths").join(&container.name).join(index.to_string());
        prepare(&found, &target)?;
        mount::bind(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())), &target)?;
        all.insert(index, target);
    }
    Ok(all)
}

/// Opens a path beneath `root`; directories that are missing are made.
fn open_beneath(root: &Path, sub_path: &Path) -> std::io::Result<OwnedFd> {
    let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let beneath = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(&root, sub_path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath) {
        Err(rustix::io::Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let mut made = PathBuf::new();
    for component in sub_path.components() {
        let parent: OwnedFd = if made.as_os_str().is_empty() {
            rustix::io::fcntl_dupfd_cloexec(&root, 0)?
        } else {
            openat2(&root, &made, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath)?
        };
        match mkdirat(&parent, component.as_os_str(), Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        made.push(component);
    }
    let _ = CWD;
    Ok(openat2(&root, sub_path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath)?)
}

/// What is bound on must be of the same kind, and free.
fn prepare(found: &OwnedFd, target: &Path) -> Result<(), VolumeError> {
    let failed = |error: std::io::Error| VolumeError::Host { what: "prepare", path: target.to_owned(), error };
    if mount::is_mounted(target) {
        mount::unmount_below(target)?;
    }
    let meta = rustix::fs::fstat(found).map_err(|error| failed(error.into()))?;
    if rustix::fs::FileType::from_raw_mode(meta.st_mode) == rustix::fs::FileType::Directory {
        return directory::make(target, 0o750);
    }
    if let Some(parent) = target.parent() {
        directory::make(parent, 0o750)?;
    }
    std::fs::File::create(target).map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_does_not_lead_out_of_the_volume() {
        let dir = std::env::temp_dir().join(format!("bramble-subpath-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("v")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("v/out")).unwrap();
        let made = open_beneath(&dir.join("v"), Path::new("a/b")).is_ok();
        let out = open_beneath(&dir.join("v"), Path::new("out/hostname"));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(made);
        assert!(out.is_err());
    }
}
