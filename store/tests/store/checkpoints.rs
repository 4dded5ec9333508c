//! What is in the journal goes into redb aside: nobody waits for it, and nothing is lost or shown twice.

use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex};

use bramble_store::{Backend, Config, Durability, ListQuery, OpenError, Precondition, Store, Write};
use redb::StorageBackend;

use crate::dice::Dice;
use crate::disk::Disk;

/// Holds back whoever flushes, while it is shut.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<(Mutex<Held>, Condvar)>);

#[derive(Debug, Default)]
struct Held {
    shut: bool,
    waiting: usize,
}

impl Gate {
    fn shut(&self, shut: bool) {
        self.0.0.lock().unwrap().shut = shut;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut held = self.0.0.lock().unwrap();
        held.waiting += 1;
        self.0.1.notify_all();
        let mut held = self.0.1.wait_while(held, |held| held.shut).unwrap();
        held.waiting -= 1;
    }

    /// Until somebody waits.
    fn reached(&self) {
        let held = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(held, |held| held.waiting == 0).unwrap());
    }
}

#[derive(Debug)]
struct Gated {
    inner: Box<dyn StorageBackend>,
    gate: Gate,
}

impl StorageBackend for Gated {
    fn len(&self) -> std::io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.gate.pass();
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.inner.write(offset, data)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, redb::BackendError> {
        self.inner.try_lock_range(start, end)
    }
}

/// A store whose file's flushes pass a gate; the journal's do not.
fn gated(disk: &Disk, gate: &Gate) -> Config {
    let mut config = disk.config();
    let Backend::Doors { store, journal } = config.backend else { panic!("a disk has doors") };
    let gate = gate.clone();
    let store: bramble_store::Door = Arc::new(move || Ok(Box::new(Gated { inner: store()?, gate: gate.clone() })));
    config.backend = Backend::Doors { store, journal };
    config.checkpoint_bytes = 64 << 10;
    config.journal_bytes = 64 << 10;
    config
}

async fn put(store: &Store, key: u64, value: u64) {
    let write = Write::put(format!("pods/{key:03}"), Precondition::Any, value.to_string().repeat(100));
    store.write(vec![write], Durability::Durable).await.unwrap();
}

#[tokio::test]
async fn commits_and_reads_go_on_while_a_checkpoint_hangs() {
    let (disk, gate) = (Disk::default(), Gate::default());
    let store = Store::open(gated(&disk, &gate)).unwrap();
    for key in 0..10 {
        put(&store, key, 1000 + key).await;
    }
    gate.shut(true);
    let mut next = 10;
    while gate.0.0.lock().unwrap().waiting == 0 {
        put(&store, next % 100, 1000 + next).await;
        next += 1;
        assert!(next < 2000, "no checkpoint came");
    }
    gate.reached();
    // Half of the journal is free for these.
    for _ in 0..20 {
        put(&store, next % 100, 1000 + next).await;
        next += 1;
    }
    store.write(vec![Write::delete("pods/003", Precondition::Present)], Durability::Durable).await.unwrap();
    // The power goes before the checkpoint comes through, and after it.
    let during = disk.image();
    let records = store.list(ListQuery::all("pods/")).await.unwrap().records;
    assert!(records.iter().all(|record| record.key != "pods/003"));
    gate.shut(false);
    drop(store);
    for image in [during, disk.image()] {
        let disk = image.power_on(&mut Dice::roll());
        let store = Store::open(disk.config()).unwrap();
        let found = store.list(ListQuery::all("pods/")).await.unwrap().records;
        let values = |records: &[bramble_store::Record]| -> Vec<_> {
            records.iter().map(|record| (record.key.clone(), record.value.clone())).collect()
        };
        assert_eq!(values(&found), values(&records));
    }
}

#[tokio::test]
async fn an_older_copy_of_the_file_beside_a_newer_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let old = dir.path().join("old");
    let mut config = Config::redb(&path);
    config.journal_bytes = 64 << 10;
    for lives in 1..6 {
        let store = Store::open(config.clone()).unwrap();
        put(&store, 1, lives).await;
        drop(store);
        std::fs::copy(&path, &old).unwrap();
        // Closed several times since, or with checkpoints in between.
        for life in 0..lives {
            let store = Store::open(config.clone()).unwrap();
            for key in 0..60 * (lives - life) {
                put(&store, key, life).await;
            }
        }
        let now = std::fs::read(&path).unwrap();
        std::fs::copy(&old, &path).unwrap();
        match Store::open(config.clone()) {
            Err(OpenError::Backend(error)) => assert!(error.to_string().contains("older"), "{error}"),
            Err(error) => panic!("{error} after {lives} lives"),
            // The journal still holds all that the copy lacks.
            Ok(store) => {
                let found = store.get("pods/059").await.unwrap().unwrap();
                assert_eq!((lives, &found.value[..]), (1, "0".repeat(100).as_bytes()));
            }
        }
        std::fs::write(&path, now).unwrap();
    }
}
