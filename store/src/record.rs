//! Pure: a record, its revision, and its checksummed form at rest.

use std::fmt;

use bytes::Bytes;

use crate::write::VALUE_BYTES_MAX;

/// A point in the one global order of all writes. Zero is before everything; no write ever has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value and the revision of its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `<resource>/<rest>`.
    pub key: String,
    /// What was put.
    pub value: Bytes,
    /// The revision to show and to compare with.
    pub revision: Revision,
}

/// The value and the revision of one key, where the key is known already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) revision: Revision,
    pub(crate) value: Bytes,
}

/// The bytes of a record do not match their checksum, or are not a record at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// Form of a record at rest: format byte, CRC-32 over key, revision and body, revision, body. The body is the value, what
/// seals it, or the value's length and its LZ4 block. Any two of these bytes differ in two bits.
const PLAIN: u8 = 1;
const SEALED: u8 = 2;
const PACKED: u8 = 4;
/// Smaller values take a sector of the journal anyway.
const PACKED_BYTES_MIN: usize = 400;
/// A value is packed if it gets smaller by this part at least.
const PACKED_GAIN: usize = 8;
const HEADER_BYTES: usize = 1 + 4 + 8;

fn checksum(key: &str, revision: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(revision);
    hasher.update(body);
    hasher.finalize()
}

fn frame(format: u8, key: &str, revision: Revision, body: &[u8]) -> Bytes {
    let revision = revision.0.to_le_bytes();
    let mut raw = Vec::with_capacity(HEADER_BYTES + body.len());
    raw.push(format);
    raw.extend_from_slice(&checksum(key, &revision, body).to_le_bytes());
    raw.extend_from_slice(&revision);
    raw.extend_from_slice(body);
    raw.into()
}

/// The bytes at rest of a version of `key` that is not sealed. Objects are JSON: packed they take a third, in the journal
/// and in memory until they are in redb, and more of them share a page there.
pub(crate) fn encode(key: &str, version: &Version) -> Bytes {
    if version.value.len() >= PACKED_BYTES_MIN {
        let packed = lz4_flex::block::compress_prepend_size(&version.value);
        if packed.len() + version.value.len() / PACKED_GAIN < version.value.len() {
            return frame(PACKED, key, version.revision, &packed);
        }
    }
    frame(PLAIN, key, version.revision, &version.value)
}

/// The same around a sealed value.
pub(crate) fn encode_sealed(key: &str, revision: Revision, body: &[u8]) -> Bytes {
    frame(SEALED, key, revision, body)
}

/// A whole record at rest; its checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parsed<'a> {
    pub(crate) revision: Revision,
    pub(crate) sealed: bool,
    packed: bool,
    pub(crate) body: &'a [u8],
}

impl Parsed<'_> {
    /// The value of a record that is not sealed.
    pub(crate) fn value(&self) -> Result<Bytes, Damaged> {
        if !self.packed {
            return Ok(Bytes::copy_from_slice(self.body));
        }
        let (length, block) = self.body.split_first_chunk().ok_or(Damaged)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Damaged)?;
        if length > VALUE_BYTES_MAX {
            return Err(Damaged);
        }
        lz4_flex::block::decompress(block, length).map(Bytes::from).map_err(|_| Damaged)
    }
}

/// The inverse; the key takes part in the checksum, so a value under a foreign key is found out. Needs no key to check
/// a sealed record.
pub(crate) fn parse<'a>(key: &str, raw: &'a [u8]) -> Result<Parsed<'a>, Damaged> {
    let (header, body) = raw.split_at_checked(HEADER_BYTES).ok_or(Damaged)?;
    let (format, rest) = header.split_first().ok_or(Damaged)?;
    let (crc, revision) = rest.split_at(4);
    if ![PLAIN, SEALED, PACKED].contains(format) || crc != checksum(key, revision, body).to_le_bytes() {
        return Err(Damaged);
    }
    let revision = Revision(u64::from_le_bytes(revision.try_into().map_err(|_| Damaged)?));
    Ok(Parsed { revision, sealed: *format == SEALED, packed: *format == PACKED, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_a_foreign_key_are_found_out() {
        let text = r#"{"kind":"Pod","status":"True"}"#;
        for (value, packed) in [(text.to_owned(), false), (text.repeat(50), true)] {
            let version = Version { revision: Revision(7), value: value.into() };
            let raw = encode("pods/a", &version);
            assert_eq!(raw.len() < version.value.len(), packed);
            let parsed = parse("pods/a", &raw).unwrap();
            assert_eq!((parsed.revision, parsed.sealed), (version.revision, false));
            assert_eq!(parsed.value().unwrap(), version.value);
            assert_eq!(parse("pods/b", &raw), Err(Damaged));
            assert_eq!(parse("pods/a", &raw[..HEADER_BYTES - 1]), Err(Damaged));
            for bit in 0..raw.len() * 8 {
                let mut flipped = raw.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(parse("pods/a", &flipped), Err(Damaged), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let value: Bytes = (0..4000).map(|_| noise()).collect();
        let raw = encode("pods/a", &Version { revision: Revision(7), value: value.clone() });
        assert_eq!(raw.len(), HEADER_BYTES + value.len());
        assert_eq!(parse("pods/a", &raw).unwrap().value().unwrap(), value);
    }
}
