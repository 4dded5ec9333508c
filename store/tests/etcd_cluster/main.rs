//! Several stores over three etcd members that are killed, paused and cut off while clients write. Needs root: members have
//! network namespaces of their own.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod cluster;
#[allow(dead_code, reason = "other tests share it")]
#[path = "../store/dice.rs"]
mod dice;
#[allow(dead_code, reason = "other tests share it")]
#[path = "../store/disk.rs"]
mod disk;
#[allow(dead_code, reason = "other tests share it")]
#[path = "../store/linear.rs"]
mod linear;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bramble_store::{Durability, EventKind, ListQuery, Precondition, ReadError, Revision, Store, WatchError, Write};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Fault, MEMBERS, enter};
use crate::dice::Dice;
use crate::linear::{History, key};

/// A quorum stands: so soon is a write taken again. An election takes one or two seconds, a write on its way to a member
/// that stopped is given up after six.
const BACK_MAX: Duration = Duration::from_secs(15);
/// A fault lasts so long.
const FAULT: Duration = Duration::from_secs(3);
/// So many operations meet on the same few keys: a history must stay searchable.
const OPERATIONS_A_ROUND: u64 = 60;

/// What happens between two stores and three members.
struct Scene {
    cluster: Cluster,
    stores: [Store; 2],
    history: History,
    stop: Arc<AtomicBool>,
}

async fn client(store: Store, history: History, stop: Arc<AtomicBool>, operations: Arc<AtomicU64>, mut dice: Dice) {
    while !stop.load(Ordering::Relaxed) {
        let round = operations.fetch_add(1, Ordering::Relaxed) / OPERATIONS_A_ROUND;
        let key = key(&mut dice, round);
        match dice.chance(40) {
            true => drop(history.read(&store, &key).await),
            false => drop(history.write(&store, &key, &mut dice).await),
        }
    }
}

impl Scene {
    /// How long until each store takes a write.
    async fn back(&self) -> Duration {
        let begun = Instant::now();
        for (index, store) in self.stores.iter().enumerate() {
            while begun.elapsed() < BACK_MAX {
                let write = Write::put(format!("probes/{index}"), Precondition::Any, "v");
                if store.write(vec![write], Durability::Durable).await.is_ok() {
                    break;
                }
            }
        }
        let back = begun.elapsed();
        assert!(back < BACK_MAX, "no write was taken for {back:?}");
        back
    }
}

/// Follows the events of a store as a client does: lists, watches, lists again where it is told to. Ends with the state
/// at a revision.
async fn follow(store: Store, until: Arc<AtomicU64>, lists: Arc<AtomicU64>) -> BTreeMap<String, Vec<u8>> {
    loop {
        let Ok(page) = store.list(ListQuery::all("pods/")).await else { continue };
        lists.fetch_add(1, Ordering::Relaxed);
        let records = page.records.into_iter().map(|record| (record.key, record.value.to_vec()));
        let mut state: BTreeMap<_, _> = records.collect();
        store.wait_for(page.revision).await;
        let Ok(mut watch) = store.watch("pods/", page.revision) else { continue };
        let mut last = page.revision;
        loop {
            let end = Revision(until.load(Ordering::SeqCst));
            if watch.caught_up_to() >= end {
                return state;
            }
            let event = match tokio::time::timeout(Duration::from_millis(200), watch.next()).await {
                Ok(Ok(event)) => event,
                Ok(Err(_)) => break,
                Err(_) => continue,
            };
            assert!(event.revision >= last, "events out of order");
            last = event.revision;
            let before = match event.kind {
                EventKind::Put => state.insert(event.key.to_string(), event.value.to_vec()),
                EventKind::Delete => state.remove(&*event.key),
            };
            let told = event.previous.map(|(_, value)| value.to_vec());
            assert_eq!(before, told, "an event of {} was lost", event.key);
        }
    }
}

/// On a thread in the cluster's network, with all that it starts, so that no socket of the test is anywhere else.
fn in_network<T: Send>(hub: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(hub);
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Faults in turn; says how long each kept writes away.
async fn play(scene: &mut Scene, dice: &mut Dice) {
    for fault in [Fault::Kill, Fault::Pause, Fault::Cut, Fault::Kill, Fault::Pause, Fault::Cut] {
        let member = dice.below(MEMBERS as u64) as usize;
        scene.cluster.hurt(member, fault);
        let back = scene.back().await;
        tokio::time::sleep(FAULT.saturating_sub(back)).await;
        scene.cluster.heal(member, fault);
        scene.back().await;
        println!("{fault:?} of one: writes again after {:.1} s", back.as_secs_f64());
    }
    for fault in [Fault::Kill, Fault::Pause, Fault::Cut] {
        let first = dice.below(MEMBERS as u64) as usize;
        let second = (first + 1) % MEMBERS;
        scene.cluster.hurt(first, fault);
        scene.cluster.hurt(second, fault);
        tokio::time::sleep(FAULT).await;
        scene.cluster.heal(first, fault);
        let back = scene.back().await;
        scene.cluster.heal(second, fault);
        println!("{fault:?} of two: writes again {:.1} s after the quorum", back.as_secs_f64());
    }
}

/// Every key that was used, and what it is at last.
async fn judge(scene: &Scene) -> Revision {
    let [one, two] = &scene.stores;
    scene.history.settle(one).await;
    scene.history.settle(two).await;
    println!("{} operations are linearisable", scene.history.check());
    one.flush().await.unwrap()
}

#[test]
fn members_fail_and_nothing_acknowledged_is_lost() {
    let mut dice = Dice::roll();
    let cluster = Cluster::start();
    let hub = cluster.hub();
    in_network(&hub, || {
        let stores = [0, 1].map(|first| Store::open(cluster.config(first)).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut scene = Scene { cluster, stores, history: History::default(), stop: Arc::default() };
        runtime.block_on(async {
            let (until, lists) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)));
            let operations = Arc::new(AtomicU64::new(0));
            let (mut clients, mut followers) = (JoinSet::new(), JoinSet::new());
            for index in 0..6 {
                let store = scene.stores[index % 2].clone();
                let (history, stop) = (scene.history.clone(), scene.stop.clone());
                clients.spawn(client(store, history, stop, operations.clone(), dice.split()));
            }
            for store in &scene.stores {
                followers.spawn(follow(store.clone(), until.clone(), lists.clone()));
            }
            play(&mut scene, &mut dice).await;
            scene.stop.store(true, Ordering::Relaxed);
            clients.join_all().await;
            until.store(judge(&scene).await.0, Ordering::SeqCst);
            let seen = followers.join_all().await;
            println!("two followers listed {} times", lists.load(Ordering::Relaxed));
            let page = scene.stores[0].list(ListQuery::all("pods/")).await.unwrap();
            let state: BTreeMap<_, _> =
                page.records.into_iter().map(|record| (record.key, record.value.to_vec())).collect();
            assert!(seen.iter().all(|seen| *seen == state), "what followers saw is not what is there");
        });
    });
}

#[test]
fn a_watch_does_not_wait_for_ever_for_a_cluster_that_is_gone() {
    let mut cluster = Cluster::start();
    in_network(&cluster.hub(), || {
        let store = Store::open(cluster.config(0)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let write = || vec![Write::put("pods/a", Precondition::Any, "v")];
            let before = store.write(write(), Durability::Durable).await.unwrap();
            let mut watch = store.watch("pods/", before).unwrap();
            (0..MEMBERS).for_each(|member| cluster.hurt(member, Fault::Pause));
            let told = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.unwrap();
            assert_eq!(told, Err(WatchError::SlowConsumer));
            assert!(matches!(store.list(ListQuery::all("pods/")).await, Err(ReadError::Unavailable { .. })));
            (0..MEMBERS).for_each(|member| cluster.heal(member, Fault::Pause));
            let mut after = None;
            while after.is_none() {
                after = store.write(write(), Durability::Durable).await.ok();
            }
            // Nothing that it knows is lost: from what it has shown last, the new event comes.
            let mut watch = store.watch("pods/", before).unwrap();
            let mut seen = before;
            while Some(seen) < after {
                seen = watch.next().await.unwrap().revision;
            }
        });
    });
}

#[test]
fn who_has_no_certificate_is_not_let_in() {
    let cluster = Cluster::start();
    in_network(&cluster.hub(), || {
        drop(Store::open(cluster.config(0)).unwrap());
        assert!(Store::open(cluster.stranger()).is_err());
    });
}
