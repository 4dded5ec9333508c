//! Shell: what lies beside `bramble.toml`, copied to the data partition.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Copies the files of a folder that are not there yet, or were otherwise: the card is not written at each boot. Answers
/// the copies. A folder that is missing has none.
pub(super) fn copy_new(from: &Path, to: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(to)?;
    let mut copies = Vec::new();
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (metadata, copy) = (entry.metadata()?, to.join(entry.file_name()));
        let same = fs::metadata(&copy)
            .is_ok_and(|old| old.len() == metadata.len() && old.modified().ok() == metadata.modified().ok());
        if metadata.is_file() && !same {
            fs::copy(entry.path(), &copy)?;
            fs::File::options().write(true).open(&copy)?.set_modified(metadata.modified()?)?;
            copies.push(copy);
        }
    }
    copies.sort();
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_copied_once_and_again_when_it_changes() {
        let dir = std::env::temp_dir().join(format!("bramble-additions-{}", std::process::id()));
        let (from, to) = (dir.join("from"), dir.join("to"));
        assert_eq!(copy_new(&from, &to).unwrap(), Vec::<PathBuf>::new());
        fs::create_dir_all(from.join("folder")).unwrap();
        fs::write(from.join("a"), "one").unwrap();
        assert_eq!(copy_new(&from, &to).unwrap(), [to.join("a")]);
        assert!(copy_new(&from, &to).unwrap().is_empty());
        fs::write(from.join("a"), "other").unwrap();
        assert_eq!(copy_new(&from, &to).unwrap(), [to.join("a")]);
        assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "other");
        fs::remove_dir_all(dir).unwrap();
    }
}
