//! Pure: rtnetlink (linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h): links, addresses, routes, neighbours.

use super::wire::{ACK, Batch, CREATE, DUMP, EXCLUSIVE, REPLACE, Writer, attribute, text};
use core::net::{IpAddr, Ipv4Addr};

pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DELETE_LINK: u16 = 17;
pub(crate) const GET_LINK: u16 = 18;
pub(crate) const NEW_ADDRESS: u16 = 20;
pub(crate) const DELETE_ADDRESS: u16 = 21;
pub(crate) const GET_ADDRESS: u16 = 22;
pub(crate) const NEW_ROUTE: u16 = 24;
pub(crate) const DELETE_ROUTE: u16 = 25;
pub(crate) const GET_ROUTE: u16 = 26;
pub(crate) const NEW_NEIGHBOUR: u16 = 28;
pub(crate) const DELETE_NEIGHBOUR: u16 = 29;
pub(crate) const GET_NEIGHBOUR: u16 = 30;

/// Multicast groups of the changes that may move a route: links, addresses and routes of both families
/// (`RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`, `RTMGRP_IPV6_ROUTE`).
pub(crate) const CHANGES_GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

const UP: u32 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const NODAD: u32 = 0x02;
/// `protocol` of our routes, so that `ip route show proto 66` lists them.
const ROUTE_PROTOCOL: u8 = 66;
/// `protocol` of the routes to other boards' pods, `ip route show proto 67`: they are ours to list and to remove.
const PEER_PROTOCOL: u8 = 67;
const MAIN_TABLE: u8 = 254;
/// The next hop is on this link, whatever its routes say.
const ON_LINK: u8 = 4;

/// A veth pair, the peer made inside its namespace at once; the peer is still down.
#[derive(Debug, Clone)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Mac,
    /// A file descriptor of the namespace that receives the peer; none is the same one.
    pub(crate) peer_netns: Option<i32>,
    pub(crate) mtu: u32,
}

pub(crate) fn add_veth(batch: &mut Batch, veth: &Veth<'_>) {
    batch.message(NEW_LINK, ACK | CREATE | EXCLUSIVE, |m| {
        m.raw(&link_header(0, UP));
        m.text(3, veth.name);
        m.attr(1, &veth.mac);
        m.ne32(4, veth.mtu);
        m.nest(18, |info| {
            info.text(1, "veth");
            info.nest(2, |data| {
                data.nest(1, |peer| {
                    // The kernel opens a veth only when it knows its other end, so the peer goes up afterwards.
                    peer.raw(&link_header(0, 0));
                    peer.text(3, veth.peer_name);
                    peer.attr(1, &veth.peer_mac);
                    peer.ne32(4, veth.mtu);
                    if let Some(netns) = veth.peer_netns {
                        peer.attr(28, &netns.to_ne_bytes());
                    }
                });
            });
        });
    });
}

pub(crate) fn set_up(batch: &mut Batch, name: &str) {
    batch.message(NEW_LINK, ACK, |m| {
        m.raw(&link_header(0, UP));
        m.text(3, name);
    });
}

pub(crate) fn delete_link(batch: &mut Batch, name: &str) {
    batch.message(DELETE_LINK, ACK, |m| {
        m.raw(&link_header(0, 0));
        m.text(3, name);
    });
}

pub(crate) fn list_links(batch: &mut Batch) {
    batch.message(GET_LINK, DUMP, |m| m.raw(&link_header(0, 0)));
}

/// How an address may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Anywhere.
    Universe,
    /// Only on this host: never chosen as a source for others.
    Host,
}

/// Adds a single address (/32 or /128), at once usable.
pub(crate) fn add_address(batch: &mut Batch, index: u32, ip: IpAddr, scope: Scope) {
    batch.message(NEW_ADDRESS, ACK | CREATE | REPLACE, |m| address_body(m, index, ip, scope));
}

/// Adds an IPv4 address of a network, for so many seconds where it is not for ever; the kernel takes it away then.
pub(crate) fn add_network_address(
    batch: &mut Batch,
    index: u32,
    (ip, prefix): (Ipv4Addr, u8),
    seconds: Option<u32>,
    metric: u32,
) {
    batch.message(NEW_ADDRESS, ACK | CREATE | REPLACE, |m| {
        let mut header = vec![family(ip.into()), prefix, 0, SCOPE_UNIVERSE];
        header.extend(index.to_ne_bytes());
        m.raw(&header);
        m.attr(2, &ip.octets());
        m.attr(1, &ip.octets());
        let broadcast = ip.to_bits() | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        m.attr(4, &broadcast.to_be_bytes());
        let lifetime = seconds.unwrap_or(u32::MAX);
        // struct ifa_cacheinfo: preferred, valid, and two times that the kernel fills in.
        let times = [lifetime, lifetime, 0, 0].map(u32::to_ne_bytes);
        m.attr(6, &times.concat());
        m.ne32(9, metric);
    });
}

pub(crate) fn delete_address(batch: &mut Batch, index: u32, ip: IpAddr) {
    batch.message(DELETE_ADDRESS, ACK, |m| address_body(m, index, ip, Scope::Universe));
}

/// Asks for every address of the namespace.
pub(crate) fn list_addresses(batch: &mut Batch) {
    batch.message(GET_ADDRESS, DUMP, |m| m.raw(&[0; 8]));
}

/// An interface's number and an address of it, as the kernel lists them.
pub(crate) fn parse_address(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let body = payload.get(8..)?;
    // IFA_LOCAL, which IPv6 has not where nobody is at the other end; else IFA_ADDRESS.
    Some((index, attribute(body, 2).or(attribute(body, 1)).and_then(ip)?))
}

fn address_body(m: &mut Writer<'_>, index: u32, ip: IpAddr, scope: Scope) {
    let scope = if scope == Scope::Host { SCOPE_HOST } else { SCOPE_UNIVERSE };
    let mut header = vec![family(ip), bits(ip), 0, scope];
    header.extend(index.to_ne_bytes());
    m.raw(&header);
    m.attr(2, &octets(ip));
    m.attr(1, &octets(ip));
    if ip.is_ipv6() {
        m.ne32(8, NODAD);
    }
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// The destination; a prefix of 0 bits is the default route.
    pub(crate) to: IpAddr,
    pub(crate) bits: u8,
    /// The interface it leaves by.
    pub(crate) index: u32,
    /// The next hop; without one the destination is on the link.
    pub(crate) via: Option<IpAddr>,
    /// The source that this host prefers.
    pub(crate) source: Option<IpAddr>,
}

pub(crate) fn add_route(batch: &mut Batch, route: &Route) {
    batch.message(NEW_ROUTE, ACK | CREATE | REPLACE, |m| route_body(m, route, ROUTE_PROTOCOL, 0));
}

/// A route that others of the same destination with a smaller metric are preferred to.
pub(crate) fn add_metric_route(batch: &mut Batch, route: &Route, metric: u32) {
    batch.message(NEW_ROUTE, ACK | CREATE | REPLACE, |m| {
        route_body(m, route, ROUTE_PROTOCOL, 0);
        m.ne32(6, metric);
    });
}

/// A route to the pods of another board, whose next hop may be any address on the link.
pub(crate) fn add_peer_route(batch: &mut Batch, route: &Route) {
    batch.message(NEW_ROUTE, ACK | CREATE | REPLACE, |m| route_body(m, route, PEER_PROTOCOL, reach_flags(route)));
}

pub(crate) fn delete_peer_route(batch: &mut Batch, route: &Route) {
    batch.message(DELETE_ROUTE, ACK, |m| route_body(m, route, PEER_PROTOCOL, reach_flags(route)));
}

/// The kernel takes the flag only with a next hop.
const fn reach_flags(route: &Route) -> u8 {
    if route.via.is_some() { ON_LINK } else { 0 }
}

fn route_body(m: &mut Writer<'_>, route: &Route, protocol: u8, flags: u8) {
    let scope = if route.via.is_none() && route.to.is_ipv4() { SCOPE_LINK } else { SCOPE_UNIVERSE };
    let unicast = 1;
    m.raw(&[family(route.to), route.bits, 0, 0, MAIN_TABLE, protocol, scope, unicast, flags, 0, 0, 0]);
    if route.bits > 0 {
        m.attr(1, &octets(route.to));
    }
    if let Some(via) = route.via {
        m.attr(5, &octets(via));
    }
    m.ne32(4, route.index);
    if let Some(source) = route.source {
        m.attr(7, &octets(source));
    }
}

/// Asks for every route of the namespace.
pub(crate) fn list_routes(batch: &mut Batch) {
    batch.message(GET_ROUTE, DUMP, |m| m.raw(&[0; 12]));
}

/// A route to other boards' pods as the kernel lists it; none for anybody else's.
pub(crate) fn parse_peer_route(payload: &[u8]) -> Option<Route> {
    let header = payload.get(..12)?;
    if header[4] != MAIN_TABLE || header[5] != PEER_PROTOCOL {
        return None;
    }
    let body = &payload[12..];
    Some(Route {
        to: attribute(body, 1).and_then(ip)?,
        bits: header[1],
        index: attribute(body, 4)?.try_into().ok().map(u32::from_ne_bytes)?,
        via: attribute(body, 5).and_then(ip),
        source: None,
    })
}

/// Asks how this host would reach an address.
pub(crate) fn get_route(batch: &mut Batch, to: IpAddr) {
    batch.message(GET_ROUTE, 0, |m| {
        m.raw(&[family(to), bits(to), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        m.attr(1, &octets(to));
    });
}

/// How this host reaches an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It is this host's own.
    Own,
    /// On the link of this interface.
    OnLink(u32),
    /// Through a router.
    Routed,
}

/// The interface through which this host reaches an address.
pub(crate) fn parse_interface(payload: &[u8]) -> Option<u32> {
    attribute(payload.get(12..)?, 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(crate) fn parse_reach(payload: &[u8]) -> Option<Reach> {
    let (header, body) = (payload.get(..12)?, payload.get(12..)?);
    let (unicast, local) = (1, 2);
    match header[7] {
        kind if kind == local => Some(Reach::Own),
        kind if kind == unicast && attribute(body, 5).is_some() => Some(Reach::Routed),
        kind if kind == unicast => Some(Reach::OnLink(attribute(body, 4)?.try_into().ok().map(u32::from_ne_bytes)?)),
        _ => None,
    }
}

/// A neighbour that is never asked for and never forgotten.
pub(crate) fn add_neighbour(batch: &mut Batch, index: u32, ip: IpAddr, mac: Mac) {
    batch.message(NEW_NEIGHBOUR, ACK | CREATE | REPLACE, |m| {
        let permanent = 0x80_u16;
        let mut header = vec![family(ip), 0, 0, 0];
        header.extend(index.to_ne_bytes());
        header.extend(permanent.to_ne_bytes());
        header.extend([0, 0]);
        m.raw(&header);
        m.attr(1, &octets(ip));
        m.attr(2, &mac);
    });
}

/// Asks for one interface.
pub(crate) fn get_link(batch: &mut Batch, name: &str) {
    batch.message(GET_LINK, 0, |m| {
        m.raw(&link_header(0, 0));
        m.text(3, name);
        let skip_statistics = 8;
        m.ne32(29, skip_statistics);
    });
}

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// Of an Ethernet.
    pub(crate) mac: Option<Mac>,
}

pub(crate) fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let body = payload.get(16..)?;
    let mtu = attribute(body, 4).and_then(|v| v.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let mac = attribute(body, 1).and_then(|mac| mac.try_into().ok());
    Some(Link { index, name: text(attribute(body, 3)?).to_owned(), mtu, mac })
}

pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

pub(crate) fn address(bytes: &[u8]) -> Option<String> {
    ip(bytes).map(|ip| ip.to_string())
}

/// The bytes of an address in network order.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(crate) const fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

pub(crate) const fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

pub(crate) fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::wire::messages;

    #[test]
    fn a_default_route_is_these_bytes() {
        let mut batch = Batch::default();
        let via = Some(IpAddr::from([169, 254, 1, 1]));
        add_route(&mut batch, &Route { to: IpAddr::from([0, 0, 0, 0]), bits: 0, index: 2, via, source: None });
        let golden = [
            44, 0, 0, 0, 24, 0, 0x05, 0x05, 1, 0, 0, 0, 0, 0, 0, 0, // header: replace, create, ack, request
            2, 0, 0, 0, 254, 66, 0, 1, 0, 0, 0, 0, // rtmsg
            8, 0, 5, 0, 169, 254, 1, 1, // gateway
            8, 0, 4, 0, 2, 0, 0, 0, // interface
        ];
        assert_eq!(batch.bytes, golden);
    }

    #[test]
    fn a_veth_nests_its_peer() {
        let mut batch = Batch::default();
        let veth = Veth {
            name: "br123456a",
            mac: [2; 6],
            peer_name: "eth0",
            peer_mac: [4; 6],
            peer_netns: Some(9),
            mtu: 1500,
        };
        add_veth(&mut batch, &veth);
        let message = messages(&batch.bytes).next().unwrap();
        let info = attribute(&message.payload[16..], 18).unwrap();
        assert_eq!(text(attribute(info, 1).unwrap()), "veth");
        let peer = attribute(attribute(info, 2).unwrap(), 1).unwrap();
        assert_eq!(text(attribute(&peer[16..], 3).unwrap()), "eth0");
        assert_eq!(attribute(&peer[16..], 28).unwrap(), [9, 0, 0, 0]);
        assert_eq!(parse_link(message.payload).unwrap().mtu, 1500);
    }

    #[test]
    fn only_our_routes_to_other_boards_are_read() {
        let mut batch = Batch::default();
        let route = Route {
            to: IpAddr::from([10, 42, 1, 0]),
            bits: 24,
            index: 3,
            via: Some(IpAddr::from([10, 88, 0, 2])),
            source: None,
        };
        add_peer_route(&mut batch, &route);
        add_route(&mut batch, &route);
        let read: Vec<_> = messages(&batch.bytes).map(|message| parse_peer_route(message.payload)).collect();
        assert_eq!(read, [Some(route), None]);
        assert_eq!(messages(&batch.bytes).next().and_then(|m| parse_reach(m.payload)), Some(Reach::Routed));
        assert_eq!(parse_reach(&[2, 32, 0]), None);
    }

    #[test]
    fn an_interface_that_is_cut_short_is_none() {
        assert_eq!(parse_link(&[0; 12]), None);
        assert_eq!(ip(&[1, 2, 3]), None);
    }
}
