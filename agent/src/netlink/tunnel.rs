//! Pure: VXLAN (RFC 7348; linux/if_link.h, neighbour.h) without learning and without multicast: who is behind the tunnel
//! is told, never found out.

use super::route::{DELETE_NEIGHBOUR, GET_NEIGHBOUR, Mac, NEW_LINK, NEW_NEIGHBOUR, family, ip, link_header, octets};
use super::wire::{ACK, Batch, CREATE, DUMP, EXCLUSIVE, REPLACE, attribute};
use core::net::IpAddr;

/// The port that Linux used before IANA gave one, and that flannel still does: firewalls know it.
const PORT: u16 = 8472;
/// One network for all boards of a cluster; the outer addresses tell clusters apart.
const NETWORK: u32 = 1;
const UP: u32 = 1;
const PERMANENT: u16 = 0x80;
/// The entry is the interface's own, not a bridge's (`NTF_SELF`).
const OWN: u8 = 0x02;
const BRIDGE_FAMILY: u8 = 7;

/// Makes the tunnel's interface.
pub(crate) fn add_tunnel(batch: &mut Batch, name: &str, mac: Mac, mtu: u32) {
    batch.message(NEW_LINK, ACK | CREATE | EXCLUSIVE, |m| {
        m.raw(&link_header(0, UP));
        m.text(3, name);
        m.attr(1, &mac);
        m.ne32(4, mtu);
        m.nest(18, |info| {
            info.text(1, "vxlan");
            info.nest(2, |data| {
                data.ne32(1, NETWORK);
                let learning = 7;
                data.attr(learning, &[0]);
                data.be16(15, PORT);
            });
        });
    });
}

/// What stands behind the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// An address inside is reached at this hardware address.
    Neighbour(IpAddr, Mac),
    /// That hardware address is behind this board.
    Forward(Mac, IpAddr),
}

pub(crate) fn add_entry(batch: &mut Batch, index: u32, entry: Entry) {
    batch.message(NEW_NEIGHBOUR, ACK | CREATE | REPLACE, |m| entry_body(m, index, entry));
}

pub(crate) fn delete_entry(batch: &mut Batch, index: u32, entry: Entry) {
    batch.message(DELETE_NEIGHBOUR, ACK, |m| entry_body(m, index, entry));
}

fn entry_body(m: &mut super::wire::Writer<'_>, index: u32, entry: Entry) {
    let (family, flags, to, mac) = match entry {
        Entry::Neighbour(to, mac) => (family(to), 0, to, mac),
        Entry::Forward(mac, to) => (BRIDGE_FAMILY, OWN, to, mac),
    };
    let mut header = vec![family, 0, 0, 0];
    header.extend(index.to_ne_bytes());
    header.extend(PERMANENT.to_ne_bytes());
    header.extend([flags, 0]);
    m.raw(&header);
    m.attr(1, &octets(to));
    m.attr(2, &mac);
}

/// Asks for the neighbours of every interface, or for what is behind tunnels and bridges.
pub(crate) fn list_entries(batch: &mut Batch, forwards: bool) {
    batch.message(GET_NEIGHBOUR, DUMP, |m| {
        let family = if forwards { BRIDGE_FAMILY } else { 0 };
        m.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    });
}

/// A permanent entry of the interface with this number; none for others.
pub(crate) fn parse_entry(payload: &[u8], index: u32) -> Option<Entry> {
    let (header, body) = (payload.get(..12)?, payload.get(12..)?);
    let state = u16::from_ne_bytes([header[8], header[9]]);
    if header[4..8] != index.to_ne_bytes() || state & PERMANENT == 0 {
        return None;
    }
    let mac: Mac = attribute(body, 2)?.try_into().ok()?;
    let to = attribute(body, 1).and_then(ip)?;
    Some(if header[0] == BRIDGE_FAMILY { Entry::Forward(mac, to) } else { Entry::Neighbour(to, mac) })
}

#[cfg(test)]
mod tests {
    use super::super::wire::{messages, text};
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written() {
        let mut batch = Batch::default();
        let all = [
            Entry::Neighbour(IpAddr::from([10, 42, 1, 0]), [2; 6]),
            Entry::Forward([2; 6], IpAddr::from([192, 168, 9, 9])),
        ];
        for entry in all {
            add_entry(&mut batch, 7, entry);
        }
        let read: Vec<_> = messages(&batch.bytes).filter_map(|m| parse_entry(m.payload, 7)).collect();
        assert_eq!(read, all);
        assert!(messages(&batch.bytes).all(|m| parse_entry(m.payload, 8).is_none()), "another interface's");
        assert_eq!(parse_entry(&[0; 11], 0), None);
    }

    #[test]
    fn a_tunnel_learns_nothing() {
        let mut batch = Batch::default();
        add_tunnel(&mut batch, "br123456tun", [2; 6], 1450);
        let message = messages(&batch.bytes).next().unwrap();
        let info = attribute(&message.payload[16..], 18).unwrap();
        assert_eq!(text(attribute(info, 1).unwrap()), "vxlan");
        let data = attribute(info, 2).unwrap();
        assert_eq!(attribute(data, 7), Some(&[0][..]));
        assert_eq!(attribute(data, 15), Some(&[0x21, 0x18][..]));
    }
}
