//! Pure: which slot boots: the boot loader's variables, kept as two checksummed copies outside every file system.
//!
//! The names and the counting are RAUC's for U-Boot: `BOOT_ORDER` is tried from the left, `BOOT_x_LEFT` attempts are left
//! for a slot, each boot takes one, a confirmed boot fills them up. The block is what U-Boot's `env export -c` writes:
//! CRC-32 of the rest, little endian, then `NAME=value` strings, each ended by a zero, one more zero at the end.

use std::fmt;

/// Length of one copy in bytes: one sector, so that most cards write it whole or not at all.
pub const STATE_BYTES: usize = 512;
/// Attempts of a slot that has been confirmed.
pub const ATTEMPTS: u8 = 3;

/// One of two sets of kernel, initial file system, device trees and system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The one that is not this.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "A" => Some(Self::A),
            "B" => Some(Self::B),
            _ => None,
        }
    }

    /// The slot that a kernel command line names as `bramble.slot=`.
    #[must_use]
    pub fn of_command_line(line: &str) -> Option<Self> {
        line.split_whitespace().find_map(|word| word.strip_prefix("bramble.slot=")).and_then(Self::parse)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if *self == Self::A { "A" } else { "B" })
    }
}

/// What decides which slot boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootState {
    order: Vec<Slot>,
    left: [u8; 2],
}

impl Default for BootState {
    /// What the boot loader takes where neither copy is whole: a card that was never updated.
    fn default() -> Self {
        Self { order: vec![Slot::A, Slot::B], left: [ATTEMPTS; 2] }
    }
}

impl BootState {
    /// The state that two copies hold: the first where it is whole, since it is written first.
    #[must_use]
    pub fn read(first: &[u8], second: &[u8]) -> Self {
        Self::decode(first).or_else(|| Self::decode(second)).unwrap_or_default()
    }

    /// One copy; none if it is not whole.
    #[must_use]
    pub fn decode(block: &[u8]) -> Option<Self> {
        let (crc, text) = block.get(..STATE_BYTES)?.split_at_checked(4)?;
        if crc32fast::hash(text).to_le_bytes() != *crc {
            return None;
        }
        let mut state = Self { order: Vec::new(), left: [0; 2] };
        for word in text.split(|byte| *byte == 0).map_while(|word| (!word.is_empty()).then_some(word)) {
            let (name, value) = std::str::from_utf8(word).ok()?.split_once('=')?;
            match name {
                "BOOT_ORDER" => state.order = value.split(' ').map(Slot::parse).collect::<Option<_>>()?,
                "BOOT_A_LEFT" => state.left[0] = u8::from_str_radix(value, 16).ok()?,
                "BOOT_B_LEFT" => state.left[1] = u8::from_str_radix(value, 16).ok()?,
                // A later version's.
                _ => {}
            }
        }
        (!state.order.is_empty()).then_some(state)
    }

    /// One copy.
    #[must_use]
    pub fn encode(&self) -> [u8; STATE_BYTES] {
        let order = self.order.iter().map(Slot::to_string).collect::<Vec<_>>().join(" ");
        // U-Boot counts in hexadecimal.
        let text = format!("BOOT_A_LEFT={:x}\0BOOT_B_LEFT={:x}\0BOOT_ORDER={order}\0\0", self.left[0], self.left[1]);
        let mut block = [0; STATE_BYTES];
        block[4..4 + text.len()].copy_from_slice(text.as_bytes());
        let crc = crc32fast::hash(&block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Attempts that a slot has left.
    #[must_use]
    pub fn left(&self, slot: Slot) -> u8 {
        self.left[slot as usize]
    }

    /// What the boot loader does: takes an attempt of the first slot that has one left. Where none has, both get theirs
    /// back, because a board that tries again is better than one that stands still.
    pub fn boot(&mut self) -> Slot {
        let first = self.order.first().copied().unwrap_or(Slot::A);
        let slot = self.order.iter().copied().find(|slot| self.left(*slot) > 0);
        if slot.is_none() {
            self.left = [ATTEMPTS; 2];
        }
        let slot = slot.unwrap_or(first);
        self.left[slot as usize] -= 1;
        slot
    }

    /// Before a slot is written: nothing boots it.
    pub fn forbid(&mut self, slot: Slot) {
        self.order = vec![slot.other()];
        self.left[slot as usize] = 0;
        // An update does not take away what a board lives on.
        self.left[slot.other() as usize] = ATTEMPTS;
    }

    /// After it was written and read back: it is booted once.
    pub fn try_once(&mut self, slot: Slot) {
        self.order = vec![slot, slot.other()];
        self.left[slot as usize] = 1;
        self.left[slot.other() as usize] = ATTEMPTS;
    }

    /// The running slot is good.
    pub fn confirm(&mut self, slot: Slot) {
        self.order = vec![slot, slot.other()];
        self.left[slot as usize] = ATTEMPTS;
    }

    /// Whether the running slot is on trial: not confirmed, and the next boot goes to the other one.
    #[must_use]
    pub fn is_trial(&self, running: Slot) -> bool {
        self.order.first() == Some(&running) && self.left(running) == 0 && self.left(running.other()) > 0
    }

    /// Whether a confirmation would change anything; where it would not, nothing is written to the card.
    #[must_use]
    pub fn is_confirmed(&self, running: Slot) -> bool {
        self.order.first() == Some(&running) && self.left(running) == ATTEMPTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_as_it_was_written_and_never_half() {
        let mut state = BootState::default();
        state.try_once(Slot::B);
        let block = state.encode();
        assert_eq!(BootState::decode(&block), Some(state.clone()));
        assert_eq!(&block[4..18], b"BOOT_A_LEFT=3\0");
        for at in [0, 3, 4, 20, 511] {
            let mut torn = block;
            torn[at] ^= 1;
            assert_eq!(BootState::decode(&torn), None, "a flip at {at}");
            assert_eq!(BootState::read(&torn, &block), state);
        }
        assert_eq!(BootState::read(&[0; 512], &[0xff; 512]), BootState::default());
        assert_eq!(BootState::decode(&block[..100]), None);
    }

    #[test]
    fn a_trial_boots_once_and_falls_back() {
        let mut state = BootState::default();
        assert_eq!(state.boot(), Slot::A);
        state.confirm(Slot::A);
        state.forbid(Slot::B);
        assert_eq!(state.clone().boot(), Slot::A, "while it is written nothing boots it");
        state.try_once(Slot::B);
        assert_eq!(state.boot(), Slot::B);
        assert!(state.is_trial(Slot::B));
        assert_eq!(state.boot(), Slot::A, "it was not confirmed");
        assert!(!state.is_trial(Slot::A));
        state.confirm(Slot::A);
        assert_eq!((state.boot(), state.boot(), state.boot()), (Slot::A, Slot::A, Slot::A));
    }

    #[test]
    fn a_confirmed_trial_stays_and_a_dead_board_goes_on_trying() {
        let mut state = BootState::default();
        state.try_once(Slot::B);
        assert_eq!(state.boot(), Slot::B);
        state.confirm(Slot::B);
        assert!(state.is_confirmed(Slot::B));
        assert_eq!([(); 4].map(|()| state.boot()), [Slot::B, Slot::B, Slot::B, Slot::A]);
        let slots: Vec<Slot> = (0..20).map(|_| state.boot()).collect();
        assert!(slots.contains(&Slot::A) && slots.contains(&Slot::B), "{slots:?}");
    }

    #[test]
    fn the_running_slot_stands_on_the_command_line() {
        assert_eq!(Slot::of_command_line("quiet bramble.slot=B panic=5"), Some(Slot::B));
        assert_eq!(Slot::of_command_line("bramble.slot=C"), None);
    }
}
