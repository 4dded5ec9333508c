//! Shell: writes an image to a card in this computer, reads it back, and refuses disks that are in use.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use rustix::fs::Advice;

use super::kernel;

const PIECE_BYTES: usize = 4 << 20;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a card was not flashed.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// The image cannot be read.
    #[error("the image: {0}")]
    Image(io::Error),
    /// It is no disk.
    #[error("{0} is no disk: name the whole card, such as /dev/sdb or /dev/mmcblk0")]
    NoDisk(PathBuf),
    /// Something uses it.
    #[error("{device} is in use ({why}): unmount it, or name another disk; nothing was written")]
    InUse {
        /// The disk.
        device: PathBuf,
        /// By what.
        why: String,
    },
    /// It is too small.
    #[error("the image has {needed} bytes, the card {found}")]
    TooSmall {
        /// The image's length.
        needed: u64,
        /// The card's.
        found: u64,
    },
    /// The card refused.
    #[error("the card: {0}")]
    Card(io::Error),
    /// It keeps something else than what was written.
    #[error("the card does not keep what is written to it (first at byte {0}); use another one")]
    Worn(u64),
}

/// What `flash` tells while it works: bytes done, and whether it reads back by now.
pub type Progress<'a> = &'a mut dyn FnMut(u64, bool);

/// Writes an image, compressed with zstd or not, to a whole disk, and compares. Answers the bytes written.
///
/// # Errors
/// [`FlashError`]; the disk is untouched where it says so.
pub fn flash(image: &Path, device: &Path, progress: Progress<'_>) -> Result<u64, FlashError> {
    refuse_what_is_in_use(device)?;
    let length = File::open(image).and_then(|file| file.metadata()).map_err(FlashError::Image)?.len();
    let card = File::options().read(true).write(true).open(device).map_err(FlashError::Card)?;
    let room = kernel::device_bytes(&card).map_err(|_| FlashError::NoDisk(device.to_owned()))?;
    let mut source = open(image)?;
    if length > room {
        return Err(FlashError::TooSmall { needed: length, found: room });
    }
    let mut piece = vec![0; PIECE_BYTES];
    let (mut at, mut digests) = (0, Vec::new());
    loop {
        let filled = fill(&mut source, &mut piece).map_err(FlashError::Image)?;
        if filled == 0 {
            break;
        }
        if at + filled as u64 > room {
            return Err(FlashError::TooSmall { needed: at + filled as u64, found: room });
        }
        card.write_all_at(&piece[..filled], at).map_err(FlashError::Card)?;
        digests.push((filled, digest(&piece[..filled])));
        at += filled as u64;
        progress(at, false);
    }
    card.sync_all().map_err(FlashError::Card)?;
    // What is compared must come from the card, not from memory.
    let _ = rustix::fs::fadvise(&card, 0, None, Advice::DontNeed);
    let mut checked = 0;
    for (length, written) in digests {
        card.read_exact_at(&mut piece[..length], checked).map_err(FlashError::Card)?;
        if digest(&piece[..length]) != written {
            return Err(FlashError::Worn(checked));
        }
        checked += length as u64;
        progress(checked, true);
    }
    Ok(at)
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    context.finish().as_ref().to_vec()
}

fn open(image: &Path) -> Result<Box<dyn Read>, FlashError> {
    let file = File::open(image).map_err(FlashError::Image)?;
    let mut magic = [0; 4];
    let _ = file.read_at(&mut magic, 0).map_err(FlashError::Image)?;
    if magic != ZSTD_MAGIC {
        return Ok(Box::new(file));
    }
    let broken = |error| FlashError::Image(io::Error::new(io::ErrorKind::InvalidData, format!("{error}")));
    Ok(Box::new(ruzstd::decoding::StreamingDecoder::new(file).map_err(broken)?))
}

fn fill(source: &mut dyn Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match source.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A disk of which a file system or swap is in use, the running system's among them, is refused, and so is a partition.
fn refuse_what_is_in_use(device: &Path) -> Result<(), FlashError> {
    let no_disk = || FlashError::NoDisk(device.to_owned());
    let real = device.canonicalize().map_err(FlashError::Card)?;
    let metadata = fs::metadata(&real).map_err(FlashError::Card)?;
    let name = real.file_name().and_then(|name| name.to_str()).ok_or_else(no_disk)?;
    let folder = Path::new("/sys/block").join(name);
    if !metadata.file_type().is_block_device() || !folder.exists() {
        return Err(no_disk());
    }
    let mut numbers = vec![(metadata.rdev(), name.to_owned())];
    let mut holders = holders(&folder);
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        if let Some(number) =
            device_number(&entry.path().join("dev")).filter(|_| entry.path().join("partition").exists())
        {
            numbers.push((number, entry.file_name().to_string_lossy().into_owned()));
            holders.extend(self::holders(&entry.path()));
        }
    }
    let in_use = |why: String| Err(FlashError::InUse { device: device.to_owned(), why });
    if let Some(holder) = holders.first() {
        return in_use(format!("{holder} is built on it"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(FlashError::Card)?;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = fields.get(2).and_then(|text| parse_number(text));
        if let Some((_, name)) = numbers.iter().find(|(known, _)| Some(*known) == number) {
            return in_use(format!("{name} is mounted at {}", fields.get(4).unwrap_or(&"?")));
        }
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    for path in swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()) {
        let number = fs::metadata(path).map(|metadata| metadata.rdev()).unwrap_or(0);
        if numbers.iter().any(|(known, _)| *known == number) {
            return in_use(format!("{path} is used as swap"));
        }
    }
    Ok(())
}

/// Devices that are built on another: device mapper, RAID.
fn holders(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("holders")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn device_number(path: &Path) -> Option<u64> {
    parse_number(fs::read_to_string(path).ok()?.trim())
}

/// `8:1`.
fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_own_disk_and_what_is_none_are_refused() {
        let root = fs::metadata("/").unwrap().dev();
        let path = fs::read_link(format!("/sys/dev/block/{}:{}", rustix::fs::major(root), rustix::fs::minor(root)));
        let name = path.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        // Only where the root lies on a whole disk that this machine shows.
        if let Some(name) = name.filter(|name| Path::new("/dev").join(name).exists()) {
            let error = refuse_what_is_in_use(&Path::new("/dev").join(&name)).unwrap_err().to_string();
            assert!(error.contains("is mounted at") || error.contains("no disk"), "{error}");
        }
        for path in ["/dev/null", "/proc/version"] {
            assert!(matches!(refuse_what_is_in_use(Path::new(path)), Err(FlashError::NoDisk(_))), "{path}");
        }
    }

    #[test]
    fn a_compressed_image_is_read_as_what_it_was() {
        let path = std::env::temp_dir().join(format!("bramble-flash-{}", std::process::id()));
        let bytes = vec![7; 100_000];
        let packed = ruzstd::encoding::compress_to_vec(bytes.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        fs::write(&path, packed).unwrap();
        let mut piece = vec![0; 200_000];
        let length = fill(&mut *open(&path).unwrap(), &mut piece).unwrap();
        assert_eq!(piece[..length], bytes);
        fs::remove_file(path).unwrap();
    }
}
