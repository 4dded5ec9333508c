//! Shell: the first partition, where a person writes what the board is to be, and secrets that come from there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{BUNDLE, SITE};
use crate::join::read_bundle;
use crate::os::card::FIRMWARE_PARTITION;
use crate::os::config::{self, Config, Mistake};
use crate::os::disk::Disk;

/// Where it is mounted, only while it is read or written.
const FIRMWARE: &str = "/firmware";

pub(super) fn with_firmware<T>(
    disk: &Disk,
    flags: MountFlags,
    work: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let device = disk.partition(FIRMWARE_PARTITION)?;
    let flags = flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    mount(&device, FIRMWARE, "vfat", flags, Some(c"umask=0077"))?;
    let result = work(Path::new(FIRMWARE));
    unmount(FIRMWARE, UnmountFlags::empty())?;
    result
}

pub(super) fn read_config(disk: &Disk) -> (Config, Vec<Mistake>) {
    use io::Read;
    let read = |folder: &Path| {
        let mut bytes = Vec::new();
        let file = fs::File::open(folder.join("bramble.toml"))?;
        file.take(config::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match with_firmware(disk, MountFlags::RDONLY, read) {
        Ok(bytes) => config::parse(&bytes),
        Err(error) => {
            let message = format!("it cannot be read: {error}");
            let cure =
                "put the file back on the card's first partition; until then this is a board of its own".to_owned();
            (Config::default(), vec![Mistake { line: 0, message, cure }])
        }
    }
}

/// Puts the join bundle where an agent reads it. One that is damaged or missing is told, and the file holds without it.
pub(super) fn take_bundle(config: &mut Config, disk: &Disk) -> Option<Mistake> {
    let name = config.controller.bundle.clone()?;
    let read = |folder: &Path| {
        read_bundle(&folder.join(&name))?;
        let mut file = private_file(Path::new(BUNDLE))?;
        io::copy(&mut fs::File::open(folder.join(&name))?, &mut file).map(drop)
    };
    let error = with_firmware(disk, MountFlags::RDONLY, read).err()?;
    config.controller.bundle = None;
    let cure = "copy the file that `bramble token create --bundle` wrote beside bramble.toml".to_owned();
    Some(Mistake { line: 0, message: format!("the join bundle {name:?}: {error}"), cure })
}

/// Puts the description of the site where a controller reads it; what is in it, the controller judges.
pub(super) fn take_site(config: &mut Config, disk: &Disk) -> Option<Mistake> {
    use io::Read;
    let name = config.site.clone()?;
    let copy = |folder: &Path| {
        // A controller takes no longer one, and says so.
        let mut file = fs::File::open(folder.join(&name))?.take(config::FILE_BYTES_MAX as u64 + 1);
        io::copy(&mut file, &mut private_file(Path::new(SITE))?).map(drop)
    };
    let error = with_firmware(disk, MountFlags::RDONLY, copy).err()?;
    config.site = None;
    let cure = "copy the file beside bramble.toml, or remove the line".to_owned();
    Some(Mistake { line: 0, message: format!("the site {name:?}: {error}"), cure })
}

pub(super) fn join_file(token: &str, pin: &str) -> io::Result<PathBuf> {
    use std::io::Write;
    let path = Path::new("/run/bramble-join");
    let mut file = private_file(path)?;
    writeln!(file, "{token}\n{pin}")?;
    Ok(path.to_owned())
}

/// Holds a secret: root's alone.
pub(super) fn private_file(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)
}
