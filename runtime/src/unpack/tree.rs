//! Shell: a folder that is written only inside itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, makedev};
use rustix::io::Errno;

use super::{UnpackError, shown};

/// Owner, mode, time and attributes of one entry.
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// The folder that a layer is unpacked into.
pub(super) struct Tree<'a> {
    root: OwnedFd,
    parents: &'a [PathBuf],
    /// Times of folders are set last: every file in them touches them.
    times: Vec<(Vec<u8>, i64)>,
    /// The folder used last: tars list one folder's files in a row.
    recent: Option<(Vec<u8>, OwnedFd)>,
    pub(super) bytes: u64,
}

fn disk(path: &[u8]) -> impl FnOnce(Errno) -> UnpackError + '_ {
    move |errno| UnpackError::Disk { path: shown(path), source: errno.into() }
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn stamps(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

impl<'a> Tree<'a> {
    pub(super) fn open(target: &Path, parents: &'a [PathBuf]) -> Result<Self, UnpackError> {
        let root = rustix::fs::open(target, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(disk(target.as_os_str().as_bytes()))?;
        let tree = Self { root, parents, times: Vec::new(), recent: None, bytes: 0 };
        // A layer that says nothing of the root leaves it as its parent had it.
        let meta = tree.inherited(b"");
        tree.own(tree.root.as_fd(), b"/", &meta)?;
        Ok(tree)
    }

    /// Opens a folder inside the tree, following symbolic links as if the tree were the root.
    fn within(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat2(
            &self.root,
            os(path),
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// The folder at `path`, made with what is missing on the way.
    fn folder(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        if let Some((recent, fd)) = &self.recent
            && recent == path
        {
            return fd.try_clone().map_err(|source| UnpackError::Disk { path: shown(path), source });
        }
        let fd = match self.within(path) {
            Err(Errno::NOENT) => self.implicit(path)?,
            other => other.map_err(disk(path))?,
        };
        let copy = fd.try_clone().map_err(|source| UnpackError::Disk { path: shown(path), source })?;
        self.recent = Some((path.to_vec(), copy));
        Ok(fd)
    }

    fn implicit(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let mut end = 0;
        loop {
            end = path[end..].iter().position(|b| *b == b'/').map_or(path.len(), |at| end + at);
            let part = &path[..end];
            if matches!(self.within(part), Err(Errno::NOENT)) {
                let (parent, name) =
                    part.iter().rposition(|b| *b == b'/').map_or((&b""[..], part), |at| (&part[..at], &part[at + 1..]));
                let parent = self.within(parent).map_err(disk(part))?;
                rustix::fs::mkdirat(&parent, os(name), Mode::from_raw_mode(0o755)).map_err(disk(part))?;
                let made = self.within(part).map_err(disk(part))?;
                let meta = self.inherited(part);
                self.own(made.as_fd(), part, &meta)?;
            }
            if end == path.len() {
                return self.within(path).map_err(disk(path));
            }
            end += 1;
        }
    }

    /// What the uppermost parent layer that has `path` as a folder says of it.
    fn inherited(&self, path: &[u8]) -> Meta {
        let found = self.parents.iter().find_map(|parent| {
            let found = std::fs::symlink_metadata(parent.join(os(path))).ok()?;
            found.is_dir().then_some(found)
        });
        found.map_or(Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }, |found| Meta {
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            mtime: found.mtime(),
            xattrs: Vec::new(),
        })
    }

    /// Owner first: changing it clears set-uid bits and capabilities.
    fn own(&self, fd: impl AsFd, path: &[u8], meta: &Meta) -> Result<(), UnpackError> {
        let fd = fd.as_fd();
        rustix::fs::fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))).map_err(disk(path))?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode)).map_err(disk(path))?;
        for (name, value) in &meta.xattrs {
            // The layer's own overlay attributes would change what the kernel shows of other layers.
            if name.starts_with("trusted.overlay.") {
                continue;
            }
            match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
                // Labels of a security module that this kernel does not have.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(errno) => return Err(disk(path)(errno)),
            }
        }
        Ok(())
    }

    /// Removes what an earlier entry of the same layer left at this name; the later entry wins.
    fn clear(&self, folder: &OwnedFd, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        match rustix::fs::unlinkat(folder, os(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                rustix::fs::unlinkat(folder, os(name), AtFlags::REMOVEDIR).map_err(disk(path))
            }
            Err(errno) => Err(disk(path)(errno)),
        }
    }

    pub(super) fn root(&mut self, meta: Meta) -> Result<(), UnpackError> {
        self.own(self.root.as_fd(), b"/", &meta)?;
        self.times.push((Vec::new(), meta.mtime));
        Ok(())
    }

    pub(super) fn directory(&mut self, parent: &[u8], name: &[u8], meta: Meta) -> Result<(), UnpackError> {
        let (folder, path) = (self.folder(parent)?, joined(parent, name));
        match rustix::fs::mkdirat(&folder, os(name), Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&folder, os(name), AtFlags::SYMLINK_NOFOLLOW).map_err(disk(&path))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    self.clear(&folder, &path, name)?;
                    rustix::fs::mkdirat(&folder, os(name), Mode::from_raw_mode(0o700)).map_err(disk(&path))?;
                }
            }
            Err(errno) => return Err(disk(&path)(errno)),
        }
        let made = rustix::fs::openat(
            &folder,
            os(name),
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(disk(&path))?;
        self.own(&made, &path, &meta)?;
        self.times.push((path, meta.mtime));
        Ok(())
    }

    pub(super) fn file(
        &mut self,
        parent: &[u8],
        name: &[u8],
        meta: &Meta,
        content: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let (folder, path) = (self.folder(parent)?, joined(parent, name));
        self.clear(&folder, &path, name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&folder, os(name), flags, Mode::from_raw_mode(0o600)).map_err(disk(&path))?;
        let mut file = File::from(fd);
        self.bytes +=
            std::io::copy(content, &mut file).map_err(|source| UnpackError::Disk { path: shown(&path), source })?;
        self.own(file.as_fd(), &path, meta)?;
        rustix::fs::futimens(&file, &stamps(meta.mtime)).map_err(disk(&path))
    }

    pub(super) fn symlink(
        &mut self,
        parent: &[u8],
        name: &[u8],
        target: &[u8],
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        let (folder, path) = (self.folder(parent)?, joined(parent, name));
        self.clear(&folder, &path, name)?;
        rustix::fs::symlinkat(os(target), &folder, os(name)).map_err(disk(&path))?;
        self.own_by_name(&folder, &path, name, meta)
    }

    pub(super) fn hard_link(
        &mut self,
        parent: &[u8],
        name: &[u8],
        target_parent: &[u8],
        target: &[u8],
    ) -> Result<(), UnpackError> {
        let (folder, path) = (self.folder(parent)?, joined(parent, name));
        let source = self.within(target_parent).map_err(disk(&path))?;
        self.clear(&folder, &path, name)?;
        rustix::fs::linkat(&source, os(target), &folder, os(name), AtFlags::empty()).map_err(disk(&path))
    }

    pub(super) fn node(
        &mut self,
        parent: &[u8],
        name: &[u8],
        kind: FileType,
        (major, minor): (u32, u32),
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        let (folder, path) = (self.folder(parent)?, joined(parent, name));
        if kind == FileType::CharacterDevice && (major, minor) == (0, 0) {
            return Err(UnpackError::Entry { path: shown(&path), why: "a whiteout in overlayfs' own form" });
        }
        self.clear(&folder, &path, name)?;
        rustix::fs::mknodat(&folder, os(name), kind, Mode::from_raw_mode(meta.mode), makedev(major, minor))
            .map_err(disk(&path))?;
        self.own_by_name(&folder, &path, name, meta)?;
        rustix::fs::chmodat(&folder, os(name), Mode::from_raw_mode(meta.mode), AtFlags::empty()).map_err(disk(&path))
    }

    fn own_by_name(&self, folder: &OwnedFd, path: &[u8], name: &[u8], meta: &Meta) -> Result<(), UnpackError> {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::chownat(folder, os(name), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(disk(path))?;
        rustix::fs::utimensat(folder, os(name), &stamps(meta.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(disk(path))
    }

    pub(super) fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        if name.is_empty() {
            return Err(UnpackError::Entry { path: shown(parent), why: "a whiteout of nothing" });
        }
        let (folder, path) = (self.folder(parent)?, joined(parent, name));
        match rustix::fs::mknodat(&folder, os(name), FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
            // The same layer also brings a new file of this name: there is nothing left to hide below it.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(disk(&path)(errno)),
        }
    }

    pub(super) fn opaque(&mut self, parent: &[u8]) -> Result<(), UnpackError> {
        let folder = self.folder(parent)?;
        rustix::fs::fsetxattr(&folder, "trusted.overlay.opaque", b"y", XattrFlags::empty()).map_err(disk(parent))
    }

    /// Sets the folders' times and brings everything to the disk, once.
    pub(super) fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.times) {
            let folder = self.within(&path).map_err(disk(&path))?;
            rustix::fs::futimens(&folder, &stamps(mtime)).map_err(disk(&path))?;
        }
        rustix::fs::syncfs(&self.root).map_err(disk(b"/"))
    }
}
