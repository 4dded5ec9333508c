//! A long random history, cut at every single operation on the disk: each time the disk as it is then, with a random
//! part of what was not synced, is opened and judged. Now and then life goes on from such a disk, or from a snapshot that
//! was taken while clients wrote. Keys change under them, too.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bramble_store::{
    Config, Durability, EventKind, KeyService, ListQuery, LocalAlgorithm, LocalKey, Precondition, Record, Sealing,
    Store, Watch, Write, inspect, restore,
};

use crate::dice::Dice;
use crate::disk::{Disk, Image};
use crate::model::{Model, Moment};

/// Some seconds without optimisation.
const CUT_POINTS: usize = 300;
/// They share commits.
const CLIENTS: usize = 3;
/// Batches of a client before life goes on from a cut.
const LIFE: usize = 60;
/// So many clients' writes are under way together.
const ROUND: usize = 3;

/// Where the power could have gone.
struct Cut {
    image: Image,
    moment: Moment,
}

struct World {
    model: Mutex<Model>,
    cuts: Mutex<Vec<Cut>>,
    /// Keys that were given so far; the newest one seals.
    keys: Mutex<u32>,
}

impl World {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// One more key for the same records.
    fn next_key(&self) -> Sealing {
        *self.keys.lock().unwrap() += 1;
        self.sealing()
    }

    fn sealing(&self) -> Sealing {
        let newest = *self.keys.lock().unwrap();
        let key = |number: u32| -> Arc<dyn KeyService> {
            let name = format!("key-{number}");
            Arc::new(LocalKey::new(&name, LocalAlgorithm::ChaCha20Poly1305, &number.to_le_bytes().repeat(8)).unwrap())
        };
        let mut sealing = Sealing::prefixes(&["pods/"], key(newest));
        sealing.services.extend((0..newest).map(key));
        sealing
    }

    /// Bounds that a short history reaches, a little different each time.
    fn config(&self, disk: &Disk, dice: &mut Dice) -> Config {
        let mut config = disk.config();
        config.sealing = self.sealing();
        config.deferred_max_delay = Duration::from_millis(dice.below(3));
        config.journal_bytes = [8, 32, 128][dice.below(3) as usize] << 10;
        config.checkpoint_bytes = [8, 24, 64][dice.below(3) as usize] << 10;
        config.step_bytes = [1, 64, 768][dice.below(3) as usize] << 10;
        config.overlay_bytes = 3000;
        config.revision_block = 40;
        config.compact_bytes_min = if dice.chance(50) { 0 } else { u64::MAX };
        config.verify_bytes_max = if dice.chance(50) { 0 } else { u64::MAX };
        config
    }
}

#[derive(Default)]
struct Tally {
    points: usize,
    lost: usize,
    unreadable: usize,
    rotations: usize,
    restores: usize,
}

#[tokio::test]
async fn a_cut_at_every_operation_loses_nothing() {
    let points: usize = std::env::var("CUT_POINTS").map_or(CUT_POINTS, |points| points.parse().unwrap());
    let mut dice = Dice::roll();
    let world =
        Arc::new(World { model: Mutex::new(Model::new(CLIENTS)), cuts: Mutex::default(), keys: Mutex::default() });
    let mut tally = Tally::default();
    let mut disk = Disk::default();
    // A file is made under another name; from here on it exists.
    drop(Store::open(world.config(&disk, &mut dice)).unwrap());
    while tally.points < points {
        let successor = live(&world, &disk, &mut dice, &mut tally, points).await;
        disk = successor.unwrap_or_default();
    }
    println!("among them {} rotations and {} restores", tally.rotations, tally.restores);
    println!("cut points {}, lost {}, unreadable {}", tally.points, tally.lost, tally.unreadable);
    assert_eq!((tally.lost, tally.unreadable), (0, 0));
}

/// One life of the store: from opening to the disk from which the next one begins.
async fn live(world: &Arc<World>, disk: &Disk, dice: &mut Dice, tally: &mut Tally, points: usize) -> Option<Disk> {
    let hooked = world.clone();
    disk.set_hook(Arc::new(move |image| {
        let moment = hooked.model().moment();
        hooked.cuts.lock().unwrap().push(Cut { image, moment });
    }));
    let mut store = Store::open(world.config(disk, dice)).unwrap();
    let begin = store.revision();
    let records = list(&store).await;
    show(world, &store, &records);
    let mut watches: Vec<Watch> = (0..2).map(|index| store.watch(RESOURCES[index], begin).unwrap()).collect();
    while tally.points < points {
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let (world, store, dice) = (world.clone(), store.clone(), dice.split());
            clients.spawn(async move { write(&world, &store, client, dice).await });
        }
        if dice.below(8) == 0 {
            let (store, sealing) = (store.clone(), world.next_key());
            clients.spawn(async move { assert!(store.rotate(sealing).await.unwrap().keys_removed < 3) });
            tally.rotations += 1;
        }
        let before = world.model().moment();
        let mut saved = Vec::new();
        if dice.below(8) == 0 {
            let store = store.clone();
            let save = move || {
                let mut out = Vec::new();
                store.snapshot(&mut out).unwrap();
                out
            };
            saved = tokio::task::spawn_blocking(save).await.unwrap();
        }
        let saved_at = before.until(world.model().moment());
        clients.join_all().await;
        look(world, &store, &mut watches).await;
        if dice.below(40) == 0 {
            drop((store, std::mem::take(&mut watches)));
            store = Store::open(world.config(disk, dice)).unwrap();
            let now = store.revision();
            watches = (0..2).map(|index| store.watch(RESOURCES[index], now).unwrap()).collect();
        }
        tally.restores += usize::from(!saved.is_empty());
        let restored =
            if saved.is_empty() { None } else { Some(restore_and_judge(world, &saved, &saved_at, dice).await) };
        let cuts = std::mem::take(&mut *world.cuts.lock().unwrap());
        let over = world.model().length() > LIFE;
        let chosen = dice.below(cuts.len().max(1) as u64) as usize;
        if let Some((disk, records)) = restored.filter(|_| over) {
            let now = world.model().moment();
            disk_of(store, world).await;
            world.model().go_on(&now, &records);
            return Some(disk);
        }
        for (index, cut) in cuts.into_iter().enumerate() {
            let moment = cut.moment.clone();
            let found = judge(world, cut, dice, tally).await;
            if let Some((disk, records)) = found.filter(|_| over && index == chosen) {
                // The other life ends as it may; what it still writes is of no interest.
                disk_of(store, world).await;
                world.model().go_on(&moment, &records);
                return Some(disk);
            }
        }
    }
    None
}

const RESOURCES: [&str; 2] = ["pods/", "nodes/"];
const OWN: [&str; 3] = ["pods/", "nodes/", "leases/"];

/// The records of clients; not the store's own.
async fn list(store: &Store) -> Vec<Record> {
    let mut records = store.list(ListQuery::all("")).await.unwrap().records;
    records.retain(|record| OWN.iter().any(|prefix| record.key.starts_with(prefix)));
    records
}

/// A store made of a snapshot holds what was there while it was taken, far above every revision that anybody saw.
async fn restore_and_judge(world: &World, saved: &[u8], at: &Moment, dice: &mut Dice) -> (Disk, Vec<Record>) {
    inspect(saved).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("restored");
    let revision = restore(&path, saved).unwrap();
    let disk = Disk::holding(std::fs::read(&path).unwrap());
    let store = Store::open(world.config(&disk, dice)).unwrap();
    let records = list(&store).await;
    assert!(store.revision() >= revision && revision > world.model().highest());
    assert!(records.iter().all(|record| record.revision == revision));
    world.model().judge(at, store.revision(), &records).unwrap();
    drop(store);
    (disk, records)
}

/// Closes a store, and forgets what its closing did.
async fn disk_of(store: Store, world: &World) {
    drop(store);
    world.cuts.lock().unwrap().clear();
}

async fn write(world: &World, store: &Store, client: usize, mut dice: Dice) {
    for _ in 0..=dice.below(ROUND as u64) {
        let floor = [Durability::Durable, Durability::Deferred][dice.below(2) as usize];
        let mut batch: Vec<Write> = Vec::new();
        for _ in 0..=dice.below(3) {
            let key = format!("{}{client}/{}", RESOURCES[dice.below(2) as usize], dice.below(8));
            if batch.iter().all(|write| write.key != key) {
                let value = format!("{}-", dice.next()).repeat(1 + dice.below(60) as usize);
                batch.push(if dice.chance(25) {
                    Write::delete(key, Precondition::Any)
                } else {
                    Write::put(key, Precondition::Any, value)
                });
            }
        }
        // A volatile record beside it must not disturb anything, and its revision never comes again.
        let beat = dice.next().to_string();
        let put = Write::put(format!("leases/of-{client}"), Precondition::Any, beat.clone());
        let revision = store.write(vec![put], Durability::Volatile).await.unwrap();
        world.model().showed(&format!("leases/of-{client}"), revision, beat.as_bytes());
        let number = world.model().tries(client, batch.clone());
        let revision = store.write(batch, floor).await.unwrap();
        world.model().answered(client, number, revision, floor == Durability::Durable);
        if dice.below(20) == 0 {
            let revision = store.flush().await.unwrap();
            world.model().saw(revision);
        }
    }
}

/// Reads what clients read, and notes that they saw it.
async fn look(world: &World, store: &Store, watches: &mut [Watch]) {
    for watch in watches {
        while let Ok(Some(event)) = watch.try_next() {
            let mut model = world.model();
            model.saw(event.revision);
            if event.kind == EventKind::Put {
                model.showed(&event.key, event.revision, &event.value);
                let client = event.key.split('/').nth(1).unwrap().parse().unwrap();
                if store.durable_revision() >= event.revision {
                    model.watched(client, &event.key, &event.value);
                }
            }
        }
    }
    let records = list(store).await;
    show(world, store, &records);
}

fn show(world: &World, store: &Store, records: &[Record]) {
    let mut model = world.model();
    for record in records {
        model.showed(&record.key, record.revision, &record.value);
    }
    model.saw(store.revision());
}

/// Opens what a cut left; gives the disk with its records, where nothing is wrong with them.
async fn judge(world: &World, cut: Cut, dice: &mut Dice, tally: &mut Tally) -> Option<(Disk, Vec<Record>)> {
    tally.points += 1;
    let disk = cut.image.power_on(dice);
    let opened = Store::open(world.config(&disk, dice));
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            println!("unreadable: {error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            tally.unreadable += 1;
            return None;
        }
    };
    let page = match store.list(ListQuery::all("")).await {
        Ok(mut page) => {
            page.records.retain(|record| OWN.iter().any(|prefix| record.key.starts_with(prefix)));
            page
        }
        Err(error) => {
            println!("unreadable: {error}");
            tally.unreadable += 1;
            return None;
        }
    };
    if let Err(lost) = world.model().judge(&cut.moment, store.revision(), &page.records) {
        println!("lost: {lost} {:?}", cut.moment);
        tally.lost += 1;
        return None;
    }
    if dice.below(10) == 0 {
        // It goes on, and what it takes then stays as well.
        let put = Write::put("pods/after", Precondition::Any, "the cut");
        let revision = store.write(vec![put], Durability::Durable).await.unwrap();
        assert!(revision > page.revision);
        drop(store);
        let store = Store::open(world.config(&disk, dice)).unwrap();
        assert_eq!(store.get("pods/after").await.unwrap().unwrap().value, "the cut");
        store.write(vec![Write::delete("pods/after", Precondition::Any)], Durability::Durable).await.unwrap();
        assert_eq!(list(&store).await.len(), page.records.len());
    } else {
        drop(store);
    }
    Some((disk, page.records))
}
