//! Pure: the map of our netlink: what the kernel's routing, nf_tables, conntrack and WireGuard speak, in bytes.
//!
//! `wire` frames messages and attributes, `route`, `tunnel`, `nft`, `conntrack` and `wireguard` know the families, `socket` is the only file
//! that talks to the kernel. Nothing here decides anything: callers say what to add and what to remove.

pub(crate) mod conntrack;
pub(crate) mod describe;
pub(crate) mod nft;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod tunnel;
pub(crate) mod wire;
pub(crate) mod wireguard;
