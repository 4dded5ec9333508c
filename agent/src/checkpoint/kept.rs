//! Shell: a collection of the cluster that is followed, kept for a start without the controller.

use std::collections::BTreeSet;

use super::{Checkpoint, Collection};
use crate::link::{Delta, Object};

/// One collection in the checkpoint, if there is one.
pub(crate) struct Kept {
    of: Collection,
    checkpoint: Option<Checkpoint>,
    /// What a list that runs has named so far.
    listed: Option<BTreeSet<String>>,
}

impl Kept {
    pub(crate) fn new(of: Collection, checkpoint: Option<&Checkpoint>) -> Self {
        Self { of, checkpoint: checkpoint.map(Checkpoint::share), listed: None }
    }

    /// What an earlier run knew.
    pub(crate) async fn objects(&self) -> Vec<Object> {
        match &self.checkpoint {
            Some(checkpoint) => checkpoint.collection(self.of).await,
            None => Vec::new(),
        }
    }

    /// Takes one change in; of an object only what `shorten` leaves of it is kept.
    pub(crate) async fn take(&mut self, delta: &Delta, shorten: impl FnOnce(&Object) -> Object) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        match delta {
            Delta::Restarted => self.listed = Some(BTreeSet::new()),
            Delta::Synced => checkpoint.keep_only(self.of, &self.listed.take().unwrap_or_default()).await,
            Delta::Applied(object) => {
                let key = checkpoint.keep(self.of, &shorten(object)).await;
                if let Some(listed) = &mut self.listed {
                    listed.insert(key);
                }
            }
            Delta::Deleted(object) => checkpoint.lose(self.of, object).await,
        }
    }

    /// Nobody follows it any more.
    pub(crate) async fn clear(mut self) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.keep_only(self.of, &BTreeSet::new()).await;
        }
    }
}
