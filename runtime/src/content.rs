//! Shell: small content-addressed files (manifests, configurations), verified whenever they are opened.
//!
//! Layers never lie here: they go from the wire straight into their folder (`unpack`), so that a card is written once.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::reference::Digest;

/// Manifests and configurations are a few kilobytes; registries refuse more than 4 MiB.
pub const BLOB_MAX_BYTES: u64 = 4 << 20;

/// Why a blob could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is not there.
    #[error("{0} is not in the content store")]
    Absent(Digest),
    /// Its bytes are others than its name says: it is removed and must be fetched again.
    #[error("{0} is corrupt on disk")]
    Corrupt(Digest),
    /// More bytes than a manifest or configuration may have.
    #[error("{what} is larger than {BLOB_MAX_BYTES} bytes")]
    TooLarge {
        /// What was being read.
        what: String,
    },
    /// The disk.
    #[error("{path}")]
    Disk {
        /// Which file.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

pub(crate) fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> ContentError + '_ {
    move |source| ContentError::Disk { path: path.display().to_string(), source }
}

/// A folder of blobs named by their digest.
#[derive(Debug, Clone)]
pub struct Content {
    root: PathBuf,
}

impl Content {
    pub(crate) fn open(root: PathBuf) -> Result<Self, ContentError> {
        std::fs::create_dir_all(&root).map_err(disk(&root))?;
        Ok(Self { root })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.hex())
    }

    /// Keeps `bytes` durably and returns their digest; known bytes cost no write.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        if !path.exists() {
            write_durably(&path, bytes)?;
        }
        Ok(digest)
    }

    /// The blob's bytes, if they are what the digest says.
    pub(crate) fn get(&self, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ContentError::Absent(digest.clone()));
            }
            Err(error) => return Err(disk(&path)(error)),
        };
        let bytes = read_bounded(file, digest.hex())?;
        if Digest::of(&bytes) != *digest {
            let _ = std::fs::remove_file(&path);
            return Err(ContentError::Corrupt(digest.clone()));
        }
        Ok(bytes)
    }

    /// Removes every blob that `keep` does not want; returns how many went.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<usize, ContentError> {
        let mut removed = 0;
        for entry in std::fs::read_dir(&self.root).map_err(disk(&self.root))? {
            let entry = entry.map_err(disk(&self.root))?;
            if !entry.file_name().to_str().is_some_and(&keep) {
                std::fs::remove_file(entry.path()).map_err(disk(&self.root))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Reads all of `reader`, which must end before `BLOB_MAX_BYTES`.
pub(crate) fn read_bounded(reader: impl Read, what: &str) -> Result<Vec<u8>, ContentError> {
    let mut bytes = Vec::new();
    reader.take(BLOB_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(disk(Path::new(what)))?;
    if bytes.len() as u64 > BLOB_MAX_BYTES {
        return Err(ContentError::TooLarge { what: what.to_owned() });
    }
    Ok(bytes)
}

/// Writes a file so that after a power cut either all of it or nothing is there.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ContentError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        disk(path)(error)
    })
}
