//! Shell: mounting containers' root file systems, and what must be done in one before it is used.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags},
};

use crate::{
    config::{IdMap, Mount},
    error::Error,
};

/// Largest passwd or group file that is read.
const ACCOUNTS_MAX: u64 = 1 << 20;

/// Mounts an overlay. Each layer is a parameter of its own: `mount(2)`'s one page ends at about 80 layers.
pub(crate) fn mount_overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
    userns: Option<(IdMap, PathBuf)>,
) -> Result<(), Error> {
    for dir in [upper, work, target] {
        fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
    }
    // The mark of an earlier volatile mount, by which the kernel refuses a second one.
    let _ = fs::remove_dir_all(work.join("work/incompat"));
    let mut mapped = Mapped::default();
    if let Some((map, namespace)) = userns {
        for dir in [upper, work] {
            std::os::unix::fs::chown(dir, Some(map.host_id), Some(map.host_id)).map_err(Error::io("chown", dir))?;
        }
        let namespace = fs::File::open(&namespace).map_err(Error::io("open", &namespace))?;
        for (at, layer) in lower.iter().enumerate() {
            let place = target.with_file_name(format!("layer-{at}"));
            mapped.add(layer, place, &namespace).map_err(|e| Error::io("map the owners of", layer)(e.into()))?;
        }
    }
    let lower = if mapped.0.is_empty() { lower } else { &mapped.0 };
    let mounted = overlay(lower, upper, work)
        .and_then(|fd| rustix::mount::move_mount(fd, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH))
        .or_else(|new| overlay_of_one_page(lower, upper, work, target).map_err(|_| new));
    mounted.map_err(|e| Error::io("mount overlay at", target)(e.into()))
}

/// Before Linux 6.8 there is no `lowerdir+`, and all layers must go into one string.
fn overlay_of_one_page(lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let data = |lower: &[String]| {
        let lower = lower.join(":");
        format!("lowerdir={lower},upperdir={},workdir={},volatile", upper.display(), work.display())
    };
    let mut text = data(&lower.iter().map(|layer| layer.to_string_lossy().into_owned()).collect::<Vec<_>>());
    // Many layers with long names: by their descriptors, whose names are short. They need to be open only now.
    let mut open = Vec::new();
    if text.len() >= rustix::param::page_size() {
        for layer in lower {
            open.push(rustix::fs::open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
        }
        text = data(&open.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect::<Vec<_>>());
    }
    let data = std::ffi::CString::new(text).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount("overlay", target, "overlay", rustix::mount::MountFlags::empty(), data.as_c_str())
}

/// Layers whose owners are shifted into a user namespace, mounted as long as it takes to make the overlay, which keeps
/// mounts of its own.
#[derive(Default)]
struct Mapped(Vec<PathBuf>);

impl Mapped {
    fn add(&mut self, layer: &Path, place: PathBuf, userns: &fs::File) -> rustix::io::Result<()> {
        use std::os::fd::AsRawFd;
        let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE | rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, layer, flags)?;
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: userns.as_raw_fd() as u64,
        };
        // SAFETY: the path is empty and NUL-terminated, and the size is that of the structure.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if result < 0 {
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            return Err(rustix::io::Errno::from_raw_os_error(errno));
        }
        let _ = fs::create_dir(&place);
        rustix::mount::move_mount(tree, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        self.0.push(place);
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for place in &self.0 {
            unmount(place);
            let _ = fs::remove_dir(place);
        }
    }
}

fn overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = &context;
    let set = |key: &str, path: &Path| rustix::mount::fsconfig_set_string(context, key, path);
    for layer in lower {
        set("lowerdir+", layer)?;
    }
    set("upperdir", upper)?;
    set("workdir", work)?;
    // A container's own layer dies with it and never outlives a boot. Without this, each unmount syncs the whole file
    // system below: tens of milliseconds here, seconds and wear on a card.
    rustix::mount::fsconfig_set_flag(context, "volatile")?;
    rustix::mount::fsconfig_create(context)?;
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Unmounts whatever is stacked on a path; a path that is no mount is fine. Returns how many went.
pub(crate) fn unmount(target: &Path) -> usize {
    let mut count = 0;
    while count < 64 && rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {
        count += 1;
    }
    count
}

/// Every mount point at or below a directory, deepest first.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// mountinfo writes blanks and backslashes as octal.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn open_in(root: &Path, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let dir = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A text file of an image, resolved as if its root were ours; a missing one is empty.
pub(crate) fn read_in(root: &Path, path: &str) -> String {
    use io::Read;
    let Ok(fd) = open_in(root, path, OFlags::RDONLY | OFlags::NONBLOCK) else { return String::new() };
    let mut text = Vec::new();
    let _ = fs::File::from(fd).take(ACCOUNTS_MAX).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Makes the directory that the program starts in, in the image or in the volume that lies there.
pub(crate) fn make_working_dir(root: &Path, mounts: &[Mount], path: &str, owner: (u32, u32)) -> Result<(), Error> {
    let wanted = Path::new(path);
    if path.is_empty() || !wanted.is_absolute() {
        return Ok(());
    }
    let under = mounts.iter().filter(|m| wanted.starts_with(&m.target) && m.source.is_dir() && !m.readonly);
    let volume = under.max_by_key(|m| m.target.components().count());
    let (root, rest) = match volume {
        Some(mount) => (mount.source.as_path(), wanted.strip_prefix(&mount.target).unwrap_or(wanted)),
        None => (root, wanted),
    };
    make_dirs(root, rest, owner).map_err(|e| Error::io("make the working directory", path)(e.into()))
}

fn make_dirs(root: &Path, path: &Path, owner: (u32, u32)) -> rustix::io::Result<()> {
    let mut done = String::new();
    for part in path.components() {
        let Component::Normal(part) = part else { continue };
        let part = part.to_str().ok_or(rustix::io::Errno::ILSEQ)?;
        let parent = open_in(root, &done, OFlags::RDONLY | OFlags::DIRECTORY)?;
        done = format!("{done}/{part}");
        match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
                rustix::fs::chownat(&parent, part, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
