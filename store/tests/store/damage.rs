//! Flipped bits: found out wherever they are, named, and everything else rescued.

use std::collections::BTreeMap;
use std::path::Path;

use bramble_store::{
    Config, Durability, ListQuery, OpenError, Precondition, ReadError, RescueError, Revision, Store, Write, salvage,
    verify,
};

use crate::dice::Dice;
use crate::disk::Disk;

type Map = BTreeMap<String, Vec<u8>>;

async fn fill(store: &Store, dice: &mut Dice, writes: u64) -> Map {
    let mut map = Map::new();
    for number in 0..writes {
        let key = format!("pods/default/{:03}", dice.below(80));
        let value = format!("{number} ").repeat(1 + dice.below(60) as usize);
        store.write(vec![Write::put(&*key, Precondition::Any, value.clone())], Durability::Durable).await.unwrap();
        map.insert(key, value.into_bytes());
    }
    map
}

/// What a flip may lead to.
#[derive(Debug, Default)]
struct Tally {
    found_out: usize,
    harmless: usize,
}

/// Reads all of it; errors are fine, wrong answers are not.
async fn read_all(store: &Store, expected: &Map, tally: &mut Tally, flip: &str) {
    match store.list(ListQuery::all("pods/")).await {
        Ok(page) => {
            let served: Map = page.records.into_iter().map(|it| (it.key, it.value.to_vec())).collect();
            let wrong: Vec<&String> =
                expected.iter().filter(|(key, value)| served.get(*key) != Some(value)).map(|(key, _)| key).collect();
            let foreign: Vec<&String> = served.keys().filter(|key| !expected.contains_key(*key)).collect();
            let counts = (wrong.len(), foreign.len(), served.len(), expected.len());
            assert!(
                served == *expected,
                "{flip} was served: {counts:?} {:?} {:?} {:?}",
                wrong.first(),
                wrong.last(),
                foreign.first()
            );
            tally.harmless += 1;
        }
        Err(ReadError::Corrupt { .. } | ReadError::Backend { .. }) => tally.found_out += 1,
        Err(error) => panic!("{flip}: {error}"),
    }
    // Keys that are there, and others beside them that are not.
    let there = expected.keys().step_by(expected.len() / 60 + 1);
    for key in there.flat_map(|key| [key.clone(), format!("{key}-"), key[..key.len() - 1].to_owned()]) {
        match store.get(&key).await {
            Ok(record) => {
                assert_eq!(record.map(|it| it.value.to_vec()).as_ref(), expected.get(&key), "{flip}: {key} was served");
            }
            Err(ReadError::Corrupt { .. } | ReadError::Backend { .. }) => {}
            Err(error) => panic!("{flip}: {error}"),
        }
    }
}

#[tokio::test]
async fn no_flipped_bit_is_ever_served() {
    let mut dice = Dice::roll();
    let disk = Disk::default();
    let mut config = disk.config();
    config.journal_bytes = 64 << 10;
    config.checkpoint_bytes = 16 << 10;
    let store = Store::open(config).unwrap();
    let mut expected = fill(&store, &mut dice, 200).await;
    expected.extend(fill(&store, &mut dice, 30).await);
    let killed = disk.image();
    drop(store);
    let closed = disk.image();
    let mut tally = Tally::default();
    for round in 0..400 {
        let mut image = if round % 2 == 0 { killed.clone() } else { closed.clone() };
        // Every other one where it matters most: the headers and the first pages.
        let file = (round / 2) % 2;
        let bits = if dice.chance(30) { 4096 } else { image.len(file) * 8 };
        let bit = dice.below(bits);
        image.flip(file, bit);
        let disk = image.power_on(&mut dice);
        match Store::open(disk.config()) {
            Err(OpenError::Backend(_) | OpenError::Format { .. }) => tally.found_out += 1,
            Err(error) => panic!("bit {bit} of file {file}: {error}"),
            Ok(store) => read_all(&store, &expected, &mut tally, &format!("bit {bit} of file {file}")).await,
        }
    }
    println!("flipped bits: {tally:?}");
    assert!(tally.found_out > 0);
}

/// A file over `verify_bytes_max` is not read through before it is opened.
#[tokio::test]
async fn no_flipped_bit_of_a_large_file_is_ever_served_or_written_over() {
    let mut dice = Dice::roll();
    let disk = Disk::default();
    let mut config = disk.config();
    config.verify_bytes_max = 0;
    let store = Store::open(config.clone()).unwrap();
    // Three levels of pages below the tables'.
    let mut expected = Map::new();
    for first in (0..6000).step_by(100) {
        let mut batch = Vec::new();
        for number in first..first + 100 {
            let (key, value) = (format!("pods/default/{number:04}x"), format!("{number} ").repeat(50));
            batch.push(Write::put(&*key, Precondition::Any, value.clone()));
            expected.insert(key, value.into_bytes());
        }
        store.write(batch, Durability::Durable).await.unwrap();
    }
    drop(store);
    let closed = disk.image();
    let pages = closed.len(0) / 4096;
    let mut tally = Tally::default();
    let mut writes_refused = 0;
    for round in 0..120 {
        let mut image = closed.clone();
        // Inner pages are few: they are looked for by their first byte.
        let mut page = dice.below(pages);
        while round % 2 == 0 && image.byte(0, page * 4096) != 2 {
            page = (page + 1) % pages;
        }
        let bit = page * 4096 * 8 + dice.below(if round % 4 == 1 { 256 } else { 4096 * 8 });
        image.flip(0, bit);
        let flip = format!("bit {bit}");
        let disk = image.power_on(&mut dice);
        let store = match Store::open(Config { backend: disk.config().backend, ..config.clone() }) {
            Ok(store) => store,
            Err(OpenError::Backend(_) | OpenError::Format { .. }) => {
                tally.found_out += 1;
                continue;
            }
            Err(error) => panic!("{flip}: {error}"),
        };
        read_all(&store, &expected, &mut tally, &flip).await;
        // What redb copies must not get a checksum that holds. A write that it refuses is in the journal still.
        let mut after = expected.clone();
        let keys = (0..6000).map(|number| format!("pods/default/{number:04}x"));
        for key in keys.filter(|_| dice.below(60) == 0).collect::<Vec<_>>() {
            let write = if dice.chance(50) {
                after.insert(key.clone(), b"new".to_vec());
                Write::put(&*key, Precondition::Any, "new")
            } else {
                after.remove(&key);
                Write::delete(&*key, Precondition::Any)
            };
            if let Err(error) = store.write(vec![write], Durability::Durable).await {
                // Its key cannot be looked up: nothing was changed.
                assert!(matches!(error, bramble_store::WriteError::Backend { .. }), "{flip}: {error}");
                match expected.get(&key) {
                    Some(value) => drop(after.insert(key, value.clone())),
                    None => drop(after.remove(&key)),
                }
            }
        }
        drop(store);
        if let Ok(store) = Store::open(Config { backend: disk.config().backend, ..config.clone() }) {
            let mut second = Tally::default();
            read_all(&store, &after, &mut second, &format!("{flip}, after writes,")).await;
            writes_refused += second.found_out;
        }
    }
    println!("flipped bits: {tally:?}; still found out after writes beside them: {writes_refused}");
    assert!(tally.found_out > 20 && writes_refused > 10);
}

/// A copy of a store's files, as a kill would leave them.
fn copy(from: &Path, to: &Path) {
    for suffix in ["", ".journal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(from), name(to)).unwrap();
    }
}

fn flip(path: &str, needle: &[u8]) {
    let mut raw = std::fs::read(path).unwrap();
    let at = raw.windows(needle.len()).rposition(|window| window == needle).unwrap();
    raw[at] ^= 4;
    std::fs::write(path, raw).unwrap();
}

#[tokio::test]
async fn what_is_whole_is_rescued_and_what_is_lost_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(Config::redb(path("store"))).unwrap();
    let mut highest = Revision(0);
    for number in 0..300 {
        let value = format!("value-{number:03}-").repeat(20);
        let put = Write::put(format!("pods/{number:03}"), Precondition::Any, value);
        highest = store.write(vec![put], Durability::Durable).await.unwrap();
    }
    drop(store);
    let store = Store::open(Config::redb(path("store"))).unwrap();
    for number in 0..10 {
        let put = Write::put(format!("nodes/{number}"), Precondition::Any, format!("recent-{number}"));
        highest = store.write(vec![put], Durability::Durable).await.unwrap();
    }
    assert!(matches!(verify(&path("store")), Err(RescueError::Locked(_))));
    copy(&path("store"), &path("killed"));
    drop(store);
    let whole = verify(&path("killed")).unwrap();
    assert_eq!((whole.records, whole.journal_commits, whole.lost), (310, 10, vec![]));

    flip(path("killed").to_str().unwrap(), b"value-123-value");
    flip(path("killed.journal").to_str().unwrap(), b"recent-4");
    let Err(OpenError::Backend(refused)) = Store::open(Config::redb(path("killed"))) else { panic!("it opened") };
    assert!(refused.to_string().contains("salvage"), "{refused}");
    let report = verify(&path("killed")).unwrap();
    assert_eq!(report.records, 308);
    assert!(report.lost.iter().any(|line| line == "the record pods/123"), "{:?}", report.lost);
    assert!(report.lost.iter().any(|line| line.contains("commit 5 since the last checkpoint")), "{:?}", report.lost);

    let (rescued, revision) = salvage(&path("killed"), &path("new")).unwrap();
    assert_eq!(rescued, report);
    assert!(revision > highest);
    assert!(matches!(salvage(&path("killed"), &path("new")), Err(RescueError::Exists(_))));
    assert_eq!(verify(&path("new")).unwrap().lost, [""; 0]);
    let store = Store::open(Config::redb(path("new"))).unwrap();
    let page = store.list(ListQuery::all("")).await.unwrap();
    assert_eq!((page.records.len(), page.revision), (308, revision));
    assert!(store.get("pods/123").await.unwrap().is_none());
    assert_eq!(store.get("nodes/5").await.unwrap().unwrap().value, "recent-5");
}

#[tokio::test]
async fn a_damaged_header_loses_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(Config::redb(&path)).unwrap();
    for number in 0..200 {
        let put = Write::put(format!("pods/{number:03}"), Precondition::Any, number.to_string());
        store.write(vec![put], Durability::Durable).await.unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut found_out = 0;
    // Everything up to the second commit slot's end.
    for bit in (0..320 * 8).step_by(11) {
        let mut raw = whole.clone();
        raw[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, raw).unwrap();
        let report = verify(&path).unwrap();
        assert!(report.records >= 199, "bit {bit}: {report:?}");
        found_out += usize::from(!report.lost.is_empty());
    }
    println!("{found_out} flips of the header found out");
    assert!(found_out > 50);
}
