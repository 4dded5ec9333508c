//! The control plane: Kubernetes' API, its scheduler and its controllers over `bramble_store`.
#![forbid(unsafe_code)]

pub mod object;
pub mod identity;
pub mod schema;
pub mod kinds;
pub mod registry;
pub mod pki;
pub mod authn;
pub mod authz;
pub mod api;
pub mod client;
pub mod bootstrap;
pub mod controllers;
pub mod scheduler;
pub mod serve;
