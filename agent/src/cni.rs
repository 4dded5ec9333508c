//! Pure: the map of a pod network that is somebody else's: CNI plugins (containernetworking/cni, SPEC 0.3 to 1.1) in the place of
//! [`network`](crate::network).
//!
//! ```text
//!  /etc/cni/net.d/10-x.conflist --> configuration --> plan of a call, a plugin after the other --> execute --> result
//!  <data dir>/agent/cni/<sandbox>.json  what ADD was told and answered, so that DEL is told the same, also after a reboot
//! ```
//! Routes between boards and what pods wear outside the cluster are the plugins' business then; Services, cluster names
//! and policies stay ours: they hang on addresses, not on interfaces.

mod attach;
mod configuration;
mod execute;
mod record;
mod result;
#[cfg(test)]
mod tests;

pub use attach::{Error, Options, Plugins, down};
