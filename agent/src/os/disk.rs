//! Shell: the card that this board was booted from, found by the signature in its partition table.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::card::{Card, DATA_PARTITION, SECTOR, grown, partition};
use super::kernel;

/// The four bytes at 440 of the card's first sector; `images/build` writes it.
pub const SIGNATURE: u32 = 0xb4a3_b1e5;
/// A slow card reader on USB takes some seconds to be there.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks; there is nothing else to do yet.
const PAUSE: Duration = Duration::from_millis(20);

/// A disk or a file, as a card.
#[derive(Debug)]
pub struct FileCard(pub File);

impl Card for FileCard {
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A disk by its name below `/dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    name: String,
}

impl Disk {
    /// Waits for our card.
    ///
    /// # Errors
    /// `NotFound` when it does not appear in time.
    pub fn wait() -> io::Result<Self> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(disk) = Self::find() {
                return Ok(disk);
            }
            if Instant::now() >= end {
                let message = format!("no disk with the signature {SIGNATURE:#010x} appeared");
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn find() -> Option<Self> {
        let disks = fs::read_dir("/sys/block").ok()?.flatten();
        let names = disks.filter_map(|entry| entry.file_name().into_string().ok());
        names.map(|name| Self { name }).find(|disk| disk.signature().is_ok_and(|found| found == SIGNATURE))
    }

    fn signature(&self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        File::open(self.path())?.read_exact_at(&mut bytes, 440)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The whole disk.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The disk, to be read and written.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self) -> io::Result<FileCard> {
        Ok(FileCard(File::options().read(true).write(true).open(self.path())?))
    }

    /// The device of a partition.
    ///
    /// # Errors
    /// `NotFound` without it.
    pub fn partition(&self, number: u32) -> io::Result<PathBuf> {
        let of_number = |folder: &Path| {
            fs::read_to_string(folder.join("partition")).is_ok_and(|text| text.trim().parse() == Ok(number))
        };
        let folders = fs::read_dir(Path::new("/sys/block").join(&self.name))?.flatten().map(|entry| entry.path());
        let found = folders.into_iter().find(|folder| of_number(folder));
        let name = found.and_then(|folder| Some(Path::new("/dev").join(folder.file_name()?)));
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{} has no partition {number}", self.name));
        name.ok_or_else(missing)
    }

    /// Makes the data partition end where the card ends; the file system in it grows when it is mounted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn grow_data(&self) -> io::Result<bool> {
        let mut card = self.open()?;
        let mut sector = [0; SECTOR as usize];
        card.read_at(0, &mut sector)?;
        let Some(sector) = grown(&sector, DATA_PARTITION, kernel::device_bytes(&card.0)?) else { return Ok(false) };
        card.write_at(0, &sector)?;
        card.flush()?;
        let place = partition(&mut card, DATA_PARTITION)?;
        kernel::resize_partition(&card.0, DATA_PARTITION, place.start, place.bytes)?;
        Ok(true)
    }
}
