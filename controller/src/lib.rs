//! The control plane: Kubernetes' API, its scheduler and its controllers over `bramble_store`.
//!
//! ```text
//!  HTTPS -> serve -> authn -> api -> authz -> registry (kinds, schema, admission) -> store
//!                               ^                                                     | watch
//!                               '--- controllers, scheduler (pure plans) <------------'
//! ```
//! Several control planes may share one etcd: all serve, and the holder of a Lease (`election`) reconciles and schedules.
//! Controllers and scheduler are clients as any other: through the API, each under its own identity, in process or over
//! HTTPS. The next stop of an object is the agent, which meets this crate only on the wire.
//!
//! **Architecture invariant:** the registry is the only writer of the store.
//! **Architecture invariant:** a kind is a row of `kinds`; no handler knows one by name.
//! **Architecture invariant:** a decision is pure (`plan`, `validate`, `authorize`) and gets time and randomness as arguments.
//! **Architecture invariant:** no parsed object is cached; indexes and views hold keys and a few compact fields.

#![forbid(unsafe_code)]

pub mod api;
pub mod authn;
pub mod authz;
pub mod backup;
pub mod bootstrap;
pub mod cidr;
pub mod client;
pub mod controllers;
pub mod election;
pub mod encryption;
pub mod identity;
pub mod kinds;
pub mod object;
pub mod pki;
pub mod registry;
pub mod scheduler;
pub mod schema;
pub mod serve;
