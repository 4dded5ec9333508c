//! Shell: key and certificate files: whole or not at all, private ones 0600.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;

/// What all controllers of a cluster have in common, by name below the data directory: PEM texts.
pub type Files = BTreeMap<String, String>;

/// Folders of such files, and how the names in them end.
const FOLDERS: [(&str, &str); 3] = [("service-account", "key"), ("former", "crt"), ("cross", "crt")];
/// Those beside the folders.
const SINGLE: [&str; 3] = ["ca.crt", "ca.key", "retired"];
/// What is on its way into its place; a start finishes it.
const NEXT: &str = "pki/next.json";

/// What of it is there.
pub(super) fn gather(data_dir: &Path) -> Result<Files, PkiError> {
    let mut names: Vec<PathBuf> = SINGLE.iter().map(|name| Path::new("pki").join(name)).collect();
    for (folder, end) in FOLDERS {
        let folder = Path::new("pki").join(folder);
        let listed = match fs::read_dir(data_dir.join(&folder)) {
            Ok(listed) => listed,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(PkiError::File { path: data_dir.join(folder), source }),
        };
        let all = listed.flatten().map(|entry| folder.join(entry.file_name()));
        names.extend(all.filter(|name| name.extension().is_some_and(|own| own == end)));
    }
    let mut files = Files::new();
    for name in names {
        let path = data_dir.join(&name);
        let Some(bytes) = read(&path)? else { continue };
        let text = String::from_utf8(bytes).map_err(|_| PkiError::Key(format!("{} is no text", path.display())))?;
        files.insert(name.to_string_lossy().into_owned(), text);
    }
    Ok(files)
}

/// Puts these in their places, all or, after a cut, all at the next start. Returns the names of those that were others.
pub(super) fn put(data_dir: &Path, files: &Files) -> Result<Vec<String>, PkiError> {
    let text = serde_json::to_vec(files).map_err(|error| PkiError::Key(error.to_string()))?;
    private_dir(&data_dir.join("pki"))?;
    write_private(&data_dir.join(NEXT), &text)?;
    finish(data_dir)
}

/// Finishes what a cut may have left.
pub(super) fn finish(data_dir: &Path) -> Result<Vec<String>, PkiError> {
    let next = data_dir.join(NEXT);
    let Some(bytes) = read(&next)? else { return Ok(Vec::new()) };
    let malformed = |error: serde_json::Error| PkiError::Key(format!("{}: {error}", next.display()));
    let files: Files = serde_json::from_slice(&bytes).map_err(malformed)?;
    let mut changed = Vec::new();
    for (name, text) in &files {
        // Whoever can write them is a controller; their names still stay below the directory.
        let inside = name.starts_with("pki/") && !name.split('/').any(|part| part == ".." || part.is_empty());
        let path = data_dir.join(name);
        let held = read(&path)?;
        if !inside || held.as_deref() == Some(text.as_bytes()) {
            continue;
        }
        if let Some(folder) = path.parent() {
            private_dir(folder)?;
        }
        if held.is_some() {
            changed.push(name.clone());
        }
        write_private(&path, text.as_bytes())?;
    }
    fs::remove_file(&next).map_err(|source| PkiError::File { path: next, source })?;
    Ok(changed)
}

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
