//! Pure: keys and values of sets and maps, as bytes for the kernel and as text for people.

use crate::netlink::nft::{Data, Element as Wire, Type, Verdict};
use crate::netlink::route::octets;
use core::net::{IpAddr, SocketAddr};
use std::fmt;

/// One part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Atom {
    Ip(IpAddr),
    /// IPv4 or not.
    Family(bool),
    Protocol(u8),
    Port(u16),
}

impl Atom {
    fn bytes(self, into: &mut Vec<u8>) {
        match self {
            Self::Ip(ip) => into.extend(octets(ip)),
            Self::Family(ipv4) => into.extend([if ipv4 { 2 } else { 10 }, 0, 0, 0]),
            Self::Protocol(number) => into.extend([number, 0, 0, 0]),
            Self::Port(port) => into.extend([port.to_be_bytes()[0], port.to_be_bytes()[1], 0, 0]),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(formatter, "{ip}"),
            Self::Family(ipv4) => formatter.write_str(if *ipv4 { "ipv4" } else { "ipv6" }),
            Self::Protocol(number) => formatter.write_str(protocol_name(*number)),
            Self::Port(port) => write!(formatter, "{port}"),
        }
    }
}

/// As nft and our chain names write it.
pub(crate) const fn protocol_name(number: u8) -> &'static str {
    match number {
        17 => "udp",
        132 => "sctp",
        _ => "tcp",
    }
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gives {
    Nothing,
    Jump(String),
    Goto(String),
    Drop,
    Target(SocketAddr),
}

/// The bytes of an address and a port in a map's value.
pub(crate) fn target_bytes(target: SocketAddr) -> Vec<u8> {
    let mut bytes = octets(target.ip());
    Atom::Port(target.port()).bytes(&mut bytes);
    bytes
}

/// The sets and maps that every table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    ServiceIps4,
    ServiceIps6,
    NodePorts,
    RefusedIps4,
    RefusedIps6,
    RefusedNodePorts,
    HostPorts4,
    HostPorts6,
    HostPortsIp4,
    HostPortsIp6,
    Hairpin4,
    Hairpin6,
    PolicyIn4,
    PolicyIn6,
    PolicyOut4,
    PolicyOut6,
}

impl Set {
    pub(crate) const ALL: [Self; 16] = [
        Self::ServiceIps4,
        Self::ServiceIps6,
        Self::NodePorts,
        Self::RefusedIps4,
        Self::RefusedIps6,
        Self::RefusedNodePorts,
        Self::HostPorts4,
        Self::HostPorts6,
        Self::HostPortsIp4,
        Self::HostPortsIp6,
        Self::Hairpin4,
        Self::Hairpin6,
        Self::PolicyIn4,
        Self::PolicyIn6,
        Self::PolicyOut4,
        Self::PolicyOut6,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ServiceIps4 => "service-ips-4",
            Self::ServiceIps6 => "service-ips-6",
            Self::NodePorts => "node-ports",
            Self::RefusedIps4 => "refused-ips-4",
            Self::RefusedIps6 => "refused-ips-6",
            Self::RefusedNodePorts => "refused-node-ports",
            Self::HostPorts4 => "host-ports-4",
            Self::HostPorts6 => "host-ports-6",
            Self::HostPortsIp4 => "host-ports-ip-4",
            Self::HostPortsIp6 => "host-ports-ip-6",
            Self::Hairpin4 => "hairpin-4",
            Self::Hairpin6 => "hairpin-6",
            Self::PolicyIn4 => "policy-in-4",
            Self::PolicyIn6 => "policy-in-6",
            Self::PolicyOut4 => "policy-out-4",
            Self::PolicyOut6 => "policy-out-6",
        }
    }

    /// The types of key and value.
    pub(crate) const fn types(self) -> (&'static [Type], &'static [Type]) {
        use Type::{Ipv4, Ipv6, NfProto, Port, Protocol, Verdict};
        match self {
            Self::ServiceIps4 | Self::RefusedIps4 => (&[Ipv4, Protocol, Port], &[Verdict]),
            Self::ServiceIps6 | Self::RefusedIps6 => (&[Ipv6, Protocol, Port], &[Verdict]),
            Self::NodePorts | Self::RefusedNodePorts => (&[NfProto, Protocol, Port], &[Verdict]),
            Self::HostPorts4 => (&[Protocol, Port], &[Ipv4, Port]),
            Self::HostPorts6 => (&[Protocol, Port], &[Ipv6, Port]),
            Self::HostPortsIp4 => (&[Ipv4, Protocol, Port], &[Ipv4, Port]),
            Self::HostPortsIp6 => (&[Ipv6, Protocol, Port], &[Ipv6, Port]),
            Self::Hairpin4 => (&[Ipv4, Ipv4], &[]),
            Self::Hairpin6 => (&[Ipv6, Ipv6], &[]),
            Self::PolicyIn4 | Self::PolicyOut4 => (&[Ipv4], &[Verdict]),
            Self::PolicyIn6 | Self::PolicyOut6 => (&[Ipv6], &[Verdict]),
        }
    }

    /// The set of this family.
    pub(crate) const fn of(ipv4: bool, four: Self, six: Self) -> Self {
        if ipv4 { four } else { six }
    }
}

/// A key as the kernel has it.
pub(crate) fn key_bytes(key: &[Atom]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    key.iter().for_each(|atom| atom.bytes(&mut bytes));
    bytes
}

/// An element of one of the sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) set: Set,
    pub(crate) key: Vec<Atom>,
    pub(crate) gives: Gives,
}

impl Element {
    pub(crate) fn wire(&self) -> Wire {
        let key = key_bytes(&self.key);
        let data = match &self.gives {
            Gives::Nothing => Data::None,
            Gives::Jump(chain) => Data::Verdict(Verdict::Jump(chain.clone())),
            Gives::Goto(chain) => Data::Verdict(Verdict::Goto(chain.clone())),
            Gives::Drop => Data::Verdict(Verdict::Drop),
            Gives::Target(target) => Data::Value(target_bytes(*target)),
        };
        Wire { key, data }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key: Vec<_> = self.key.iter().map(ToString::to_string).collect();
        formatter.write_str(&key.join(" . "))?;
        match &self.gives {
            Gives::Nothing => Ok(()),
            Gives::Jump(chain) => write!(formatter, " : jump {chain}"),
            Gives::Goto(chain) => write!(formatter, " : goto {chain}"),
            Gives::Drop => formatter.write_str(" : drop"),
            Gives::Target(target) => write!(formatter, " : {} . {}", target.ip(), target.port()),
        }
    }
}
