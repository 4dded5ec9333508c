//! Pure: the map of our netlink: what the kernel's routing, nf_tables and conntrack speak, in bytes.
//!
//! `wire` frames messages and attributes, `route`, `tunnel`, `nft` and `conntrack` know the families, `socket` is the only file
//! that talks to the kernel. Nothing here decides anything: callers say what to add and what to remove.

pub(crate) mod conntrack;
pub(crate) mod describe;
pub(crate) mod nft;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod tunnel;
pub(crate) mod wire;
