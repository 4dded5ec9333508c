//! The agent of one board: Kubernetes' kubelet and kube-proxy, small.

pub mod instance;
pub mod link;
pub mod join;
pub mod checkpoint;
pub mod node;
pub mod pods;
pub mod volumes;
pub mod probes;
pub mod images;
pub mod netlink;
pub mod network;
pub mod services;
pub mod dns;
pub mod serve;
