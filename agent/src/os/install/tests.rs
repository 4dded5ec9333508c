use super::super::card::tests::table;
use super::super::card::{STATE_AT, read_state};
use super::super::slots::STATE_BYTES;
use super::*;

const OLD: u8 = 1;
const NEW: u8 = 2;
/// Small partitions; the state lies where it always does.
const KERNEL_BYTES: usize = 1500;
const SYSTEM_BYTES: usize = 2600;

/// A card that loses its power in the middle of its write number `cut`: a part of it happens, torn at any byte.
struct CutCard {
    bytes: Vec<u8>,
    writes: usize,
    cut: Option<(usize, usize)>,
    /// What is read back is not what was written.
    worn: bool,
}

impl CutCard {
    fn new() -> Self {
        let mut bytes = vec![0; 1 << 20];
        bytes[..512].copy_from_slice(&table(&[(0, 0x0c, 1, 1), (2, 0x05, 100, 400)]));
        for (at, next) in [(100, Some(20)), (120, Some(40)), (140, Some(60)), (160, None)] {
            let mut lines = vec![(0, 0x83, 2, 10)];
            lines.extend(next.map(|next| (1, 0x05, next, 12)));
            bytes[at * 512..(at + 1) * 512].copy_from_slice(&table(&lines));
        }
        let mut card = Self { bytes, writes: 0, cut: None, worn: false };
        for slot in [Slot::A, Slot::B] {
            card.fill(slot, OLD);
        }
        card
    }

    fn fill(&mut self, slot: Slot, version: u8) {
        for (number, length) in [(kernel_partition(slot), KERNEL_BYTES), (system_partition(slot), SYSTEM_BYTES)] {
            let place = partition(self, number).unwrap();
            let at = usize::try_from(place.start).unwrap();
            self.bytes[at..at + length].fill(version);
        }
    }

    /// The version of a slot; none if it is not whole.
    fn version(&mut self, slot: Slot) -> Option<u8> {
        let mut all = Vec::new();
        for (number, length) in [(kernel_partition(slot), KERNEL_BYTES), (system_partition(slot), SYSTEM_BYTES)] {
            let at = usize::try_from(partition(self, number).unwrap().start).unwrap();
            all.extend(&self.bytes[at..at + length]);
        }
        all.iter().all(|byte| *byte == all[0]).then_some(all[0])
    }

    /// What the boot loader does with it; its own write may be cut as well.
    fn power_on(&mut self, cut: Option<(usize, usize)>) -> io::Result<Slot> {
        (self.writes, self.cut) = (0, cut);
        let mut state = read_state(self)?;
        let slot = state.boot();
        write_state(self, &state)?;
        Ok(slot)
    }
}

impl Card for CutCard {
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        bytes.copy_from_slice(self.bytes.get(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        if self.worn && bytes.len() > STATE_BYTES {
            bytes[0] ^= 1;
        }
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        let (here, torn) = self.cut.filter(|(write, _)| *write <= self.writes).unwrap_or((usize::MAX, 0));
        let length = match self.writes.cmp(&here) {
            std::cmp::Ordering::Less => bytes.len(),
            std::cmp::Ordering::Equal => bytes.len() * torn / 4,
            std::cmp::Ordering::Greater => 0,
        };
        self.bytes[at..at + length].copy_from_slice(&bytes[..length]);
        self.writes += 1;
        if length < bytes.len() { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn part(length: usize) -> Part {
    let mut digest = Context::new(&SHA256);
    digest.update(&vec![NEW; length]);
    Part { bytes: length as u64, sha256: hexadecimal(digest) }
}

fn manifest() -> Manifest {
    Manifest {
        version: "2".into(),
        architecture: std::env::consts::ARCH.into(),
        kernel: part(KERNEL_BYTES),
        system: part(SYSTEM_BYTES),
    }
}

fn archive(manifest: &Manifest, content: u8) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let text = serde_json::to_vec(manifest).unwrap();
    let images = [vec![content; KERNEL_BYTES], vec![content; SYSTEM_BYTES]];
    for (name, bytes) in [("manifest.json", &text), ("kernel.img", &images[0]), ("system.img", &images[1])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn run(card: &mut CutCard, running: Slot, update: &[u8]) -> Result<(Slot, Manifest), InstallError> {
    install(card, running, update, &mut |_, _| {})
}

#[test]
fn an_update_is_booted_once_and_the_old_system_is_untouched() {
    let mut card = CutCard::new();
    let mut heard = Vec::new();
    let (slot, found) =
        install(&mut card, Slot::A, archive(&manifest(), NEW).as_slice(), &mut |done, all| heard.push((done, all)))
            .unwrap();
    assert_eq!((slot, found), (Slot::B, manifest()));
    assert_eq!(heard, [(1500, 4100), (4100, 4100)]);
    assert_eq!((card.version(Slot::A), card.version(Slot::B)), (Some(OLD), Some(NEW)));
    assert_eq!(card.power_on(None).unwrap(), Slot::B);
    assert_eq!(card.power_on(None).unwrap(), Slot::A, "nobody confirmed it");
}

#[test]
fn a_cut_at_any_write_leaves_a_board_that_boots() {
    let update = archive(&manifest(), NEW);
    for running in [Slot::A, Slot::B] {
        let fresh = || {
            let mut card = CutCard::new();
            let mut state = read_state(&mut card).unwrap();
            state.confirm(running);
            write_state(&mut card, &state).unwrap();
            card.writes = 0;
            card
        };
        let mut whole = fresh();
        run(&mut whole, running, &update).unwrap();
        assert!(whole.writes >= 6, "two states of two copies, two images");
        for write in 0..whole.writes {
            for torn in 0..4 {
                // The boot after the cut is cut in its own writes, too, and then goes through.
                for second in [None, Some((0, 0)), Some((0, 2)), Some((1, 0)), Some((1, 3))] {
                    let mut card = fresh();
                    card.cut = Some((write, torn));
                    assert!(run(&mut card, running, &update).is_err());
                    if second.is_some() {
                        assert!(card.power_on(second).is_err());
                    }
                    let slot = card.power_on(None).unwrap();
                    let version = card.version(slot);
                    let old = slot == running && version == Some(OLD);
                    let new = slot == running.other() && version == Some(NEW);
                    assert!(old || new, "{running} cut at {write}, {torn}, {second:?}: boots {slot} of {version:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_update_costs_nothing() {
    let foreign = Manifest { architecture: "riscv64".into(), ..manifest() };
    let large = Manifest { system: Part { bytes: 1 << 30, ..part(SYSTEM_BYTES) }, ..manifest() };
    for (update, word) in [
        (b"not a tar".to_vec(), "the update"),
        (archive(&foreign, NEW), "riscv64"),
        (archive(&large, NEW), "larger image"),
    ] {
        let mut card = CutCard::new();
        let before = card.bytes.clone();
        let error = run(&mut card, Slot::A, &update).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(card.bytes, before, "{error}");
    }
}

#[test]
fn damaged_updates_and_worn_cards_are_never_booted() {
    let update = archive(&manifest(), NEW + 1);
    let mut card = CutCard::new();
    assert!(matches!(run(&mut card, Slot::A, &update), Err(InstallError::Damaged("kernel.img"))));
    assert_eq!(card.power_on(None).unwrap(), Slot::A);
    let short = archive(&manifest(), NEW);
    let mut card = CutCard::new();
    assert!(matches!(run(&mut card, Slot::A, &short[..3000]), Err(InstallError::Read(_))));
    assert_eq!(card.power_on(None).unwrap(), Slot::A);
    let mut card = CutCard { worn: true, ..CutCard::new() };
    assert!(matches!(run(&mut card, Slot::A, &archive(&manifest(), NEW)), Err(InstallError::Worn("kernel.img"))));
    assert_eq!(card.power_on(None).unwrap(), Slot::A);
    assert!(STATE_AT[1] + STATE_BYTES as u64 <= 1 << 20);
}
