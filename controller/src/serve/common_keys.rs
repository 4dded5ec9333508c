//! Shell: the keys that all controllers of a cluster must have in common, in the store that they share.
//!
//! The first controller makes them and puts them there; every later one takes them from there before it makes any. They lie
//! below a prefix that only the cluster token's key opens (`encryption::token`).

use std::path::Path;

use bramble_store::{Durability, Precondition, Store, Write, WriteError};

use super::ServeError;
use crate::encryption::token::CLUSTER_PREFIX;
use crate::pki::{Files, Pki, PkiError};

/// The one record.
pub(super) fn key() -> String {
    format!("{CLUSTER_PREFIX}pki")
}

/// Opens the keys of the cluster. `now` is seconds since 1970.
pub(super) async fn open(store: &Store, data_dir: &Path, now: i64) -> Result<Pki, ServeError> {
    loop {
        if let Some(files) = read(store).await? {
            put_aside(data_dir, &files)?;
            let pki = Pki::open(data_dir, now)?;
            pki.take(&files, now)?;
            return Ok(pki);
        }
        let pki = Pki::open(data_dir, now)?;
        if write(store, &pki.common()?, Precondition::Absent).await? {
            return Ok(pki);
        }
    }
}

/// What the controllers share now.
pub(super) async fn read(store: &Store) -> Result<Option<Files>, ServeError> {
    let record = store.get(&key()).await?;
    record.map(|record| serde_json::from_slice(&record.value).map_err(ServeError::CommonKeys)).transpose()
}

/// Shares other keys than these, which are the present ones; false: somebody else changed them meanwhile, or nobody knows.
pub(super) async fn replace(store: &Store, present: &Files, by: &Files) -> Result<bool, ServeError> {
    let Some(record) = store.get(&key()).await? else { return Ok(false) };
    let held: Files = serde_json::from_slice(&record.value).map_err(ServeError::CommonKeys)?;
    if held != *present {
        return Ok(false);
    }
    write(store, by, Precondition::At(record.revision)).await
}

async fn write(store: &Store, files: &Files, only_if: Precondition) -> Result<bool, ServeError> {
    let bytes = serde_json::to_vec(files).map_err(ServeError::CommonKeys)?;
    match store.write(vec![Write::put(key(), only_if, bytes)], Durability::Durable).await {
        Ok(_) => Ok(true),
        // Another controller was faster, or nobody knows whether this one was.
        Err(WriteError::Conflict { .. } | WriteError::Unavailable { .. }) => Ok(false),
        Err(error) => Err(ServeError::Write(error)),
    }
}

/// The keys of another cluster, to which this board belonged, stay on it under another name.
fn put_aside(data_dir: &Path, shared: &Files) -> Result<(), ServeError> {
    let folder = data_dir.join("pki");
    let held = match std::fs::read_to_string(folder.join("ca.crt")) {
        Ok(held) => held,
        Err(_) => return Ok(()),
    };
    // Of the same cluster, perhaps from before a rollover that this controller slept through.
    if shared.values().any(|text| *text == held) {
        return Ok(());
    }
    let aside = (1..).map(|number| data_dir.join(format!("pki.former-{number}"))).find(|path| !path.exists());
    let Some(aside) = aside else { return Ok(()) };
    tracing::warn!(folder = %aside.display(), "these keys were another cluster's; put aside, the shared ones take their place");
    std::fs::rename(&folder, &aside).map_err(|source| ServeError::Pki(PkiError::File { path: folder, source }))
}

#[cfg(test)]
mod tests {
    use bramble_store::Config;

    use super::*;
    use crate::pki::Renewal;

    #[tokio::test]
    async fn the_second_controller_has_the_first_ones_keys() {
        let root = std::env::temp_dir().join(format!("bramble-common-keys-{}", std::process::id()));
        let [one, two] = ["one", "two"].map(|name| root.join(name));
        let store = Store::open(Config::memory()).unwrap();
        let first = open(&store, &one, 1_800_000_000).await.unwrap();
        // It was a cluster of its own before.
        let former = Pki::open(&two, 1_800_000_000).unwrap();
        assert_ne!(former.authorities().pins(), first.authorities().pins());
        let second = open(&store, &two, 1_800_000_000).await.unwrap();
        assert_eq!(second.authorities().pins(), first.authorities().pins());
        assert_eq!(first.common().unwrap(), second.common().unwrap());
        assert_eq!(second.common().unwrap().len(), 3);
        assert!(two.join("pki.former-1/ca.key").exists(), "its former keys are put aside");
        // The first one renews; the second one slept, and is of the same cluster still.
        let present = first.common().unwrap();
        let renewed = first.renewed(Renewal::Authority, 1_800_000_000).unwrap();
        assert!(replace(&store, &present, &renewed).await.unwrap());
        assert!(!replace(&store, &present, &renewed).await.unwrap(), "they are not the present ones any more");
        let awake = open(&store, &two, 1_800_000_000).await.unwrap();
        assert_eq!(awake.common().unwrap(), renewed);
        assert!(!two.join("pki.former-2").exists());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
