//! Pure: netlink messages as bytes (RFC 3549, linux/netlink.h): headers, attributes, and a defensive reader.

/// Ask for an acknowledgement.
pub(crate) const ACK: u16 = 0x4;
/// Fail when it exists.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// Replace what exists.
pub(crate) const REPLACE: u16 = 0x100;
/// Make it when it does not exist.
pub(crate) const CREATE: u16 = 0x400;
/// Append (nf_tables: a rule goes to the end of its chain).
pub(crate) const APPEND: u16 = 0x800;
/// Answer with everything.
pub(crate) const DUMP: u16 = 0x300;
/// This reply has several parts.
pub(crate) const MULTI: u16 = 0x2;

/// The kinds of every netlink family.
pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;
pub(crate) const HEADER: usize = 16;

/// Messages that go to the kernel in one send; the sequence number of each is its place, from 1.
#[derive(Default, Clone)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: u32,
}

impl Batch {
    /// Appends one message; `body` writes what follows the header.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer<'_>)) {
        self.count += 1;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(&mut Writer(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).expect("one message stays far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// The message with this sequence number, header included.
    pub(crate) fn at(&self, sequence: u32) -> Option<&[u8]> {
        let mut rest = self.bytes.as_slice();
        for _ in 1..sequence {
            let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
            rest = rest.get(align(length)..)?;
        }
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        rest.get(..length)
    }
}

/// Writes a message's body; everything is padded to four bytes.
pub(crate) struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    /// A fixed header of the family.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.pad();
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("attributes are cut below 64 KiB by their writers");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
    }

    /// A string with its terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let length = u16::try_from(5 + value.len()).expect("names are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.pad();
    }

    pub(crate) fn be16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn ne32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer<'_>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(&mut Writer(self.0));
        let length = u16::try_from(self.0.len() - start).expect("nests are cut below 64 KiB by their writers");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }
}

/// One message of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl Message<'_> {
    /// For an acknowledgement or error: the errno, 0 when all is well.
    pub(crate) fn errno(&self) -> Option<i32> {
        let code = i32::from_ne_bytes(self.payload.get(..4)?.try_into().ok()?);
        (self.kind == ERROR).then(|| code.saturating_neg())
    }
}

/// The messages in one datagram; a header that lies about its length ends the walk.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let payload = bytes.get(HEADER..length)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload,
        };
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes` as (kind, value); a length that lies ends the walk.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(at, _)| *at == kind).map(|(_, value)| value)
}

/// A string attribute without its terminating zero.
pub(crate) fn text(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).unwrap_or_default()
}

const fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_these_bytes() {
        let mut batch = Batch::default();
        batch.message(16, ACK, |m| {
            m.raw(&[7; 4]);
            m.text(3, "eth");
            m.nest(18, |n| n.be16(1, 80));
        });
        let length = (16 + 4 + 8 + 12_u32).to_ne_bytes();
        let mut golden = length.to_vec();
        golden.extend([16, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([7, 7, 7, 7, 8, 0, 3, 0, b'e', b't', b'h', 0]);
        golden.extend([12, 0, 18, 0x80, 6, 0, 1, 0, 0, 80, 0, 0]);
        assert_eq!(batch.bytes, golden);
        let message = messages(&batch.bytes).next().unwrap();
        assert_eq!((message.kind, message.sequence), (16, 1));
        assert_eq!(text(attribute(&message.payload[4..], 3).unwrap()), "eth");
    }

    #[test]
    fn lies_about_lengths_end_the_walk() {
        assert_eq!(messages(&[0; 15]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0, "a length of zero would loop forever");
        let mut long = [0; 16];
        long[0] = 200;
        assert_eq!(messages(&long).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[8, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[4, 0, 1, 0]).collect::<Vec<_>>(), [(1, &[][..])]);
    }

    #[test]
    fn the_nth_message_is_found_again() {
        let mut batch = Batch::default();
        for kind in 10..14 {
            batch.message(kind, 0, |m| m.text(1, "x"));
        }
        assert_eq!(messages(batch.at(3).unwrap()).next().unwrap().kind, 12);
        assert!(batch.at(5).is_none());
    }
}
