//! Pure: the map of the board's DNS.
//!
//! Every board answers the cluster's names itself, on the cluster DNS address that the pod network gave it, from the
//! index that services are routed by. Other names go to the board's own resolvers.
//!
//! ```text
//!  pod -> 10.43.0.10:53 -> message -> zone (index)      cluster.local, reverse names of the cluster's ranges
//!                                  -> cache -> forward  everything else; the same question is asked once at a time
//! ```

mod cache;
mod forward;
mod lifetime;
mod message;
mod resolvers;
mod serve;
mod zone;

pub use serve::{Error, Options, run};

#[cfg(test)]
mod tests;
