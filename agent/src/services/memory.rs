//! Shell: the cluster's Services and endpoints as they were last, kept on the board: a board that starts without its
//! controller routes and answers names by them.

use super::proxy::Proxy;
use crate::checkpoint::{Checkpoint, Collection, Kept};
use crate::link::{Delta, Object};

/// One collection: its name for the proxy, and its place in the checkpoint.
pub(super) struct Memory {
    kind: &'static str,
    kept: Kept,
}

impl Memory {
    pub(super) fn services(checkpoint: Option<&Checkpoint>) -> Self {
        Self { kind: "Service", kept: Kept::new(Collection::Services, checkpoint) }
    }

    pub(super) fn slices(checkpoint: Option<&Checkpoint>) -> Self {
        Self { kind: "EndpointSlice", kept: Kept::new(Collection::EndpointSlices, checkpoint) }
    }

    /// Tells the proxy what an earlier run knew. It is no list: after a mere restart of the agent the table that stands is
    /// newer than what a kill has left here, and is kept until the API server has told.
    pub(super) async fn recall(&self, proxy: &Proxy) {
        let known = self.kept.objects().await;
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
        self.kept.take(&delta, Object::clone).await;
    }
}
