//! Watches: order, resumption, wake-ups, bookmarks.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bramble_store::{Config, Durability, EventKind, Precondition, Revision, Store, Write};

fn memory() -> Store {
    Store::open(Config::memory()).unwrap()
}

async fn put(store: &Store, key: &str, value: &str) -> Revision {
    let write = Write::put(key, Precondition::Any, value.to_owned());
    store.write(vec![write], Durability::Durable).await.unwrap()
}

#[tokio::test]
async fn a_watch_gives_every_event_under_its_prefix_in_order() {
    let store = memory();
    let begin = store.revision();
    let mut watch = store.watch("pods/a/", begin).unwrap();
    let one = put(&store, "pods/a/1", "x").await;
    put(&store, "pods/b/1", "x").await;
    put(&store, "nodes/a/", "x").await;
    let two = put(&store, "pods/a/1", "y").await;
    let gone = store.write(vec![Write::delete("pods/a/1", Precondition::Any)], Durability::Durable).await.unwrap();
    let first = watch.next().await.unwrap();
    assert_eq!((first.kind, first.revision, first.previous), (EventKind::Put, one, None));
    let second = watch.next().await.unwrap();
    assert_eq!((second.revision, &second.value[..]), (two, &b"y"[..]));
    assert_eq!(second.previous, Some((one, "x".into())));
    let third = watch.next().await.unwrap();
    assert_eq!((third.kind, third.revision, &third.value[..]), (EventKind::Delete, gone, &b"y"[..]));
    assert_eq!(watch.try_next(), Ok(None));
    let mut resumed = store.watch("pods/a/", one).unwrap();
    assert_eq!(resumed.next().await.unwrap().revision, two);
}

#[tokio::test]
async fn values_are_shared_not_copied() {
    let store = memory();
    let mut watches: Vec<_> = (0..3).map(|_| store.watch("pods/", store.revision()).unwrap()).collect();
    put(&store, "pods/a", "a value").await;
    let mut pointers = Vec::new();
    for watch in &mut watches {
        pointers.push(watch.next().await.unwrap().value.as_ptr());
    }
    assert!(pointers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_bookmark_never_runs_ahead_of_its_events() {
    let store = memory();
    let begin = store.revision();
    let mut watch = store.watch("pods/", begin).unwrap();
    assert_eq!(watch.caught_up_to(), begin);
    let elsewhere = put(&store, "nodes/a", "x").await;
    assert_eq!(watch.caught_up_to(), elsewhere);
    let batch = ["pods/a", "pods/b"].map(|key| Write::put(key, Precondition::Any, "v"));
    let both = store.write(batch.to_vec(), Durability::Durable).await.unwrap();
    assert_eq!(watch.caught_up_to(), Revision(both.0 - 1));
    watch.next().await.unwrap();
    assert_eq!(watch.caught_up_to(), Revision(both.0 - 1), "half a batch is not caught up");
    watch.next().await.unwrap();
    assert_eq!(watch.caught_up_to(), both);
}

/// Counts wake-ups of a waiting watch.
struct Counter(std::sync::atomic::AtomicU64);

impl std::task::Wake for Counter {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[tokio::test]
async fn only_its_own_resource_wakes_a_watch() {
    let store = memory();
    let mut watch = store.watch("pods/", store.revision()).unwrap();
    let counter = std::sync::Arc::new(Counter(0.into()));
    let waker = Waker::from(counter.clone());
    let mut next = pin!(watch.next());
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    for index in 0..10 {
        put(&store, &format!("nodes/{index}"), "x").await;
    }
    assert_eq!(counter.0.load(std::sync::atomic::Ordering::SeqCst), 0);
    put(&store, "pods/a", "x").await;
    // The answer to the write and the wake-up are sent by the same thread, the wake-up first.
    assert_eq!(counter.0.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert!(matches!(next.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(_))));
}

#[tokio::test]
async fn a_long_history_of_live_watchers_loses_nothing() {
    let mut config = Config::memory();
    config.history_bytes_per_resource = 64 << 10;
    let store = Store::open(config).unwrap();
    let begin = store.revision();
    let watchers: Vec<_> = (0..4)
        .map(|_| {
            let mut watch = store.watch("pods/", begin).unwrap();
            tokio::spawn(async move {
                let mut last = begin;
                for _ in 0..2000 {
                    let event = watch.next().await.unwrap();
                    assert!(event.revision > last);
                    last = event.revision;
                }
                last
            })
        })
        .collect();
    let mut last = begin;
    for index in 0..2000 {
        last = put(&store, &format!("pods/{}", index % 50), &"x".repeat(200)).await;
    }
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), last);
    }
}
