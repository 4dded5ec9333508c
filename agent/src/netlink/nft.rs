//! Pure: nf_tables over netlink (linux/netfilter/nf_tables.h): tables, chains, rules, sets, elements, generations.

pub(crate) mod expression;

use super::wire::{APPEND, Batch, CREATE, Writer, attribute, text};

const SUBSYSTEM: u16 = 10 << 8;
pub(crate) const NEW_TABLE: u16 = SUBSYSTEM;
pub(crate) const GET_TABLE: u16 = SUBSYSTEM | 1;
pub(crate) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
pub(crate) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
pub(crate) const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
pub(crate) const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(crate) const DELETE_RULE: u16 = SUBSYSTEM | 8;
pub(crate) const NEW_SET: u16 = SUBSYSTEM | 9;
pub(crate) const DELETE_SET: u16 = SUBSYSTEM | 11;
pub(crate) const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
pub(crate) const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;
pub(crate) const NEW_GENERATION: u16 = SUBSYSTEM | 15;
pub(crate) const GET_GENERATION: u16 = SUBSYSTEM | 16;
pub(crate) const BATCH_BEGIN: u16 = 0x10;
pub(crate) const BATCH_END: u16 = 0x11;

/// The multicast group (as a bit) that hears of every change to a ruleset.
pub(crate) const CHANGES_GROUP: u32 = 1 << 6;

const INET: u8 = 1;
/// Elements of one message: a nest must stay below 64 KiB, and one element with a chain name below 340 bytes.
const ELEMENTS_PER_MESSAGE: usize = 128;

/// Opens a transaction that fails with ERESTART when the ruleset is no longer at `generation`.
pub(crate) fn begin(batch: &mut Batch, generation: u32) {
    batch.message(BATCH_BEGIN, 0, |m| {
        m.raw(&[0, 0, 0, 10]);
        m.be32(1, generation);
    });
}

/// Writes the generation into a batch that `begin` opened first of all.
pub(crate) fn set_generation(batch: &mut Batch, generation: u32) {
    let (header, family, attribute) = (16, 4, 4);
    let at = header + family + attribute;
    batch.bytes[at..at + 4].copy_from_slice(&generation.to_be_bytes());
}

pub(crate) fn get_table(batch: &mut Batch, table: &str) {
    message(batch, GET_TABLE, 0, |m| m.text(1, table));
}

/// Closes it; the kernel commits all or nothing.
pub(crate) fn end(batch: &mut Batch) {
    batch.message(BATCH_END, 0, |m| m.raw(&[0, 0, 0, 10]));
}

pub(crate) fn get_generation(batch: &mut Batch) {
    batch.message(GET_GENERATION, 0, |m| m.raw(&[0; 4]));
}

/// The generation in a reply or notification.
pub(crate) fn parse_generation(payload: &[u8]) -> Option<u32> {
    attribute(payload.get(4..)?, 1)?.try_into().ok().map(u32::from_be_bytes)
}

/// Whether a notification speaks of this table; every object names its table in attribute 1.
pub(crate) fn concerns(payload: &[u8], table: &str) -> bool {
    payload.first() == Some(&INET) && payload.get(4..).and_then(|body| attribute(body, 1)).map(text) == Some(table)
}

pub(crate) fn add_table(batch: &mut Batch, table: &str) {
    message(batch, NEW_TABLE, CREATE, |m| {
        m.text(1, table);
        m.be32(2, 0);
    });
}

pub(crate) fn delete_table(batch: &mut Batch, table: &str) {
    message(batch, DELETE_TABLE, 0, |m| m.text(1, table));
}

/// Where a base chain hangs in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) kind: &'static str,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
}

/// The points of a packet's way (linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

pub(crate) fn add_chain(batch: &mut Batch, table: &str, name: &str, base: Option<Base>) {
    message(batch, NEW_CHAIN, CREATE, |m| {
        m.text(1, table);
        m.text(3, name);
        if let Some(base) = base {
            m.nest(4, |hook| {
                hook.be32(1, base.hook as u32);
                hook.attr(2, &base.priority.to_be_bytes());
            });
            let accept = 1;
            m.be32(5, accept);
            m.text(7, base.kind);
        }
    });
}

pub(crate) fn delete_chain(batch: &mut Batch, table: &str, name: &str) {
    message(batch, DELETE_CHAIN, 0, |m| {
        m.text(1, table);
        m.text(3, name);
    });
}

/// Every rule of the chain.
pub(crate) fn delete_rules(batch: &mut Batch, table: &str, chain: &str) {
    message(batch, DELETE_RULE, 0, |m| {
        m.text(1, table);
        m.text(2, chain);
    });
}

/// One rule at the end of the chain; `body` writes its expressions.
pub(crate) fn add_rule(batch: &mut Batch, table: &str, chain: &str, body: impl FnOnce(&mut Writer<'_>)) {
    message(batch, NEW_RULE, CREATE | APPEND, |m| {
        m.text(1, table);
        m.text(2, chain);
        m.nest(4, body);
    });
}

/// nft's numbers of the types that we use, so that `nft list` prints our sets as it prints its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Verdict,
    NfProto,
    Integer,
    Ipv4,
    Ipv6,
    Protocol,
    Port,
}

impl Type {
    const fn number(self) -> u32 {
        match self {
            Self::Verdict => 1,
            Self::NfProto => 2,
            Self::Integer => 4,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    /// Bytes in a key, where each part is padded to four.
    pub(crate) const fn length(self) -> u32 {
        match self {
            Self::Verdict => 0,
            Self::Ipv6 => 16,
            _ => 4,
        }
    }

    /// How nft writes it.
    #[cfg(test)]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::NfProto => "nf_proto",
            Self::Integer => "integer",
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
        }
    }
}

/// nft packs the types of a concatenation six bits each.
fn packed(types: &[Type]) -> u32 {
    types.iter().fold(0, |packed, at| (packed << 6) | at.number())
}

fn length(types: &[Type]) -> u32 {
    types.iter().map(|at| at.length()).sum()
}

/// A set, or a map when `data` is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SetSpec<'a> {
    pub(crate) key: &'a [Type],
    pub(crate) data: &'a [Type],
    /// Filled by packets: elements leave after so many seconds, and at most so many are kept.
    pub(crate) dynamic: Option<Dynamic>,
}

/// The bounds of a set that packets fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dynamic {
    pub(crate) timeout_s: u32,
    pub(crate) size: u32,
}

/// A set with a name.
pub(crate) fn add_set(batch: &mut Batch, table: &str, name: &str, spec: &SetSpec<'_>) {
    let id = batch.count + 1;
    message(batch, NEW_SET, CREATE, |m| set_body(m, table, name, id, spec, None));
}

/// The map that belongs to one rule of this batch; the id goes into the rule's lookup.
pub(crate) fn add_anonymous_map(batch: &mut Batch, table: &str, data: &[Type], elements: &[Element]) -> u32 {
    let id = batch.count + 1;
    let spec = SetSpec { key: &[Type::Integer], data, dynamic: None };
    message(batch, NEW_SET, CREATE, |m| set_body(m, table, ANONYMOUS_MAP, id, &spec, Some(elements.len())));
    elements_message(batch, NEW_ELEMENTS, CREATE, table, ANONYMOUS_MAP, Some(id), elements);
    id
}

/// The kernel fills in the number.
pub(crate) const ANONYMOUS_MAP: &str = "__map%d";

fn set_body(m: &mut Writer<'_>, table: &str, name: &str, id: u32, spec: &SetSpec<'_>, anonymous: Option<usize>) {
    let (anonymous_flag, constant, map, timeout, eval) = (0x1, 0x2, 0x8, 0x10, 0x20);
    let mut flags = 0;
    flags |= if anonymous.is_some() { anonymous_flag | constant } else { 0 };
    flags |= if spec.data.is_empty() { 0 } else { map };
    flags |= if spec.dynamic.is_some() { timeout | eval } else { 0 };
    m.text(1, table);
    m.text(2, name);
    m.be32(3, flags);
    m.be32(4, packed(spec.key));
    m.be32(5, length(spec.key));
    if !spec.data.is_empty() {
        m.be32(6, if spec.data == [Type::Verdict] { 0xffff_ff00 } else { packed(spec.data) });
        m.be32(7, length(spec.data));
    }
    m.be32(10, id);
    let size = anonymous.map(|count| u32::try_from(count).unwrap_or(u32::MAX)).or(spec.dynamic.map(|d| d.size));
    if let Some(size) = size {
        m.nest(9, |description| description.be32(1, size));
    }
    if let Some(dynamic) = spec.dynamic {
        m.be64(11, u64::from(dynamic.timeout_s) * 1000);
    }
    if anonymous.is_some() {
        // nft's private note that the key is in host order; without it `nft list` prints 0x1000000 for 1.
        let (key_byteorder, host) = (0_u8, 1_u32);
        let mut note = vec![key_byteorder, 4];
        note.extend(host.to_ne_bytes());
        m.attr(13, &note);
    }
}

pub(crate) fn delete_set(batch: &mut Batch, table: &str, name: &str) {
    message(batch, DELETE_SET, 0, |m| {
        m.text(1, table);
        m.text(2, name);
    });
}

/// What a packet does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Verdict {
    fn encode(&self, m: &mut Writer<'_>) {
        let (code, chain) = match self {
            Self::Drop => (0_i32, None),
            Self::Return => (-5, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
        };
        m.nest(2, |verdict| {
            verdict.attr(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                verdict.text(2, chain);
            }
        });
    }
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    Value(Vec<u8>),
    Verdict(Verdict),
}

/// One element on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) data: Data,
}

pub(crate) fn add_elements(batch: &mut Batch, table: &str, set: &str, elements: &[Element]) {
    elements_message(batch, NEW_ELEMENTS, CREATE, table, set, None, elements);
}

pub(crate) fn delete_elements(batch: &mut Batch, table: &str, set: &str, elements: &[Element]) {
    elements_message(batch, DELETE_ELEMENTS, 0, table, set, None, elements);
}

fn elements_message(
    batch: &mut Batch,
    kind: u16,
    flags: u16,
    table: &str,
    set: &str,
    id: Option<u32>,
    elements: &[Element],
) {
    for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
        message(batch, kind, flags, |m| {
            m.text(1, table);
            m.text(2, set);
            if let Some(id) = id {
                m.be32(4, id);
            }
            m.nest(3, |list| part.iter().for_each(|element| list.nest(1, |m| element_body(m, element))));
        });
    }
}

fn element_body(m: &mut Writer<'_>, element: &Element) {
    m.nest(1, |key| key.attr(1, &element.key));
    match &element.data {
        Data::None => {}
        Data::Value(value) => m.nest(2, |data| data.attr(1, value)),
        Data::Verdict(verdict) => m.nest(2, |data| verdict.encode(data)),
    }
}

fn message(batch: &mut Batch, kind: u16, flags: u16, body: impl FnOnce(&mut Writer<'_>)) {
    batch.message(kind, flags, |m| {
        m.raw(&[INET, 0, 0, 0]);
        body(m);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::wire::{attributes, messages};

    /// What `nft add element inet q hostports { tcp . 8080 : 10.42.0.5 . 80 }` sends (nft 1.0.6, --debug=mnl).
    #[test]
    fn an_element_is_what_nft_sends() {
        let mut batch = Batch::default();
        let element =
            Element { key: vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0], data: Data::Value(vec![10, 42, 0, 5, 0, 80, 0, 0]) };
        add_elements(&mut batch, "q", "hostports", &[element]);
        let body = messages(&batch.bytes).next().unwrap().payload;
        let golden = [
            1, 0, 0, 0, 6, 0, 1, 0, b'q', 0, 0, 0, 14, 0, 2, 0, b'h', b'o', b's', b't', b'p', b'o', b'r', b't', b's',
            0, 0, 0, 40, 0, 3, 0x80, 36, 0, 1, 0x80, 16, 0, 1, 0x80, 12, 0, 1, 0, 6, 0, 0, 0, 0x1f, 0x90, 0, 0, 16, 0,
            2, 0x80, 12, 0, 1, 0, 10, 42, 0, 5, 0, 80, 0, 0,
        ];
        assert_eq!(body, golden);
    }

    /// The types of the same map as nft sends them.
    #[test]
    fn concatenated_types_are_nfts_numbers() {
        assert_eq!(packed(&[Type::Protocol, Type::Port]), 0x30d);
        assert_eq!(packed(&[Type::NfProto, Type::Protocol, Type::Port]), 0x230d);
        assert_eq!(packed(&[Type::Ipv4, Type::Port]), 0x1cd);
        assert_eq!(length(&[Type::Ipv6, Type::Protocol, Type::Port]), 24);
    }

    #[test]
    fn many_elements_are_cut_into_messages() {
        let element = Element { key: vec![0; 24], data: Data::Verdict(Verdict::Goto("c".repeat(255))) };
        let mut batch = Batch::default();
        add_elements(&mut batch, "t", "s", &vec![element; 1000]);
        assert_eq!(batch.count, 8);
        let counts: usize =
            messages(&batch.bytes).map(|m| attributes(attribute(&m.payload[4..], 3).unwrap()).count()).sum();
        assert_eq!(counts, 1000);
    }

    #[test]
    fn a_notification_names_its_table() {
        let mut batch = Batch::default();
        add_chain(&mut batch, "bramble-1", "x", None);
        let message = messages(&batch.bytes).next().unwrap();
        assert!(concerns(message.payload, "bramble-1"));
        assert!(!concerns(message.payload, "bramble-2"));
        assert!(!concerns(&[], "bramble-1"));
    }
}
