//! Pure: how the pods of other boards are reached: over the link where the boards share one, else through a tunnel.
//!
//! ```text
//!  same link   10.42.1.0/24 via 10.88.0.2 dev eth0 onlink
//!  apart       10.42.1.0/24 via 10.42.1.0 dev br1a2b3ctun onlink      (VXLAN to the other board's address)
//! ```
//! Nothing is negotiated: a Node's pod ranges and addresses say it all, and a board's hardware address inside the
//! tunnel follows from its name.

use core::net::IpAddr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cidr::Cidr;
use super::plan::tunnel_mac;
use crate::netlink::route::{Reach, Route};
use crate::netlink::tunnel::Entry;

/// Boards of one cluster that a board keeps routes to; upstream's own limit for a cluster.
pub(crate) const PEERS_MAX: usize = 5000;

/// Another board, as its Node tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// `spec.podCIDRs`, written as text.
    pub(crate) ranges: Vec<String>,
    /// `status.addresses` of type `InternalIP`.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Peer {
    /// None while the Node has no ranges or no address.
    pub(crate) fn read(node: &Value) -> Option<Self> {
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let ranges = texts(&node["spec"]["podCIDRs"]);
        let internal = node["status"]["addresses"].as_array().into_iter().flatten();
        let internal = internal.filter(|address| address["type"] == "InternalIP");
        let addresses: Vec<IpAddr> = internal.filter_map(|address| address["address"].as_str()?.parse().ok()).collect();
        let name = node["metadata"]["name"].as_str()?.to_owned();
        (!ranges.is_empty() && !addresses.is_empty()).then_some(Self { name, ranges, addresses })
    }

    fn cidrs(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.ranges.iter().filter_map(|range| range.parse().ok())
    }

    /// The address that carries a range over a shared link: one of the same family.
    fn carrier(&self, range: Cidr) -> Option<IpAddr> {
        self.addresses.iter().find(|ip| ip.is_ipv4() == range.is_ipv4()).copied()
    }

    /// The address behind the tunnel, for both families: one tunnel has one outer family, and every board has IPv4.
    fn outer(&self) -> Option<IpAddr> {
        self.addresses.iter().find(|ip| ip.is_ipv4()).copied()
    }
}

/// What the kernel shall have.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Routes over links that are there.
    pub(crate) direct: Vec<Route>,
    /// Routes through the tunnel; `index` is the tunnel's, which the caller knows.
    pub(crate) tunnelled: Vec<Route>,
    /// What the tunnel must know.
    pub(crate) entries: Vec<Entry>,
}

/// Every address whose reach decides.
pub(crate) fn carriers(peers: &[Peer]) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> =
        peers.iter().flat_map(|peer| peer.cidrs().filter_map(|range| peer.carrier(range))).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Decides. `own` are this board's ranges with its address in each; `reach` what the kernel answered for
/// [`carriers`], without those that it cannot reach now; `tunnel` the number of the tunnel's interface.
pub(crate) fn wanted(
    peers: &[Peer],
    own: &[(Cidr, IpAddr)],
    reach: &BTreeMap<IpAddr, Reach>,
    tunnel: Option<u32>,
) -> Wanted {
    let mut wanted = Wanted::default();
    for peer in peers {
        for range in peer.cidrs().filter(|range| own.iter().all(|(mine, _)| mine != range)) {
            let (to, bits) = (range.base(), range.bits());
            let carrier = peer.carrier(range);
            match (carrier.and_then(|carrier| reach.get(&carrier)), peer.outer()) {
                (Some(Reach::OnLink(index)), _) => {
                    wanted.direct.push(Route { to, bits, index: *index, via: carrier, source: None });
                }
                // Another instance on this very host, or a board that has not noticed that its address went.
                (Some(Reach::Own), _) | (_, None) => {}
                (_, Some(outer)) => {
                    // Replies must come back through the tunnel, so what the board itself sends wears its pod address.
                    let source = own.iter().find(|(mine, _)| mine.is_ipv4() == range.is_ipv4()).map(|(_, ip)| *ip);
                    let index = tunnel.unwrap_or_default();
                    wanted.tunnelled.push(Route { to, bits, index, via: Some(to), source });
                    let mac = tunnel_mac(&peer.name);
                    wanted.entries.push(Entry::Neighbour(to, mac));
                    wanted.entries.push(Entry::Forward(mac, outer));
                }
            }
        }
    }
    wanted.entries.sort_unstable();
    wanted.entries.dedup();
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn peer(name: &str, range: &str, address: &str) -> Peer {
        Peer { name: name.into(), ranges: vec![range.into()], addresses: vec![address.parse().unwrap()] }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_is_a_peer_once_it_has_ranges_and_an_address() {
        let node = json!({
            "metadata": {"name": "b"},
            "spec": {"podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "b"}, {"type": "InternalIP", "address": "10.88.0.2"},
            ]},
        });
        let read = Peer::read(&node).unwrap();
        assert_eq!((read.name.as_str(), read.ranges.len(), read.addresses), ("b", 2, vec![ip("10.88.0.2")]));
        assert_eq!(Peer::read(&json!({"metadata": {"name": "b"}, "spec": {}})), None);
    }

    #[test]
    fn neighbours_are_reached_over_the_link_and_others_through_the_tunnel() {
        let peers = [peer("b", "10.42.1.0/24", "10.88.0.2"), peer("c", "10.42.2.0/24", "172.16.0.9")];
        let own = [("10.42.0.0/24".parse().unwrap(), ip("10.42.0.1"))];
        let reach = BTreeMap::from([(ip("10.88.0.2"), Reach::OnLink(3)), (ip("172.16.0.9"), Reach::Routed)]);
        let wanted = wanted(&peers, &own, &reach, Some(9));
        let direct = Route { to: ip("10.42.1.0"), bits: 24, index: 3, via: Some(ip("10.88.0.2")), source: None };
        assert_eq!(wanted.direct, [direct]);
        let tunnelled = Route {
            to: ip("10.42.2.0"),
            bits: 24,
            index: 9,
            via: Some(ip("10.42.2.0")),
            source: Some(ip("10.42.0.1")),
        };
        assert_eq!(wanted.tunnelled, [tunnelled]);
        let mac = tunnel_mac("c");
        assert_eq!(wanted.entries, [Entry::Neighbour(ip("10.42.2.0"), mac), Entry::Forward(mac, ip("172.16.0.9"))]);
        assert_eq!(carriers(&peers), [ip("10.88.0.2"), ip("172.16.0.9")]);
    }

    #[test]
    fn an_own_range_and_an_own_address_are_left_alone_and_families_are_not_mixed_on_a_link() {
        let own = [("10.42.0.0/24".parse().unwrap(), ip("10.42.0.1"))];
        let stolen = [peer("b", "10.42.0.0/24", "10.88.0.2"), peer("c", "10.42.2.0/24", "10.88.0.1")];
        let reach = BTreeMap::from([(ip("10.88.0.2"), Reach::OnLink(3)), (ip("10.88.0.1"), Reach::Own)]);
        assert_eq!(wanted(&stolen, &own, &reach, None), Wanted::default());
        let six = [peer("d", "fd42:0:0:3::/64", "10.88.0.2")];
        let through = wanted(&six, &own, &reach, Some(9));
        assert_eq!((through.direct.len(), through.tunnelled.len()), (0, 1));
    }
}
