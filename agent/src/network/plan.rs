//! Pure: the netlink messages that connect a pod, and the names and addresses in them.

use super::cidr::Cidr;
use crate::instance::Instance;
use crate::netlink::route::{self, Mac, Route, Scope, Veth};
use crate::netlink::wire::Batch;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The pod's end of the pair.
pub(crate) const POD_INTERFACE: &str = "eth0";

const GATEWAY4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// The interface that carries the board's own addresses in the cluster.
pub(crate) fn board_interface(instance: &Instance) -> String {
    instance.interface("net")
}

/// The other end of the board's own pair; it only keeps the first one up.
pub(crate) fn board_peer(instance: &Instance) -> String {
    instance.interface("end")
}

/// The tunnel to boards that are not on a link of this one.
pub(crate) fn tunnel_interface(instance: &Instance) -> String {
    instance.interface("tun")
}

/// The encrypted one.
pub(crate) fn encrypted_interface(instance: &Instance) -> String {
    instance.interface("wg")
}

/// A board's hardware address inside the tunnel: every other board derives the same from its name.
pub(crate) fn tunnel_mac(node_name: &str) -> Mac {
    let hash = fnv(node_name.as_bytes()).to_be_bytes();
    [0x0a, hash[3], hash[4], hash[5], hash[6], hash[7]]
}

/// What the names of all interfaces of an instance begin with.
pub(crate) fn interface_prefix(instance: &Instance) -> String {
    instance.interface("")
}

/// The board's end of a sandbox' pair: seven characters of a hash, so that it is found again without a lookup.
pub(crate) fn pod_interface(instance: &Instance, sandbox_id: &str) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut hash = fnv(sandbox_id.as_bytes());
    let mut suffix = String::with_capacity(7);
    for _ in 0..7 {
        suffix.push(char::from(DIGITS[usize::try_from(hash % 36).expect("a remainder of 36")]));
        hash /= 36;
    }
    instance.interface(&suffix)
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Locally administered addresses that follow from the name, so that both ends know the other without asking.
fn macs(interface: &str) -> (Mac, Mac) {
    let hash = fnv(interface.as_bytes()).to_be_bytes();
    let end = |first: u8| [first, hash[3], hash[4], hash[5], hash[6], hash[7]];
    (end(0x02), end(0x06))
}

/// Makes the board's own pair. A dummy interface would do, but not every board's kernel has those.
pub(crate) fn make_board_pair(batch: &mut Batch, instance: &Instance, mtu: u32) {
    let (name, peer_name) = (board_interface(instance), board_peer(instance));
    let (mac, peer_mac) = macs(&name);
    route::add_veth(batch, &Veth { name: &name, mac, peer_name: &peer_name, peer_mac, peer_netns: None, mtu });
}

/// Makes the pair, the pod's end inside its namespace at once.
pub(crate) fn make_pair(batch: &mut Batch, interface: &str, netns: i32, mtu: u32) {
    let (mac, peer_mac) = macs(interface);
    let veth = Veth { name: interface, mac, peer_name: POD_INTERFACE, peer_mac, peer_netns: Some(netns), mtu };
    route::add_veth(batch, &veth);
}

/// What is set inside the pod's namespace.
pub(crate) fn inside(batch: &mut Batch, interface: &str, index: u32, ips: &[IpAddr]) {
    let (board_mac, _) = macs(interface);
    route::set_up(batch, POD_INTERFACE);
    for ip in ips {
        let gateway = if ip.is_ipv4() { GATEWAY4 } else { GATEWAY6 };
        route::add_address(batch, index, *ip, Scope::Universe);
        route::add_neighbour(batch, index, gateway, board_mac);
        let to_gateway = Route { to: gateway, bits: route::bits(gateway), index, via: None, source: None };
        route::add_route(batch, &to_gateway);
        route::add_route(
            batch,
            &Route { to: Cidr::new(*ip, 0).base(), bits: 0, index, via: Some(gateway), source: None },
        );
    }
}

/// What is set on the board: the pod is reached over its pair and never asked for its hardware address.
pub(crate) fn outside(batch: &mut Batch, interface: &str, index: u32, ips: &[IpAddr]) {
    let (_, pod_mac) = macs(interface);
    for ip in ips {
        route::add_neighbour(batch, index, *ip, pod_mac);
        route::add_route(batch, &Route { to: *ip, bits: route::bits(*ip), index, via: None, source: None });
    }
}

/// The board's own address in a pod range.
pub(crate) fn board_address(range: Cidr) -> Option<IpAddr> {
    range.nth(1)
}

/// The knobs of a pod's interface on the board: strict source checks, and replies to 127.0.0.1 find back (a node port
/// on loopback; our table drops what a pod sends to loopback by itself). No pod is a router to its board.
pub(crate) fn knobs(interface: &str, ips: &[IpAddr]) -> Vec<(String, &'static str)> {
    let four = ["rp_filter", "route_localnet"].map(|knob| (format!("ipv4/conf/{interface}/{knob}"), "1"));
    // The kernel may have no IPv6 where pods have none.
    let six = ips.iter().any(IpAddr::is_ipv6).then(|| (format!("ipv6/conf/{interface}/accept_ra"), "0"));
    four.into_iter().chain(six).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_fit_and_differ() {
        let instance = Instance::new(Path::new("/var/lib/bramble"), Path::new("/run/bramble"), None);
        let names: std::collections::BTreeSet<_> =
            (0..1000).map(|n| pod_interface(&instance, &format!("sandbox-{n}"))).collect();
        assert_eq!(names.len(), 1000);
        for name in names {
            assert!(name.len() == 15 && name.starts_with(&interface_prefix(&instance)));
            assert_ne!(name, board_interface(&instance));
        }
    }

    #[test]
    fn the_two_ends_know_each_other() {
        let (board, pod) = macs("br1234560000000");
        assert_ne!(board, pod);
        assert_eq!((board[0] & 3, pod[0] & 3), (2, 2), "locally administered, not multicast");
    }
}
