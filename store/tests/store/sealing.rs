//! Sealing at rest: what the files hold, wrong keys, rotation.

use std::path::Path;
use std::sync::Arc;

use bramble_store::{
    Config, Durability, KeyService, ListQuery, LocalAlgorithm, LocalKey, OpenError, Precondition, SealError, Sealing,
    Store, Write, inspect, restore,
};

const SECRET: &str = "hunter2-must-never-lie-on-a-disk";
const PLAIN: &str = "a-config-map-that-anybody-may-read";

fn key(name: &str, byte: u8) -> Arc<dyn KeyService> {
    Arc::new(LocalKey::new(name, LocalAlgorithm::AesGcm, &[byte; 32]).unwrap())
}

fn sealing(keys: &[(&str, u8)]) -> Sealing {
    let mut sealing = Sealing::prefixes(&["secrets/"], key(keys[0].0, keys[0].1));
    sealing.services.extend(keys[1..].iter().map(|(name, byte)| key(name, *byte)));
    sealing
}

fn config(dir: &Path, sealing: Sealing) -> Config {
    Config { sealing, ..Config::redb(dir.join("store.redb")) }
}

async fn put(store: &Store, key: &str, value: &str, floor: Durability) {
    store.write(vec![Write::put(key, Precondition::Any, value.to_owned())], floor).await.unwrap();
}

async fn get(store: &Store, key: &str) -> String {
    String::from_utf8(store.get(key).await.unwrap().unwrap().value.to_vec()).unwrap()
}

/// How often the files of a folder hold a text.
fn found(dir: &Path, text: &str) -> usize {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.map(|file| file.windows(text.len()).filter(|window| *window == text.as_bytes()).count()).sum()
}

#[tokio::test]
async fn no_secret_lies_in_any_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path(), sealing(&[("a", 1)]))).unwrap();
    for (index, floor) in [Durability::Durable, Durability::Deferred, Durability::Volatile].into_iter().enumerate() {
        put(&store, &format!("secrets/ns/{index}"), &format!("{SECRET} {floor:?}"), floor).await;
        put(&store, &format!("configmaps/ns/{index}"), &format!("{PLAIN} {floor:?}"), floor).await;
    }
    put(&store, "secrets/ns/0", &format!("{SECRET} again"), Durability::Durable).await;
    store.write(vec![Write::delete("secrets/ns/1", Precondition::Any)], Durability::Durable).await.unwrap();
    let mut snapshot = Vec::new();
    store.snapshot(&mut snapshot).unwrap();
    store.rotate(sealing(&[("b", 2), ("a", 1)])).await.unwrap();
    assert_eq!(get(&store, "secrets/ns/0").await, format!("{SECRET} again"));
    drop(store);
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*snapshot), &mut unpacked).unwrap();
    std::fs::write(dir.path().join("snapshot"), unpacked).unwrap();
    assert_eq!(found(dir.path(), SECRET), 0);
    assert!(found(dir.path(), PLAIN) > 1, "the search itself must be able to find something");
}

#[tokio::test]
async fn a_wrong_or_missing_key_fails_at_start_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let right = || config(dir.path(), sealing(&[("a", 1)]));
    let store = Store::open(right()).unwrap();
    put(&store, "secrets/ns/x", SECRET, Durability::Durable).await;
    drop(store);
    let open = |sealing| match Store::open(config(dir.path(), sealing)) {
        Err(OpenError::Sealed(error)) => error,
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert_eq!(open(sealing(&[("a", 9)])), SealError::KeyWrong { service: "a".into() });
    assert_eq!(open(sealing(&[("b", 1)])), SealError::KeyMissing { service: "a".into() });
    assert_eq!(open(Sealing::default()), SealError::KeyMissing { service: "a".into() });
    let store = Store::open(right()).unwrap();
    assert_eq!(get(&store, "secrets/ns/x").await, SECRET);
    assert_eq!(store.keys("").await.unwrap(), 2, "the record and its one data key");
}

#[tokio::test]
async fn keys_rotate_under_writers_and_the_old_key_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path(), sealing(&[("a", 1)]))).unwrap();
    for part in 0..3 {
        let put = |index| Write::put(format!("secrets/ns/{part}-{index}"), Precondition::Any, SECRET);
        store.write((0..100).map(put).collect(), Durability::Durable).await.unwrap();
    }
    put(&store, "configmaps/ns/x", PLAIN, Durability::Durable).await;
    let before = store.list(ListQuery::all("secrets/")).await.unwrap();
    let begin = store.revision();
    let mut watch = store.watch("secrets/", begin).unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for index in 0..100 {
                put(&store, &format!("secrets/other/{index}"), SECRET, Durability::Durable).await;
            }
        }
    });
    let mut rotation = store.rotate(sealing(&[("b", 2), ("a", 1)])).await.unwrap();
    writer.await.unwrap();
    assert!(rotation.resealed >= 300 && rotation.keys_removed == 1, "{rotation:?}");
    let after = store.list(ListQuery::all("secrets/ns/")).await.unwrap();
    assert!(after.records == before.records, "neither values nor revisions change");
    while let Some(event) = watch.try_next().unwrap() {
        assert!(event.key.starts_with("secrets/other/"), "nobody sees an event of {}", event.key);
    }
    drop(store);
    let store = Store::open(config(dir.path(), sealing(&[("b", 2)]))).unwrap();
    assert!(store.list(ListQuery::all("secrets/ns/")).await.unwrap().records == before.records);
    // Everything plain again, and then no key is needed at all.
    let none = Sealing { rules: Vec::new(), ..sealing(&[("b", 2)]) };
    rotation = store.rotate(none).await.unwrap();
    assert_eq!((rotation.resealed, rotation.keys_removed), (400, 1));
    drop(store);
    let store = Store::open(config(dir.path(), Sealing::default())).unwrap();
    assert!(store.list(ListQuery::all("secrets/ns/")).await.unwrap().records == before.records);
}

#[tokio::test]
async fn a_snapshot_stays_sealed_and_opens_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path(), sealing(&[("a", 1)]))).unwrap();
    put(&store, "secrets/ns/rest", SECRET, Durability::Durable).await;
    put(&store, "secrets/ns/memory", SECRET, Durability::Volatile).await;
    let mut saved = Vec::new();
    let revision = store.snapshot(&mut saved).unwrap();
    drop(store);
    let summary = inspect(&saved[..]).unwrap();
    assert_eq!((summary.revision, summary.records, summary.sealed), (revision, 3, 2));
    assert_eq!(summary.resources.keys().collect::<Vec<_>>(), [".sealing", "secrets"]);
    let restored = dir.path().join("restored");
    std::fs::create_dir(&restored).unwrap();
    restore(&restored.join("store.redb"), &saved[..]).unwrap();
    assert!(matches!(Store::open(config(&restored, Sealing::default())), Err(OpenError::Sealed(_))));
    let store = Store::open(config(&restored, sealing(&[("a", 1)]))).unwrap();
    assert_eq!(get(&store, "secrets/ns/rest").await, SECRET);
    assert_eq!(get(&store, "secrets/ns/memory").await, SECRET);
    assert_eq!(found(&restored, SECRET), 0);
}

#[tokio::test]
async fn records_that_are_made_while_keys_change_can_be_read_ever_after() {
    let store = Store::open(Config { sealing: sealing(&[("a", 1)]), ..crate::disk::Disk::default().config() }).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let store = store.clone();
        writers.spawn(async move {
            for number in 0..150 {
                put(&store, &format!("secrets/{writer}/{number}"), SECRET, Durability::Durable).await;
            }
        });
    }
    for round in 0..40u8 {
        let (new, old) = (format!("{}", round + 1), format!("{round}"));
        let former = if round == 0 { ("a", 1) } else { (old.as_str(), round) };
        store.rotate(sealing(&[(&new, round + 1), former])).await.unwrap();
    }
    writers.join_all().await;
    assert_eq!(store.list(ListQuery::all("secrets/")).await.unwrap().records.len(), 450);
}
