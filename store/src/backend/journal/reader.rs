//! Shell: reads the frames of one generation in order, in little memory.

use std::io;

use ::redb::StorageBackend;

use super::frame;
use super::sector::{Found, ROOM_BYTES, SECTOR_BYTES, Sector, decode};
use crate::backend::Commit;

/// What is read at once.
const WINDOW_SECTORS: u64 = 128;

/// What lies at a place.
#[derive(Debug)]
pub(crate) enum Next {
    /// A commit, and the place after it.
    Commit(Commit, u64),
    /// Nothing of this generation that anybody was told of.
    End,
    /// Something that somebody was told of, damaged at this sector.
    Damaged(u64),
    /// A generation that cannot be there yet: the file beside the journal is an older copy.
    Newer,
}

/// How a sector relates to the frame that is read.
enum Part {
    New(Vec<u8>),
    Old,
    Newer,
    Damaged,
}

pub(crate) struct Reader<'a> {
    file: &'a dyn StorageBackend,
    id: u64,
    generation: u64,
    sectors: u64,
    window: u64,
    raw: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a dyn StorageBackend, id: u64, generation: u64) -> io::Result<Reader<'a>> {
        let sectors = file.len()? / SECTOR_BYTES as u64;
        Ok(Reader { file, id, generation, sectors, window: 0, raw: Vec::new() })
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The frame with this number, which begins at this place if it is there.
    pub(crate) fn next(&mut self, number: u64, place: u64) -> io::Result<Next> {
        let mut bytes = match self.part(place, number, true)? {
            Part::New(payload) => payload,
            Part::Old => return Ok(Next::End),
            Part::Newer => return Ok(Next::Newer),
            Part::Damaged => return Ok(Next::Damaged(place)),
        };
        let frame_bytes = frame::HEAD_BYTES + frame::body_bytes(&bytes).unwrap_or_default();
        let end = place + (frame_bytes.div_ceil(ROOM_BYTES) as u64).max(1);
        let mut damaged = None;
        for place in place + 1..end {
            match self.part(place, number, false)? {
                Part::New(payload) => bytes.extend_from_slice(&payload),
                // One sector of it never came: the flush neither.
                Part::Old => return Ok(Next::End),
                Part::Newer => return Ok(Next::Newer),
                Part::Damaged => damaged = damaged.or(Some(place)),
            }
        }
        Ok(match (damaged, frame::decode(&bytes)) {
            (Some(damaged), _) => Next::Damaged(damaged),
            (None, Some(commit)) => Next::Commit(commit, end),
            // A torn frame over the rest of another torn one.
            (None, None) => Next::End,
        })
    }

    /// The first place from `place` on where a later frame begins, and its number: to go on behind damage.
    pub(crate) fn resume(&mut self, place: u64, after: u64) -> io::Result<Option<(u64, u64)>> {
        for place in place..self.sectors {
            let (id, generation) = (self.id, self.generation);
            if let Found::Whole(sector) = decode(id, place, self.sector(place)?)
                && sector.generation == generation
                && sector.first
                && sector.frame > after
            {
                return Ok(Some((sector.frame, place)));
            }
        }
        Ok(None)
    }

    fn part(&mut self, place: u64, number: u64, first: bool) -> io::Result<Part> {
        if place >= self.sectors {
            return Ok(Part::Old);
        }
        let (id, generation) = (self.id, self.generation);
        Ok(match decode(id, place, self.sector(place)?) {
            Found::Whole(sector) if sector.generation > generation => Part::Newer,
            Found::Whole(Sector { generation: of, frame, first: begins, payload })
                if (of, frame, begins) == (generation, number, first) =>
            {
                Part::New(payload.to_vec())
            }
            Found::Whole(_) | Found::Blank => Part::Old,
            Found::Damaged => Part::Damaged,
        })
    }

    fn sector(&mut self, place: u64) -> io::Result<&[u8]> {
        let window = place - place % WINDOW_SECTORS;
        if self.raw.is_empty() || window != self.window {
            let sectors = WINDOW_SECTORS.min(self.sectors - window);
            self.raw.resize(usize::try_from(sectors).unwrap_or_default() * SECTOR_BYTES, 0);
            self.file.read(window * SECTOR_BYTES as u64, &mut self.raw)?;
            self.window = window;
        }
        let at = usize::try_from(place - window).unwrap_or_default() * SECTOR_BYTES;
        Ok(&self.raw[at..at + SECTOR_BYTES])
    }
}
