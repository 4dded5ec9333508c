//! What is etcd's alone: several stores over one cluster, what lies in it, compaction.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bramble_store::{
    Backend, Config, Durability, KeyService, ListQuery, LocalAlgorithm, LocalKey, Precondition, ReadError, Revision,
    Sealing, Store, WatchError, Write,
};

use crate::dice::Dice;
use crate::etcd::Member;
use crate::linear::{History, clients};

const SECRET: &str = "hunter2-must-never-lie-on-a-disk";

async fn put(store: &Store, key: &str, value: &str) -> Revision {
    let write = Write::put(key, Precondition::Any, value.to_owned());
    store.write(vec![write], Durability::Durable).await.unwrap()
}

async fn get(store: &Store, key: &str) -> String {
    String::from_utf8(store.get(key).await.unwrap().unwrap().value.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_of_two_stores_are_linearisable() {
    let (mut dice, member, history) = (Dice::roll(), Member::start(), History::default());
    let stores = [0, 1].map(|_| Store::open(member.at("/shared")).unwrap());
    for round in 0..10 {
        clients(&stores, &history, &mut dice, round, 12).await;
    }
    assert!(history.check() > 500);
}

#[tokio::test]
async fn what_one_store_writes_the_other_one_watches_and_lists() {
    let member = Member::start();
    let [one, two] = [0, 1].map(|_| Store::open(member.at("/shared")).unwrap());
    let mut watch = two.watch("pods/", two.revision()).unwrap();
    let mut last = Revision(0);
    for index in 0..50 {
        last = put(&one, &format!("pods/{index}"), "v").await;
    }
    for index in 0..50 {
        assert_eq!(&*watch.next().await.unwrap().key, format!("pods/{index}"));
    }
    let page = two.list(ListQuery::all("pods/")).await.unwrap();
    assert_eq!((page.records.len(), page.revision), (50, last));
    // A store that starts later knows the events of before, so that a client can go on with it.
    let three = Store::open(member.at("/shared")).unwrap();
    let mut resumed = three.watch("pods/", Revision(last.0 - 10)).unwrap();
    assert_eq!(resumed.next().await.unwrap().revision, Revision(last.0 - 9));
    // Somebody else's writes move etcd's revision and make no event here; a list says a revision that can be watched from.
    let other = Store::open(member.at("/other")).unwrap();
    put(&other, "pods/x", "v").await;
    let page = two.list(ListQuery::all("pods/")).await.unwrap();
    assert!(page.revision > last);
    two.watch("pods/", page.revision).unwrap();
}

#[tokio::test]
async fn a_long_list_is_one_revision_and_many_calls() {
    let member = Member::start();
    let store = Store::open(member.config()).unwrap();
    for start in (0..1200).step_by(100) {
        let names = (start..start + 100).map(|index| format!("pods/{index:05}"));
        let batch = names.map(|name| Write::put(name, Precondition::Absent, vec![b'x'; 2000])).collect();
        store.write(batch, Durability::Durable).await.unwrap();
    }
    let page = store.list(ListQuery::all("pods/")).await.unwrap();
    assert_eq!((page.records.len(), page.more, page.remaining), (1200, false, 0));
    let first = store.list(ListQuery { limit: 700, ..ListQuery::all("pods/") }).await.unwrap();
    assert_eq!((first.records.len(), first.more, first.remaining), (700, true, 500));
    assert!(page.records.is_sorted_by(|a, b| a.key < b.key));
}

#[tokio::test]
async fn old_revisions_are_compacted_and_said_to_be() {
    let member = Member::start();
    let config = |store: &str| {
        let mut config = member.at(store);
        let Backend::Etcd(etcd) = &mut config.backend else { unreachable!() };
        etcd.compaction_period = Duration::from_millis(400);
        config
    };
    let [one, _two] = [0, 1].map(|_| Store::open(config("/shared")).unwrap());
    let old = put(&one, "pods/a", "1").await;
    let mut compacted = false;
    for index in 0..100 {
        put(&one, "pods/a", &index.to_string()).await;
        let query = ListQuery { at: Some(old), ..ListQuery::all("pods/") };
        match one.list(query).await {
            Ok(page) => assert_eq!(page.records[0].revision, old),
            Err(ReadError::Compacted { oldest }) => {
                assert!(oldest > old);
                compacted = true;
                break;
            }
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(compacted, "nothing was compacted");
    // A store that opens now begins after it.
    let three = Store::open(member.at("/shared")).unwrap();
    assert!(matches!(three.watch("pods/", Revision(old.0 - 1)), Err(WatchError::Compacted { .. })));
    let now = put(&one, "pods/a", "last").await;
    three.wait_for(now).await;
    assert_eq!(get(&three, "pods/a").await, "last");
}

fn key(name: &str, byte: u8) -> Arc<dyn KeyService> {
    Arc::new(LocalKey::new(name, LocalAlgorithm::AesGcm, &[byte; 32]).unwrap())
}

fn sealed(member: &Member, byte: u8) -> Config {
    Config { sealing: Sealing::prefixes(&["secrets/"], key("k", byte)), ..member.at("/sealed") }
}

/// How often the files below a folder hold a text.
fn found(dir: &Path, text: &str) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        count += match path.is_dir() {
            true => found(&path, text),
            false => {
                let file = std::fs::read(path).unwrap();
                file.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
            }
        };
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_sealed_for_all_stores_across_rotations() {
    let member = Member::start();
    let open = || tokio::task::block_in_place(|| Store::open(sealed(&member, 1)));
    // Both make the first data key, one of them has it.
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| Store::open(sealed(&member, 1)).unwrap());
        (open().unwrap(), other.join().unwrap())
    });
    put(&one, "secrets/a", SECRET).await;
    put(&two, "secrets/b", SECRET).await;
    put(&one, "configmaps/a", "anybody-may-read-this").await;
    let writer = {
        let two = two.clone();
        tokio::spawn(async move {
            for index in 0..200 {
                put(&two, &format!("secrets/{}", index % 20), &format!("{SECRET} {index}")).await;
            }
        })
    };
    for _ in 0..3 {
        assert!(one.rotate(Sealing::prefixes(&["secrets/"], key("k", 1))).await.unwrap().keys_removed >= 1);
    }
    writer.await.unwrap();
    for store in [&one, &two, &open().unwrap()] {
        assert_eq!(get(store, "secrets/a").await, SECRET);
        assert_eq!(get(store, "secrets/b").await, SECRET);
        for index in 0..20 {
            assert_eq!(get(store, &format!("secrets/{index}")).await, format!("{SECRET} {}", 180 + index));
        }
    }
    let wrong = tokio::task::block_in_place(|| Store::open(sealed(&member, 2))).err().map(|error| format!("{error:?}"));
    assert!(wrong.as_deref().is_some_and(|error| error.contains("KeyWrong")), "{wrong:?}");
    assert!(found(member.dir.path(), "anybody-may-read-this") > 0);
    assert_eq!(found(member.dir.path(), SECRET), 0);
}

#[tokio::test]
async fn a_snapshot_of_etcd_is_a_snapshot() {
    let member = Member::start();
    let store = Store::open(sealed(&member, 1)).unwrap();
    put(&store, "secrets/a", SECRET).await;
    for index in 0..600 {
        put(&store, &format!("pods/{index}"), "v").await;
    }
    let mut snapshot = Vec::new();
    let revision = store.snapshot(&mut snapshot).unwrap();
    assert_eq!(revision, store.revision());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    bramble_store::restore(&path, &*snapshot).unwrap();
    let config = Config { sealing: Sealing::prefixes(&["secrets/"], key("k", 1)), ..Config::redb(path) };
    let restored = Store::open(config).unwrap();
    assert!(restored.revision() > revision);
    assert_eq!(get(&restored, "secrets/a").await, SECRET);
    assert_eq!(restored.keys("pods/").await.unwrap(), 600);
}

#[tokio::test]
async fn a_store_goes_from_a_file_to_etcd_and_back_and_no_revision_comes_twice() {
    let (member, dir) = (Member::start(), tempfile::tempdir().unwrap());
    let sealing = |byte| Sealing::prefixes(&["secrets/"], key("k", byte));
    let file = |name: &str| Config { sealing: sealing(2), ..Config::redb(dir.path().join(name)) };
    let from = Store::open(file("from")).unwrap();
    for index in 0..700 {
        put(&from, &format!("pods/{index}"), &format!("{index:0>900}")).await;
    }
    put(&from, "secrets/a", SECRET).await;
    put(&from, "_own/x", "stays").await;
    let mut config = sealed(&member, 1);
    let Backend::Etcd(etcd) = &mut config.backend else { unreachable!() };
    etcd.origin = from.revision().0 + bramble_store::RESTORE_JUMP;
    let to = Store::open(config).unwrap();
    let content = bramble_store::migrate(&from, &to, "_own/").await.unwrap();
    assert_eq!((content.records, to.keys("").await.unwrap()), (701, 701));
    assert!(to.get("pods/0").await.unwrap().unwrap().revision > from.revision());
    assert!(matches!(to.watch("pods/", from.revision()), Err(WatchError::Compacted { .. })));
    assert_eq!(found(member.dir.path(), SECRET), 0);
    let again = bramble_store::migrate(&from, &to, "").await;
    assert!(matches!(again, Err(bramble_store::MigrateError::NotEmpty(701))));
    // A store that opens later counts on from the same origin.
    let mut watch = to.watch("pods/", to.revision()).unwrap();
    let later = Store::open(sealed(&member, 1)).unwrap();
    let revision = put(&later, "pods/new", "v").await;
    assert_eq!(watch.next().await.unwrap().revision, revision);
    assert!(revision > from.revision());

    let begun = bramble_store::begin(&dir.path().join("back"), to.revision()).unwrap();
    let back = Store::open(file("back")).unwrap();
    assert_eq!(bramble_store::migrate(&to, &back, "").await.unwrap().records, 702);
    assert_eq!(get(&back, "secrets/a").await, SECRET);
    assert!(begun > revision && put(&back, "pods/more", "v").await > begun);
    assert!(matches!(back.watch("pods/", revision), Err(WatchError::Compacted { .. })));
}

#[tokio::test]
async fn what_is_not_ours_in_etcd_is_left_alone() {
    let member = Member::start();
    let store = Store::open(member.at("/registry")).unwrap();
    put(&store, "pods/a", "v").await;
    drop(store);
    // Below another one's keys, which are no marker of a store.
    let Err(error) = Store::open(member.at("/registry/pods")) else { panic!("it opened") };
    assert!(format!("{error:?}").contains("not ours"), "{error:?}");
}
