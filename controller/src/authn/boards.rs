//! Shell: the boards' keys that are shut out, as the ConfigMap `kube-system/board-keys` says.
//!
//! A board is its key. For each key that was ever signed for a board the ConfigMap has an entry, the SHA-256 of the key
//! in hexadecimal digits, with the node's name and whether it is shut out ([`Entry`]). It outlives the Node.

use std::collections::HashSet;
use std::time::Duration;

use bramble_store::{ListQuery, ReadError, Revision, Store, Watch, WatchError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Authenticator;
use super::objects::parse;

/// Where the keys are written down.
pub const NAMESPACE: &str = "kube-system";
/// The ConfigMap's name.
pub const NAME: &str = "board-keys";
/// The group of a board whose certificate has expired: it may renew it, and nothing else.
pub const EXPIRED: &str = "system:bramble:expired-boards";
/// The fact of such an identity that its key is this one (SHA-256, hexadecimal digits).
pub const KEY: &str = "bramble.dev/board-key";

/// How long after a failed read the next one is tried.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The node that it was signed for.
    pub node: String,
    /// Since when it is shut out, RFC 3339; none is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

/// The entries of the ConfigMap: keys with what is known of them. What is no entry is none.
pub fn entries(config_map: &Value) -> impl Iterator<Item = (&str, Entry)> {
    let data = config_map.get("data").and_then(Value::as_object);
    data.into_iter().flatten().filter_map(|(key, text)| Some((&**key, serde_json::from_str(text.as_str()?).ok()?)))
}

fn revoked(config_map: Option<&Value>) -> HashSet<[u8; 32]> {
    let all = config_map.into_iter().flat_map(entries).filter(|(_, entry)| entry.revoked.is_some());
    all.filter_map(|(key, _)| hash(key)).collect()
}

/// Thirty-two bytes of hexadecimal digits.
fn hash(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|one| one.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok().filter(|_| text.len() == 64)
}

impl Authenticator {
    /// Takes in who is shut out and then follows it; returns when it is known. Must be called within a tokio runtime,
    /// where the watch lives until the store closes.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn follow(&self, store: &Store) -> Result<(), ReadError> {
        let after = self.read_boards(store).await?;
        let (authenticator, store) = (self.clone(), store.clone());
        tokio::spawn(async move { authenticator.watch_boards(&store, after).await });
        Ok(())
    }

    async fn read_boards(&self, store: &Store) -> Result<Revision, ReadError> {
        let key = format!("configmaps/{NAMESPACE}/{NAME}");
        let query = ListQuery { prefix: &key, after: None, limit: 1, at: None };
        let page = store.list(query).await?;
        let found = page.records.iter().find(|record| *record.key == *key).and_then(|record| parse(&record.value));
        self.shut_out_only(revoked(found.as_ref()));
        Ok(page.revision)
    }

    async fn watch_boards(&self, store: &Store, mut after: Revision) {
        let prefix = format!("configmaps/{NAMESPACE}/{NAME}");
        loop {
            let ended = match store.watch(&prefix, after) {
                Ok(watch) => self.take_in_boards(store, watch).await,
                Err(error) => error,
            };
            if matches!(ended, WatchError::Closed) {
                return;
            }
            match self.read_boards(store).await {
                Ok(revision) => after = revision,
                Err(error) => {
                    tracing::error!(%error, "it is not known who is shut out from now on; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn take_in_boards(&self, store: &Store, mut watch: Watch) -> WatchError {
        loop {
            if let Err(ended) = watch.next().await {
                return ended;
            }
            // It is small, and rarely written: read whole.
            if let Err(error) = self.read_boards(store).await {
                tracing::error!(%error, "who is shut out cannot be read");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_tell_who_is_shut_out() {
        let (good, bad) = ("ab".repeat(32), "0c".repeat(32));
        let map = json!({"data": {good.clone(): "{\"node\":\"pi-1\"}", bad.clone(): "{\"node\":\"pi-2\",\"revoked\":\"2026-01-01T00:00:00Z\"}",
            "rubbish": "x", "short": "{\"node\":\"pi-3\",\"revoked\":\"y\"}"}});
        assert_eq!(entries(&map).count(), 3);
        assert_eq!(revoked(Some(&map)), HashSet::from([hash(&bad).unwrap()]));
        assert_eq!(hash(&good).unwrap(), [0xab; 32]);
        assert!(revoked(None).is_empty());
    }
}
