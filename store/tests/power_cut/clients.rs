//! The power goes under several clients at once, also while the store is opened: nothing acknowledged as durable is lost, what is lost is a suffix of
//! each client's writes.

use std::collections::BTreeMap;
use std::time::Duration;

use bramble_store::{Change, Durability, ListQuery, Precondition, Revision, Store, Write};

use crate::dice::Dice;
use crate::disk::Disk;

/// A cut each; a few seconds in all.
const CUTS: usize = 60;
/// They share commits.
const CLIENTS: usize = 4;

type Map = BTreeMap<String, Vec<u8>>;

/// Everything that one client tried since the state that the last boot found, in order. A client owns its keys.
#[derive(Default)]
struct Journal {
    client: usize,
    begin: Map,
    batches: Vec<Vec<Write>>,
    /// So many of the batches must be there after a cut.
    durable: usize,
    highest: Revision,
}

#[tokio::test]
async fn a_power_cut_takes_only_a_suffix_of_deferred_writes() {
    let mut dice = Dice::roll();
    let disk = Disk::default();
    let mut config = disk.config();
    config.deferred_max_delay = Duration::from_millis(1);
    // A file is made under another name; from here on it exists.
    drop(Store::open(config.clone()).unwrap());
    let mut journals: Vec<Journal> = (0..CLIENTS).map(|client| Journal { client, ..Journal::default() }).collect();
    for cut in 0..CUTS {
        disk.cut_after(dice.below(if cut % 4 == 0 { 20 } else { 400 }));
        if let Ok(store) = Store::open(config.clone()) {
            let mut clients = tokio::task::JoinSet::new();
            for mut journal in journals.drain(..) {
                let (store, disk, mut dice) = (store.clone(), disk.clone(), dice.split());
                clients.spawn(async move {
                    journal.check(&store).await;
                    while !disk.is_dead() {
                        journal.write(&store, &mut dice).await;
                    }
                    journal
                });
            }
            journals = clients.join_all().await;
        }
        disk.power_on(&mut dice);
    }
    let store = Store::open(config).unwrap();
    for journal in &mut journals {
        journal.check(&store).await;
    }
}

impl Journal {
    async fn write(&mut self, store: &Store, dice: &mut Dice) {
        let counter = dice.next();
        let floor = if dice.chance(40) { Durability::Durable } else { Durability::Deferred };
        let mut batch: Vec<Write> = Vec::new();
        for _ in 0..=dice.below(3) {
            let key = format!("{}/{}/{}", ["pods", "nodes"][dice.below(2) as usize], self.client, dice.below(20));
            if batch.iter().all(|write| write.key != key) {
                let value = format!("{counter}-").repeat(1 + dice.below(400) as usize);
                batch.push(if dice.chance(20) {
                    Write::delete(key, Precondition::Any)
                } else {
                    Write::put(key, Precondition::Any, value)
                });
            }
        }
        // A volatile record beside it must not disturb anything.
        let heartbeat = Write::put("leases/pi", Precondition::Any, counter.to_string());
        let _ = store.write(vec![heartbeat], Durability::Volatile).await;
        self.batches.push(batch.clone());
        if let Ok(revision) = store.write(batch, floor).await {
            if floor == Durability::Durable {
                self.durable = self.batches.len();
            }
            self.highest = self.highest.max(revision);
        }
        self.highest = self.highest.max(store.revision());
    }

    async fn check(&mut self, store: &Store) {
        assert!(store.revision() >= self.highest, "revisions went backwards");
        let page = match store.list(ListQuery::all("")).await {
            Ok(page) => page,
            // The power went while reading: the next boot checks.
            Err(_) => return,
        };
        let found: Map = page
            .records
            .into_iter()
            .filter(|record| record.key.split('/').nth(1) == Some(&self.client.to_string()))
            .map(|record| (record.key, record.value.to_vec()))
            .collect();
        let mut state = self.begin.clone();
        let mut matches = self.durable == 0 && state == found;
        let mut nearest = Vec::new();
        for (index, batch) in self.batches.iter().enumerate() {
            for write in batch {
                match &write.change {
                    Change::Put(value) => state.insert(write.key.clone(), value.to_vec()),
                    Change::Delete => state.remove(&write.key),
                };
            }
            matches |= index + 1 >= self.durable && state == found;
            let differ = state.keys().chain(found.keys()).filter(|key| state.get(*key) != found.get(*key));
            nearest.push((differ.cloned().collect::<std::collections::BTreeSet<_>>().len(), index + 1));
        }
        nearest.sort_unstable();
        nearest.truncate(3);
        let (durable, all) = (self.durable, self.batches.len());
        assert!(
            matches,
            "no prefix of {all} batches that holds {durable}; nearest (keys that differ, prefix): {nearest:?}"
        );
        *self = Journal { client: self.client, begin: found, highest: self.highest, ..Journal::default() };
    }
}
