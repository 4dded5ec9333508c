//! Shell: records that are sealed otherwise than they would be now are written again. In etcd that is a write as any
//! other: each gets a new revision, and watchers see it, as with upstream's `kubectl replace`.

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};

use super::keyring::Opening;
use super::refusal::Refusal;
use super::{Engine, Inner};
use crate::error::WriteError;
use crate::seal::{Sealer, key_of};

/// Keys that are looked at in one call.
const CHUNK_KEYS: i64 = 200;
/// A record that is written so often meanwhile is sealed anew by its writers.
const TRIES: usize = 10;

impl Engine {
    /// How many were written.
    pub(crate) async fn reseal_all(&self) -> Result<u64, WriteError> {
        let done = self.run(|inner| async move { inner.reseal_all().await }).await;
        let told = |refusal: Refusal| refusal.of_write(Default::default());
        done.map_err(|_| WriteError::Closed)?.map_err(told)
    }
}

impl Inner {
    async fn reseal_all(&self) -> Result<u64, Refusal> {
        let (mut after, mut resealed): (Option<String>, u64) = (None, 0);
        loop {
            let range = self.keys.range("", after.as_deref());
            let page = self.range(&range, GetOptions::new().with_limit(CHUNK_KEYS)).await?;
            for kv in page.kvs() {
                let Some(key) = self.keys.inner(kv.key()) else { continue };
                if self.shared.sealer().stale(key, kv.value()) && self.reseal(key).await? {
                    resealed += 1;
                }
            }
            after = page.kvs().last().and_then(|kv| self.keys.inner(kv.key())).map(str::to_owned);
            if !page.more() || after.is_none() {
                return Ok(resealed);
            }
        }
    }

    /// Until it is sealed as it should be, by us or by somebody's newer write: a rotation may rely on it.
    async fn reseal(&self, key: &str) -> Result<bool, Refusal> {
        for _ in 0..TRIES {
            let outer = self.keys.outer(key);
            let found = self.members.get(&outer, GetOptions::new()).await?;
            let stale = |kv: &&KeyValue| self.shared.sealer().stale(key, kv.value());
            let Some(kv) = found.kvs().first().filter(stale) else { return Ok(false) };
            let value = match self.open_record(key, kv.value()).await {
                Ok(value) => value,
                // Nobody can open it any more; it stays as it is.
                Err(Opening::Damaged) => return Ok(false),
                Err(Opening::Keys(refusal)) => return Err(refusal),
            };
            if self.replace(key, kv, &value).await? {
                return Ok(true);
            }
            self.learn_keys().await?;
        }
        Err(Refusal::Unknown(format!("{key} changes all the time")))
    }

    async fn replace(&self, key: &str, kv: &KeyValue, value: &Bytes) -> Result<bool, Refusal> {
        let sealer = self.shared.sealer();
        let newest = sealer.newest();
        let raw = super::keyring::at_rest(&sealer, key, value).map_err(|error| Refusal::Refused(error.to_string()))?;
        let mut holds = vec![Compare::mod_revision(kv.key(), CompareOp::Equal, kv.mod_revision())];
        if Sealer::sealed_by(key, &raw).is_some() {
            holds.push(Compare::create_revision(self.keys.outer(&key_of(newest + 1)), CompareOp::Equal, 0));
        }
        let txn = Txn::new().when(holds).and_then([TxnOp::put(kv.key(), &raw[..], None)]);
        let done = self.members.txn(txn).await?;
        Ok(done.succeeded())
    }
}
