//! Shell: the journal: a commit is at rest as soon as it is here, in one write and one flush.
//!
//! ```text
//! sector 0      the head: which store it belongs to; written once
//! sector 1 ..   frames, one a commit, each from a sector of its own; what is written is never written again until the
//!               whole file is used anew, as the next generation, from sector 1
//! ```
//!
//! redb remembers the last generation that it holds completely: a checkpoint needs no write here, it makes everything in
//! this file old. Reading stops at the first place where the next frame of the present generation does not begin or is
//! torn. A frame is appended only after the one before it is at rest, so nothing acknowledged lies behind that place.
//! The file grows in steps, zeros first, so that an append changes no metadata of the file system; it never shrinks.

pub(crate) mod file;
pub(crate) mod frame;
pub(crate) mod reader;
pub(crate) mod sector;

use std::io;

use ::redb::StorageBackend;

use self::reader::{Next, Reader};
use self::sector::{Found, ROOM_BYTES, SECTOR_BYTES, Sector};
use super::{BackingError, Commit};

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
    generation: u64,
    /// The next frame, and the sector where it begins.
    frame: u64,
    place: u64,
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
    let Found::Whole(Sector { payload, .. }) = sector::decode(0, 0, &raw) else {
        return corrupt("the head of the journal is damaged");
    };
    match payload.strip_prefix(MAGIC) {
        Some(of) if of == id.to_le_bytes() => Ok(()),
        Some(_) => corrupt("the journal belongs to another store"),
        None => corrupt("the journal was written by a newer version"),
    }
}

/// What is lost where a sector of the journal is damaged.
pub(crate) fn lost(place: u64, frame: u64) -> String {
    format!("sector {place} of the journal: commit {} since the last checkpoint is lost", frame + 1)
}

impl Journal {
    /// Opens the journal of the store `id`, and gives every commit after the generation that redb holds.
    pub(crate) fn open(
        file: Box<dyn StorageBackend>,
        id: u64,
        held: u64,
        bytes_max: u64,
        replay: &mut dyn FnMut(Commit),
    ) -> Result<Journal, BackingError> {
        check_head(&*file, id)?;
        let generation = held + 1;
        let mut reader = Reader::new(&*file, id, generation).map_err(|error| failed(&error))?;
        let (mut frame, mut place) = (0, 1);
        loop {
            match reader.next(frame, place).map_err(|error| failed(&error))? {
                Next::Commit(commit, end) => {
                    replay(commit);
                    place = end;
                    frame += 1;
                }
                Next::End => break,
                Next::Damaged(at) => return Err(BackingError::Corrupt(lost(at, frame))),
                Next::Newer => {
                    return Err(BackingError::Corrupt("the store's file is older than its journal".into()));
                }
            }
        }
        let sectors = reader.sectors();
        let sectors_max = bytes_max / SECTOR_BYTES as u64;
        Ok(Journal { file, id, generation, frame, place, sectors, sectors_max, body: Vec::new(), raw: Vec::new() })
    }

    /// The generation that a checkpoint makes old.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a commit fits behind those that are here, or into an empty journal.
    pub(crate) fn fits(&self, commit: &Commit, empty: bool) -> bool {
        let sectors = frame::bytes_max(commit).div_ceil(ROOM_BYTES) as u64;
        (if empty { 1 } else { self.place }) + sectors <= self.sectors_max
    }

    /// Takes a commit that fits; it is at rest then. After `Full` nothing of it happened.
    pub(crate) fn append(&mut self, commit: &Commit) -> Result<(), BackingError> {
        self.body.clear();
        frame::encode(commit, &mut self.body);
        let sectors = self.body.len().div_ceil(ROOM_BYTES);
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

    /// Everything here is at rest elsewhere now: begins anew.
    pub(crate) fn recycle(&mut self) {
        self.generation += 1;
        self.frame = 0;
        self.place = 1;
    }
}
