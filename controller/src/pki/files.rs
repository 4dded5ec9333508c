//! Shell: key and certificate files: whole or not at all, private ones 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::PkiError;

/// The file's bytes, `None` if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path: path.into(), source }),
    }
}

/// Writes a secret: mode 0600, on the disk before it is in its place.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    write(path, bytes, 0o600)
}

/// Writes a public file.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    write(path, bytes, 0o644)
}

/// Makes a directory that only its owner enters.
pub(crate) fn private_dir(path: &Path) -> Result<(), PkiError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| PkiError::File { path: path.into(), source })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let attempt = || {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    attempt().map_err(|source| PkiError::File { path: path.into(), source })
}
