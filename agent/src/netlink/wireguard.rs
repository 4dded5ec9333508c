//! Pure: WireGuard (linux/wireguard.h) over generic netlink (linux/genetlink.h): one device, its key, who it speaks with.

use core::net::{IpAddr, SocketAddr};

use super::route::{family, link_header, octets};
use super::wire::{ACK, Batch, CREATE, DUMP, EXCLUSIVE, Writer, attribute, attributes};
use crate::network::Cidr;

/// The kernel's own number of the family of families.
const CONTROL: u16 = 0x10;
pub(crate) const GET_FAMILY: u8 = 3;
const GET_DEVICE: u8 = 0;
pub(crate) const SET_DEVICE: u8 = 1;
const VERSION: u8 = 1;
const REMOVE: u32 = 1;
const REPLACE_ALLOWED: u32 = 2;
const NEW_LINK: u16 = super::route::NEW_LINK;
const UP: u32 = 1;
/// Elements of lists have no number of their own.
const ELEMENT: u16 = 0;

/// A Curve25519 key, public unless said otherwise.
pub(crate) type Key = [u8; 32];

/// Whom a device speaks with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) key: Key,
    /// Where packets to it go; none leaves it to whoever sends from there first.
    pub(crate) endpoint: Option<SocketAddr>,
    /// What is sent to it, and what it may send; sorted.
    pub(crate) allowed: Vec<(IpAddr, u8)>,
    /// Seconds between signs of life; zero for none.
    pub(crate) keepalive: u16,
}

/// A peer as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) peer: Peer,
    /// Of the last handshake, in Unix seconds; zero for none.
    pub(crate) handshake_s: i64,
}

/// A device as the kernel lists it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) private: Option<Key>,
    pub(crate) public: Option<Key>,
    pub(crate) port: u16,
    pub(crate) peers: Vec<Known>,
}

/// Asks for the number of the family.
pub(crate) fn get_family(batch: &mut Batch) {
    batch.message(CONTROL, 0, |m| {
        m.raw(&[GET_FAMILY, VERSION, 0, 0]);
        m.text(2, "wireguard");
    });
}

pub(crate) fn parse_family(payload: &[u8]) -> Option<u16> {
    attribute(payload.get(4..)?, 1)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Makes the interface.
pub(crate) fn add_interface(batch: &mut Batch, name: &str, mtu: u32) {
    batch.message(NEW_LINK, ACK | CREATE | EXCLUSIVE, |m| {
        m.raw(&link_header(0, UP));
        m.text(3, name);
        m.ne32(4, mtu);
        m.nest(18, |info| info.text(1, "wireguard"));
    });
}

/// Changes what fits into a packet.
pub(crate) fn set_mtu(batch: &mut Batch, name: &str, mtu: u32) {
    batch.message(NEW_LINK, ACK, |m| {
        m.raw(&link_header(0, 0));
        m.text(3, name);
        m.ne32(4, mtu);
    });
}

fn set(batch: &mut Batch, family: u16, name: &str, body: impl FnOnce(&mut Writer<'_>)) {
    batch.message(family, ACK, |m| {
        m.raw(&[SET_DEVICE, VERSION, 0, 0]);
        m.text(2, name);
        body(m);
    });
}

/// Gives the device its private key, and the port that it listens on.
pub(crate) fn set_identity(batch: &mut Batch, family: u16, name: &str, private: &Key, port: u16) {
    set(batch, family, name, |m| {
        m.attr(3, private);
        m.attr(6, &port.to_ne_bytes());
    });
}

/// Adds a peer, or changes it: what it may send is replaced, an endpoint that is none stays as it is.
pub(crate) fn set_peer(batch: &mut Batch, device_family: u16, name: &str, peer: &Peer) {
    one_peer(batch, device_family, name, |m| {
        m.attr(1, &peer.key);
        m.ne32(3, REPLACE_ALLOWED);
        if let Some(endpoint) = peer.endpoint {
            m.attr(4, &socket_address(endpoint));
        }
        m.attr(5, &peer.keepalive.to_ne_bytes());
        m.nest(9, |list| {
            for (ip, bits) in &peer.allowed {
                list.nest(ELEMENT, |m| {
                    m.attr(1, &u16::from(family(*ip)).to_ne_bytes());
                    m.attr(2, &octets(*ip));
                    m.attr(3, &[*bits]);
                });
            }
        });
    });
}

pub(crate) fn remove_peer(batch: &mut Batch, device_family: u16, name: &str, key: &Key) {
    one_peer(batch, device_family, name, |m| {
        m.attr(1, key);
        m.ne32(3, REMOVE);
    });
}

fn one_peer(batch: &mut Batch, family: u16, name: &str, body: impl FnOnce(&mut Writer<'_>)) {
    set(batch, family, name, |m| m.nest(8, |list| list.nest(ELEMENT, body)));
}

/// Asks for the device; the answer may come in several parts.
pub(crate) fn get_device(batch: &mut Batch, family: u16, name: &str) {
    batch.message(family, DUMP, |m| {
        m.raw(&[GET_DEVICE, VERSION, 0, 0]);
        m.text(2, name);
    });
}

/// Takes one part of the answer in: a peer with many ranges goes on in the next one.
pub(crate) fn take_device(device: &mut Device, payload: &[u8]) {
    let body = payload.get(4..).unwrap_or_default();
    let key = |kind| attribute(body, kind).and_then(|bytes| Key::try_from(bytes).ok());
    device.private = key(3).or(device.private);
    device.public = key(4).or(device.public);
    device.port = attribute(body, 6).and_then(|v| v.try_into().ok()).map_or(device.port, u16::from_ne_bytes);
    for (_, bytes) in attributes(attribute(body, 8).unwrap_or_default()) {
        let Some(known) = parse_peer(bytes) else { continue };
        match device.peers.last_mut().filter(|last| last.peer.key == known.peer.key) {
            Some(last) => last.peer.allowed.extend(known.peer.allowed),
            None => device.peers.push(known),
        }
    }
    device.peers.iter_mut().for_each(|known| known.peer.allowed.sort_unstable());
}

fn parse_peer(body: &[u8]) -> Option<Known> {
    let number = |kind| attribute(body, kind).and_then(|v| v.try_into().ok()).map_or(0, u16::from_ne_bytes);
    let handshake = attribute(body, 6).and_then(|time| time.get(..8)?.try_into().ok());
    let allowed = attributes(attribute(body, 9).unwrap_or_default()).filter_map(|(_, one)| {
        let ip = attribute(one, 2).and_then(super::route::ip)?;
        Some((ip, *attribute(one, 3)?.first()?))
    });
    let peer = Peer {
        key: attribute(body, 1)?.try_into().ok()?,
        endpoint: attribute(body, 4).and_then(parse_socket_address),
        allowed: allowed.collect(),
        keepalive: number(5),
    };
    Some(Known { peer, handshake_s: handshake.map_or(0, i64::from_ne_bytes) })
}

/// As `struct sockaddr_in` and `sockaddr_in6` have it.
fn socket_address(at: SocketAddr) -> Vec<u8> {
    let mut bytes = u16::from(family(at.ip())).to_ne_bytes().to_vec();
    bytes.extend(at.port().to_be_bytes());
    match at {
        SocketAddr::V4(at) => {
            bytes.extend(at.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(at) => {
            bytes.extend(at.flowinfo().to_be_bytes());
            bytes.extend(at.ip().octets());
            bytes.extend(at.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn parse_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip = match u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) {
        2 => super::route::ip(bytes.get(4..8)?)?,
        10 => super::route::ip(bytes.get(8..24)?)?,
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// A range as peers have it.
pub(crate) fn allowed(range: Cidr) -> (IpAddr, u8) {
    (range.base(), range.bits())
}

#[cfg(test)]
mod tests {
    use super::super::wire::{messages, text};
    use super::*;

    fn peer() -> Peer {
        Peer {
            key: [7; 32],
            endpoint: Some("10.0.0.2:51820".parse().unwrap()),
            allowed: vec![(IpAddr::from([10, 42, 1, 0]), 24)],
            keepalive: 25,
        }
    }

    #[test]
    fn a_peer_is_these_bytes() {
        let mut batch = Batch::default();
        set_peer(&mut batch, 0x1c, "wg", &peer());
        let mut golden = vec![140, 0, 0, 0, 0x1c, 0, 0x05, 0, 1, 0, 0, 0, 0, 0, 0, 0]; // header: ack, request
        golden.extend([1, 1, 0, 0]); // set device, version
        golden.extend([7, 0, 2, 0, b'w', b'g', 0, 0]); // name
        golden.extend([112, 0, 8, 0x80, 108, 0, 0, 0x80]); // peers, the first of them
        golden.extend([36, 0, 1, 0]);
        golden.extend([7; 32]); // key
        golden.extend([8, 0, 3, 0, 2, 0, 0, 0]); // replace what it may send
        golden.extend([20, 0, 4, 0, 2, 0, 0xca, 0x6c, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]); // endpoint
        golden.extend([6, 0, 5, 0, 25, 0, 0, 0]); // keepalive
        golden.extend([32, 0, 9, 0x80, 28, 0, 0, 0x80, 6, 0, 1, 0, 2, 0, 0, 0]); // ranges, the first of them: IPv4
        golden.extend([8, 0, 2, 0, 10, 42, 1, 0, 5, 0, 3, 0, 24, 0, 0, 0]);
        assert_eq!(batch.bytes, golden);
    }

    #[test]
    fn a_peer_is_read_as_it_was_written_also_in_parts() {
        let mut device = Device::default();
        let six = Peer {
            key: [8; 32],
            endpoint: Some("[fd00::2]:51820".parse().unwrap()),
            allowed: vec![("fd42::".parse().unwrap(), 64)],
            keepalive: 0,
        };
        let further = Peer { allowed: vec![(IpAddr::from([10, 43, 0, 0]), 24)], ..six.clone() };
        let mut batch = Batch::default();
        set_identity(&mut batch, 28, "wg", &[1; 32], 51820);
        [&peer(), &six, &further].into_iter().for_each(|peer| set_peer(&mut batch, 28, "wg", peer));
        remove_peer(&mut batch, 28, "wg", &[9; 32]);
        messages(&batch.bytes).take(4).for_each(|message| take_device(&mut device, message.payload));
        assert_eq!((device.private, device.port), (Some([1; 32]), 51820));
        let mut whole = six.clone();
        whole.allowed.insert(0, further.allowed[0]);
        let read: Vec<Peer> = device.peers.iter().map(|known| known.peer.clone()).collect();
        assert_eq!(read, [peer(), whole]);
        assert_eq!(device.peers[0].handshake_s, 0);
        take_device(&mut device, &[1, 2]);
        assert_eq!(device.peers.len(), 2, "what is cut short says nothing");
    }

    #[test]
    fn the_family_is_asked_for_by_its_name() {
        let mut batch = Batch::default();
        get_family(&mut batch);
        let message = messages(&batch.bytes).next().unwrap();
        assert_eq!((message.kind, message.payload[0]), (CONTROL, GET_FAMILY));
        assert_eq!(text(attribute(&message.payload[4..], 2).unwrap()), "wireguard");
        assert_eq!(parse_family(&[1, 2, 0, 0, 6, 0, 1, 0, 28, 0, 0, 0]), Some(28));
        assert_eq!(parse_family(&[]), None);
    }
}
