//! The agent of one board: Kubernetes' kubelet and kube-proxy, small.
//!
//! ```text
//!  API server <- link (one h2 connection) <- node, join <- discovery (multicast DNS)
//!                 |  watch
//!                 v
//!   checkpoint <- pods (pure plan, one task a pod) -> runtime, network, images, volumes, probes
//!                 services -> one nftables table -> announce (ARP)      dns -> names of the cluster
//!  API server -> serve (logs, exec, attach, port-forward)      root on the board -> local
//!                 ^ tunnel, which this board opens where the API server cannot reach it
//! ```
//! `os` is what a flashed board has in place of another system's init.
//! `agent::run` wires it. The binary's verbs are beside this library, in `main.rs` and `cli`.
//!
//! **Architecture invariant:** the agent meets the controller only on the wire, in Kubernetes' own terms.
//! **Architecture invariant:** an agent that starts, stops or crashes touches no running container.
//! **Architecture invariant:** every name on the host derives from `Instance`.
//! **Architecture invariant:** only our own nftables table is ever written, one transaction at a time.

pub mod agent;
pub mod announce;
pub mod checkpoint;
pub mod cni;
pub mod discovery;
pub mod dns;
pub mod images;
pub mod instance;
pub mod join;
pub mod link;
pub mod local;
pub mod netlink;
pub mod network;
pub mod node;
pub mod os;
pub mod platform;
pub mod pods;
pub mod probes;
pub mod records;
pub mod serve;
pub mod services;
pub mod tunnel;
pub mod volumes;
