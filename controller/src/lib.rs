//! The control plane: Kubernetes' API, its scheduler and its controllers over `bramble_store`.
#![forbid(unsafe_code)]

pub mod api;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod client;
pub mod controllers;
pub mod identity;
pub mod kinds;
pub mod object;
pub mod pki;
pub mod registry;
pub mod scheduler;
pub mod schema;
pub mod serve;
