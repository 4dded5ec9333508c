//! Shell: the few mounts that volumes need, and their end.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{VolumeError, directory};

/// A tmpfs at `path`, which executes programs (scripts from ConfigMaps), but makes no devices and honours no setuid.
/// One that is there is kept.
pub(super) fn memory(path: &Path, mode: &str, limit_bytes: Option<u64>) -> Result<(), VolumeError> {
    directory::make(path, 0o755)?;
    if is_mounted(path) {
        return Ok(());
    }
    let options = limit_bytes.map_or_else(|| format!("mode={mode}"), |limit| format!("mode={mode},size={limit}"));
    let options = CString::new(options).map_err(|error| failed("mount", path)(io::Error::other(error)))?;
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|error| failed("mount a tmpfs on", path)(error.into()))
}

/// Binds `source` (a path that is followed, `/proc/self/fd/<n>` too) on `target`.
pub(super) fn bind(source: &Path, target: &Path) -> Result<(), VolumeError> {
    rustix::mount::mount_bind_recursive(source, target).map_err(|error| failed("bind on", target)(error.into()))
}

pub(super) fn is_mounted(path: &Path) -> bool {
    mounts().iter().any(|known| known == path)
}

/// Unmounts everything at or below `root`, the deepest first.
pub(super) fn unmount_below(root: &Path) -> Result<(), VolumeError> {
    let mut below: Vec<PathBuf> = mounts().into_iter().filter(|path| path.starts_with(root)).collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in below {
        unmount(&path, UnmountFlags::DETACH).map_err(|error| failed("unmount", &path)(error.into()))?;
    }
    Ok(())
}

/// Takes the instance's tmpfs and every emptyDir in memory away.
pub(crate) fn purge(places: &super::Places) -> Result<(), VolumeError> {
    unmount_below(&places.pods)?;
    unmount_below(&places.memory)?;
    directory::remove(&places.pods)?;
    directory::remove(&places.memory)
}

/// The mount points of this namespace.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(unescape(path))).collect()
}

/// `\040` and its like.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |error| VolumeError::Host { what, path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\"), "/a b\\");
        assert!(is_mounted(Path::new("/proc")));
    }
}
