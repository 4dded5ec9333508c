//! Pure: the statements of our rules, in nft's own words and as expressions for the kernel.
//!
//! The text is exactly what `nft list table` prints, so that golden files, `nft` and the kernel agree.

use super::atom::{protocol_name, target_bytes};
use crate::netlink::nft::expression::{self as expr, Header, Meta, To};
use crate::netlink::nft::{self, Data, Element, Type, Verdict};
use crate::netlink::route::octets;
use crate::netlink::wire::{Batch, Writer};
use crate::network::Cidr;
use core::net::SocketAddr;
use std::fmt;

/// The bit of the packet's mark that asks for masquerade; the same that kube-proxy uses, which others leave alone.
const MARK: u32 = 0x4000;

/// Part of a packet that is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// Source address, IPv4 or not.
    Source(bool),
    Destination(bool),
    Family,
    Protocol,
    Port,
}

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    /// The source or destination lies (or not) in a range.
    Address {
        source: bool,
        inside: bool,
        range: Cidr,
    },
    /// The source or destination is (or not) an address of this board.
    Local {
        source: bool,
        is: bool,
    },
    /// The destination is one host elsewhere.
    UnicastDestination,
    NewConnection,
    /// Comes in by an interface whose name begins so.
    Input(String),
    /// Does not leave by this interface.
    NotOutput(&'static str),
    Protocol(u8),
    /// To these ports, the first and the last one included.
    Ports {
        protocol: u8,
        first: u16,
        last: u16,
    },
    /// IPv4 or not.
    Family(bool),
    /// Asks for masquerade later.
    Mark,
    /// Was marked; the mark is taken off.
    Unmark,
    /// The key is in a set.
    In {
        keys: &'static [Key],
        set: String,
    },
    /// The map says where to go.
    VerdictMap {
        keys: &'static [Key],
        map: String,
    },
    /// To one of these, at random for each connection.
    Dnat {
        ipv4: bool,
        targets: Vec<SocketAddr>,
    },
    /// To what the map says.
    DnatMap {
        ipv4: bool,
        keys: &'static [Key],
        map: String,
    },
    /// To one of these chains, at random.
    Spread(Vec<String>),
    /// Remember the source.
    Remember {
        ipv4: bool,
        set: String,
    },
    Jump(String),
    Goto(String),
    Return,
    Drop,
    Masquerade,
    ResetTcp,
    Reject,
}

/// One rule.
pub(crate) type Rule = Vec<Statement>;

/// As `nft list` prints it.
#[cfg(test)]
pub(crate) fn text(rule: &Rule) -> String {
    rule.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Appends the rule, and before it the maps that belong to it.
pub(crate) fn add(batch: &mut Batch, table: &str, chain: &str, rule: &Rule) {
    let mut map_id = None;
    for statement in rule {
        match statement {
            Statement::Dnat { ipv4, targets } if targets.len() > 1 => {
                let address = if *ipv4 { Type::Ipv4 } else { Type::Ipv6 };
                let elements: Vec<_> = numbered(targets.iter().map(|target| Data::Value(target_bytes(*target))));
                map_id = Some(nft::add_anonymous_map(batch, table, &[address, Type::Port], &elements));
            }
            Statement::Spread(chains) if chains.len() > 1 => {
                let elements: Vec<_> = numbered(chains.iter().map(|chain| Data::Verdict(Verdict::Goto(chain.clone()))));
                map_id = Some(nft::add_anonymous_map(batch, table, &[Type::Verdict], &elements));
            }
            _ => {}
        }
    }
    nft::add_rule(batch, table, chain, |m| {
        let mut encoder = Encoder { m, family: None, map_id };
        rule.iter().for_each(|statement| encoder.statement(statement));
    });
}

fn numbered(data: impl Iterator<Item = Data>) -> Vec<Element> {
    data.zip(0_u32..).map(|(data, number)| Element { key: number.to_ne_bytes().to_vec(), data }).collect()
}

struct Encoder<'a, 'b> {
    m: &'a mut Writer<'b>,
    /// The address family that the rule has been narrowed to.
    family: Option<bool>,
    map_id: Option<u32>,
}

impl Encoder<'_, '_> {
    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Address { source, inside, range } => self.address(*source, *inside, *range),
            Statement::Local { source, is } => {
                expr::address_type(self.m, *source, 0);
                expr::compare(self.m, 0, *is, &2_u32.to_ne_bytes());
            }
            Statement::UnicastDestination => {
                expr::address_type(self.m, false, 0);
                expr::compare(self.m, 0, true, &1_u32.to_ne_bytes());
            }
            Statement::NewConnection => {
                expr::ct_state(self.m, 0);
                expr::bitwise(self.m, 0, &8_u32.to_ne_bytes(), &[0; 4]);
                expr::compare(self.m, 0, false, &[0; 4]);
            }
            Statement::Input(prefix) => {
                expr::meta(self.m, Meta::InputName, 0);
                expr::compare(self.m, 0, true, prefix.as_bytes());
            }
            Statement::NotOutput(name) => {
                let mut whole = [0; 16];
                whole[..name.len()].copy_from_slice(name.as_bytes());
                expr::meta(self.m, Meta::OutputName, 0);
                expr::compare(self.m, 0, false, &whole);
            }
            Statement::Protocol(number) => {
                expr::meta(self.m, Meta::L4Proto, 0);
                expr::compare(self.m, 0, true, &[*number]);
            }
            Statement::Ports { protocol, first, last } => {
                expr::meta(self.m, Meta::L4Proto, 0);
                expr::compare(self.m, 0, true, &[*protocol]);
                self.keys(&[Key::Port]);
                if first == last {
                    expr::compare(self.m, 0, true, &first.to_be_bytes());
                } else {
                    expr::between(self.m, 0, &first.to_be_bytes(), &last.to_be_bytes());
                }
            }
            Statement::Family(ipv4) => self.narrow(*ipv4),
            Statement::Mark => self.mark(!MARK),
            Statement::Unmark => {
                expr::meta(self.m, Meta::Mark, 0);
                expr::bitwise(self.m, 0, &MARK.to_ne_bytes(), &[0; 4]);
                expr::compare(self.m, 0, true, &MARK.to_ne_bytes());
                self.mark(u32::MAX);
            }
            Statement::In { keys, set } => {
                self.keys(keys);
                expr::lookup(self.m, set, None, 0, To::Nothing);
            }
            Statement::VerdictMap { keys, map } => {
                self.keys(keys);
                expr::lookup(self.m, map, None, 0, To::Verdict);
            }
            Statement::DnatMap { ipv4, keys, map } => {
                self.keys(keys);
                expr::lookup(self.m, map, None, 0, To::Register(0));
                expr::dnat(self.m, *ipv4, 0, if *ipv4 { 1 } else { 4 }, false);
            }
            Statement::Dnat { ipv4, targets } => self.dnat(*ipv4, targets),
            Statement::Spread(chains) => self.spread(chains),
            Statement::Remember { ipv4, set } => {
                self.keys(if *ipv4 { &[Key::Source(true)] } else { &[Key::Source(false)] });
                expr::update(self.m, set, 0);
            }
            Statement::Jump(chain) => expr::verdict(self.m, &Verdict::Jump(chain.clone())),
            Statement::Goto(chain) => expr::verdict(self.m, &Verdict::Goto(chain.clone())),
            Statement::Return => expr::verdict(self.m, &Verdict::Return),
            Statement::Drop => expr::verdict(self.m, &Verdict::Drop),
            Statement::Masquerade => expr::masquerade(self.m),
            Statement::ResetTcp => expr::reject(self.m, true),
            Statement::Reject => expr::reject(self.m, false),
        }
    }

    /// `mark = (mark & keep) ^ MARK`
    fn mark(&mut self, keep: u32) {
        expr::meta(self.m, Meta::Mark, 0);
        expr::bitwise(self.m, 0, &keep.to_ne_bytes(), &MARK.to_ne_bytes());
        expr::set_mark(self.m, 0);
    }

    /// A table of both families looks at an address only after the family is known; nft leaves that out of its text.
    fn narrow(&mut self, ipv4: bool) {
        if self.family != Some(ipv4) {
            expr::meta(self.m, Meta::NfProto, 0);
            expr::compare(self.m, 0, true, &[if ipv4 { 2 } else { 10 }]);
            self.family = Some(ipv4);
        }
    }

    fn load_address(&mut self, source: bool, ipv4: bool, bytes: u32, to: u32) {
        let offset = match (ipv4, source) {
            (true, true) => 12,
            (true, false) => 16,
            (false, true) => 8,
            (false, false) => 24,
        };
        expr::payload(self.m, Header::Network, offset, bytes, to);
    }

    fn address(&mut self, source: bool, inside: bool, range: Cidr) {
        let ipv4 = range.is_ipv4();
        self.narrow(ipv4);
        let (base, bits) = (octets(range.base()), usize::from(range.bits()));
        if bits.is_multiple_of(8) && bits > 0 {
            self.load_address(source, ipv4, u32::try_from(bits / 8).expect("at most 16"), 0);
            expr::compare(self.m, 0, inside, &base[..bits / 8]);
        } else {
            self.load_address(source, ipv4, u32::try_from(base.len()).expect("at most 16"), 0);
            let mask: Vec<u8> = (0..base.len()).map(|byte| prefix_byte(bits, byte)).collect();
            expr::bitwise(self.m, 0, &mask, &vec![0; base.len()]);
            expr::compare(self.m, 0, inside, &base);
        }
    }

    /// Loads the parts of a key behind each other from register 0; the family first of all.
    fn keys(&mut self, keys: &[Key]) {
        for key in keys {
            if let Key::Source(ipv4) | Key::Destination(ipv4) = key {
                self.narrow(*ipv4);
            }
        }
        let mut to = 0;
        for key in keys {
            match key {
                Key::Source(ipv4) => self.load_address(true, *ipv4, if *ipv4 { 4 } else { 16 }, to),
                Key::Destination(ipv4) => self.load_address(false, *ipv4, if *ipv4 { 4 } else { 16 }, to),
                Key::Family => expr::meta(self.m, Meta::NfProto, to),
                Key::Protocol => expr::meta(self.m, Meta::L4Proto, to),
                Key::Port => expr::payload(self.m, Header::Transport, 2, 2, to),
            }
            to += if matches!(key, Key::Source(false) | Key::Destination(false)) { 4 } else { 1 };
        }
    }

    fn dnat(&mut self, ipv4: bool, targets: &[SocketAddr]) {
        let port = if ipv4 { 1 } else { 4 };
        match targets {
            [one] => {
                expr::immediate(self.m, 0, &octets(one.ip()));
                expr::immediate(self.m, port, &one.port().to_be_bytes());
                expr::dnat(self.m, ipv4, 0, port, true);
            }
            many => {
                expr::random(self.m, u32::try_from(many.len()).expect("endpoints of one service"), 0);
                expr::lookup(self.m, nft::ANONYMOUS_MAP, self.map_id, 0, To::Register(0));
                expr::dnat(self.m, ipv4, 0, port, false);
            }
        }
    }

    fn spread(&mut self, chains: &[String]) {
        match chains {
            [one] => expr::verdict(self.m, &Verdict::Goto(one.clone())),
            many => {
                expr::random(self.m, u32::try_from(many.len()).expect("endpoints of one service"), 0);
                expr::lookup(self.m, nft::ANONYMOUS_MAP, self.map_id, 0, To::Verdict);
            }
        }
    }
}

fn prefix_byte(bits: usize, byte: usize) -> u8 {
    match bits.saturating_sub(byte * 8) {
        0 => 0,
        left if left >= 8 => 0xff,
        left => 0xff << (8 - left),
    }
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "ip" } else { "ip6" }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(ipv4) => write!(formatter, "{} saddr", family(*ipv4)),
            Self::Destination(ipv4) => write!(formatter, "{} daddr", family(*ipv4)),
            Self::Family => formatter.write_str("meta nfproto"),
            Self::Protocol => formatter.write_str("meta l4proto"),
            Self::Port => formatter.write_str("th dport"),
        }
    }
}

fn joined(keys: &[Key]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ")
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |source: bool| if source { "saddr" } else { "daddr" };
        let not = |is: bool| if is { "" } else { "!= " };
        match self {
            Self::Address { source, inside, range } => {
                let whole = range.bits() == if range.is_ipv4() { 32 } else { 128 };
                let range = if whole { range.base().to_string() } else { range.to_string() };
                write!(f, "{} {} {}{range}", family(range_is_ipv4(&range)), side(*source), not(*inside))
            }
            Self::Local { source, is } => write!(f, "fib {} type {}local", side(*source), not(*is)),
            Self::UnicastDestination => f.write_str("fib daddr type unicast"),
            Self::NewConnection => f.write_str("ct state new"),
            Self::Input(prefix) => write!(f, "iifname \"{prefix}*\""),
            Self::NotOutput(name) => write!(f, "oifname != \"{name}\""),
            Self::Protocol(number) => write!(f, "meta l4proto {}", protocol_name(*number)),
            Self::Ports { protocol, first, last } if first == last => {
                write!(f, "{} dport {first}", protocol_name(*protocol))
            }
            Self::Ports { protocol, first, last } => write!(f, "{} dport {first}-{last}", protocol_name(*protocol)),
            Self::Family(ipv4) => write!(f, "meta nfproto {}", if *ipv4 { "ipv4" } else { "ipv6" }),
            Self::Mark => write!(f, "meta mark set meta mark | 0x{MARK:08x}"),
            Self::Unmark => {
                write!(f, "meta mark & 0x{MARK:08x} == 0x{MARK:08x} meta mark set meta mark ^ 0x{MARK:08x}")
            }
            Self::In { keys, set } => write!(f, "{} @{set}", joined(keys)),
            Self::VerdictMap { keys, map } => write!(f, "{} vmap @{map}", joined(keys)),
            Self::Dnat { ipv4, targets } => match targets.as_slice() {
                [one] => write!(f, "dnat {} to {one}", family(*ipv4)),
                many => {
                    let list = many.iter().enumerate().map(|(n, at)| format!("{n} : {} . {}", at.ip(), at.port()));
                    write!(f, "dnat {} to {}", family(*ipv4), random(many.len(), "map", list))
                }
            },
            Self::DnatMap { ipv4, keys, map } => write!(f, "dnat {} to {} map @{map}", family(*ipv4), joined(keys)),
            Self::Spread(chains) => match chains.as_slice() {
                [one] => write!(f, "goto {one}"),
                many => {
                    let list = many.iter().enumerate().map(|(n, chain)| format!("{n} : goto {chain}"));
                    f.write_str(&random(many.len(), "vmap", list))
                }
            },
            Self::Remember { ipv4, set } => write!(f, "update @{set} {{ {} saddr }}", family(*ipv4)),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => f.write_str("return"),
            Self::Drop => f.write_str("drop"),
            Self::Masquerade => f.write_str("masquerade fully-random"),
            Self::ResetTcp => f.write_str("reject with tcp reset"),
            Self::Reject => f.write_str("reject"),
        }
    }
}

fn range_is_ipv4(text: &str) -> bool {
    !text.contains(':')
}

fn random(count: usize, map: &str, list: impl Iterator<Item = String>) -> String {
    format!("numgen random mod {count} {map} {{ {} }}", list.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_masked_by_the_bit() {
        assert_eq!((0..4).map(|byte| prefix_byte(12, byte)).collect::<Vec<_>>(), [0xff, 0xf0, 0, 0]);
        assert_eq!((0..4).map(|byte| prefix_byte(0, byte)).collect::<Vec<_>>(), [0; 4]);
    }

    #[test]
    fn the_words_are_nfts() {
        let range: Cidr = "fd00::/56".parse().unwrap();
        let rule = vec![Statement::Address { source: true, inside: false, range }, Statement::Mark];
        assert_eq!(text(&rule), "ip6 saddr != fd00::/56 meta mark set meta mark | 0x00004000");
        let one = Statement::Dnat { ipv4: false, targets: vec!["[fd00::1]:80".parse().unwrap()] };
        assert_eq!(one.to_string(), "dnat ip6 to [fd00::1]:80");
    }
}
