//! Shell: the journal's file: written past the page cache, sector by sector, where the file system allows it.
//!
//! Through the page cache a lone small write costs a whole page, or two; past it, the sectors that it has.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ::redb::StorageBackend;

/// `O_DIRECT` of the ABIs that Bramble is built for.
const O_DIRECT: i32 = if cfg!(any(target_arch = "aarch64", target_arch = "arm")) { 0o200_000 } else { 0o40_000 };

/// A file, and a way past the page cache.
#[derive(Debug)]
pub(crate) struct JournalFile {
    file: File,
    direct: Option<File>,
}

impl JournalFile {
    /// Opens or makes it. Only its owner may read it: it holds secrets.
    pub(crate) fn open(path: &Path) -> io::Result<JournalFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let file = options.clone().create(true).truncate(false).open(path)?;
        // tmpfs and some others have none.
        let direct = options.custom_flags(O_DIRECT).open(path).ok();
        Ok(JournalFile { file, direct })
    }

    /// Opens it to be looked at.
    pub(crate) fn read_only(path: &Path) -> io::Result<JournalFile> {
        Ok(JournalFile { file: File::open(path)?, direct: None })
    }
}

impl StorageBackend for JournalFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.direct.as_ref().map(|direct| direct.write_all_at(data, offset)) {
            Some(Ok(())) => Ok(()),
            // A device with larger sectors than these, or memory that is not aligned.
            Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
            _ => self.file.write_all_at(data, offset),
        }
    }
}
