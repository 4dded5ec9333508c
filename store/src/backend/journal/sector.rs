//! Pure: one sector of the journal: whole, old, or damaged, and nothing in between.
//!
//! ```text
//!  0      4      6    7   8            16           24                            512
//!  | crc  | used | kind| 0 | generation | frame      | payload, then zeros          |
//! ```
//! Little-endian. The CRC-32 covers the store's id and the sector's place (neither is written) and all bytes after it,
//! so a sector of another store or of another place is no sector. A device writes 512 bytes whole or not at all: what a
//! power cut leaves of a frame is a mixture of new and old sectors, never a damaged one. That is how a torn end, which
//! nobody was told of, is told from a flipped bit, which takes something acknowledged.

/// What devices write whole.
pub(crate) const SECTOR_BYTES: usize = 512;
const HEAD_BYTES: usize = 24;
/// Payload of a sector.
pub(crate) const ROOM_BYTES: usize = SECTOR_BYTES - HEAD_BYTES;

/// A sector that holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sector<'a> {
    /// Whether a frame begins here.
    pub(crate) first: bool,
    /// The use of the file that it belongs to.
    pub(crate) generation: u64,
    /// The frame within the generation that it belongs to.
    pub(crate) frame: u64,
    /// What it carries.
    pub(crate) payload: &'a [u8],
}

/// What the bytes at a place are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// Never written.
    Blank,
    /// Written whole, now or before.
    Whole(Sector<'a>),
    /// Neither.
    Damaged,
}

fn checksum(id: u64, place: u64, covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_le_bytes());
    hasher.update(&place.to_le_bytes());
    hasher.update(covered);
    hasher.finalize()
}

/// Writes a sector into `raw`, whose length is that of a sector.
pub(crate) fn encode(id: u64, place: u64, sector: &Sector<'_>, raw: &mut [u8]) {
    let used = u16::try_from(sector.payload.len()).expect("a payload fits into its sector");
    raw.fill(0);
    raw[4..6].copy_from_slice(&used.to_le_bytes());
    raw[6] = if sector.first { 1 } else { 2 };
    raw[8..16].copy_from_slice(&sector.generation.to_le_bytes());
    raw[16..24].copy_from_slice(&sector.frame.to_le_bytes());
    raw[HEAD_BYTES..HEAD_BYTES + sector.payload.len()].copy_from_slice(sector.payload);
    let crc = checksum(id, place, &raw[4..]);
    raw[..4].copy_from_slice(&crc.to_le_bytes());
}

/// What the bytes of a sector are.
pub(crate) fn decode(id: u64, place: u64, raw: &[u8]) -> Found<'_> {
    if raw.iter().all(|byte| *byte == 0) {
        return Found::Blank;
    }
    let number = |at: usize| raw[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    let used = usize::from(u16::from_le_bytes([raw[4], raw[5]]));
    let sound = raw[..4] == checksum(id, place, &raw[4..]).to_le_bytes();
    match (sound, raw[6], raw.get(HEAD_BYTES..HEAD_BYTES + used)) {
        (true, kind @ (1 | 2), Some(payload)) => {
            Found::Whole(Sector { first: kind == 1, generation: number(8), frame: number(16), payload })
        }
        _ => Found::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_a_foreign_store_and_a_foreign_place_are_found_out() {
        let sector = Sector { first: true, generation: 3, frame: 7, payload: b"pods/a" };
        let mut raw = [0; SECTOR_BYTES];
        assert_eq!(decode(9, 4, &raw), Found::Blank);
        encode(9, 4, &sector, &mut raw);
        assert_eq!(decode(9, 4, &raw), Found::Whole(sector));
        assert_eq!(decode(8, 4, &raw), Found::Damaged);
        assert_eq!(decode(9, 5, &raw), Found::Damaged);
        for bit in 0..SECTOR_BYTES * 8 {
            raw[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(9, 4, &raw), Found::Damaged, "bit {bit}");
            raw[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
