//! Shell: the journal: a commit is at rest as soon as it is here, in one write and one flush.
//!
//! ```text
//! sector 0      the head: which store it belongs to; written once
//! sector 1 ..   generations, each a run of frames, one a commit, each frame from a sector of its own
//!
//!   | head | generation 8 ->      free      | generation 7 |     7 goes into redb aside, while commits go to 8;
//!                                                              then its sectors are free
//! ```
//!
//! redb remembers the last generation that it holds completely, and where the one after it begins: a checkpoint needs no
//! write here. A generation begins where the one before it ends, or at sector 1. Reading stops at the first place where
//! the next frame does not begin or is torn. A frame is appended only after the one before it is at rest, so nothing
//! acknowledged lies behind that place, and a frame that redb does not hold is never written over.
//! The file grows in steps, zeros first, so that an append changes no metadata of the file system; it never shrinks.

pub(crate) mod file;
pub(crate) mod frame;
pub(crate) mod reader;
pub(crate) mod sector;

use std::io;
use std::ops::ControlFlow;

use ::redb::StorageBackend;

use self::reader::{End, Found, Reader};
use self::sector::{ROOM_BYTES, SECTOR_BYTES, Sector};
use super::{BackingError, Commit};

/// What redb holds of its journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// Which journal is its own.
    pub(crate) id: u64,
    /// The last generation that it holds completely.
    pub(crate) generation: u64,
    /// The sector where the one after it begins.
    pub(crate) next: u64,
}

/// Begins the payload of the head; a later format has another one.
const MAGIC: &[u8; 18] = b"bramble-journal-1\n";
/// The file grows by so much: a flush of metadata for a hundred lone writes, and little on a board that writes little.
const GROW_SECTORS: u64 = (256 << 10) / SECTOR_BYTES as u64;
/// Buffers that stay between appends: those of lone writes.
const KEPT_BYTES: usize = 16 << 10;

/// Where the journal goes on.
pub(crate) struct Journal {
    file: Box<dyn StorageBackend>,
    id: u64,
    /// The generation that commits go to, and its first sector.
    generation: u64,
    begin: u64,
    /// The next frame, and the sector where it begins.
    frame: u64,
    place: u64,
    /// The first sector of what redb does not hold yet; what is written lies before it where the journal began at
    /// sector 1 again.
    kept: u64,
    wrapped: bool,
    /// Sectors that the file has, and that it may have.
    sectors: u64,
    sectors_max: u64,
    body: Vec<u8>,
    raw: Vec<u8>,
}

fn failed(error: &io::Error) -> BackingError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BackingError::Full,
        _ => BackingError::Failed(format!("journal: {error}")),
    }
}

/// Memory that the kernel takes for a write past its page cache: `bytes` of it, aligned to a sector.
fn aligned(raw: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    raw.resize(bytes + SECTOR_BYTES, 0);
    let at = raw.as_ptr().align_offset(SECTOR_BYTES).min(SECTOR_BYTES);
    &mut raw[at..at + bytes]
}

/// Makes an empty journal of the store `id`; whatever is there goes.
pub(crate) fn create(file: &dyn StorageBackend, id: u64) -> Result<(), BackingError> {
    let mut payload = MAGIC.to_vec();
    payload.extend_from_slice(&id.to_le_bytes());
    let mut raw = Vec::new();
    let head = aligned(&mut raw, SECTOR_BYTES);
    sector::encode(0, 0, &Sector { first: true, generation: 0, frame: 0, payload: &payload }, head);
    file.set_len(0)
        .and_then(|()| file.set_len(SECTOR_BYTES as u64))
        .and_then(|()| file.write(0, head))
        .and_then(|()| file.sync_data())
        .map_err(|error| failed(&error))
}

/// Whether this is the journal of the store `id`.
pub(crate) fn check_head(file: &dyn StorageBackend, id: u64) -> Result<(), BackingError> {
    let corrupt = |what: &str| Err(BackingError::Corrupt(what.to_owned()));
    if file.len().map_err(|error| failed(&error))? < SECTOR_BYTES as u64 {
        return corrupt("the journal is missing: what was written since the last checkpoint is lost");
    }
    let mut raw = vec![0; SECTOR_BYTES];
    file.read(0, &mut raw).map_err(|error| failed(&error))?;
    let sector::Found::Whole(Sector { payload, .. }) = sector::decode(0, 0, &raw) else {
        return corrupt("the head of the journal is damaged");
    };
    match payload.strip_prefix(MAGIC) {
        Some(of) if of == id.to_le_bytes() => Ok(()),
        Some(_) => corrupt("the journal belongs to another store"),
        None => corrupt("the journal was written by a newer version"),
    }
}

/// Sectors that a commit takes, at most.
fn sectors(commit: &Commit) -> u64 {
    frame::bytes_max(commit).div_ceil(ROOM_BYTES) as u64
}

impl Journal {
    /// Opens the journal of the store, and gives every commit after the generation that redb holds.
    pub(crate) fn open(
        file: Box<dyn StorageBackend>,
        held: Held,
        bytes_max: u64,
        replay: &mut dyn FnMut(Commit),
    ) -> Result<Journal, BackingError> {
        let id = held.id;
        check_head(&*file, id)?;
        let mut lost = None;
        let mut reader = Reader::new(&*file, id).map_err(|error| failed(&error))?;
        let end = reader.replay(held, &mut |found| match found {
            Found::Commit(commit) => {
                replay(commit);
                ControlFlow::Continue(())
            }
            Found::Lost(what) => {
                lost = Some(what);
                ControlFlow::Break(())
            }
        });
        let end = end.map_err(|error| failed(&error))?;
        if let Some(lost) = lost {
            return Err(BackingError::Corrupt(lost));
        }
        let End { generation, begin, frame, place, kept } = end;
        let (sectors, sectors_max, wrapped) = (reader.sectors(), bytes_max / SECTOR_BYTES as u64, begin < kept);
        if frame > 0 {
            // A process that was killed may have written what it did not flush; from now on it is shown.
            file.sync_data().map_err(|error| failed(&error))?;
        }
        let (body, raw) = (Vec::new(), Vec::new());
        Ok(Journal { file, id, generation, begin, frame, place, kept, wrapped, sectors, sectors_max, body, raw })
    }

    /// What redb holds once it holds all that is here: the next generation begins at sector 1.
    pub(crate) fn whole(&self) -> Held {
        Held { id: self.id, generation: self.generation, next: 1 }
    }

    /// Whether a commit fits into an empty journal.
    pub(crate) fn could_fit(&self, commit: &Commit) -> bool {
        sectors(commit) < self.sectors_max
    }

    /// Whether a commit fits now.
    pub(crate) fn fits(&self, commit: &Commit) -> bool {
        self.room(sectors(commit)).is_some()
    }

    /// Where so many sectors fit. The first frame of a generation may be at sector 1, too.
    fn room(&self, sectors: u64) -> Option<u64> {
        let end = if self.wrapped { self.kept } else { self.sectors_max };
        if self.place + sectors <= end {
            return Some(self.place);
        }
        let kept = if self.kept == self.begin { self.sectors_max } else { self.kept };
        (self.frame == 0 && !self.wrapped && sectors < kept).then_some(1)
    }

    /// Sectors of the generation that commits go to, as a part of the whole journal.
    pub(crate) fn share(&self) -> f64 {
        (self.place - self.begin) as f64 / self.sectors_max.max(1) as f64
    }

    /// Ends the generation; the next one begins. Gives what redb holds when it holds all up to here.
    pub(crate) fn turn(&mut self) -> Held {
        let generation = self.generation;
        if !self.wrapped && self.kept.saturating_sub(1) > self.sectors_max.saturating_sub(self.place) {
            self.wrapped = true;
            self.place = 1;
        }
        self.begin = self.place;
        self.generation += 1;
        self.frame = 0;
        Held { id: self.id, generation, next: self.begin }
    }

    /// redb holds every generation but the present one.
    pub(crate) fn release(&mut self) {
        self.kept = self.begin;
        self.wrapped = false;
    }

    /// Takes a commit that fits; it is at rest then. After `Full` nothing of it happened.
    pub(crate) fn append(&mut self, commit: &Commit) -> Result<(), BackingError> {
        self.body.clear();
        frame::encode(commit, &mut self.body);
        let sectors = self.body.len().div_ceil(ROOM_BYTES);
        self.take_room(sectors as u64)?;
        let end = self.place + sectors as u64;
        if end > self.sectors {
            self.grow(end).map_err(|error| failed(&error))?;
        }
        let raw = aligned(&mut self.raw, sectors * SECTOR_BYTES);
        for (index, (payload, raw)) in self.body.chunks(ROOM_BYTES).zip(raw.chunks_mut(SECTOR_BYTES)).enumerate() {
            let sector = Sector { first: index == 0, generation: self.generation, frame: self.frame, payload };
            sector::encode(self.id, self.place + index as u64, &sector, raw);
        }
        self.file
            .write(self.place * SECTOR_BYTES as u64, raw)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| BackingError::Failed(format!("journal: {error}")))?;
        self.place = end;
        self.frame += 1;
        // One large commit is no reason to keep its size.
        self.body.shrink_to(KEPT_BYTES);
        self.raw.shrink_to(KEPT_BYTES);
        Ok(())
    }

    fn take_room(&mut self, sectors: u64) -> Result<(), BackingError> {
        let place = self.room(sectors).ok_or(BackingError::Full)?;
        if place < self.place {
            // Nothing of this generation is written yet.
            self.wrapped = self.kept != self.begin;
            self.kept = if self.wrapped { self.kept } else { place };
            (self.begin, self.place) = (place, place);
        }
        Ok(())
    }

    fn grow(&mut self, sectors: u64) -> io::Result<()> {
        let sectors = (sectors.div_ceil(GROW_SECTORS) * GROW_SECTORS).min(self.sectors_max);
        self.file.set_len(sectors * SECTOR_BYTES as u64)?;
        let mut raw = Vec::new();
        let mut place = self.sectors;
        while place < sectors {
            let step = GROW_SECTORS.min(sectors - place);
            let zeros = aligned(&mut raw, usize::try_from(step).unwrap_or_default() * SECTOR_BYTES);
            self.file.write(place * SECTOR_BYTES as u64, zeros)?;
            place += step;
        }
        self.file.sync_data()?;
        self.sectors = sectors;
        Ok(())
    }

    /// Everything here is at rest elsewhere now: begins anew, as `whole` said.
    pub(crate) fn recycle(&mut self) {
        self.generation += 1;
        self.frame = 0;
        (self.begin, self.place, self.kept, self.wrapped) = (1, 1, 1, false);
    }
}
