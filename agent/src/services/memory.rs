//! Shell: the cluster's Services and endpoints as they were last, kept on the board: a board that starts without its
//! controller routes and answers names by them.

use std::collections::BTreeSet;

use super::proxy::Proxy;
use crate::checkpoint::{Checkpoint, Collection};
use crate::link::Delta;

/// One collection: its name for the proxy, its place in the checkpoint, and what a list that runs has named so far.
pub(super) struct Memory {
    kind: &'static str,
    of: Collection,
    checkpoint: Option<Checkpoint>,
    listed: Option<BTreeSet<String>>,
}

impl Memory {
    pub(super) fn services(checkpoint: Option<&Checkpoint>) -> Self {
        Self::new("Service", Collection::Services, checkpoint)
    }

    pub(super) fn slices(checkpoint: Option<&Checkpoint>) -> Self {
        Self::new("EndpointSlice", Collection::EndpointSlices, checkpoint)
    }

    fn new(kind: &'static str, of: Collection, checkpoint: Option<&Checkpoint>) -> Self {
        Self { kind, of, checkpoint: checkpoint.map(Checkpoint::share), listed: None }
    }

    /// Tells the proxy what an earlier run knew. It is no list: after a mere restart of the agent the table that stands is
    /// newer than what a kill has left here, and is kept until the API server has told.
    pub(super) async fn recall(&self, proxy: &Proxy) {
        let Some(checkpoint) = &self.checkpoint else { return };
        let known = checkpoint.collection(self.of).await;
        if known.is_empty() {
            return;
        }
        known.iter().for_each(|object| proxy.apply(self.kind, &object.value()));
        tracing::info!(kind = self.kind, objects = known.len(), "known from the checkpoint");
    }

    /// Takes one change in, for the proxy and for the next start.
    pub(super) async fn take(&mut self, proxy: &Proxy, delta: Delta) {
        match &delta {
            Delta::Restarted => proxy.list_begins(self.kind),
            Delta::Synced => proxy.list_ends(self.kind),
            Delta::Applied(object) => proxy.apply(self.kind, &object.value()),
            Delta::Deleted(object) => proxy.delete(self.kind, &object.value()),
        }
        let Some(checkpoint) = &mut self.checkpoint else { return };
        match delta {
            Delta::Restarted => self.listed = Some(BTreeSet::new()),
            Delta::Synced => {
                let listed = self.listed.take().unwrap_or_default();
                checkpoint.keep_only(self.of, &listed).await;
            }
            Delta::Applied(object) => {
                let key = checkpoint.keep(self.of, &object).await;
                if let Some(listed) = &mut self.listed {
                    listed.insert(key);
                }
            }
            Delta::Deleted(object) => checkpoint.lose(self.of, &object).await,
        }
    }
}
