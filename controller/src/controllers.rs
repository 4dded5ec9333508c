//! Shell: one reconcile loop; a controller is a pure plan.
//!
//! [`TABLE`] lists them: a further controller is one row and one file with its `keys` and its `plan`. Where the rest lives:
//! `kind` (what is watched), `view` (what is kept of it), `plan` (what a plan may read and do), `reconcile` (the loop).

mod apply;
mod event;
pub(crate) mod events;
mod graph;
pub(crate) mod kind;
mod plan;
mod queue;
mod reconcile;
pub(crate) mod selector;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod view;

mod bootstrap_token;
mod cluster_role;
mod deployment;
mod disruption;
mod endpoint;
mod endpoint_slice;
mod endpoints;
mod garbage;
#[cfg(test)]
mod live;
mod load_balancer;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod pod_garbage;
mod replica_set;
mod root_ca;
mod service_account;
mod signing_request;
mod site;
mod taint_eviction;
mod token;
#[cfg(test)]
mod world;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

pub use self::load_balancer::Pool;
pub(crate) use self::node_ipam::node_bits;
use self::plan::Controller;
pub use self::site::{FILE_BYTES_MAX as SITE_BYTES_MAX, Mistake as SiteMistake, Site};
use crate::cidr::Cidr;
use crate::client::Client;

/// Signs the certificate request in a whole, approved CertificateSigningRequest at a wall-clock time; the answer is what
/// `status.certificate` holds (base64 of PEM), the error a sentence for its Failed condition.
pub type Sign = Arc<dyn Fn(&Value, i64) -> Result<String, String> + Send + Sync>;

/// Signs a never-ending token: namespace, account name, account uid, Secret name.
pub type AccountToken = Arc<dyn Fn(&str, &str, &str, &str) -> Result<String, String> + Send + Sync>;

/// What the controllers are told by whoever starts them.
#[derive(Clone)]
pub struct Options {
    /// The cluster's CA certificates as PEM, published in every namespace.
    pub root_ca: String,
    /// Pods' addresses: one range, or one of each family, the primary one first.
    pub cluster_cidrs: Vec<Cidr>,
    /// Addresses for Services of type LoadBalancer; none are given without.
    pub load_balancer_pool: Pool,
    /// The boards and where they stand; without it nodes and volumes have no provider of ours.
    pub site: Option<Arc<Site>>,
    /// A node may be silent this long (upstream's node-monitor-grace-period).
    pub node_grace: Duration,
    /// Signs certificate requests.
    pub sign: Sign,
    /// Signs the tokens of token Secrets.
    pub account_token: AccountToken,
}

/// Every controller: service account, name in Events, kinds that concern it, which keys, what to do.
const TABLE: &[Controller] = &[
    replica_set::REPLICA_SET,
    replica_set::REPLICATION,
    deployment::CONTROLLER,
    service_account::CONTROLLER,
    root_ca::CONTROLLER,
    token::CONTROLLER,
    namespace::CONTROLLER,
    garbage::CONTROLLER,
    endpoints::CONTROLLER,
    endpoint_slice::CONTROLLER,
    endpoint_slice::MIRRORING,
    load_balancer::CONTROLLER,
    site::node::CONTROLLER,
    site::lifecycle::CONTROLLER,
    site::route::CONTROLLER,
    site::volume::CONTROLLER,
    node_ipam::CONTROLLER,
    node_lifecycle::CONTROLLER,
    taint_eviction::CONTROLLER,
    disruption::CONTROLLER,
    pod_garbage::CONTROLLER,
    signing_request::APPROVING,
    signing_request::SIGNING,
    signing_request::CLEANING,
    bootstrap_token::CONTROLLER,
    cluster_role::CONTROLLER,
];

/// Runs every controller until `shutdown` changes or is dropped. `client` makes a client for a service account of
/// kube-system by its name (`replicaset-controller`), and for the shared watches one for the user
/// `system:kube-controller-manager` when it is asked for `kube-controller-manager`: as upstream's shared informers, they
/// read under one identity, so that each kind is watched once, while every write is made by the controller's own account.
pub async fn run(
    client: impl Fn(&str) -> Client + Send + Sync,
    options: Options,
    shutdown: tokio::sync::watch::Receiver<bool>,
) {
    reconcile::run(TABLE, &client, options, shutdown).await;
}
