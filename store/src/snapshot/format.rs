//! Pure: the form of a snapshot: a gzip stream (RFC 1952) that ends with its own SHA-256.
//!
//! ```text
//! magic, revision, { key length, key, length, bytes at rest }, zero, number of records, SHA-256 of all before
//! ```
//! Numbers are little-endian; lengths have four bytes, others eight. A torn copy lacks its end. Records stay sealed, and
//! the wrapped data keys are records too, so that checking and copying a snapshot needs no key.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::SnapshotError;
use crate::record::{Parsed, Revision, parse};
use crate::write::{KEY_BYTES_MAX, VALUE_BYTES_MAX, resource};

const MAGIC: &[u8; 16] = b"bramble-store-2\n";
/// What the bytes at rest have beside the value: header, seal.
const REST_BYTES_MAX: usize = 128;

/// Writes a snapshot.
pub(super) struct Encoder<W: Write> {
    out: GzEncoder<W>,
    digest: Context,
    records: u64,
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(out: W, revision: Revision) -> io::Result<Encoder<W>> {
        // JSON shrinks to a fifth at the quickest level already; a board's core is slow.
        let mut encoder =
            Encoder { out: GzEncoder::new(out, Compression::fast()), digest: Context::new(&SHA256), records: 0 };
        encoder.put(MAGIC)?;
        encoder.put(&revision.0.to_le_bytes())?;
        Ok(encoder)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }

    pub(super) fn record(&mut self, key: &str, raw: &[u8]) -> io::Result<()> {
        for part in [key.as_bytes(), raw] {
            self.put(&u32::try_from(part.len()).map_err(io::Error::other)?.to_le_bytes())?;
            self.put(part)?;
        }
        self.records += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.put(&0u32.to_le_bytes())?;
        self.put(&self.records.to_le_bytes())?;
        self.out.write_all(self.digest.clone().finish().as_ref())?;
        self.out.finish()
    }
}

/// What is known of a whole snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The revision whose state it is.
    pub revision: Revision,
    /// How many records it holds.
    pub records: u64,
    /// Bytes of keys and values, uncompressed.
    pub bytes: u64,
    /// Records that are sealed.
    pub sealed: u64,
    /// Records and bytes by resource.
    pub resources: BTreeMap<String, (u64, u64)>,
    /// SHA-256 of its content, as hexadecimal digits.
    pub sha256: String,
}

/// Reads a snapshot to its end and checks all of it; `begin` hears its revision first, `visit` each record.
pub(super) fn read(
    from: impl Read,
    begin: impl FnOnce(Revision) -> Result<(), SnapshotError>,
    mut visit: impl FnMut(&str, &[u8], Parsed<'_>) -> Result<(), SnapshotError>,
) -> Result<Summary, SnapshotError> {
    let mut input = Input { from: GzDecoder::new(from), digest: Context::new(&SHA256) };
    if &input.bytes::<16>()? != MAGIC {
        return Err(SnapshotError::Malformed("it does not begin like one"));
    }
    let revision = Revision(u64::from_le_bytes(input.bytes()?));
    begin(revision)?;
    let (mut records, mut bytes, mut sealed, mut resources) = (0, 0, 0, BTreeMap::<String, (u64, u64)>::new());
    loop {
        let key = input.part(KEY_BYTES_MAX)?;
        if key.is_empty() {
            break;
        }
        let key = String::from_utf8(key).map_err(|_| SnapshotError::Malformed("a key is not text"))?;
        let raw = input.part(VALUE_BYTES_MAX + REST_BYTES_MAX)?;
        let parsed = parse(&key, &raw).map_err(|_| SnapshotError::Malformed("a record is corrupt"))?;
        let size = (key.len() + parsed.body.len()) as u64;
        records += 1;
        bytes += size;
        sealed += u64::from(parsed.sealed);
        let resource = resources.entry(resource(&key).unwrap_or_default().to_owned()).or_default();
        *resource = (resource.0 + 1, resource.1 + size);
        visit(&key, &raw, parsed)?;
    }
    if u64::from_le_bytes(input.bytes()?) != records {
        return Err(SnapshotError::Malformed("records are missing"));
    }
    let digest = input.digest.clone().finish();
    if input.bytes::<SHA256_OUTPUT_LEN>()? != digest.as_ref() {
        return Err(SnapshotError::Malformed("its checksum does not hold"));
    }
    input.end()?;
    let sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Summary { revision, records, bytes, sealed, resources, sha256 })
}

struct Input<R: Read> {
    from: GzDecoder<R>,
    digest: Context,
}

impl<R: Read> Input<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(torn)?;
        self.digest.update(&bytes);
        Ok(bytes)
    }

    fn part(&mut self, bytes_max: usize) -> Result<Vec<u8>, SnapshotError> {
        let len = u32::from_le_bytes(self.bytes()?) as usize;
        if len > bytes_max {
            return Err(SnapshotError::Malformed("a length is out of range"));
        }
        let mut part = vec![0; len];
        self.from.read_exact(&mut part).map_err(torn)?;
        self.digest.update(&part);
        Ok(part)
    }

    /// Nothing follows, and gzip's own checksum holds.
    fn end(&mut self) -> Result<(), SnapshotError> {
        match self.from.read(&mut [0]).map_err(torn)? {
            0 => Ok(()),
            _ => Err(SnapshotError::Malformed("something follows its end")),
        }
    }
}

fn torn(error: io::Error) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Malformed("it is torn"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => SnapshotError::Malformed("it is no gzip stream"),
        _ => SnapshotError::Io(error),
    }
}
