//! A disk that loses power: what was not synced is gone, or there in part.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bramble_store::{Backend, Config};

use crate::dice::Dice;

/// Writes smaller than this do not tear.
const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Platter {
    durable: Vec<u8>,
    /// What the running system reads: durable and unsynced together.
    cached: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Operations (writes and syncs) left until the power goes; none is for ever.
    fuse: Option<u64>,
    dead: bool,
    /// Nothing can be written beyond this offset.
    space: Option<u64>,
    writes: u64,
}

/// Shared between the test and the stores that are opened on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    pub(crate) fn config(&self) -> Config {
        let disk = self.clone();
        Config::new(Backend::RedbDoor(Arc::new(move || Ok(Box::new(disk.clone())))))
    }

    /// The power goes after so many more operations.
    pub(crate) fn cut_after(&self, operations: u64) {
        self.0.lock().unwrap().fuse = Some(operations);
    }

    /// How much fits, as if other files had taken the rest.
    pub(crate) fn set_space(&self, space: Option<u64>) {
        self.0.lock().unwrap().space = space;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.lock().unwrap().dead
    }

    pub(crate) fn writes(&self) -> u64 {
        self.0.lock().unwrap().writes
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.lock().unwrap().cached.len() as u64
    }

    /// Power is back. Of the unsynced sectors a random part reached the platter, in any order.
    pub(crate) fn power_on(&self, dice: &mut Dice) {
        let mut platter = self.0.lock().unwrap();
        let mut sectors: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let unsynced = std::mem::take(&mut platter.unsynced);
        let keep = dice.below(101);
        for (offset, data) in unsynced {
            for (index, sector) in data.chunks(SECTOR).enumerate() {
                if dice.chance(keep) {
                    sectors.insert(offset + (index * SECTOR) as u64, sector.to_vec());
                }
            }
        }
        for (offset, sector) in sectors {
            let offset = offset as usize;
            if offset + sector.len() <= platter.durable.len() {
                platter.durable[offset..offset + sector.len()].copy_from_slice(&sector);
            }
        }
        platter.cached = platter.durable.clone();
        platter.fuse = None;
        platter.dead = false;
    }
}

impl Platter {
    fn burn(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("no power"));
        }
        if let Some(left) = &mut self.fuse {
            if *left == 0 {
                self.dead = true;
                return Err(io::Error::other("power cut"));
            }
            *left -= 1;
        }
        Ok(())
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock().unwrap();
        if platter.dead {
            return Err(io::Error::other("no power"));
        }
        let from = offset as usize;
        let data = platter.cached.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    /// A length is metadata: the journal keeps it, unlike data.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.burn()?;
        platter.cached.resize(len as usize, 0);
        platter.durable.resize(len as usize, 0);
        platter.unsynced.retain(|(offset, data)| offset + data.len() as u64 <= len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.burn()?;
        for (offset, data) in std::mem::take(&mut platter.unsynced) {
            let from = offset as usize;
            platter.durable[from..from + data.len()].copy_from_slice(&data);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.burn()?;
        if platter.space.is_some_and(|space| offset + data.len() as u64 > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        platter.writes += 1;
        let from = offset as usize;
        platter.cached.get_mut(from..from + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        platter.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
}
