//! Shell: a batch becomes one Txn: its preconditions compare, its changes follow, and what failed is told in the same one.
//!
//! Every controller seals with the newest data key. One that has not heard of a new key yet must not use the former one,
//! which the rotation is about to forget: a Txn that seals also compares that no key after its newest one exists.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::keyring::at_rest;
use super::refusal::Refusal;
use super::{Engine, Inner};
use crate::error::WriteError;
use crate::record::Revision;
use crate::seal::{Sealer, key_of};
use crate::write::{BATCH_WRITES_MAX, Change, Precondition, Write};

/// A rotation makes one key a service; each costs a try at most.
const TRIES: usize = 8;

impl Engine {
    /// Waits for its turn as over a file; then the write goes on when the caller has gone.
    pub(crate) async fn write(&self, batch: Vec<Write>) -> Result<Revision, WriteError> {
        let shared = self.inner.shared.clone();
        let _turn = shared.permits.acquire().await.map_err(|_| WriteError::Closed)?;
        self.run(|inner| async move { inner.write(&batch).await }).await.map_err(|_| WriteError::Closed)?
    }

    /// The newest revision, with the feed come so far. Everything before it is durable.
    pub(crate) async fn flush(&self) -> Result<Revision, WriteError> {
        self.run(|inner| async move { inner.write(&[]).await }).await.map_err(|_| WriteError::Closed)?
    }
}

impl Inner {
    pub(super) async fn write(&self, batch: &[Write]) -> Result<Revision, WriteError> {
        let told = |refusal: Refusal| refusal.of_write(largest(batch));
        if batch.is_empty() {
            let own = self.newest().await.map_err(told)?;
            self.reach(own).await;
            return Ok(self.keys.shown(own));
        }
        for _ in 0..TRIES {
            let sealer = self.shared.sealer();
            let txn = self.txn(batch, &sealer)?;
            let done = self.members.txn(txn).await.map_err(told)?;
            let own = done.header().map_or(0, |header| header.revision());
            if done.succeeded() {
                self.reach(own).await;
                return Ok(self.keys.shown(own));
            }
            if let Some(conflict) = self.conflict(batch, &done) {
                return Err(conflict);
            }
            self.learn_keys().await.map_err(told)?;
        }
        Err(WriteError::Unavailable { reason: "the data keys change all the time".into() })
    }

    fn txn(&self, batch: &[Write], sealer: &Arc<Sealer>) -> Result<Txn, WriteError> {
        let failed = |error: crate::seal::SealError| WriteError::Backend { reason: error.to_string() };
        let (mut compares, mut changes, mut seals) = (Vec::new(), Vec::new(), false);
        let newest = sealer.newest();
        for write in batch {
            let key = self.keys.outer(&write.key);
            compares.extend(self.compare(&key, write.precondition));
            changes.push(match &write.change {
                Change::Put(value) => {
                    let raw = at_rest(sealer, &write.key, value).map_err(failed)?;
                    seals |= Sealer::sealed_by(&write.key, &raw).is_some();
                    TxnOp::put(key, &raw[..], None)
                }
                Change::Delete => TxnOp::delete(key, None),
            });
        }
        if seals {
            let next = self.keys.outer(&key_of(newest + 1));
            compares.push(Compare::create_revision(next, CompareOp::Equal, 0));
        }
        // etcd counts them against the same bound as the changes.
        if compares.len() > BATCH_WRITES_MAX {
            return Err(WriteError::BatchTooLarge { writes: batch.len() });
        }
        let look = |write: &Write| TxnOp::get(self.keys.outer(&write.key), Some(GetOptions::new().with_keys_only()));
        let looks: Vec<_> = conditional(batch).map(look).collect();
        Ok(Txn::new().when(compares).and_then(changes).or_else(looks))
    }

    fn compare(&self, key: &[u8], precondition: Precondition) -> Option<Compare> {
        match precondition {
            Precondition::Any => None,
            Precondition::Absent => Some(Compare::create_revision(key, CompareOp::Equal, 0)),
            Precondition::Present => Some(Compare::create_revision(key, CompareOp::Greater, 0)),
            // No record has the revision -1.
            Precondition::At(at) => Some(Compare::mod_revision(key, CompareOp::Equal, self.keys.own(at).unwrap_or(-1))),
        }
    }

    /// The first precondition that did not hold; none when a newer data key was the reason.
    fn conflict(&self, batch: &[Write], done: &TxnResponse) -> Option<WriteError> {
        let found = done.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(got) => got.kvs().first().map(|kv| self.keys.shown(kv.mod_revision())),
            _ => None,
        });
        conditional(batch).zip(found).find_map(|(write, current)| {
            let holds = match write.precondition {
                Precondition::Any => true,
                Precondition::Absent => current.is_none(),
                Precondition::Present => current.is_some(),
                Precondition::At(at) => current == Some(at),
            };
            (!holds).then(|| WriteError::Conflict { key: write.key.clone(), current })
        })
    }
}

fn conditional(batch: &[Write]) -> impl Iterator<Item = &Write> {
    batch.iter().filter(|write| write.precondition != Precondition::Any)
}

fn largest(batch: &[Write]) -> (String, usize) {
    let sizes = batch.iter().map(|write| match &write.change {
        Change::Put(value) => (write.key.clone(), value.len()),
        Change::Delete => (write.key.clone(), 0),
    });
    sizes.max_by_key(|(_, bytes)| *bytes).unwrap_or_default()
}
