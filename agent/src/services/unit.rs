//! Pure: the part of the table that belongs to one service or one pod's host ports.

use super::atom::Element;
use super::statement::Rule;
use std::collections::{BTreeMap, BTreeSet};

/// Chains, sets and elements of one owner; two units are compared to find what changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) chains: BTreeMap<String, Vec<Rule>>,
    /// The affinity sets: name to family and seconds.
    pub(crate) affinity: BTreeMap<String, (bool, u32)>,
    pub(crate) elements: BTreeSet<Element>,
    /// Addresses of this board's pods that may reach themselves; several units may name the same.
    pub(crate) hairpin: BTreeSet<core::net::IpAddr>,
    /// Where UDP flows may have been sent to; when one is gone, its flows are forgotten.
    pub(crate) udp_targets: BTreeSet<core::net::SocketAddr>,
}
