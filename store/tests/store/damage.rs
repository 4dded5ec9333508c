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
    let (mut found_out, mut harmless) = (0, 0);
    for round in 0..400 {
        let mut image = if round % 2 == 0 { killed.clone() } else { closed.clone() };
        // Every other one where it matters most: the headers and the first pages.
        let file = (round / 2) % 2;
        let bits = if dice.chance(30) { 4096 } else { image.len(file) * 8 };
        let bit = dice.below(bits);
        image.flip(file, bit);
        let disk = image.power_on(&mut dice);
        match Store::open(disk.config()) {
            Err(OpenError::Backend(_) | OpenError::Format { .. }) => found_out += 1,
            Err(error) => panic!("bit {bit} of file {file}: {error}"),
            Ok(store) => match store.list(ListQuery::all("")).await {
                Ok(page) => {
                    let served: Map = page.records.into_iter().map(|it| (it.key, it.value.to_vec())).collect();
                    assert!(served == expected, "bit {bit} of file {file} was served");
                    harmless += 1;
                }
                Err(ReadError::Corrupt { .. } | ReadError::Backend { .. }) => found_out += 1,
                Err(error) => panic!("bit {bit} of file {file}: {error}"),
            },
        }
    }
    println!("flipped bits: {found_out} found out, {harmless} where nothing lies");
    assert!(found_out > 0);
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
