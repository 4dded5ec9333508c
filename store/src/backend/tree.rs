//! Pure: reads redb's file without redb, for files that may be damaged: every page is checked before it is believed, and
//! what is not damaged is found although other pages are.
//!
//! The format is that of redb's `docs/design.md` (file format 3): the header names a page and its checksum (XXH3-128),
//! a branch page those of its children, so a page is what its parent says or it is damaged.

use std::io;

use ::redb::StorageBackend;
use twox_hash::XxHash3_128;

/// The names of the store's tables.
pub(crate) const RECORDS: &str = "records";
pub(crate) const META: &str = "meta";
const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
const HEADER_BYTES: usize = 320;
const SLOT_BYTES: usize = 128;
/// In a slot: what its checksum covers.
const SLOT_COVERED: usize = SLOT_BYTES - 16;
/// Page, checksum, number of entries.
const ROOT_BYTES: usize = 32;
/// No tree is deeper; a damaged page may point anywhere.
const DEPTH_MAX: usize = 24;
/// No page is longer: a value with its key fits.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// What a walk comes across.
pub(crate) enum Seen<'a> {
    /// A key with its bytes; `sound`: its page is what it was when it was written.
    Entry { key: &'a [u8], raw: &'a [u8], sound: bool },
    /// A damaged page of entries; those that could be read follow.
    Leaf(Range),
    /// A damaged page that says where others are: everything between these keys that does not follow is lost.
    Branch(Range),
}

/// Keys after the one and up to the other; none is without end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Range {
    pub(crate) after: Option<Vec<u8>>,
    pub(crate) upto: Option<Vec<u8>>,
}

/// A page and what it must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    page: u64,
    checksum: u128,
}

/// Where pages lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    page_bytes: u64,
    region_header_bytes: u64,
    region_bytes: u64,
}

/// A file whose header is whole.
pub(crate) struct Tree<'a> {
    file: &'a dyn StorageBackend,
    len: u64,
    layout: Layout,
    /// Definitions of the tables, and of redb's own.
    tables: Option<Pointer>,
    own: Option<Pointer>,
    /// redb was not closed, and checks every page by itself when it is opened.
    repairs: bool,
}

/// Bytes of keys and of values, where all have the same.
type Widths = (Option<usize>, Option<usize>);
const ANY: Widths = (None, None);

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn short(raw: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(raw.get(at..at + 4)?.try_into().ok()?))
}

fn root(raw: &[u8]) -> Option<Pointer> {
    let page = u64::from_le_bytes(raw.get(..8)?.try_into().ok()?);
    Some(Pointer { page, checksum: u128::from_le_bytes(raw.get(8..24)?.try_into().ok()?) })
}

impl<'a> Tree<'a> {
    /// Reads the header; `InvalidData` where it is damaged.
    pub(crate) fn open(file: &'a dyn StorageBackend) -> io::Result<Tree<'a>> {
        let len = file.len()?;
        let mut header = [0; HEADER_BYTES];
        if len < HEADER_BYTES as u64 {
            return Err(invalid("the file is shorter than its header"));
        }
        file.read(0, &mut header)?;
        if !header.starts_with(MAGIC) {
            return Err(invalid("the first bytes of the header are damaged"));
        }
        let flags = header[MAGIC.len()];
        let (closed, repairs) = (flags & 2 == 0, flags & 6 == 2);
        let slot = |index: usize| {
            let (covered, checksum) =
                header[64 + SLOT_BYTES * index..64 + SLOT_BYTES * (index + 1)].split_at(SLOT_COVERED);
            (covered, checksum == XxHash3_128::oneshot(covered).to_le_bytes())
        };
        let (covered, sound) = slot(usize::from(flags & 1));
        if !sound && !repairs {
            return Err(invalid("the commit slot of the header is damaged"));
        }
        let (other, _) = slot(usize::from(flags & 1 ^ 1));
        let transaction = |slot: &[u8]| slot[104..112].try_into().map(u64::from_le_bytes).unwrap_or_default();
        if closed && transaction(other) > transaction(covered) {
            return Err(invalid("the flags of the header are damaged"));
        }
        let number = |at| short(&header, at).map_or(0, u64::from);
        let page_bytes = number(12);
        if page_bytes != 4096 {
            return Err(invalid("the page size of the header is damaged"));
        }
        let region_header_bytes = number(16).saturating_mul(page_bytes);
        let region_bytes = number(20).saturating_mul(page_bytes).saturating_add(region_header_bytes);
        let trailing = if number(28) == 0 { 0 } else { region_header_bytes + number(28).saturating_mul(page_bytes) };
        let laid_out = number(24).saturating_mul(region_bytes).saturating_add(page_bytes + trailing);
        if closed && laid_out != len {
            return Err(invalid("the lengths in the header do not make the file's"));
        }
        let tables = if covered[1] == 0 { None } else { root(&covered[8..8 + ROOT_BYTES]) };
        let own = if covered[2] == 0 { None } else { root(&covered[8 + ROOT_BYTES..8 + 2 * ROOT_BYTES]) };
        let layout = Layout { page_bytes, region_header_bytes, region_bytes };
        Ok(Tree { file, len, layout, tables, own, repairs })
    }

    /// Opens a file whose header is damaged, with what is the same in every file and a commit slot that is whole; none
    /// where none is.
    pub(crate) fn open_damaged(file: &'a dyn StorageBackend) -> io::Result<Option<Tree<'a>>> {
        let len = file.len()?;
        let mut header = [0; HEADER_BYTES];
        if len < HEADER_BYTES as u64 {
            return Ok(None);
        }
        file.read(0, &mut header)?;
        let slots = [0, 1].map(|index| &header[64 + SLOT_BYTES * index..64 + SLOT_BYTES * (index + 1)]);
        let sound = slots.into_iter().filter(|slot| {
            let (covered, checksum) = slot.split_at(SLOT_COVERED);
            checksum == XxHash3_128::oneshot(covered).to_le_bytes()
        });
        let newest = sound.max_by_key(|slot| slot[104..112].try_into().map(u64::from_le_bytes).unwrap_or_default());
        let Some(slot) = newest else { return Ok(None) };
        let layout = Layout { page_bytes: 4096, region_header_bytes: 0, region_bytes: 4096 << 20 };
        let tables = if slot[1] == 0 { None } else { root(&slot[8..8 + ROOT_BYTES]) };
        Ok(Some(Tree { file, len, layout, tables, own: None, repairs: false }))
    }

    /// redb was not closed and checks every page by itself when it opens the file; until then a part of the last
    /// commit may be missing.
    pub(crate) fn repairs(&self) -> bool {
        self.repairs
    }

    /// Whether redb's own tables are whole: what is free, and what will be.
    pub(crate) fn own_is_sound(&self) -> io::Result<bool> {
        let (mut definitions, mut sound) = (Vec::new(), true);
        let Some(own) = self.own else { return Ok(true) };
        self.descend(own, &Range::default(), ANY, 0, &mut |seen| match seen {
            Seen::Entry { raw, .. } => definitions.push(raw.to_vec()),
            Seen::Leaf(_) | Seen::Branch(_) => sound = false,
        })?;
        for definition in definitions {
            if let Some((root, widths)) = defined(&definition) {
                self.descend(root, &Range::default(), widths, 0, &mut |seen| {
                    sound &= matches!(seen, Seen::Entry { .. });
                })?;
            }
        }
        Ok(sound)
    }

    /// Where pages lie, and the root of a table whose definition is whole; none of an empty table.
    pub(crate) fn root_of(&self, table: &str) -> io::Result<(Layout, Option<Pointer>)> {
        let (definition, damaged) = self.definition(table)?;
        if damaged {
            return Err(invalid("a page of the tables' definitions is damaged"));
        }
        Ok((self.layout, definition.and_then(|definition| defined(&definition)).map(|(root, _)| root)))
    }

    /// What is said of a table, and whether something said of tables is damaged.
    fn definition(&self, table: &str) -> io::Result<(Option<Vec<u8>>, bool)> {
        let (mut definition, mut damaged) = (None, false);
        if let Some(tables) = self.tables {
            self.descend(tables, &Range::default(), ANY, 0, &mut |seen| match seen {
                Seen::Entry { key, raw, sound } if key == table.as_bytes() && sound => definition = Some(raw.to_vec()),
                Seen::Entry { .. } => {}
                Seen::Leaf(_) | Seen::Branch(_) => damaged = true,
            })?;
        }
        Ok((definition, damaged))
    }

    /// Visits a table's entries in order, and what of it is damaged.
    pub(crate) fn walk(&self, table: &str, visit: &mut dyn FnMut(Seen<'_>)) -> io::Result<()> {
        let (definition, damaged) = self.definition(table)?;
        match definition {
            Some(definition) => match defined(&definition) {
                Some((root, widths)) => self.descend(root, &Range::default(), widths, 0, visit),
                None => Ok(()),
            },
            None if damaged => {
                visit(Seen::Branch(Range::default()));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn page(&self, page: u64) -> io::Result<Option<Vec<u8>>> {
        self.layout.read(self.file, self.len, page)
    }

    fn descend(
        &self,
        pointer: Pointer,
        range: &Range,
        widths: Widths,
        depth: usize,
        visit: &mut dyn FnMut(Seen<'_>),
    ) -> io::Result<()> {
        let raw = if depth < DEPTH_MAX { self.page(pointer.page)? } else { None };
        let parsed = raw.as_deref().and_then(|raw| parse(raw, widths));
        let sound = match (&raw, &parsed) {
            (Some(raw), Some(parsed)) => XxHash3_128::oneshot(&raw[..parsed.end()]) == pointer.checksum,
            _ => false,
        };
        match parsed {
            Some(Page::Leaf { entries, .. }) => {
                if !sound {
                    visit(Seen::Leaf(range.clone()));
                }
                entries.iter().for_each(|(key, raw)| visit(Seen::Entry { key, raw, sound }));
            }
            Some(Page::Branch { children, keys, .. }) => {
                if !sound {
                    visit(Seen::Branch(range.clone()));
                }
                for (index, child) in children.iter().enumerate() {
                    // The keys of a damaged page say nothing; a child that is what it must be proves its pointer.
                    if !sound && !self.is_sound(*child, widths)? {
                        continue;
                    }
                    let key = |index: usize| keys.get(index).map(|key| key.to_vec());
                    let after = index.checked_sub(1).and_then(key).or_else(|| range.after.clone());
                    let upto = key(index).or_else(|| range.upto.clone());
                    let within = if sound { Range { after, upto } } else { range.clone() };
                    self.descend(*child, &within, widths, depth + 1, visit)?;
                }
            }
            None => visit(if depth == 0 { Seen::Branch(range.clone()) } else { Seen::Leaf(range.clone()) }),
        }
        Ok(())
    }

    fn is_sound(&self, pointer: Pointer, widths: Widths) -> io::Result<bool> {
        let Some(raw) = self.page(pointer.page)? else { return Ok(false) };
        Ok(parse(&raw, widths).is_some_and(|page| XxHash3_128::oneshot(&raw[..page.end()]) == pointer.checksum))
    }
}

impl Layout {
    /// Where a page begins, and its length; none of one that is too long.
    pub(crate) fn place(&self, page: u64) -> Option<(u64, u64)> {
        let order = page >> 59;
        let index = page & (0xf_ffff >> order.min(20));
        let region = (page >> 20) & 0xf_ffff;
        let bytes = self.page_bytes << order.min(20);
        let begin = region
            .checked_mul(self.region_bytes)
            .and_then(|base| base.checked_add(self.page_bytes + self.region_header_bytes + index * bytes))?;
        (bytes <= PAGE_BYTES_MAX).then_some((begin, bytes))
    }

    /// The bytes of a page; none where a file of this length has no such page.
    pub(crate) fn read(&self, file: &dyn StorageBackend, len: u64, page: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((begin, bytes)) = self.place(page).filter(|(begin, bytes)| begin.saturating_add(*bytes) <= len) else {
            return Ok(None);
        };
        let mut raw = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        file.read(begin, &mut raw)?;
        Ok(Some(raw))
    }
}

impl Pointer {
    pub(crate) fn page(&self) -> u64 {
        self.page
    }

    /// Whether a page is what it was when it was written.
    pub(crate) fn is_sound(&self, raw: &[u8], page: &Page<'_>) -> bool {
        raw.get(..page.end()).is_some_and(|covered| XxHash3_128::oneshot(covered) == self.checksum)
    }
}

/// A page that is shaped like one.
pub(crate) enum Page<'a> {
    Leaf { entries: Vec<(&'a [u8], &'a [u8])>, end: usize },
    Branch { children: Vec<Pointer>, keys: Vec<&'a [u8]>, end: usize },
}

impl Page<'_> {
    /// What the checksum covers.
    fn end(&self) -> usize {
        let (Page::Leaf { end, .. } | Page::Branch { end, .. }) = self;
        *end
    }
}

/// The root of a table and its widths; none of an empty one.
fn defined(definition: &[u8]) -> Option<(Pointer, Widths)> {
    // Type, number of entries, then what may be absent with a byte before it: root, width of keys, width of values.
    let width = |at: usize| {
        let width = (*definition.get(at)? == 1).then(|| short(definition, at + 1)).flatten();
        Some(width.map(|width| width as usize))
    };
    let root = if *definition.get(9)? == 1 { root(definition.get(10..)?)? } else { return None };
    Some((root, (width(10 + ROOT_BYTES)?, width(15 + ROOT_BYTES)?)))
}

/// Where things end: at numbers that the page holds, or every so many bytes from a start.
#[derive(Clone, Copy)]
enum Ends {
    At(usize),
    Every(usize),
}

impl Ends {
    fn end(self, raw: &[u8], start: usize, index: usize) -> Option<usize> {
        match self {
            Ends::At(at) => Some(short(raw, at + 4 * index)? as usize),
            Ends::Every(width) => width.checked_mul(index + 1)?.checked_add(start),
        }
    }

    fn slices(self, raw: &[u8], start: usize, count: usize) -> Option<(Vec<&[u8]>, usize)> {
        let mut from = start;
        let mut slices = Vec::with_capacity(count);
        for index in 0..count {
            let end = self.end(raw, start, index)?;
            slices.push(raw.get(from..end)?);
            from = end;
        }
        Some((slices, from))
    }
}

/// A page of a table whose keys and values have any length.
pub(crate) fn parse_any(raw: &[u8]) -> Option<Page<'_>> {
    parse(raw, ANY)
}

fn parse(raw: &[u8], (key_width, value_width): Widths) -> Option<Page<'_>> {
    let count = usize::from(u16::from_le_bytes(raw.get(2..4)?.try_into().ok()?));
    if count == 0 {
        return None;
    }
    let ends =
        |width: Option<usize>, at: usize| width.map_or((Ends::At(at), 4 * count), |width| (Ends::Every(width), 0));
    match raw[0] {
        1 => {
            let (key_ends, keys_take) = ends(key_width, 4);
            let (value_ends, values_take) = ends(value_width, 4 + keys_take);
            let (keys, keys_end) = key_ends.slices(raw, 4 + keys_take + values_take, count)?;
            let (values, end) = value_ends.slices(raw, keys_end, count)?;
            Some(Page::Leaf { entries: keys.into_iter().zip(values).collect(), end })
        }
        2 => {
            let pages_at = 8 + 16 * (count + 1);
            let ends_at = pages_at + 8 * (count + 1);
            let children = (0..=count)
                .map(|index| {
                    let checksum = raw.get(8 + 16 * index..24 + 16 * index)?.try_into().ok()?;
                    let page = raw.get(pages_at + 8 * index..pages_at + 8 * index + 8)?.try_into().ok()?;
                    Some(Pointer { page: u64::from_le_bytes(page), checksum: u128::from_le_bytes(checksum) })
                })
                .collect::<Option<_>>()?;
            let (key_ends, keys_take) = ends(key_width, ends_at);
            let (keys, end) = key_ends.slices(raw, ends_at + keys_take, count)?;
            Some(Page::Branch { children, keys, end })
        }
        _ => None,
    }
}
