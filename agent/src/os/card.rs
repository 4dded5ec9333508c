//! Pure: where things lie on a card, and the door to its bytes.
//!
//! ```text
//! 0        master boot record; at 512 KiB and 768 KiB the two copies of the boot state
//! 1  FAT   firmware, U-Boot, bramble.toml     2  data, grows to the end of the card
//! 3  extended: 5  kernel of A   6  system of A   7  kernel of B   8  system of B
//! ```

use std::io;

use super::slots::{BootState, STATE_BYTES, Slot};

/// Where the copies of the boot state lie, in bytes from the card's beginning; `images/build` and `boot.script` say it too.
pub const STATE_AT: [u64; 2] = [512 << 10, 768 << 10];
/// A sector in bytes.
pub const SECTOR: u64 = 512;
/// Number of the partition with the firmware and `bramble.toml`.
pub const FIRMWARE_PARTITION: u32 = 1;
/// Number of the data partition.
pub const DATA_PARTITION: u32 = 2;

/// Number of the partition with a slot's kernel.
#[must_use]
pub fn kernel_partition(slot: Slot) -> u32 {
    if slot == Slot::A { 5 } else { 7 }
}

/// Number of the partition with a slot's system.
#[must_use]
pub fn system_partition(slot: Slot) -> u32 {
    if slot == Slot::A { 6 } else { 8 }
}

/// A card, or a file in its place.
pub trait Card {
    /// Fills `bytes` from `at` on.
    ///
    /// # Errors
    /// The device's; an end before the bytes are full.
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// The device's.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// What was written before is on stable storage when it returns.
    ///
    /// # Errors
    /// The device's.
    fn flush(&mut self) -> io::Result<()>;
}

/// Where a partition lies, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// From the card's beginning.
    pub start: u64,
    /// Length.
    pub bytes: u64,
}

/// The boot state of a card.
///
/// # Errors
/// The device's.
pub fn read_state(card: &mut dyn Card) -> io::Result<BootState> {
    let mut copies = [[0; STATE_BYTES]; 2];
    for (at, copy) in STATE_AT.iter().zip(&mut copies) {
        card.read_at(*at, copy)?;
    }
    Ok(BootState::read(&copies[0], &copies[1]))
}

/// Writes both copies, one after the other, so that one of them is whole at every moment. Where the second is broken it
/// comes first: the first one is all there is.
///
/// # Errors
/// The device's.
pub fn write_state(card: &mut dyn Card, state: &BootState) -> io::Result<()> {
    let mut second = [0; STATE_BYTES];
    card.read_at(STATE_AT[1], &mut second)?;
    let order = if BootState::decode(&second).is_some() { [0, 1] } else { [1, 0] };
    for copy in order {
        card.write_at(STATE_AT[copy], &state.encode())?;
        card.flush()?;
    }
    Ok(())
}

/// A partition of a master boot record, logical ones included.
///
/// # Errors
/// The device's; `InvalidData` for a card without a partition table of ours.
pub fn partition(card: &mut dyn Card, number: u32) -> io::Result<Extent> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no card of ours: {what}"));
    let mut sector = [0; SECTOR as usize];
    card.read_at(0, &mut sector)?;
    let entries = entries(&sector).ok_or_else(|| broken("no partition table"))?;
    if let Some(entry) = (1..=4).contains(&number).then(|| entries[number as usize - 1]) {
        return entry.extent(0).ok_or_else(|| broken(&format!("no partition {number}")));
    }
    let extended = entries.iter().find(|entry| entry.is_extended()).ok_or_else(|| broken("no extended partition"))?;
    let base = u64::from(extended.start);
    let mut table = base;
    // As many as anybody has; a ring in the chain ends here, too.
    for at in 5..=32 {
        card.read_at(table * SECTOR, &mut sector)?;
        let entries = self::entries(&sector).ok_or_else(|| broken("a broken chain of partitions"))?;
        if at == number {
            return entries[0].extent(table).ok_or_else(|| broken(&format!("no partition {number}")));
        }
        if !entries[1].is_extended() {
            break;
        }
        table = base + u64::from(entries[1].start);
    }
    Err(broken(&format!("no partition {number}")))
}

/// One line of a partition table, in sectors.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u8,
    start: u32,
    sectors: u32,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f) && self.sectors > 0
    }

    fn extent(&self, base: u64) -> Option<Extent> {
        let extent = Extent { start: (base + u64::from(self.start)) * SECTOR, bytes: u64::from(self.sectors) * SECTOR };
        (self.sectors > 0 && !self.is_extended()).then_some(extent)
    }
}

fn entries(sector: &[u8; SECTOR as usize]) -> Option<[Entry; 4]> {
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let number = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
    Some([0, 1, 2, 3].map(|index| {
        let at = 446 + 16 * index;
        Entry { kind: sector[at + 4], start: number(at + 8), sectors: number(at + 12) }
    }))
}

/// The first sector with partition `number` (of the first four) so long that it ends where the card ends; none where it
/// does already. The end is rounded down to a MiB.
#[must_use]
pub fn grown(sector: &[u8; SECTOR as usize], number: u32, card_bytes: u64) -> Option<[u8; SECTOR as usize]> {
    const MIB: u64 = 1 << 20;
    let entries = entries(sector)?;
    let index = (number as usize).checked_sub(1).filter(|index| *index < 4)?;
    let entry = entries[index];
    let start = u64::from(entry.start) * SECTOR;
    // 32 bits of sectors end at 2 TiB; a larger card keeps the rest unused.
    let sectors = (card_bytes.min(u64::from(u32::MAX) * SECTOR) / MIB * MIB).checked_sub(start)? / SECTOR;
    let later = entries.iter().any(|other| other.sectors > 0 && other.start > entry.start);
    if entry.sectors == 0 || later || sectors <= u64::from(entry.sectors) {
        return None;
    }
    let mut grown = *sector;
    let at = 446 + 16 * index + 12;
    grown[at..at + 4].copy_from_slice(&u32::try_from(sectors).ok()?.to_le_bytes());
    Some(grown)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table of (index, kind, start, sectors).
    pub(crate) fn table(lines: &[(usize, u8, u32, u32)]) -> [u8; 512] {
        let mut sector = [0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        for (index, kind, start, sectors) in lines {
            let at = 446 + 16 * index;
            sector[at + 4] = *kind;
            sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        sector
    }

    struct Bytes(Vec<u8>);

    impl Card for Bytes {
        fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
            let at = usize::try_from(at).unwrap();
            let found = self.0.get(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            bytes.copy_from_slice(found);
            Ok(())
        }

        fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
            let at = usize::try_from(at).unwrap();
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn logical_partitions_are_found_in_their_chain() {
        let mut card = Bytes(vec![0; 64 * 512]);
        card.0[..512].copy_from_slice(&table(&[(0, 0x0c, 1, 9), (1, 0x83, 50, 10), (2, 0x05, 10, 40)]));
        card.0[10 * 512..11 * 512].copy_from_slice(&table(&[(0, 0x83, 1, 4), (1, 0x05, 10, 5)]));
        card.0[20 * 512..21 * 512].copy_from_slice(&table(&[(0, 0x83, 2, 3)]));
        let found = |card: &mut Bytes, number| partition(card, number).map(|it| (it.start / 512, it.bytes / 512));
        assert_eq!(found(&mut card, 1).unwrap(), (1, 9));
        assert_eq!(found(&mut card, 5).unwrap(), (11, 4));
        assert_eq!(found(&mut card, 6).unwrap(), (22, 3));
        for missing in [3, 4, 7, 0] {
            assert!(found(&mut card, missing).is_err(), "{missing}");
        }
        // A chain that bites its tail ends.
        card.0[20 * 512..21 * 512].copy_from_slice(&table(&[(0, 0x83, 2, 3), (1, 0x05, 0, 5)]));
        assert!(found(&mut card, 40).is_err());
    }

    #[test]
    fn only_the_last_partition_grows_and_only_once() {
        let before = table(&[(0, 0x0c, 2048, 2048), (1, 0x83, 6144, 2048), (2, 0x05, 4096, 2048)]);
        let after = grown(&before, 2, 100 << 20).unwrap();
        assert_eq!(entries(&after).unwrap()[1].sectors, 100 * 2048 - 6144);
        assert!(grown(&after, 2, 100 << 20).is_none());
        assert!(grown(&before, 1, 100 << 20).is_none() && grown(&before, 2, 1 << 20).is_none());
    }
}
