//! A full disk and a damaged one.

use std::sync::Arc;
use std::time::Duration;

use bramble_store::{
    Backend, Config, Durability, EventKind, ListQuery, OpenError, Precondition, ReadError, Store, Write, WriteError,
    verify,
};

use crate::dice::Dice;
use crate::disk::Disk;

const CAP: u64 = 4 << 20;

fn key(index: usize) -> String {
    format!("configmaps/default/{index:05}")
}

/// Noise, which does not get smaller at rest.
fn value(index: usize) -> Vec<u8> {
    let mut state = index as u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..8000).map(|_| noise()).collect()
}

fn put(index: usize) -> Vec<Write> {
    vec![Write::put(key(index), Precondition::Any, value(index))]
}

#[tokio::test]
async fn a_full_store_says_so_takes_deletes_and_goes_on() {
    let disk = Disk::default();
    let mut config = disk.config();
    config.file_bytes_max = CAP;
    let store = Store::open(config.clone()).unwrap();
    let mut written = 0;
    let refused = loop {
        match store.write(put(written), Durability::Durable).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 10_000, "the cap does not hold");
    };
    assert!(matches!(refused, WriteError::Full), "{refused}");
    assert!(disk.len() <= CAP, "{}", disk.len());
    assert!(written > 100, "full after {written} records");
    assert!(matches!(store.write(put(written), Durability::Deferred).await, Err(WriteError::Full)));
    assert_eq!(store.list(ListQuery::all("configmaps/")).await.unwrap().records.len(), written);
    let shrinks = vec![Write::put(key(0), Precondition::Present, "marked as deleted")];
    store.write(shrinks, Durability::Durable).await.unwrap();
    for index in 0..written / 2 {
        store.write(vec![Write::delete(key(index), Precondition::Present)], Durability::Durable).await.unwrap();
    }
    store.write(put(written), Durability::Durable).await.unwrap();
    assert!(disk.len() <= CAP);
    drop(store);
    let store = Store::open(config).unwrap();
    assert_eq!(store.keys("configmaps/").await.unwrap() as usize, written - written / 2 + 1);
}

/// Small records and large ones: what is kept for deletes must be enough for all of them, wherever redb's gaps lie.
#[tokio::test]
async fn a_quarter_deleted_makes_room_whatever_the_size_of_the_records() {
    for bytes in [200, 1000, 3000, 8000, 20_000, 60_000] {
        let disk = Disk::default();
        let mut config = disk.config();
        config.file_bytes_max = CAP;
        let store = Store::open(config.clone()).unwrap();
        let mut dice = Dice::roll();
        let mut record = |index| {
            let noise: Vec<u8> = (0..bytes).map(|_| dice.next() as u8).collect();
            Write::put(key(index), Precondition::Any, noise)
        };
        let mut written = 0;
        // As it is for a cluster: deferred writes between durable ones, and old records written again.
        while written * bytes < CAP as usize {
            let durability = if written % 7 == 0 { Durability::Deferred } else { Durability::Durable };
            match store.write(vec![record(written + 1), record(written / 3)], durability).await {
                Ok(_) => written += 1,
                Err(WriteError::Full) => break,
                Err(error) => panic!("{bytes}: {error}"),
            }
        }
        assert!(disk.len() <= CAP, "{bytes}: {}", disk.len());
        let used = (written * bytes) as f64 / CAP as f64;
        println!("{bytes} bytes: full after {written} records, {:.0} % of the cap", used * 100.);
        assert!(used > 0.2, "{bytes}: {used}");
        // A restart does not give away the space that is kept for deletes.
        drop(store);
        let store = Store::open(config.clone()).unwrap();
        let kept = written + 1 - written / 4;
        for index in kept..=written {
            store.write(vec![Write::delete(key(index), Precondition::Present)], Durability::Durable).await.unwrap();
        }
        for index in kept..kept + written / 12 {
            store
                .write(vec![record(index)], Durability::Durable)
                .await
                .unwrap_or_else(|error| panic!("{bytes}: {error}"));
        }
        drop(store);
        let store = Store::open(config).unwrap();
        assert_eq!(store.keys("configmaps/").await.unwrap() as usize, kept + written / 12, "{bytes}");
    }
}

#[tokio::test]
async fn a_disk_filled_by_others_refuses_and_recovers() {
    let disk = Disk::default();
    let mut config = disk.config();
    config.full_retry_delay = Duration::ZERO;
    let store = Store::open(config).unwrap();
    let mut written = 0;
    disk.set_space(Some(1 << 20));
    while store.write(put(written), Durability::Durable).await.is_ok() {
        written += 1;
    }
    assert!(matches!(store.write(put(written), Durability::Durable).await, Err(WriteError::Full)));
    let beat = Write::put("leases/pi", Precondition::Any, "1");
    assert!(matches!(store.write(vec![beat.clone()], Durability::Durable).await, Ok(_) | Err(WriteError::Full)));
    disk.set_space(None);
    store.write(vec![beat], Durability::Volatile).await.unwrap();
    store.write(put(written), Durability::Durable).await.unwrap();
    assert_eq!(store.list(ListQuery::all("configmaps/")).await.unwrap().records.len(), written + 1);
}

#[tokio::test]
async fn deleted_space_goes_back_to_the_disk_in_steps() {
    let disk = Disk::default();
    let mut config = disk.config();
    config.compact_bytes_min = 1 << 20;
    config.checkpoint_bytes = 128 << 10;
    config.step_bytes = 64 << 10;
    let store = Store::open(config.clone()).unwrap();
    for index in 0..1600 {
        store.write(put(index), Durability::Deferred).await.unwrap();
    }
    store.flush().await.unwrap();
    let large = disk.len();
    // What stays lies all over the file.
    for index in (0..1600).filter(|index| index % 32 != 0) {
        store.write(vec![Write::delete(key(index), Precondition::Any)], Durability::Deferred).await.unwrap();
    }
    drop(store);
    assert!(disk.len() * 4 > large, "it would take a pause to compact all of it");
    let store = Store::open(config).unwrap();
    let mut lengths = vec![disk.len()];
    for round in 0..400 {
        let bytes = disk.bytes();
        store.write(put(round % 8 * 32), Durability::Durable).await.unwrap();
        assert!(disk.bytes() - bytes < 2 << 20, "a step of {}", disk.bytes() - bytes);
        if disk.len() != lengths[lengths.len() - 1] {
            lengths.push(disk.len());
        }
    }
    println!("lengths: {large}, then {lengths:?}");
    assert!(lengths.len() > 2, "all at once: {lengths:?}");
    assert!(disk.len() * 8 < large, "{} of {large}", disk.len());
    assert_eq!(store.keys("").await.unwrap(), 50);
    let records = store.list(ListQuery::all("")).await.unwrap().records;
    for record in records {
        let index = record.key.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(record.value, value(index));
    }
}

#[tokio::test]
async fn deleted_space_goes_back_to_a_real_file_system_under_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut config = Config::redb(&path);
    config.compact_bytes_min = 1 << 20;
    config.checkpoint_bytes = 256 << 10;
    config.step_bytes = 128 << 10;
    let store = Store::open(config).unwrap();
    let len = || std::fs::metadata(&path).unwrap().len();
    for index in 0..800 {
        store.write(put(index), Durability::Deferred).await.unwrap();
    }
    for index in (0..800).filter(|index| index % 32 != 0) {
        store.write(vec![Write::delete(key(index), Precondition::Any)], Durability::Deferred).await.unwrap();
    }
    store.flush().await.unwrap();
    let large = len();
    let reader = store.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let reads = tokio::spawn(async move {
        let (mut stopped, mut lists) = (stopped, 0);
        while stopped.try_recv().is_err() {
            assert_eq!(reader.list(ListQuery::all("")).await.unwrap().records.len(), 25);
            lists += 1;
            tokio::task::yield_now().await;
        }
        lists
    });
    for round in 0..400 {
        store.write(put(round % 25 * 32), Durability::Durable).await.unwrap();
    }
    stop.send(()).unwrap();
    println!("{} lists while the file shrank from {large} to {}", reads.await.unwrap(), len());
    assert!(len() * 4 < large, "{} of {large}", len());
    drop(store);
    assert_eq!(verify(&path).unwrap().lost, [""; 0]);
}

/// A share of a million, after which a file of its final length had once no room for puts, mostly empty as it was;
/// `CHURN=1000000` for all of it.
#[tokio::test]
async fn churn_never_passes_the_cap() {
    let writes: usize = std::env::var("CHURN").map_or(250_000, |writes| writes.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut config = Config::redb(&path);
    config.file_bytes_max = 24 << 20;
    let cap = config.file_bytes_max;
    let journal_max = config.journal_bytes;
    let store = Store::open(config).unwrap();
    let (mut largest, mut journal) = (0, 0);
    for first in (0..writes).step_by(100) {
        let mut batch = std::collections::BTreeMap::new();
        for number in first..first + 50 {
            let gone = format!("pods/{:05}", number * 104_729 % 20_000);
            batch.insert(gone.clone(), Write::delete(gone, Precondition::Any));
        }
        for number in first..first + 50 {
            let key = format!("pods/{:05}", number * 7919 % 20_000);
            let value = number.to_string().repeat(1 + number % 100);
            batch.insert(key.clone(), Write::put(key, Precondition::Any, value));
        }
        store.write(batch.into_values().collect(), Durability::Durable).await.unwrap();
        largest = largest.max(std::fs::metadata(&path).unwrap().len());
        journal = journal.max(std::fs::metadata(path.with_extension("journal")).unwrap().len());
    }
    println!("{writes} writes and deletes: largest file {largest} of {cap}, largest journal {journal}");
    assert!(largest <= cap && journal <= journal_max);
    assert!(largest > 2 << 20, "the churn was too small to tell");
}

#[tokio::test]
async fn a_deferred_write_is_at_rest_after_its_bound() {
    let disk = Disk::default();
    let mut config = disk.config();
    config.deferred_max_delay = Duration::from_millis(1);
    let store = Store::open(config).unwrap();
    let status = |n: u64| vec![Write::put("pods/a", Precondition::Any, n.to_string())];
    store.write(status(0), Durability::Durable).await.unwrap();
    store.write(status(1), Durability::Deferred).await.unwrap();
    let writes = disk.writes();
    let revision = store.write(status(2), Durability::Deferred).await.unwrap();
    store.wait_durable(revision).await;
    assert!(disk.writes() > writes);
    drop(store);
    let store = Store::open(disk.config()).unwrap();
    assert_eq!(store.get("pods/a").await.unwrap().unwrap().value, "2");
}

#[tokio::test]
async fn churn_is_reclaimed() {
    let disk = Disk::default();
    let mut config = disk.config();
    config.file_bytes_max = CAP;
    let store = Store::open(config).unwrap();
    for round in 0..2000 {
        store.write(put(round % 20), Durability::Durable).await.unwrap();
    }
    assert!(disk.len() <= CAP);
}

#[tokio::test]
async fn a_damaged_record_is_reported_never_served_and_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(Config::redb(&path)).unwrap();
    for index in 0..3 {
        store.write(put(index), Durability::Durable).await.unwrap();
    }
    drop(store);
    let mut file = std::fs::read(&path).unwrap();
    let needle = &value(1)[..4000];
    let at = file.windows(needle.len()).position(|window| window == needle).unwrap();
    file[at + 3000] ^= 1;
    std::fs::write(&path, file).unwrap();

    assert!(
        matches!(Store::open(Config::redb(&path)), Err(OpenError::Backend(_))),
        "it is checked before it is opened"
    );
    let mut config = Config::redb(&path);
    config.verify_bytes_max = 0;
    let store = Store::open(config).unwrap();
    let mut damaged = Vec::new();
    for index in 0..3 {
        match store.get(&key(index)).await {
            Ok(record) => assert_eq!(record.unwrap().value, value(index)),
            Err(ReadError::Corrupt { key }) => damaged.push(key),
            Err(error) => panic!("{error}"),
        }
    }
    let [damaged] = &damaged[..] else { panic!("{damaged:?}") };
    let list = store.list(ListQuery::all("configmaps/")).await;
    assert!(matches!(list, Err(ReadError::Corrupt { key }) if key == *damaged));
    let careful = Write::put(damaged.as_str(), Precondition::Present, "v");
    let careful = store.write(vec![careful], Durability::Durable).await;
    assert!(matches!(careful, Err(WriteError::Corrupt { .. })));
    let mut watch = store.watch("configmaps/", store.revision()).unwrap();
    store.write(vec![Write::delete(damaged.as_str(), Precondition::Any)], Durability::Durable).await.unwrap();
    assert_eq!(watch.next().await.unwrap().kind, EventKind::Delete);
    assert_eq!(store.list(ListQuery::all("configmaps/")).await.unwrap().records.len(), 2);
}

#[tokio::test]
async fn a_broken_disk_stops_writes_and_acknowledges_none() {
    let disk = Disk::default();
    let store = Store::open(disk.config()).unwrap();
    store.write(put(0), Durability::Durable).await.unwrap();
    disk.cut_after(1);
    assert!(matches!(store.write(put(1), Durability::Durable).await, Err(WriteError::Backend { .. })));
    assert!(matches!(store.write(put(2), Durability::Volatile).await, Err(WriteError::Backend { .. })));
    assert!(
        store.revision()
            < store.write(put(3), Durability::Durable).await.map_or(bramble_store::Revision(u64::MAX), |r| r)
    );
}

#[tokio::test]
async fn one_store_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::redb(dir.path().join("store"));
    let store = Store::open(config.clone()).unwrap();
    assert!(matches!(Store::open(config.clone()), Err(OpenError::Locked { .. })));
    drop(store);
    Store::open(config).unwrap();
    let door: bramble_store::Door = Arc::new(|| Err(std::io::Error::other("no such disk")));
    let refusing = Backend::Doors { store: door.clone(), journal: door };
    assert!(matches!(Store::open(Config::new(refusing)), Err(OpenError::Backend(_))));
}

#[tokio::test]
async fn an_idle_cluster_writes_nothing() {
    let disk = Disk::default();
    let store = Store::open(disk.config()).unwrap();
    let write = async |key: String, value: String, floor| {
        store.write(vec![Write::put(key, Precondition::Any, value)], floor).await.unwrap();
    };
    for pod in 0..100 {
        write(format!("pods/default/{pod}"), "running".repeat(200), Durability::Durable).await;
    }
    for board in 0..10 {
        write(format!("leases/kube-node-lease/{board}"), "0".into(), Durability::Durable).await;
        write(format!("leases/kube-node-lease/{board}"), "1".into(), Durability::Volatile).await;
    }
    let (writes, bytes) = (disk.writes(), disk.bytes());
    // Ten boards for a day: a renewal every ten seconds.
    for beat in 0..86_400 {
        write(format!("leases/kube-node-lease/{}", beat % 10), beat.to_string(), Durability::Volatile).await;
    }
    assert_eq!((disk.writes(), disk.bytes()), (writes, bytes));
}
