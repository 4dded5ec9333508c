//! Shell: what the board's Node tells it: its pods' ranges, its zone; and who connects pods, as far as readiness hangs on it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;
use tracing::{error, info};

use crate::cni::Plugins;
use crate::images::BoardImages;
use crate::network::{Cidr, Network};
use crate::node::Health;
use crate::pods::Images;
use crate::services::Proxy;

const NO_RANGE: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                        message:Network plugin returns error: the node has no pod range yet";

/// Who connects this board's pods.
pub(super) struct PodNet {
    pub(super) network: Network,
    pub(super) plugins: Option<Plugins>,
    /// What this board believes to be the cluster's.
    pub(super) cluster: Vec<Cidr>,
}

impl PodNet {
    /// Why no pod can be connected, where `ranges` are the board's own.
    pub(super) fn not_ready(&self, ranges: &[Cidr]) -> Vec<String> {
        let reason = match &self.plugins {
            Some(plugins) => plugins.not_ready(),
            None => ranges.is_empty().then_some(NO_RANGE),
        };
        reason.into_iter().map(str::to_owned).collect()
    }

    /// The ranges of the Node that this board does not know as the cluster's: pods that it has from them would speak to
    /// others, and to Services, in disguise.
    fn foreign(&self, ranges: &[Cidr]) -> Vec<Cidr> {
        let known = |range: &&Cidr| self.cluster.iter().any(|known| known.contains(range.base()));
        ranges.iter().filter(|range| !known(range)).copied().collect()
    }

    /// Takes the ranges of the Node, which plugins read there themselves. False where the kernel refused them.
    async fn take_ranges(&self, ranges: &[Cidr]) -> bool {
        if self.plugins.is_some() {
            return true;
        }
        let foreign = self.foreign(ranges);
        if !foreign.is_empty() {
            error!(
                ?foreign,
                "the cluster has other ranges: start this agent with the controller's --cluster-cidr and --service-cidr"
            );
        }
        let (network, wanted) = (self.network.clone(), ranges.to_vec());
        match tokio::task::spawn_blocking(move || network.set_ranges(&wanted)).await {
            Ok(Ok(())) => {
                info!(?ranges, "pod ranges");
                return true;
            }
            Ok(Err(error)) => error!(%error, "pod ranges"),
            Err(error) => error!(%error, "pod ranges"),
        }
        false
    }
}

/// Resolves when plugins have got a configuration, or have lost it.
async fn plugins_changed(changes: Option<&mut watch::Receiver<bool>>) {
    let changed = match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

/// Gives the pod network its ranges, and tells the node's loop of images and readiness.
pub(super) async fn watch_node(
    mut node: watch::Receiver<Arc<Value>>,
    health: watch::Sender<Health>,
    pod_network: PodNet,
    proxy: Proxy,
    images: Arc<BoardImages>,
    ready: impl FnOnce(),
) {
    let mut ready = Some(ready);
    let mut known = pod_network.network.ranges();
    let mut changes = pod_network.plugins.as_ref().map(Plugins::changes);
    loop {
        tokio::select! {
            changed = node.changed() => if changed.is_err() { return },
            () = plugins_changed(changes.as_mut()) => {}
        }
        let current = node.borrow_and_update().clone();
        if current.is_null() {
            continue;
        }
        let labels = &current["metadata"]["labels"];
        proxy.set_zone(labels["topology.kubernetes.io/zone"].as_str().unwrap_or_default());
        proxy.set_silent(labels.get("node.kubernetes.io/exclude-from-external-load-balancers").is_some());
        let texts = current["spec"]["podCIDRs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ranges: Vec<Cidr> = texts.iter().filter_map(|text| text.as_str()?.parse().ok()).collect();
        if !ranges.is_empty() && ranges != known && pod_network.take_ranges(&ranges).await {
            known = ranges;
        }
        let present = Images::list(&*images).await;
        let not_ready = pod_network.not_ready(&known);
        health.send_if_modified(|health| {
            let next = Health { not_ready, images: present, ..health.clone() };
            let changed = *health != next;
            *health = next;
            changed
        });
        // Plugins may come as pods themselves: nobody is to wait for them.
        if let Some(ready) = ready.take_if(|_| pod_network.plugins.is_some() || !known.is_empty()) {
            ready();
        }
    }
}
