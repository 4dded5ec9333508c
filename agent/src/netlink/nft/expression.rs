//! Pure: the expressions of a rule; each function writes one, registers are 32-bit slots counted from 0.

use super::Verdict;
use crate::netlink::wire::Writer;

/// Register 8 is the first 32-bit one; the kernel treats it as the first quarter of its old register 1.
const FIRST: u32 = 8;

/// Keys of `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    NfProto = 15,
    L4Proto = 16,
}

/// Which header an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Network = 1,
    Transport = 2,
}

fn expression(m: &mut Writer<'_>, name: &str, body: impl FnOnce(&mut Writer<'_>)) {
    m.nest(1, |m| {
        m.text(1, name);
        m.nest(2, body);
    });
}

pub(crate) fn meta(m: &mut Writer<'_>, key: Meta, to: u32) {
    expression(m, "meta", |m| {
        m.be32(2, key as u32);
        m.be32(1, FIRST + to);
    });
}

pub(crate) fn set_mark(m: &mut Writer<'_>, from: u32) {
    expression(m, "meta", |m| {
        m.be32(2, Meta::Mark as u32);
        m.be32(3, FIRST + from);
    });
}

pub(crate) fn payload(m: &mut Writer<'_>, header: Header, offset: u32, length: u32, to: u32) {
    expression(m, "payload", |m| {
        m.be32(1, FIRST + to);
        m.be32(2, header as u32);
        m.be32(3, offset);
        m.be32(4, length);
    });
}

pub(crate) fn compare(m: &mut Writer<'_>, register: u32, equal: bool, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.be32(1, FIRST + register);
        m.be32(2, u32::from(!equal));
        m.nest(3, |m| m.attr(1, value));
    });
}

/// The register lies between two values, both included.
pub(crate) fn between(m: &mut Writer<'_>, register: u32, first: &[u8], last: &[u8]) {
    expression(m, "range", |m| {
        m.be32(1, FIRST + register);
        let equal = 0;
        m.be32(2, equal);
        m.nest(3, |m| m.attr(1, first));
        m.nest(4, |m| m.attr(1, last));
    });
}

/// `register = (register & mask) ^ xor`
pub(crate) fn bitwise(m: &mut Writer<'_>, register: u32, mask: &[u8], xor: &[u8]) {
    expression(m, "bitwise", |m| {
        m.be32(1, FIRST + register);
        m.be32(2, FIRST + register);
        m.be32(3, u32::try_from(mask.len()).expect("a mask is an address at most"));
        m.nest(4, |m| m.attr(1, mask));
        m.nest(5, |m| m.attr(1, xor));
    });
}

/// Where a lookup's result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// A set: the rule goes on when the key is there.
    Nothing,
    Register(u32),
    /// A verdict map.
    Verdict,
}

/// Looks the key at `register` up in a set, by name or by its id in this batch.
pub(crate) fn lookup(m: &mut Writer<'_>, set: &str, id: Option<u32>, register: u32, to: To) {
    expression(m, "lookup", |m| {
        m.be32(2, FIRST + register);
        match to {
            To::Nothing => {}
            To::Register(to) => m.be32(3, FIRST + to),
            To::Verdict => m.be32(3, 0),
        }
        m.text(1, set);
        if let Some(id) = id {
            m.be32(4, id);
        }
    });
}

pub(crate) fn immediate(m: &mut Writer<'_>, register: u32, value: &[u8]) {
    expression(m, "immediate", |m| {
        m.be32(1, FIRST + register);
        m.nest(2, |m| m.attr(1, value));
    });
}

pub(crate) fn verdict(m: &mut Writer<'_>, verdict: &Verdict) {
    expression(m, "immediate", |m| {
        m.be32(1, 0);
        m.nest(2, |m| verdict.encode(m));
    });
}

/// Rewrites the destination to the address and port in these registers.
pub(crate) fn dnat(m: &mut Writer<'_>, ipv4: bool, address: u32, port: u32, constant: bool) {
    expression(m, "nat", |m| {
        let dnat = 1;
        m.be32(1, dnat);
        m.be32(2, if ipv4 { 2 } else { 10 });
        m.be32(3, FIRST + address);
        m.be32(5, FIRST + port);
        if constant {
            let port_specified = 0x2;
            m.be32(7, port_specified);
        }
    });
}

pub(crate) fn masquerade(m: &mut Writer<'_>) {
    let fully_random = 0x10;
    expression(m, "masq", |m| m.be32(1, fully_random));
}

/// Refuses with a TCP reset, or with "port unreachable" of the packet's family.
pub(crate) fn reject(m: &mut Writer<'_>, tcp_reset: bool) {
    expression(m, "reject", |m| {
        m.be32(1, if tcp_reset { 1 } else { 2 });
        m.attr(2, &[u8::from(!tcp_reset)]);
    });
}

pub(crate) fn random(m: &mut Writer<'_>, modulus: u32, to: u32) {
    expression(m, "numgen", |m| {
        m.be32(1, FIRST + to);
        m.be32(2, modulus);
        m.be32(3, 1);
        m.be32(4, 0);
    });
}

/// The type (local, unicast, ...) of the packet's source or destination.
pub(crate) fn address_type(m: &mut Writer<'_>, source: bool, to: u32) {
    expression(m, "fib", |m| {
        let address_type = 3;
        m.be32(3, if source { 1 } else { 2 });
        m.be32(2, address_type);
        m.be32(1, FIRST + to);
    });
}

pub(crate) fn ct_state(m: &mut Writer<'_>, to: u32) {
    expression(m, "ct", |m| {
        m.be32(2, 0);
        m.be32(1, FIRST + to);
    });
}

/// Adds the key at `register` to a set or prolongs its life there.
pub(crate) fn update(m: &mut Writer<'_>, set: &str, register: u32) {
    expression(m, "dynset", |m| {
        let update = 1;
        m.be32(4, FIRST + register);
        m.be32(3, update);
        m.text(1, set);
    });
}
