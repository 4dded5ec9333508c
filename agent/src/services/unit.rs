//! Pure: the part of the table that belongs to one service or one pod's host ports.

use super::atom::{Atom, Element};
use super::statement::Rule;
use crate::netlink::nft::Type;
use std::collections::{BTreeMap, BTreeSet};

/// A set of addresses of one family, or of addresses with a protocol and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peers {
    pub(crate) ipv4: bool,
    pub(crate) with_port: bool,
    pub(crate) elements: BTreeSet<Vec<Atom>>,
}

impl Peers {
    /// The types of its keys.
    pub(crate) const fn types(&self) -> &'static [Type] {
        match (self.ipv4, self.with_port) {
            (true, false) => &[Type::Ipv4],
            (false, false) => &[Type::Ipv6],
            (true, true) => &[Type::Ipv4, Type::Protocol, Type::Port],
            (false, true) => &[Type::Ipv6, Type::Protocol, Type::Port],
        }
    }
}

/// Chains, sets and elements of one owner; two units are compared to find what changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) chains: BTreeMap<String, Vec<Rule>>,
    /// The affinity sets: name to family and seconds.
    pub(crate) affinity: BTreeMap<String, (bool, u32)>,
    /// Sets of a policy's peers.
    pub(crate) peers: BTreeMap<String, Peers>,
    pub(crate) elements: BTreeSet<Element>,
    /// Addresses of this board's pods that may reach themselves; several units may name the same.
    pub(crate) hairpin: BTreeSet<core::net::IpAddr>,
    /// Where UDP flows may have been sent to; when one is gone, its flows are forgotten.
    pub(crate) udp_targets: BTreeSet<core::net::SocketAddr>,
}
