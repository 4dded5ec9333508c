//! Pure: conntrack over netlink (linux/netfilter/nfnetlink_conntrack.h): which flows stand, and forgetting one.

use super::route::{ip, octets};
use super::wire::{ACK, Batch, DUMP, attribute};
use core::net::{IpAddr, SocketAddr};

const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;

/// One direction's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) protocol: u8,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// A flow as its first packet was, and as replies come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
}

pub(crate) fn list(batch: &mut Batch, ipv4: bool) {
    batch.message(GET, DUMP, |m| m.raw(&[if ipv4 { 2 } else { 10 }, 0, 0, 0]));
}

/// Forgets the flow with this original direction.
pub(crate) fn delete(batch: &mut Batch, original: &Tuple) {
    batch.message(DELETE, ACK, |m| {
        let ipv4 = original.source.is_ipv4();
        m.raw(&[if ipv4 { 2 } else { 10 }, 0, 0, 0]);
        m.nest(1, |tuple| {
            let (source, destination) = if ipv4 { (1, 2) } else { (3, 4) };
            tuple.nest(1, |addresses| {
                addresses.attr(source, &octets(original.source.ip()));
                addresses.attr(destination, &octets(original.destination.ip()));
            });
            tuple.nest(2, |ports| {
                ports.attr(1, &[original.protocol]);
                ports.be16(2, original.source.port());
                ports.be16(3, original.destination.port());
            });
        });
    });
}

/// A flow with ports; others (ICMP) are none of ours.
pub(crate) fn parse(payload: &[u8]) -> Option<Flow> {
    let body = payload.get(4..)?;
    Some(Flow { original: tuple(attribute(body, 1)?)?, reply: tuple(attribute(body, 2)?)? })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (addresses, ports) = (attribute(bytes, 1)?, attribute(bytes, 2)?);
    let address = |v4, v6| -> Option<IpAddr> { ip(attribute(addresses, v4).or_else(|| attribute(addresses, v6))?) };
    let port = |kind| -> Option<u16> { attribute(ports, kind)?.try_into().ok().map(u16::from_be_bytes) };
    Some(Tuple {
        protocol: *attribute(ports, 1)?.first()?,
        source: SocketAddr::new(address(1, 3)?, port(2)?),
        destination: SocketAddr::new(address(2, 4)?, port(3)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::wire::messages;

    #[test]
    fn what_delete_writes_is_what_list_reads() {
        for ends in [("10.42.0.9:5000", "10.43.0.10:53"), ("[fd00::9]:5000", "[fd00::a]:53")] {
            let (source, destination) = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
            let original = Tuple { protocol: 17, source, destination };
            let mut batch = Batch::default();
            delete(&mut batch, &original);
            let body = messages(&batch.bytes).next().unwrap().payload;
            assert_eq!(tuple(attribute(&body[4..], 1).unwrap()), Some(original));
            assert_eq!(parse(body), None, "a message without the reply direction is no flow");
        }
    }
}
