//! A disk that loses power: what was not synced is gone, or there in part.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bramble_store::{Backend, Config};

use crate::dice::Dice;

/// Devices write so many bytes whole or not at all.
const SECTOR: usize = 512;
/// The store's file and its journal.
const FILES: usize = 2;

#[derive(Clone, Debug, Default)]
struct Platter {
    durable: Vec<u8>,
    /// What the running system reads: durable and unsynced together.
    cached: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Every length since the last sync.
    lengths: Vec<u64>,
}

/// Called before every operation that changes something.
type Hook = Arc<dyn Fn(Image) + Send + Sync>;

#[derive(Clone, Default)]
struct Rig {
    files: [Platter; FILES],
    /// Operations (writes, syncs and lengths) left until the power goes; none is for ever.
    fuse: Option<u64>,
    dead: bool,
    /// Nothing can be written beyond this offset.
    space: Option<u64>,
    writes: u64,
    bytes: u64,
    hook: Option<Hook>,
}

/// What the disk holds at one moment, synced or not.
#[derive(Clone, Debug)]
pub(crate) struct Image([Platter; FILES]);

/// Shared between the test and the stores that are opened on it.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Rig>>);

/// One file of a disk.
struct File {
    disk: Disk,
    index: usize,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.index)
    }
}

impl Disk {
    fn rig(&self) -> MutexGuard<'_, Rig> {
        self.0.lock().unwrap()
    }

    pub(crate) fn config(&self) -> Config {
        let door = |index| -> bramble_store::Door {
            let disk = self.clone();
            Arc::new(move || Ok(Box::new(File { disk: disk.clone(), index })))
        };
        Config::new(Backend::Doors { store: door(0), journal: door(1) })
    }

    /// A disk that holds a store's file, and no journal.
    pub(crate) fn holding(file: Vec<u8>) -> Disk {
        let disk = Disk::default();
        {
            let platter = &mut disk.rig().files[0];
            (platter.durable, platter.cached) = (file.clone(), file);
        }
        disk
    }

    /// The power goes after so many more operations.
    pub(crate) fn cut_after(&self, operations: u64) {
        self.rig().fuse = Some(operations);
    }

    /// How much fits, as if other files had taken the rest.
    pub(crate) fn set_space(&self, space: Option<u64>) {
        self.rig().space = space;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.rig().dead
    }

    /// How often something was written, and how many bytes in all.
    pub(crate) fn writes(&self) -> u64 {
        self.rig().writes
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.rig().bytes
    }

    /// The length of the store's file.
    pub(crate) fn len(&self) -> u64 {
        self.rig().files[0].cached.len() as u64
    }

    /// What it holds now.
    pub(crate) fn image(&self) -> Image {
        Image(self.rig().files.clone())
    }

    /// What every operation finds goes to `hook` first.
    pub(crate) fn set_hook(&self, hook: Hook) {
        self.rig().hook = Some(hook);
    }

    /// Power is back.
    pub(crate) fn power_on(&self, dice: &mut Dice) {
        let mut rig = self.rig();
        for platter in &mut rig.files {
            platter.lose(dice);
        }
        rig.fuse = None;
        rig.dead = false;
    }
}

impl Image {
    /// A disk whose power went at that moment and is back.
    pub(crate) fn power_on(self, dice: &mut Dice) -> Disk {
        let mut files = self.0;
        for platter in &mut files {
            platter.lose(dice);
        }
        Disk(Arc::new(Mutex::new(Rig { files, ..Rig::default() })))
    }

    /// Bytes at rest of a file.
    pub(crate) fn len(&self, file: usize) -> u64 {
        self.0[file].durable.len() as u64
    }

    /// A byte at rest.
    pub(crate) fn byte(&self, file: usize, at: u64) -> u8 {
        self.0[file].durable[at as usize]
    }

    /// Flips a bit of what is at rest.
    pub(crate) fn flip(&mut self, file: usize, bit: u64) {
        self.0[file].durable[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
}

impl Platter {
    /// Of the unsynced sectors a random part reached the platter, in any order; of the lengths, one.
    fn lose(&mut self, dice: &mut Dice) {
        let lengths = std::mem::take(&mut self.lengths);
        for length in &lengths[..dice.below(lengths.len() as u64 + 1) as usize] {
            self.durable.resize(*length as usize, 0);
        }
        let mut sectors: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        // Now and then everything arrives, or nothing.
        let keep = [0, 100, dice.below(101)][dice.below(3) as usize];
        for (offset, data) in std::mem::take(&mut self.unsynced) {
            let mut begin = 0;
            while begin < data.len() {
                let at = offset as usize + begin;
                let end = data.len().min(begin + SECTOR - at % SECTOR);
                if dice.chance(keep) {
                    sectors.insert(at as u64, data[begin..end].to_vec());
                }
                begin = end;
            }
        }
        for (offset, sector) in sectors {
            let offset = offset as usize;
            if let Some(place) = self.durable.get_mut(offset..offset + sector.len()) {
                place.copy_from_slice(&sector);
            }
        }
        self.cached = self.durable.clone();
    }
}

impl Rig {
    /// Whether the power is on; the operation at which it goes may still arrive in part.
    fn burn(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(io::Error::other("no power"));
        }
        match &mut self.fuse {
            Some(0) => {
                self.dead = true;
                Ok(false)
            }
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => Ok(true),
        }
    }
}

impl File {
    /// Shows everybody who looks what an operation finds. Nothing else happens meanwhile: what anybody was told is on
    /// the disk then.
    fn show(&self) {
        let rig = self.disk.rig();
        if let Some(hook) = &rig.hook {
            hook(Image(rig.files.clone()));
        }
    }
}

fn lit(power: bool) -> io::Result<()> {
    if power { Ok(()) } else { Err(io::Error::other("power cut")) }
}

impl redb::StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.rig().files[self.index].cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let rig = self.disk.rig();
        if rig.dead {
            return Err(io::Error::other("no power"));
        }
        let from = offset as usize;
        let data = rig.files[self.index].cached.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.show();
        let mut rig = self.disk.rig();
        let power = rig.burn()?;
        let platter = &mut rig.files[self.index];
        platter.cached.resize(len as usize, 0);
        platter.unsynced.retain(|(offset, data)| offset + data.len() as u64 <= len);
        platter.lengths.push(len);
        lit(power)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.show();
        let mut rig = self.disk.rig();
        lit(rig.burn()?)?;
        let platter = &mut rig.files[self.index];
        platter.durable.clone_from(&platter.cached);
        platter.unsynced.clear();
        platter.lengths.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.show();
        let mut rig = self.disk.rig();
        let power = rig.burn()?;
        if rig.space.is_some_and(|space| offset + data.len() as u64 > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        rig.writes += 1;
        rig.bytes += data.len() as u64;
        let platter = &mut rig.files[self.index];
        let from = offset as usize;
        platter.cached.get_mut(from..from + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        platter.unsynced.push((offset, data.to_vec()));
        lit(power)
    }
}
