//! What every backend must do. One test function runs the suite on each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramble_store::{
    Clock, Config, Durability, EventKind, ListQuery, Precondition, ReadError, Revision, Store, WatchError, Write,
    WriteError,
};

use crate::disk::Disk;

const ALL: [Durability; 3] = [Durability::Volatile, Durability::Deferred, Durability::Durable];

async fn put(store: &Store, key: &str, value: &str, floor: Durability) -> Revision {
    store.write(vec![Write::put(key, Precondition::Any, value.to_owned())], floor).await.unwrap()
}

async fn value(store: &Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

async fn keys(store: &Store, query: ListQuery<'_>) -> Vec<String> {
    store.list(query).await.unwrap().records.into_iter().map(|record| record.key).collect()
}

/// What backends may do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// A list at an older revision is made from the history of events.
    InMemory,
    /// The backend keeps older versions itself, and takes smaller values.
    #[cfg(feature = "etcd")]
    AtRest,
}

#[tokio::test]
async fn memory() {
    suite(Config::memory, Past::InMemory).await;
}

#[tokio::test]
async fn redb() {
    suite(|| Disk::default().config(), Past::InMemory).await;
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn etcd() {
    let member = crate::etcd::Member::start();
    suite(|| member.config(), Past::AtRest).await;
}

async fn suite(config: impl Fn() -> Config, past: Past) {
    let open = || Store::open(config()).unwrap();
    writes_are_read_and_ordered(open()).await;
    preconditions(open()).await;
    batches(open()).await;
    pages(open()).await;
    lists_at_older_revisions(open()).await;
    counts(open()).await;
    bounds(open(), past).await;
    many_writers_one_winner(open()).await;
    let mut small = config();
    small.history_bytes_per_resource = 2000;
    history_is_bounded(Store::open(small).unwrap(), past).await;
    // etcd forgets by itself: what its members still hold may be older than our rings.
    if past == Past::InMemory {
        history_ages(config()).await;
    }
    let mut small = config();
    small.overlay_bytes = 4000;
    memory_is_bounded(Store::open(small).unwrap()).await;
    closing(open()).await;
}

async fn writes_are_read_and_ordered(store: Store) {
    let mut last = store.revision();
    assert!(last > Revision(0));
    for floor in ALL {
        let key = format!("pods/default/{floor:?}");
        assert_eq!(value(&store, &key).await, None);
        for text in ["one", "two"] {
            let revision = put(&store, &key, text, floor).await;
            assert!(revision > last);
            last = revision;
            assert_eq!(store.revision(), revision);
            assert_eq!(value(&store, &key).await.as_deref(), Some(text));
            assert_eq!(store.get(&key).await.unwrap().unwrap().revision, revision);
        }
        let gone = store.write(vec![Write::delete(key.as_str(), Precondition::Any)], floor).await.unwrap();
        assert!(gone > last);
        last = gone;
        assert_eq!(value(&store, &key).await, None);
        let nothing = store.write(vec![Write::delete(key.as_str(), Precondition::Any)], floor).await.unwrap();
        assert_eq!(nothing, last, "deleting nothing is no change");
    }
    assert_eq!(store.write(Vec::new(), Durability::Durable).await.unwrap(), last);
    store.wait_for(last).await;
    store.flush().await.unwrap();
    assert_eq!(store.durable_revision(), last);
}

async fn preconditions(store: Store) {
    for floor in ALL {
        let key = format!("pods/{floor:?}");
        let write = |precondition| store.write(vec![Write::put(key.as_str(), precondition, "v")], floor);
        assert!(matches!(write(Precondition::Present).await, Err(WriteError::Conflict { current: None, .. })));
        let first = write(Precondition::Absent).await.unwrap();
        match write(Precondition::Absent).await {
            Err(WriteError::Conflict { key: conflict, current }) => {
                assert_eq!((conflict, current), (key.clone(), Some(first)));
            }
            other => panic!("{other:?}"),
        }
        let second = write(Precondition::At(first)).await.unwrap();
        assert!(write(Precondition::At(first)).await.is_err());
        write(Precondition::Present).await.unwrap();
        assert!(store.write(vec![Write::delete(key.as_str(), Precondition::At(second))], floor).await.is_err());
    }
}

async fn batches(store: Store) {
    put(&store, "nodeports/30080", "taken", Durability::Durable).await;
    let before = store.revision();
    let batch = |port: &str| {
        vec![
            Write::put("services/default/web", Precondition::Absent, "svc"),
            Write::put(format!("nodeports/{port}"), Precondition::Absent, "web"),
        ]
    };
    let failed = store.write(batch("30080"), Durability::Durable).await;
    assert!(matches!(failed, Err(WriteError::Conflict { ref key, .. }) if key == "nodeports/30080"));
    assert_eq!(value(&store, "services/default/web").await, None, "all or nothing");
    assert_eq!(store.revision(), before);
    let mut services = store.watch("services/", before).unwrap();
    let mut ports = store.watch("nodeports/", before).unwrap();
    let revision = store.write(batch("30081"), Durability::Durable).await.unwrap();
    assert_eq!(services.next().await.unwrap().revision, revision);
    assert_eq!(ports.next().await.unwrap().revision, revision);
}

async fn pages(store: Store) {
    // Names that sort around the separator, in memory and at rest.
    let resources = ["pods", "pods.metrics", "podtemplates"];
    for (index, name) in ["a/1", "a/2", "a-b/1", "b/1", "b/2", "c/1"].iter().enumerate() {
        for resource in resources {
            put(&store, &format!("{resource}/{name}"), name, ALL[index % 3]).await;
        }
    }
    assert_eq!(
        keys(&store, ListQuery::all("pods/")).await,
        ["pods/a-b/1", "pods/a/1", "pods/a/2", "pods/b/1", "pods/b/2", "pods/c/1"]
    );
    assert_eq!(keys(&store, ListQuery::all("pods/a/")).await, ["pods/a/1", "pods/a/2"]);
    assert_eq!(keys(&store, ListQuery::all("nothing/")).await, [""; 0]);
    let everything = keys(&store, ListQuery::all("")).await;
    assert_eq!(everything.len(), 18);
    assert!(everything.is_sorted());
    let first = store.list(ListQuery { limit: 4, ..ListQuery::all("pods/") }).await.unwrap();
    assert_eq!((first.records.len(), first.more, first.remaining), (4, true, 2));
    put(&store, "pods/d/1", "later", Durability::Durable).await;
    let last = first.records[3].key.as_str();
    let rest = ListQuery { after: Some(last), limit: 4, at: Some(first.revision), prefix: "pods/" };
    let second = store.list(rest).await.unwrap();
    assert_eq!(second.revision, first.revision);
    assert_eq!((second.records.len(), second.more, second.remaining), (2, false, 0));
}

async fn lists_at_older_revisions(store: Store) {
    let mut states = Vec::new();
    for (index, (key, text)) in [
        ("a", Some("1")),
        ("b", Some("1")),
        ("a", Some("2")),
        ("b", None),
        ("c", Some("1")),
        ("b", Some("2")),
        ("a", None),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("pods/{key}");
        let write = match text {
            Some(text) => Write::put(key, Precondition::Any, text),
            None => Write::delete(key, Precondition::Any),
        };
        store.write(vec![write], ALL[index % 3]).await.unwrap();
        states.push(store.list(ListQuery::all("pods/")).await.unwrap());
    }
    for state in &states {
        let again = store.list(ListQuery { at: Some(state.revision), ..ListQuery::all("pods/") }).await.unwrap();
        assert_eq!(again.records, state.records);
        let mut paged = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let query = ListQuery { prefix: "pods/", after: after.as_deref(), limit: 1, at: Some(state.revision) };
            let page = store.list(query).await.unwrap();
            paged.extend(page.records);
            assert_eq!(page.remaining as usize, state.records.len() - paged.len());
            if !page.more {
                break;
            }
            after = paged.last().map(|record| record.key.clone());
        }
        assert_eq!(paged, state.records);
    }
    let future = Revision(store.revision().0 + 1);
    let query = ListQuery { at: Some(future), ..ListQuery::all("pods/") };
    assert!(matches!(store.list(query).await, Err(ReadError::TooNew { current }) if current == store.revision()));
    assert!(matches!(store.watch("pods/", future), Err(WatchError::TooNew { .. })));
    let query = ListQuery { at: Some(Revision(0)), ..ListQuery::all("pods/") };
    assert!(matches!(store.list(query).await, Err(ReadError::Compacted { .. })));
}

async fn counts(store: Store) {
    for name in ["a/1", "a/2", "b/1"] {
        put(&store, &format!("pods/{name}"), "v", Durability::Durable).await;
    }
    assert_eq!(store.keys("pods/").await.unwrap(), 3);
    assert_eq!(store.keys("pods/a/").await.unwrap(), 2);
    put(&store, "pods/a/1", "again", Durability::Deferred).await;
    put(&store, "pods/c/1", "v", Durability::Volatile).await;
    store.write(vec![Write::delete("pods/b/1", Precondition::Any)], Durability::Durable).await.unwrap();
    store.write(vec![Write::delete("pods/a/2", Precondition::Any)], Durability::Durable).await.unwrap();
    assert_eq!(store.keys("pods/").await.unwrap(), 2);
    assert_eq!(store.keys("").await.unwrap(), 2);
}

async fn bounds(store: Store, past: Past) {
    for key in ["", "pods", "/x"] {
        let write = store.write(vec![Write::put(key, Precondition::Any, "v")], Durability::Durable).await;
        assert!(matches!(write, Err(WriteError::InvalidKey { .. })), "{key:?}");
    }
    let twice = vec![Write::put("r/a", Precondition::Any, "v"), Write::delete("r/a", Precondition::Any)];
    assert!(matches!(store.write(twice, Durability::Durable).await, Err(WriteError::InvalidKey { .. })));
    assert!(matches!(store.watch("pods", store.revision()), Err(WatchError::NoResource)));
    // Nothing that could be packed.
    let mut state = 7_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let large: Vec<u8> = (0..bramble_store::VALUE_BYTES_MAX).map(|_| noise()).collect();
    let written = store.write(vec![Write::put("r/large", Precondition::Any, large.clone())], Durability::Durable).await;
    if past != Past::InMemory {
        return assert!(matches!(written, Err(WriteError::ValueTooLarge { bytes, .. }) if bytes == large.len()));
    }
    written.unwrap();
    assert_eq!(store.get("r/large").await.unwrap().unwrap().value, large);
}

async fn many_writers_one_winner(store: Store) {
    put(&store, "pods/n", "0", Durability::Durable).await;
    let tasks: Vec<_> = (0..32)
        .map(|index| {
            let store = store.clone();
            tokio::spawn(async move {
                let floor = ALL[index % 3];
                loop {
                    let record = store.get("pods/n").await.unwrap().unwrap();
                    let next: u64 = String::from_utf8(record.value.to_vec()).unwrap().parse::<u64>().unwrap() + 1;
                    let write = Write::put("pods/n", Precondition::At(record.revision), next.to_string());
                    match store.write(vec![write], floor).await {
                        Ok(_) => return,
                        Err(WriteError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(value(&store, "pods/n").await.as_deref(), Some("32"));
}

async fn history_is_bounded(store: Store, past: Past) {
    let begin = store.revision();
    let mut stalled = store.watch("pods/", begin).unwrap();
    let mut other = store.watch("nodes/", begin).unwrap();
    put(&store, "nodes/a", "v", Durability::Durable).await;
    for index in 0..40 {
        put(&store, &format!("pods/{index}"), &"x".repeat(100), Durability::Durable).await;
    }
    assert_eq!(stalled.next().await, Err(WatchError::SlowConsumer));
    assert_eq!(other.next().await.unwrap().kind, EventKind::Put, "another resource keeps its history");
    let Err(WatchError::Compacted { oldest }) = store.watch("pods/", begin) else { panic!("must be compacted") };
    let query = |at| ListQuery { at: Some(at), ..ListQuery::all("pods/") };
    match store.list(query(begin)).await {
        Err(ReadError::Compacted { .. }) => assert_eq!(past, Past::InMemory),
        page => assert!(past != Past::InMemory && page.unwrap().records.is_empty()),
    }
    store.watch("nodes/", begin).unwrap();
    store.watch("pods/", oldest).unwrap();
    assert!(store.list(query(oldest)).await.unwrap().records.len() < 40);
}

/// History is forgotten by age too, but only when something is written: nothing happens by itself.
async fn history_ages(mut config: Config) {
    let seconds = Arc::new(AtomicU64::new(0));
    let shown = seconds.clone();
    config.clock = Clock::new(move || Duration::from_secs(shown.load(Ordering::SeqCst)));
    config.history_age_max = Duration::from_secs(300);
    let store = Store::open(config).unwrap();
    let first = put(&store, "pods/a", "1", Durability::Durable).await;
    let second = put(&store, "pods/a", "2", Durability::Durable).await;
    seconds.store(200, Ordering::SeqCst);
    let third = put(&store, "pods/b", "3", Durability::Durable).await;
    let mut asleep = store.watch("pods/", third).unwrap();
    seconds.store(301, Ordering::SeqCst);
    // Too old, but nobody has written.
    let mut early = store.watch("pods/", first).unwrap();
    assert_eq!(early.next().await.unwrap().revision, second);
    put(&store, "nodes/a", "1", Durability::Volatile).await;
    assert!(matches!(store.watch("pods/", first), Err(WatchError::Compacted { oldest }) if oldest == second));
    let older = ListQuery { at: Some(first), ..ListQuery::all("pods/") };
    assert!(matches!(store.list(older).await, Err(ReadError::Compacted { oldest }) if oldest == second));
    // What is young enough is there; a reader that had read on goes on.
    assert_eq!(store.watch("pods/", second).unwrap().next().await.unwrap().revision, third);
    assert_eq!(early.next().await.unwrap().revision, third);
    let older = ListQuery { at: Some(second), ..ListQuery::all("pods/") };
    assert_eq!(store.list(older).await.unwrap().records.len(), 1);
    // The newest batch stays whatever its age: who slept since then is not cut off.
    seconds.store(10_000, Ordering::SeqCst);
    put(&store, "nodes/a", "2", Durability::Durable).await;
    assert_eq!(store.watch("pods/", second).unwrap().next().await.unwrap().revision, third);
    let fourth = put(&store, "pods/b", "4", Durability::Durable).await;
    assert_eq!(asleep.next().await.unwrap().revision, fourth);
    assert!(matches!(store.watch("pods/", second), Err(WatchError::Compacted { oldest }) if oldest == third));
}

async fn memory_is_bounded(store: Store) {
    for index in 0..100 {
        put(&store, &format!("events/{index}"), &"x".repeat(100), Durability::Volatile).await;
    }
    assert_eq!(keys(&store, ListQuery::all("events/")).await.len(), 100);
}

async fn closing(store: Store) {
    let mut watch = store.watch("pods/", store.revision()).unwrap();
    let waiting = tokio::spawn(async move { watch.next().await });
    tokio::task::yield_now().await;
    drop(store);
    assert_eq!(waiting.await.unwrap(), Err(WatchError::Closed));
}
