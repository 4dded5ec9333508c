//! Shell: what is known of policies, shared by the task that follows them and by whoever connects pods.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::model::{Model, Pod, View};
use super::render::units;
use crate::pods::PodNetRequest;
use crate::services::proxy::{Error, Proxy};

/// A board that cannot learn which network policies there are (it never could, and does not now) connects pods anyway.
const PATIENCE: Duration = Duration::from_secs(5);

/// The policies of the cluster as this board knows them; clones share them.
#[derive(Clone)]
pub struct Policies(Arc<Inner>);

struct Inner {
    proxy: Proxy,
    model: Mutex<Model>,
    /// The API server or an earlier run has told which policies there are.
    known: watch::Sender<bool>,
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Policies")
    }
}

impl Policies {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(proxy: Proxy) -> Self {
        Self(Arc::new(Inner { proxy, model: Mutex::default(), known: watch::Sender::new(false) }))
    }

    /// It is known that there are none.
    #[must_use]
    pub fn none(proxy: Proxy) -> Self {
        let policies = Self::new(proxy);
        policies.set_known();
        policies
    }

    /// Resolves when it is known which policies there are.
    async fn known(&self) {
        // The sender lives as long as this.
        let _ = self.0.known.subscribe().wait_for(|known| *known).await;
    }

    /// Resolves when it is known, or after so long that this pod is connected anyway.
    pub(crate) async fn soon_known(&self, pod: &str) {
        if tokio::time::timeout(PATIENCE, self.known()).await.is_err() {
            tracing::warn!(pod, "connected before network policies are known");
        }
    }

    /// A pod of this board gets these addresses. What policies say of it stands in the table when this returns; only
    /// then may it be connected. Blocks for milliseconds.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn connect(&self, sandbox_id: &str, pod: &PodNetRequest, ips: &[IpAddr]) -> Result<(), Error> {
        let closes = self.change(|model| {
            model
                .locals
                .insert(sandbox_id.to_owned(), (format!("{}/{}", pod.namespace, pod.name), Pod::local(pod, ips)));
            !model.policies.is_empty()
        });
        if !closes {
            return Ok(());
        }
        self.program();
        self.0.proxy.sync()
    }

    /// A sandbox has no addresses any more.
    pub(crate) fn disconnect(&self, sandbox_id: &str) {
        let closed = self.change(|model| model.locals.remove(sandbox_id).is_some() && !model.policies.is_empty());
        if closed {
            self.program();
        }
    }

    pub(super) fn is_known(&self) -> bool {
        *self.0.known.borrow()
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Model) -> T) -> T {
        // Whoever panicked in there left a model that the next list puts right.
        change(&mut self.0.model.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on pods need not wait.
    pub(super) fn set_known(&self) {
        self.0.known.send_replace(true);
        self.program();
    }

    /// Has the proxy program what is known, once that is something.
    pub(super) fn program(&self) {
        if self.is_known() {
            self.0.proxy.set_policies(self.change(|model| units(&View::of(model))));
        }
    }

    /// As if the API server had told of these, and of no pod yet.
    #[cfg(test)]
    pub(crate) fn set(&self, policies: &[serde_json::Value]) {
        let named = |policy: &serde_json::Value| policy["metadata"]["name"].as_str().unwrap().to_owned();
        let policies = policies.iter().map(|one| (named(one), super::model::Policy::parse(one).unwrap()));
        self.change(|model| model.policies = policies.collect());
        self.set_known();
    }
}
