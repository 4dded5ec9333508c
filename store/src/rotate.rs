//! Shell: new keys for a running store: a new data key, everything sealed again, the former data keys gone.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use tokio::sync::oneshot;

use crate::error::{ReadError, WriteError};
use crate::record::Revision;
use crate::seal::{self, SealError, Sealer, Sealing};
use crate::store::Store;
use crate::write::{Durability, Precondition, Write};
use crate::writer::Request;

/// Bytes of records that one commit seals again: other writers wait for no more than that.
const CHUNK_BYTES: usize = 128 << 10;
/// Records of one such commit.
const CHUNK_RECORDS: usize = 64;

/// Records that are looked at in one go: a few milliseconds.
const LOOK_RECORDS: usize = 2000;

/// Why a rotation did not end. It may be begun again at any time; whatever happened, all records can be read with the
/// keys that were given before and now together.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RotateError {
    /// The keys do not do.
    #[error("the new keys do not open or seal the store")]
    Seal(#[source] SealError),
    /// A record could not be written.
    #[error("cannot write the store")]
    Write(#[source] WriteError),
    /// A record could not be read.
    #[error("cannot read the store")]
    Read(#[source] ReadError),
}

/// What a rotation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Records that were written again.
    pub resealed: u64,
    /// Data keys that nothing needs any more, and that are gone.
    pub keys_removed: u64,
}

impl Store {
    /// What is sealed, and with what.
    pub fn sealing(&self) -> Sealing {
        self.shared().sealer().sealing()
    }

    /// From now on seals as `sealing` says, under new data keys, and writes all that is sealed otherwise again; reads and
    /// writes go on meanwhile. Afterwards the services that seal nothing need not be given any more. Revisions do not
    /// change, and nobody sees an event.
    pub async fn rotate(&self, sealing: Sealing) -> Result<Rotation, RotateError> {
        let sealer = self.shared().sealer();
        let (next, made) = {
            // A key service may block.
            let sealer = sealer.clone();
            let (answer, answered) = oneshot::channel();
            let started = std::thread::Builder::new().name("store-rotate".into()).spawn(move || {
                let _ = answer.send(sealer.prepare(sealing));
            });
            let lost = |reason: String| SealError::Service { service: "thread".into(), reason };
            started.map_err(|error| RotateError::Seal(lost(error.to_string())))?;
            answered.await.map_err(|error| lost(error.to_string())).and_then(|made| made).map_err(RotateError::Seal)?
        };
        let keep = |(id, wrapped)| Write::put(seal::key_of(id), Precondition::Absent, wrapped);
        self.own_write(made.into_iter().map(keep).collect()).await?;
        sealer.install(next);
        let resealed = self.reseal_all().await?;
        let unused = self.unused(&sealer);
        let drop_key = |id: &u64| Write::delete(seal::key_of(*id), Precondition::Any);
        self.own_write(unused.iter().map(drop_key).collect()).await?;
        sealer.retire(&unused);
        Ok(Rotation { resealed, keys_removed: unused.len() as u64 })
    }

    /// The data keys that may go.
    fn unused(&self, sealer: &Sealer) -> BTreeSet<u64> {
        #[cfg(feature = "etcd")]
        if self.etcd().is_some() {
            return sealer.superseded();
        }
        sealer.unused()
    }

    /// A durable write of the store's own resources.
    async fn own_write(&self, batch: Vec<Write>) -> Result<Revision, RotateError> {
        #[cfg(feature = "etcd")]
        if let Some(etcd) = self.etcd() {
            return etcd.write(batch).await.map_err(RotateError::Write);
        }
        let request = |answer| Request::Write { batch, floor: Durability::Durable, answer };
        self.request(request).await.map_err(RotateError::Write)
    }

    async fn reseal_all(&self) -> Result<u64, RotateError> {
        #[cfg(feature = "etcd")]
        if let Some(etcd) = self.etcd() {
            return etcd.reseal_all().await.map_err(RotateError::Write);
        }
        // A commit on its way may have sealed a new record with the former key, and nobody would find it: it is
        // published when this comes back.
        self.request(|answer| Request::Reseal { keys: Vec::new(), answer }).await.map_err(RotateError::Write)?;
        let (mut after, mut resealed) = (None, 0);
        loop {
            let (keys, last) = self.stale_after(after.as_deref()).map_err(RotateError::Read)?;
            resealed += keys.len() as u64;
            if !keys.is_empty() {
                self.request(|answer| Request::Reseal { keys, answer }).await.map_err(RotateError::Write)?;
            }
            let Some(last) = last else { return Ok(resealed) };
            after = Some(last);
        }
    }

    /// The next records at rest that would be written otherwise now, and the last one that was looked at if others may
    /// follow.
    fn stale_after(&self, after: Option<&str>) -> Result<(Vec<String>, Option<String>), ReadError> {
        let (snapshot, sealer) = {
            let state = self.shared().state();
            (state.snapshot.clone(), state.shown.sealer.clone())
        };
        let (mut keys, mut bytes, mut seen, mut last) = (Vec::new(), 0, 0, None);
        let scanned = snapshot.scan("", after, &mut |key, raw| {
            seen += 1;
            if sealer.stale(key, raw) {
                bytes += raw.len();
                keys.push(key.to_owned());
            }
            if bytes > CHUNK_BYTES || keys.len() == CHUNK_RECORDS || seen == LOOK_RECORDS {
                last = Some(key.to_owned());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        scanned.map_err(|error| ReadError::Backend { reason: error.to_string() })?;
        Ok((keys, last))
    }
}
