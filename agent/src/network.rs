//! Pure: the map of a board's pod network.
//!
//! A pod hangs on a point-to-point veth with a host route, not on a bridge, so that all of its traffic passes our
//! nftables table. Inside the pod the gateway is 169.254.1.1 (fe80::1), a permanent neighbour that no host owns:
//!
//! ```text
//!  pod netns                         board
//!  eth0 10.42.0.7/32  <--- veth ---> br1a2b3cxxxxxxx      10.42.0.7 dev br1a2b3cxxxxxxx
//!  default via 169.254.1.1           br1a2b3cnet (a pair)  10.42.0.1/32, <dns ip>/32, 10.43.0.0/16
//! ```
//!
//! That pair carries what must answer on this board although no NIC owns it: the board's own address of the pod range
//! (the source of its traffic to services), the cluster DNS address, and the route of the service range, so that a
//! board without any other network still reaches services.
//!
//! The pods of other boards are routed over the link that the boards share, or through a tunnel ([`peering`]): VXLAN, or
//! WireGuard where [`Overlay`] asks for it.
//!
//! How a board is put together: [`Proxy::new`](crate::services::Proxy::new) and [`Network::open`] (blocking, once),
//! [`Network::sweep`] when the runtime has said which sandboxes live, [`Network::set_ranges`] whenever
//! `Node.spec.podCIDRs` is known or changes, then [`peering::run`], [`services::run`](crate::services::run) and
//! [`dns::run`](crate::dns::run) for ever; [`down`] takes everything away by the instance's name alone.

mod addresses;
mod attach;
mod cidr;
mod encryption;
mod overlay;
pub mod peering;
mod peers;
mod plan;
mod record;
mod sysctl;

pub use attach::{Error, Network, Options, down};
pub use cidr::{BadCidr, Cidr};
pub use overlay::Overlay;
pub use record::Ranges;

#[cfg(test)]
pub(crate) mod board;
#[cfg(test)]
pub(crate) mod namespace;
#[cfg(test)]
mod tests;
