//! Pure: how the pods of other boards are reached: over the link where the boards share one, else through a tunnel.
//!
//! ```text
//!  same link   10.42.1.0/24 via 10.88.0.2 dev eth0 onlink
//!  apart       10.42.1.0/24 via 10.42.1.0 dev br1a2b3ctun onlink      (VXLAN to the other board's address)
//!              10.42.1.0/24 dev br1a2b3cwg                            (WireGuard, where both boards have a key)
//! ```
//! Nothing is negotiated: a Node's pod ranges, addresses and key say it all, and a board's hardware address inside the
//! VXLAN follows from its name.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cidr::Cidr;
use super::encryption::PORT;
use super::overlay::{KEY_ANNOTATION, decode};
use super::plan::tunnel_mac;
use crate::netlink::route::{Reach, Route};
use crate::netlink::tunnel::Entry;
use crate::netlink::wireguard;

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
    /// WireGuard's, as the annotation has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

impl Peer {
    /// None while the Node has no ranges or no address, or the controller says that its ranges are another board's.
    pub(crate) fn read(node: &Value) -> Option<Self> {
        if has_no_route(node) {
            return None;
        }
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let ranges = texts(&node["spec"]["podCIDRs"]);
        let internal = node["status"]["addresses"].as_array().into_iter().flatten();
        let internal = internal.filter(|address| address["type"] == "InternalIP");
        let addresses: Vec<IpAddr> = internal.filter_map(|address| address["address"].as_str()?.parse().ok()).collect();
        let name = node["metadata"]["name"].as_str()?.to_owned();
        let key = node["metadata"]["annotations"][KEY_ANNOTATION].as_str().filter(|key| decode(key).is_some());
        let key = key.map(str::to_owned);
        (!ranges.is_empty() && !addresses.is_empty()).then_some(Self { name, ranges, addresses, key })
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

/// Of two boards whose ranges overlap the younger is told so by its Node's condition; the older one's traffic is not for it.
fn has_no_route(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let mut told = conditions.filter(|one| one["type"] == "NetworkUnavailable" && one["status"] == "True");
    told.any(|one| one["reason"] == "NoRouteCreated")
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
    /// Routes through the encrypted tunnel.
    pub(crate) encrypted: Vec<Route>,
    /// Whom that one speaks with.
    pub(crate) partners: Vec<wireguard::Peer>,
    /// Boards that have no key, where one is asked of them.
    pub(crate) keyless: Vec<String>,
}

/// The tunnels of this board; the numbers of their interfaces, which the caller knows at the second time.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tunnels {
    pub(crate) vxlan: Option<u32>,
    /// None on a board without WireGuard.
    pub(crate) encrypted: Option<Encrypted>,
}

/// The encrypted tunnel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encrypted {
    pub(crate) index: u32,
    /// Boards without a key are not spoken to.
    pub(crate) required: bool,
    pub(crate) keepalive_s: u16,
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
/// [`carriers`], without those that it cannot reach now.
pub(crate) fn wanted(
    peers: &[Peer],
    own: &[(Cidr, IpAddr)],
    reach: &BTreeMap<IpAddr, Reach>,
    tunnels: Tunnels,
) -> Wanted {
    let mut wanted = Wanted::default();
    for peer in peers {
        for range in peer.cidrs().filter(|range| own.iter().all(|(mine, _)| mine != range)) {
            let (to, bits) = (range.base(), range.bits());
            let carrier = peer.carrier(range);
            match carrier.and_then(|carrier| reach.get(&carrier)) {
                Some(Reach::OnLink(index)) => {
                    wanted.direct.push(Route { to, bits, index: *index, via: carrier, source: None });
                }
                // Another instance on this very host, or a board that has not noticed that its address went.
                Some(Reach::Own) => {}
                _ => {
                    // Replies must come back through the tunnel, so what the board itself sends wears its pod address.
                    let source = own.iter().find(|(mine, _)| mine.is_ipv4() == range.is_ipv4()).map(|(_, ip)| *ip);
                    wanted.through_a_tunnel(peer, range, source, tunnels);
                }
            }
        }
    }
    wanted.entries.sort_unstable();
    wanted.entries.dedup();
    wanted.keyless.dedup();
    wanted
}

impl Wanted {
    /// Of every kind.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.direct.iter().chain(&self.tunnelled).chain(&self.encrypted)
    }

    fn through_a_tunnel(&mut self, peer: &Peer, range: Cidr, source: Option<IpAddr>, tunnels: Tunnels) {
        let (to, bits) = (range.base(), range.bits());
        match (tunnels.encrypted, peer.key.as_deref().and_then(decode), peer.outer()) {
            (Some(tunnel), Some(key), _) => {
                self.encrypted.push(Route { to, bits, index: tunnel.index, via: None, source });
                self.speak(key, peer, range, tunnel.keepalive_s);
            }
            (Some(tunnel), None, _) if tunnel.required => self.keyless.push(peer.name.clone()),
            (_, _, Some(outer)) => {
                let index = tunnels.vxlan.unwrap_or_default();
                self.tunnelled.push(Route { to, bits, index, via: Some(to), source });
                let mac = tunnel_mac(&peer.name);
                self.entries.push(Entry::Neighbour(to, mac));
                self.entries.push(Entry::Forward(mac, outer));
            }
            (_, _, None) => {}
        }
    }

    fn speak(&mut self, key: wireguard::Key, peer: &Peer, range: Cidr, keepalive: u16) {
        let allowed = wireguard::allowed(range);
        if let Some(known) = self.partners.iter_mut().find(|known| known.key == key) {
            known.allowed.push(allowed);
            known.allowed.sort_unstable();
            return;
        }
        let endpoint = peer.outer().or(peer.addresses.first().copied()).map(|ip| SocketAddr::new(ip, PORT));
        self.partners.push(wireguard::Peer { key, endpoint, allowed: vec![allowed], keepalive });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn peer(name: &str, range: &str, address: &str) -> Peer {
        Peer { name: name.into(), ranges: vec![range.into()], addresses: vec![address.parse().unwrap()], key: None }
    }

    fn over(vxlan: u32) -> Tunnels {
        Tunnels { vxlan: Some(vxlan), encrypted: None }
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
    fn a_board_whose_ranges_are_anothers_is_no_peer() {
        let node = |status: &str, reason: &str| {
            json!({"metadata": {"name": "b"}, "spec": {"podCIDRs": ["10.42.1.0/24"]}, "status": {
                "addresses": [{"type": "InternalIP", "address": "10.88.0.2"}],
                "conditions": [{"type": "NetworkUnavailable", "status": status, "reason": reason}]}})
        };
        assert_eq!(Peer::read(&node("True", "NoRouteCreated")), None);
        for (status, reason) in [("False", "RouteCreated"), ("True", "CalicoIsDown")] {
            assert!(Peer::read(&node(status, reason)).is_some(), "{reason}: it is not ours to say");
        }
    }

    #[test]
    fn neighbours_are_reached_over_the_link_and_others_through_the_tunnel() {
        let peers = [peer("b", "10.42.1.0/24", "10.88.0.2"), peer("c", "10.42.2.0/24", "172.16.0.9")];
        let own = [("10.42.0.0/24".parse().unwrap(), ip("10.42.0.1"))];
        let reach = BTreeMap::from([(ip("10.88.0.2"), Reach::OnLink(3)), (ip("172.16.0.9"), Reach::Routed)]);
        let wanted = wanted(&peers, &own, &reach, over(9));
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
        assert_eq!(wanted(&stolen, &own, &reach, Tunnels::default()), Wanted::default());
        let six = [peer("d", "fd42:0:0:3::/64", "10.88.0.2")];
        let through = wanted(&six, &own, &reach, over(9));
        assert_eq!((through.direct.len(), through.tunnelled.len()), (0, 1));
    }

    #[test]
    fn boards_with_keys_are_spoken_to_in_secret_and_others_as_the_overlay_says() {
        let text = crate::network::overlay::encode(&[7; 32]);
        let two = vec!["10.42.2.0/24".to_owned(), "fd42:0:0:2::/64".to_owned()];
        let with = Peer { ranges: two, key: Some(text.clone()), ..peer("c", "10.42.2.0/24", "172.16.0.9") };
        let peers = [with, peer("d", "10.42.3.0/24", "172.16.0.8")];
        let own = [("10.42.0.0/24".parse().unwrap(), ip("10.42.0.1"))];
        let reach = BTreeMap::new();
        let tunnels =
            |required| Tunnels { vxlan: Some(9), encrypted: Some(Encrypted { index: 5, required, keepalive_s: 25 }) };
        let auto = wanted(&peers, &own, &reach, tunnels(false));
        let route = Route { to: ip("10.42.2.0"), bits: 24, index: 5, via: None, source: Some(ip("10.42.0.1")) };
        assert_eq!((auto.encrypted.len(), auto.encrypted[0]), (2, route));
        let partner = wireguard::Peer {
            key: [7; 32],
            endpoint: Some("172.16.0.9:51820".parse().unwrap()),
            allowed: vec![(ip("10.42.2.0"), 24), (ip("fd42:0:0:2::"), 64)],
            keepalive: 25,
        };
        assert_eq!(auto.partners, [partner]);
        assert_eq!((auto.tunnelled.len(), auto.tunnelled[0].to, auto.keyless.len()), (1, ip("10.42.3.0"), 0));

        let strict = wanted(&peers, &own, &reach, tunnels(true));
        assert_eq!((strict.encrypted, strict.partners), (auto.encrypted, auto.partners));
        assert_eq!((strict.tunnelled.len(), strict.entries.len(), strict.keyless), (0, 0, vec!["d".to_owned()]));
        let plain = wanted(&peers, &own, &reach, over(9));
        assert_eq!((plain.tunnelled.len(), plain.encrypted.len()), (3, 0), "without WireGuard keys change nothing");

        let node = json!({"metadata": {"name": "b", "annotations": {KEY_ANNOTATION: text}},
            "spec": {"podCIDRs": ["10.42.1.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "fd00::2"}]}});
        let six = Peer::read(&node).unwrap();
        let over_six = wanted(&[six], &own, &reach, tunnels(true));
        assert_eq!(over_six.partners[0].endpoint, Some("[fd00::2]:51820".parse().unwrap()));
        let mut torn = node;
        torn["metadata"]["annotations"][KEY_ANNOTATION] = json!("no key");
        assert_eq!(Peer::read(&torn).unwrap().key, None);
    }
}
