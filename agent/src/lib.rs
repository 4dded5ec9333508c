//! The agent of one board: Kubernetes' kubelet and kube-proxy, small.

pub mod agent;
pub mod checkpoint;
pub mod dns;
pub mod images;
pub mod instance;
pub mod join;
pub mod link;
pub mod local;
pub mod netlink;
pub mod network;
pub mod node;
pub mod platform;
pub mod pods;
pub mod probes;
pub mod serve;
pub mod services;
pub mod volumes;
