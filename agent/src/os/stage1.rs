//! Shell: the first process of a boot, in the initial file system: finds the card, checks the slot's system, goes there.
//! What fails ends in a reset, so that the boot loader's counting finds a slot that works.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount, mount_move};
use rustix::system::RebootCommand;

use super::card::system_partition;
use super::console::Consoles;
use super::disk::Disk;
use super::kernel;
use super::modules;
use super::slots::Slot;

/// Where the system is put together.
const ROOT: &str = "/root";
/// Long enough to be read on a screen.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Never returns: the system runs, or the board is reset.
pub fn run() -> ! {
    let Err(error) = boot();
    Consoles::open().line(format!("bramble: this slot does not boot: {error}"));
    std::thread::sleep(LAST_WORDS);
    rustix::fs::sync();
    let _ = rustix::system::reboot(RebootCommand::Restart);
    unreachable!("a board that cannot even be reset");
}

fn boot() -> io::Result<Infallible> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(at)?;
        // devtmpfs may be there already.
        let _ = mount(kind, at, kind, MountFlags::NOSUID | MountFlags::NOEXEC, None);
    }
    for refused in modules::load_list(Path::new("/modules")) {
        Consoles::open().line(format!("bramble: module {refused}"));
    }
    let line = fs::read_to_string("/proc/cmdline")?;
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the command line has no {what}"));
    let slot = Slot::of_command_line(&line).ok_or_else(|| invalid("bramble.slot"))?;
    let tree = Tree::of_command_line(&line).ok_or_else(|| invalid("bramble.verity"))?;
    let disk = Disk::wait()?;
    let system = disk.partition(system_partition(slot))?;
    let system = system.to_string_lossy();
    let minor = kernel::map_device("system", tree.sectors(), "verity", &tree.table(&system))?;
    fs::create_dir_all(ROOT)?;
    mount(format!("/dev/dm-{minor}"), ROOT, "squashfs", MountFlags::RDONLY | MountFlags::NODEV, None)?;
    for at in ["/proc", "/sys", "/dev"] {
        mount_move(at, format!("{ROOT}{at}"))?;
    }
    // Its memory is given back before it is covered.
    fs::remove_dir_all("/modules")?;
    fs::remove_file("/init")?;
    std::env::set_current_dir(ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    Err(std::process::Command::new("/bin/bramble").arg("init").exec())
}

/// The tree of hashes over the system, by its root; from the command line, which lies with the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Tree {
    blocks: u64,
    root: String,
    salt: String,
}

/// Data and hashes are in blocks of a page.
const BLOCK: u64 = 4096;

impl Tree {
    /// `bramble.verity=BLOCKS:ROOT:SALT`.
    fn of_command_line(line: &str) -> Option<Self> {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix("bramble.verity="))?;
        let mut parts = value.split(':');
        let blocks = parts.next()?.parse().ok()?;
        let hex = |part: Option<&str>| {
            part.filter(|text| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).map(str::to_owned)
        };
        Some(Self { blocks, root: hex(parts.next())?, salt: hex(parts.next())? })
    }

    fn sectors(&self) -> u64 {
        self.blocks * BLOCK / 512
    }

    /// The target's parameters; a block that is not what it was resets the board, and the slot has lost an attempt.
    fn table(&self, device: &str) -> String {
        let Self { blocks, root, salt } = self;
        format!("1 {device} {device} {BLOCK} {BLOCK} {blocks} {blocks} sha256 {root} {salt} 1 restart_on_corruption")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_read_from_the_command_line() {
        let (root, salt) = ("ab".repeat(32), "cd".repeat(32));
        let tree = Tree::of_command_line(&format!("quiet bramble.verity=1000:{root}:{salt} panic=5")).unwrap();
        assert_eq!(tree.sectors(), 8000);
        assert_eq!(
            tree.table("/dev/vda6"),
            format!("1 /dev/vda6 /dev/vda6 4096 4096 1000 1000 sha256 {root} {salt} 1 restart_on_corruption")
        );
        for wrong in ["", "bramble.verity=", "bramble.verity=1:ab:cd", "bramble.verity=x:a:b"] {
            assert_eq!(Tree::of_command_line(wrong), None, "{wrong}");
        }
    }
}
