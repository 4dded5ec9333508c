//! Shell: data keys in etcd: read at start and when another controller made new ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};

use super::Inner;
use super::keys::ORIGIN;
use super::refusal::Refusal;
use crate::backend::BackingError;
use crate::error::OpenError;
use crate::record::{Damaged, Revision, Version, encode, parse};
use crate::seal::{self, KEYS_PREFIX, SealError};

/// Two controllers that start at once make the first key twice; the slower one takes the other's.
const TRIES: usize = 5;

impl Inner {
    /// Where this store's revisions begin. An empty prefix becomes a store that begins at `origin`; one that holds somebody
    /// else's keys is left alone.
    pub(super) async fn learn_origin(&mut self, origin: u64) -> Result<(), OpenError> {
        let outer = self.keys.outer(ORIGIN);
        let broken = |why: String| OpenError::Backend(BackingError::Corrupt(why));
        for _ in 0..TRIES {
            // Counted before the origin is looked for: another controller that starts now writes the origin first.
            let everything = self.keys.everything();
            let held = self.range(&everything, GetOptions::new().with_count_only()).await.map_err(opening)?.count();
            let found = self.members.get(&outer, GetOptions::new()).await.map_err(opening)?;
            if let Some(kv) = found.kvs().first() {
                let offset = std::str::from_utf8(kv.value()).ok().and_then(|text| text.parse().ok());
                self.keys.begin_at(offset.ok_or_else(|| broken(format!("{ORIGIN} is no number")))?);
                return Ok(());
            }
            if held > 0 {
                let prefix = String::from_utf8_lossy(&everything.start).into_owned();
                return Err(broken(format!("{held} keys below {prefix} in etcd are not ours: choose another prefix")));
            }
            let absent = Compare::create_revision(outer.clone(), CompareOp::Equal, 0);
            let put = TxnOp::put(outer.clone(), origin.to_string(), None);
            self.members.txn(Txn::new().when([absent]).and_then([put])).await.map_err(opening)?;
        }
        Err(broken(format!("{ORIGIN} goes as soon as it is made")))
    }

    async fn wrapped_keys(&self) -> Result<BTreeMap<u64, Bytes>, Refusal> {
        let range = self.keys.range(KEYS_PREFIX, None);
        let mut wrapped = BTreeMap::new();
        for kv in self.range(&range, GetOptions::new()).await?.kvs() {
            let Some(key) = self.keys.inner(kv.key()) else { continue };
            let (Some(id), Ok(parsed)) = (seal::id_of(key), parse(key, kv.value())) else {
                return Err(Refusal::Refused(format!("the data key {key} is damaged")));
            };
            wrapped.insert(id, Bytes::copy_from_slice(parsed.body));
        }
        Ok(wrapped)
    }

    /// Opens all data keys, and makes the first one where something is sealed and there is none.
    pub(super) async fn open_keyring(&self) -> Result<(), OpenError> {
        let mut tries = 0;
        loop {
            let wrapped = self.wrapped_keys().await.map_err(opening)?;
            let sealer = self.shared.sealer();
            let made = blocking(move || {
                sealer.learn(&wrapped)?;
                sealer.make_missing()
            });
            let made = made.await.map_err(OpenError::Sealed)?;
            if made.is_empty() || self.put_keys(&made).await.map_err(opening)? {
                return Ok(());
            }
            tries += 1;
            if tries == TRIES {
                return Err(opening(Refusal::Refused("the data keys change all the time".into())));
            }
            self.shared.sealer().forget(&made);
        }
    }

    /// False when somebody else made one of them.
    async fn put_keys(&self, made: &BTreeMap<u64, Bytes>) -> Result<bool, Refusal> {
        let (mut absent, mut puts) = (Vec::new(), Vec::new());
        for (id, value) in made {
            let key = seal::key_of(*id);
            let outer = self.keys.outer(&key);
            absent.push(Compare::create_revision(outer.clone(), CompareOp::Equal, 0));
            let version = Version { revision: Revision(0), value: value.clone() };
            puts.push(TxnOp::put(outer, &encode(&key, &version)[..], None));
        }
        let txn = Txn::new().when(absent).and_then(puts);
        let done = self.members.txn(txn).await?;
        Ok(done.succeeded())
    }

    /// Takes up what other controllers made since.
    pub(super) async fn learn_keys(&self) -> Result<(), Refusal> {
        let wrapped = self.wrapped_keys().await?;
        let sealer = self.shared.sealer();
        blocking(move || sealer.learn(&wrapped)).await.map_err(|error| Refusal::Refused(error.to_string()))
    }

    /// A record as it lies in etcd. A data key that is not known yet is looked for first.
    pub(super) async fn open_record(&self, key: &str, raw: &[u8]) -> Result<Bytes, Opening> {
        let sealer = self.shared.sealer();
        if let Some(id) = seal::Sealer::sealed_by(key, raw).filter(|id| !sealer.knows(*id)) {
            self.learn_keys().await.map_err(Opening::Keys)?;
            tracing::info!(id, "a data key of another controller was taken up");
        }
        sealer.decode(key, raw).map(|version| version.value).map_err(|Damaged| Opening::Damaged)
    }
}

/// Why a record cannot be had.
pub(super) enum Opening {
    Damaged,
    Keys(Refusal),
}

pub(super) fn opening(refusal: Refusal) -> OpenError {
    OpenError::Backend(BackingError::Failed(refusal.reason()))
}

/// A key service may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SealError> + Send + 'static,
) -> Result<T, SealError> {
    let lost = |reason: String| SealError::Service { service: "thread".into(), reason };
    tokio::task::spawn_blocking(work).await.map_err(|error| lost(error.to_string()))?
}

/// What is bound to a record in etcd beside its key.
pub(super) fn at_rest(sealer: &Arc<seal::Sealer>, key: &str, value: &Bytes) -> Result<Bytes, SealError> {
    sealer.encode(key, &Version { revision: Revision(0), value: value.clone() })
}
