//! Shell: reads the generations that redb does not hold, frame by frame, in little memory.

use std::io;
use std::ops::ControlFlow;

use ::redb::StorageBackend;

use super::sector::{self, ROOM_BYTES, SECTOR_BYTES, Sector, decode};
use super::{Held, frame};
use crate::backend::Commit;

/// What is read at once.
const WINDOW_SECTORS: u64 = 128;

/// What a replay comes across, in order.
#[derive(Debug)]
pub(crate) enum Found {
    Commit(Commit),
    /// Something that somebody was told of is damaged.
    Lost(String),
}

/// Where a replay ended: behind the last frame of the newest generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) generation: u64,
    pub(crate) begin: u64,
    pub(crate) frame: u64,
    pub(crate) place: u64,
    /// Where the oldest generation begins that redb does not hold.
    pub(crate) kept: u64,
}

/// What lies at a place.
#[derive(Debug)]
enum Next {
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
    sectors: u64,
    window: u64,
    raw: Vec<u8>,
    /// Commits that were found, or lost.
    commits: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a dyn StorageBackend, id: u64) -> io::Result<Reader<'a>> {
        let sectors = file.len()? / SECTOR_BYTES as u64;
        Ok(Reader { file, id, sectors, window: 0, raw: Vec::new(), commits: 0 })
    }

    /// Gives every commit that redb does not hold, in order. Goes on behind damage unless it is told to stop.
    pub(crate) fn replay(&mut self, held: Held, each: &mut dyn FnMut(Found) -> ControlFlow<()>) -> io::Result<End> {
        let first = held.generation + 1;
        let mut end = End { generation: first, begin: held.next, frame: 0, place: held.next, kept: held.next };
        let mut generation = first;
        while let Some(found) = self.generation(generation, end.place, each)? {
            if found.frame == 0 {
                break;
            }
            let kept = if generation == first { found.begin } else { end.kept };
            end = End { kept, ..found };
            generation += 1;
        }
        Ok(end)
    }

    /// The frames of a generation; none where it was told to stop.
    fn generation(
        &mut self,
        generation: u64,
        expected: u64,
        each: &mut dyn FnMut(Found) -> ControlFlow<()>,
    ) -> io::Result<Option<End>> {
        // It begins where it is expected, or at sector 1; a later one may lie where it was expected then.
        let found = |next: &Next| matches!(next, Next::Commit(..) | Next::Damaged(_));
        let mut begin = expected;
        if expected != 1 && !found(&self.next(generation, 0, expected)?) {
            let first = self.next(generation, 0, 1)?;
            if found(&first) || matches!(first, Next::Newer) {
                begin = 1;
            }
        }
        let (mut frame, mut place) = (0, begin);
        loop {
            match self.next(generation, frame, place)? {
                Next::Commit(commit, end) => {
                    self.commits += 1;
                    if each(Found::Commit(commit)).is_break() {
                        return Ok(None);
                    }
                    (frame, place) = (frame + 1, end);
                }
                Next::End => return Ok(Some(End { generation, begin, frame, place, kept: begin })),
                Next::Newer => {
                    let _ = each(Found::Lost("the store's file is older than its journal".into()));
                    return Ok(None);
                }
                Next::Damaged(at) => {
                    self.commits += 1;
                    let number = self.commits;
                    let lost = format!("sector {at} of the journal: commit {number} since the last checkpoint is lost");
                    if each(Found::Lost(lost)).is_break() {
                        return Ok(None);
                    }
                    if let Some((next, begins)) = self.find(generation, frame + 1, at + 1)? {
                        (frame, place) = (next, begins);
                        continue;
                    }
                    let place = self.find(generation + 1, 0, 1)?.map_or(at + 1, |(_, begins)| begins);
                    return Ok(Some(End { generation, begin, frame: frame + 1, place, kept: begin }));
                }
            }
        }
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The frame with this number, which begins at this place if it is there.
    fn next(&mut self, generation: u64, number: u64, place: u64) -> io::Result<Next> {
        let mut bytes = match self.part(generation, place, number, true)? {
            Part::New(payload) => payload,
            Part::Old => return Ok(Next::End),
            Part::Newer => return Ok(Next::Newer),
            Part::Damaged => return Ok(Next::Damaged(place)),
        };
        let frame_bytes = frame::HEAD_BYTES + frame::body_bytes(&bytes).unwrap_or_default();
        let end = place + (frame_bytes.div_ceil(ROOM_BYTES) as u64).max(1);
        let mut damaged = None;
        for place in place + 1..end {
            match self.part(generation, place, number, false)? {
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

    /// The first place from `place` on where a frame of at least this number begins, and its number: to go on behind
    /// damage.
    fn find(&mut self, generation: u64, number: u64, place: u64) -> io::Result<Option<(u64, u64)>> {
        for place in place..self.sectors {
            let id = self.id;
            if let sector::Found::Whole(sector) = decode(id, place, self.sector(place)?)
                && sector.generation == generation
                && sector.first
                && sector.frame >= number
            {
                return Ok(Some((sector.frame, place)));
            }
        }
        Ok(None)
    }

    fn part(&mut self, generation: u64, place: u64, number: u64, first: bool) -> io::Result<Part> {
        if place >= self.sectors {
            return Ok(Part::Old);
        }
        let id = self.id;
        Ok(match decode(id, place, self.sector(place)?) {
            // One generation more may have begun, or have tried to, but not before this one.
            sector::Found::Whole(sector)
                if sector.generation > generation + u64::from((number, first) != (0, true)) =>
            {
                Part::Newer
            }
            sector::Found::Whole(Sector { generation: of, frame, first: begins, payload })
                if (of, frame, begins) == (generation, number, first) =>
            {
                Part::New(payload.to_vec())
            }
            sector::Found::Whole(_) | sector::Found::Blank => Part::Old,
            sector::Found::Damaged => Part::Damaged,
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
