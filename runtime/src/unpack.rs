//! Shell: a layer's tar stream into a folder, without a temporary archive and without leaving that folder.
//!
//! Every path is resolved by the kernel inside the target (`openat2` with `RESOLVE_IN_ROOT`), so no entry, link or
//! dangling symbolic link of a hostile image reaches the host. Deletions become overlayfs' own whiteouts (OCI image
//! specification, "Layer Filesystem Changeset"). Names and sizes are bounded before they are parsed.

mod stream;
mod tree;

use std::io::Read;
use std::path::{Path, PathBuf};

use tar::EntryType;

use crate::reference::Digest;
use stream::LayerStream;
use tree::{Meta, Tree};

/// More files than any sane layer has; a full Debian with desktop has 300 thousand.
const ENTRIES_MAX: u64 = 2_000_000;
/// Long names and PAX records of one entry: `PATH_MAX` is 4 KiB, attributes at most 64 KiB each.
const EXTENSION_MAX_BYTES: u64 = 1 << 20;

/// What one layer is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Digest of the bytes on the wire; absent for archives that do not say.
    pub digest: Option<Digest>,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
}

/// Why a layer was not unpacked; nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Reading failed: the transport's error, or damaged compression or tar framing.
    #[error("layer stream")]
    Stream(#[source] std::io::Error),
    /// The bytes are others than promised.
    #[error("layer digest is {found}, the manifest promises {expected}")]
    Digest {
        /// What the manifest or the configuration says.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// An entry that no honest layer has.
    #[error("layer entry {path:?}: {why}")]
    Entry {
        /// The entry's name, shortened.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk.
    #[error("cannot write {path:?}")]
    Disk {
        /// Which entry.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Unpacks one layer below `target`, an existing empty folder. `parents`, uppermost first, lend their modes and owners to folders
/// that the layer uses without naming them. Returns the number of file bytes written.
///
/// # Errors
/// See [`UnpackError`]; the caller removes `target`.
pub fn unpack(layer: impl Read, target: &Path, parents: &[PathBuf], expected: &Expected) -> Result<u64, UnpackError> {
    let mut stream = LayerStream::new(layer).map_err(UnpackError::Stream)?;
    let mut tree = Tree::open(target, parents)?;
    entries(&mut stream, &mut tree)?;
    tree.finish()?;
    let (wire, diff) = stream.finish().map_err(UnpackError::Stream)?;
    for (expected, found) in [(expected.digest.as_ref(), wire), (Some(&expected.diff_id), diff)] {
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            return Err(UnpackError::Digest { expected: expected.clone(), found });
        }
    }
    Ok(tree.bytes)
}

/// What `L`, `K` and `x` entries say about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    xattrs: Vec<(String, Vec<u8>)>,
    oversize: bool,
}

fn entries(stream: &mut LayerStream<impl Read>, tree: &mut Tree) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(stream);
    let mut extensions = Extensions::default();
    let mut count = 0;
    for entry in archive.entries().map_err(UnpackError::Stream)?.raw(true) {
        let mut entry = entry.map_err(UnpackError::Stream)?;
        count += 1;
        if count > ENTRIES_MAX {
            return Err(UnpackError::Entry { path: String::new(), why: "the layer has too many entries" });
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => extensions.path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => extensions.link = Some(long_name(&mut entry)?),
            EntryType::XHeader => pax(&extension(&mut entry)?, &mut extensions),
            EntryType::XGlobalHeader => {}
            _ => place(&mut entry, std::mem::take(&mut extensions), tree)?,
        }
    }
    Ok(())
}

fn extension(entry: &mut impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    entry.take(EXTENSION_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(UnpackError::Stream)?;
    if bytes.len() as u64 > EXTENSION_MAX_BYTES {
        return Err(UnpackError::Entry { path: String::new(), why: "its extended header is larger than 1 MiB" });
    }
    Ok(bytes)
}

fn long_name(entry: &mut impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut name = extension(entry)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn pax(records: &[u8], extensions: &mut Extensions) {
    for record in tar::PaxExtensions::new(records).flatten() {
        match record.key_bytes() {
            b"path" => extensions.path = Some(record.value_bytes().to_vec()),
            b"linkpath" => extensions.link = Some(record.value_bytes().to_vec()),
            b"size" => extensions.oversize = true,
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.".as_slice())
                    && let Ok(name) = std::str::from_utf8(name)
                {
                    extensions.xattrs.push((name.to_owned(), record.value_bytes().to_vec()));
                }
            }
        }
    }
}

fn place(entry: &mut tar::Entry<'_, impl Read>, extensions: Extensions, tree: &mut Tree) -> Result<(), UnpackError> {
    let header = entry.header();
    let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extensions.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let bad = |why| UnpackError::Entry { path: shown(&path), why };
    // A PAX size only stands where the header's twelve octal digits are too short.
    if extensions.oversize && header.size().unwrap_or(0) == 0 && header.entry_type().is_file() {
        return Err(bad("files over 8 GiB are not supported"));
    }
    let number = |value: std::io::Result<u64>| value.ok().and_then(|value| u32::try_from(value).ok());
    let meta = Meta {
        mode: header.mode().map_err(|_| bad("its mode is no number"))? & 0o7777,
        uid: number(header.uid()).ok_or_else(|| bad("its owner is no user id"))?,
        gid: number(header.gid()).ok_or_else(|| bad("its group is no group id"))?,
        mtime: i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0),
        xattrs: extensions.xattrs,
    };
    let device = (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0));
    let Some((parent, name)) = split(&path).map_err(bad)? else {
        return if header.entry_type().is_dir() { tree.root(meta) } else { Err(bad("it would replace the root")) };
    };
    let link = || link.as_deref().ok_or_else(|| bad("a link without a target"));
    match header.entry_type() {
        _ if name == b".wh..wh..opq" => tree.opaque(&parent),
        _ if name.starts_with(b".wh..wh.") => Ok(()),
        _ if name.starts_with(b".wh.") => tree.whiteout(&parent, &name[4..]),
        EntryType::Directory => tree.directory(&parent, &name, meta),
        EntryType::Regular | EntryType::Continuous => tree.file(&parent, &name, &meta, entry),
        EntryType::Symlink => tree.symlink(&parent, &name, link()?, &meta),
        EntryType::Link => match split(link()?).map_err(bad)? {
            Some((target_parent, target)) => tree.hard_link(&parent, &name, &target_parent, &target),
            None => Err(bad("a hard link to the root")),
        },
        EntryType::Char => tree.node(&parent, &name, rustix::fs::FileType::CharacterDevice, device, &meta),
        EntryType::Block => tree.node(&parent, &name, rustix::fs::FileType::BlockDevice, device, &meta),
        EntryType::Fifo => tree.node(&parent, &name, rustix::fs::FileType::Fifo, (0, 0), &meta),
        _ => Err(bad("an entry type that layers do not have")),
    }
}

/// Folder and last component, both relative; `None` is the root itself.
type Split = Option<(Vec<u8>, Vec<u8>)>;

fn split(path: &[u8]) -> Result<Split, &'static str> {
    if path.len() > 4096 || path.contains(&0) {
        return Err("its name is longer than the kernel allows, or holds a zero byte");
    }
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&b"..".as_slice()) {
        return Err("its name leaves the image");
    }
    let Some(name) = parts.pop() else { return Ok(None) };
    Ok(Some((parts.join(&b'/'), name.to_vec())))
}

/// A name for an error message.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(256)]).into_owned()
}

#[cfg(test)]
mod tests;
