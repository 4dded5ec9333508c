//! Shell: the keys that all controllers of a cluster must have in common, in the store that they share.
//!
//! The first controller makes them and puts them there; every later one takes them from there before it makes any. They lie
//! below a prefix that only the cluster token's key opens (`encryption::token`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bramble_store::{Durability, Precondition, Store, Write, WriteError};

use super::ServeError;
use crate::encryption::token::CLUSTER_PREFIX;
use crate::pki::{self, Pki};

/// Files below the data directory, by name: their text.
type Files = BTreeMap<String, String>;

fn key() -> String {
    format!("{CLUSTER_PREFIX}pki")
}

/// Opens the keys of the cluster. `now` is seconds since 1970.
pub(super) async fn open(store: &Store, data_dir: &Path, now: i64) -> Result<Pki, ServeError> {
    loop {
        if let Some(record) = store.get(&key()).await? {
            let files: Files = serde_json::from_slice(&record.value).map_err(ServeError::CommonKeys)?;
            take(data_dir, &files)?;
            return Ok(Pki::open(data_dir, now)?);
        }
        let pki = Pki::open(data_dir, now)?;
        let files = serde_json::to_vec(&gather(data_dir)?).map_err(ServeError::CommonKeys)?;
        let put = Write::put(key(), Precondition::Absent, files);
        match store.write(vec![put], Durability::Durable).await {
            Ok(_) => return Ok(pki),
            // Another controller was faster, or nobody knows whether this one was.
            Err(WriteError::Conflict { .. } | WriteError::Unavailable { .. }) => {}
            Err(error) => return Err(ServeError::Write(error)),
        }
    }
}

fn gather(data_dir: &Path) -> Result<Files, ServeError> {
    let mut names = vec![PathBuf::from("pki/ca.crt"), PathBuf::from("pki/ca.key")];
    let folder = Path::new("pki/service-account");
    let failed = |path: PathBuf| move |source| ServeError::File { path, source };
    for entry in std::fs::read_dir(data_dir.join(folder)).map_err(failed(data_dir.join(folder)))? {
        let name = entry.map_err(failed(data_dir.join(folder)))?.file_name();
        names.extend(Some(folder.join(name)).filter(|name| name.extension().is_some_and(|end| end == "key")));
    }
    let mut files = Files::new();
    for name in names {
        let path = data_dir.join(&name);
        let text = std::fs::read_to_string(&path).map_err(failed(path))?;
        files.insert(name.to_string_lossy().into_owned(), text);
    }
    Ok(files)
}

/// Puts the cluster's keys in the place of this board's own.
fn take(data_dir: &Path, files: &Files) -> Result<(), ServeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ServeError::File { path, source }
    };
    for (name, text) in files {
        // Whoever can write this record is a controller; its names still stay below the directory.
        let inside = name.starts_with("pki/") && !name.split('/').any(|part| part == ".." || part.is_empty());
        let path = data_dir.join(name);
        if !inside || std::fs::read_to_string(&path).is_ok_and(|held| held == *text) {
            continue;
        }
        if let Some(folder) = path.parent() {
            pki::private_dir(folder)?;
        }
        if path.exists() {
            let aside = path.with_extension("former");
            tracing::warn!(file = name, "it was another cluster's; put aside, the shared one takes its place");
            std::fs::rename(&path, &aside).map_err(failed(&path))?;
        }
        pki::write_secret_file(&path, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bramble_store::Config;

    use super::*;

    #[tokio::test]
    async fn the_second_controller_has_the_first_ones_keys() {
        let root = std::env::temp_dir().join(format!("bramble-common-keys-{}", std::process::id()));
        let [one, two] = ["one", "two"].map(|name| root.join(name));
        let store = Store::open(Config::memory()).unwrap();
        let first = open(&store, &one, 1_800_000_000).await.unwrap();
        // It was a cluster of its own before.
        let former = Pki::open(&two, 1_800_000_000).unwrap();
        assert_ne!(former.authority.pin(), first.authority.pin());
        let second = open(&store, &two, 1_800_000_000).await.unwrap();
        assert_eq!(second.authority.pin(), first.authority.pin());
        assert_eq!(gather(&one).unwrap(), gather(&two).unwrap());
        assert_eq!(gather(&two).unwrap().len(), 3);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
