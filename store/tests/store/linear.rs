//! Concurrent histories are linearisable, also across power cuts.
//!
//! The checker is Wing and Gong's search ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of what was
//! tried ("Testing for linearizability", 2017), one key at a time, which is enough (Herlihy and Wing's locality). Every write
//! has a value of its own, so that the state of a key is that value, and `At(revision)` means "the value seen there".

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bramble_store::{Config, Durability, Precondition, Store, Write, WriteError};

use crate::dice::Dice;
use crate::disk::Disk;

/// The value of a key; none where it does not exist.
type State = Option<u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Any,
    State(State),
}

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write { expect: Expect, to: State },
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Read(State),
    Done,
    Conflict,
    /// Nobody knows whether it happened.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) called: u64,
    pub(crate) returned: u64,
    pub(crate) call: Call,
    pub(crate) outcome: Outcome,
}

impl Operation {
    /// The state after it, if it may happen in this one with its outcome.
    fn apply(&self, state: State) -> Option<State> {
        match (self.call, self.outcome) {
            (Call::Read, Outcome::Read(seen)) => (seen == state).then_some(state),
            (Call::Read, _) => Some(state),
            (Call::Write { expect, to }, outcome) => {
                let holds = expect == Expect::Any || expect == Expect::State(state);
                match outcome {
                    Outcome::Conflict => (!holds).then_some(state),
                    _ => holds.then_some(to),
                }
            }
        }
    }
}

/// Whether the operations of one key can be put in an order that the model allows. Those of unknown outcome may be left out.
pub(crate) fn linearisable(operations: &[Operation], begin: State) -> bool {
    let mut seen = HashSet::new();
    search(operations, &mut vec![false; operations.len()], begin, &mut seen)
}

fn search(
    operations: &[Operation],
    done: &mut Vec<bool>,
    state: State,
    seen: &mut HashSet<(Vec<bool>, State)>,
) -> bool {
    let open = || operations.iter().zip(done.iter()).filter(|(_, done)| !**done).map(|(operation, _)| operation);
    let known = |operation: &&Operation| operation.outcome != Outcome::Unknown;
    let Some(horizon) = open().filter(known).map(|operation| operation.returned).min() else { return true };
    if !seen.insert((done.clone(), state)) {
        return false;
    }
    for index in 0..operations.len() {
        if done[index] || operations[index].called > horizon {
            continue;
        }
        let Some(next) = operations[index].apply(state) else { continue };
        done[index] = true;
        if search(operations, done, next, seen) {
            return true;
        }
        done[index] = false;
    }
    false
}

/// What clients did, by key.
#[derive(Clone, Default)]
pub(crate) struct History {
    clock: Arc<AtomicU64>,
    values: Arc<AtomicU64>,
    operations: Arc<Mutex<BTreeMap<String, Vec<Operation>>>>,
}

impl History {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, key: &str, called: u64, call: Call, outcome: Outcome) {
        let operation = Operation { called, returned: self.tick(), call, outcome };
        self.operations.lock().unwrap().entry(key.to_owned()).or_default().push(operation);
    }

    /// A read; gives the state and its revision. Reads that fail say nothing.
    pub(crate) async fn read(&self, store: &Store, key: &str) -> Option<(State, Precondition)> {
        let called = self.tick();
        let record = store.get(key).await.ok()?;
        let state = record.as_ref().map(|record| String::from_utf8_lossy(&record.value).parse().unwrap());
        self.note(key, called, Call::Read, Outcome::Read(state));
        Some((state, record.map_or(Precondition::Absent, |record| Precondition::At(record.revision))))
    }

    /// A durable write, after a read where it has a precondition. True when it was acknowledged.
    pub(crate) async fn write(&self, store: &Store, key: &str, dice: &mut Dice) -> bool {
        let careful = dice.chance(50);
        let (expect, precondition) = match careful {
            false => (Expect::Any, Precondition::Any),
            true => match self.read(store, key).await {
                Some((state, precondition)) => (Expect::State(state), precondition),
                None => return false,
            },
        };
        let value = self.values.fetch_add(1, Ordering::SeqCst);
        let (write, to) = match dice.chance(20) {
            true => (Write::delete(key, precondition), None),
            false => (Write::put(key, precondition, value.to_string()), Some(value)),
        };
        let call = Call::Write { expect, to };
        let called = self.tick();
        let result = store.write(vec![write], Durability::Durable).await;
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(WriteError::Conflict { .. }) => Outcome::Conflict,
            Err(WriteError::Backend { .. } | WriteError::Unavailable { .. } | WriteError::Closed) => Outcome::Unknown,
            Err(error) => panic!("{error}"),
        };
        self.note(key, called, call, outcome);
        matches!(outcome, Outcome::Done)
    }

    /// Reads every key that was used once more.
    pub(crate) async fn settle(&self, store: &Store) {
        let keys: Vec<String> = self.operations.lock().unwrap().keys().cloned().collect();
        for key in keys {
            self.read(store, &key).await.unwrap();
        }
    }

    /// Checks every key; gives how many operations there were.
    pub(crate) fn check(&self) -> usize {
        let operations = self.operations.lock().unwrap();
        for (key, operations) in &*operations {
            assert!(linearisable(operations, None), "the history of {key} is not linearisable: {operations:#?}");
        }
        operations.values().map(Vec::len).sum()
    }
}

/// Keys of a run: few enough that clients meet, many enough that a key's history stays searchable.
pub(crate) fn key(dice: &mut Dice, round: u64) -> String {
    format!("pods/{round}/{}", dice.below(4))
}

/// Five clients, each of the next one of the stores: those of one backend are one store to them all.
pub(crate) async fn clients(stores: &[Store], history: &History, dice: &mut Dice, round: u64, steps: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for store in stores.iter().cycle().take(5) {
        let (store, history, mut dice) = (store.clone(), history.clone(), dice.split());
        tasks.spawn(async move {
            for _ in 0..steps {
                let key = key(&mut dice, round);
                match dice.chance(40) {
                    true => drop(history.read(&store, &key).await),
                    false => drop(history.write(&store, &key, &mut dice).await),
                }
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_clients_are_linearisable() {
    let mut dice = Dice::roll();
    let (memory, history) = (Store::open(Config::memory()).unwrap(), History::default());
    for round in 0..20 {
        clients(std::slice::from_ref(&memory), &history, &mut dice, round, 12).await;
    }
    assert!(history.check() > 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn power_cuts_leave_a_linearisable_history() {
    let mut dice = Dice::roll();
    let (disk, history) = (Disk::default(), History::default());
    drop(Store::open(disk.config()).unwrap());
    for round in 0..30 {
        // Two boots work on the same keys, so that what the first one acknowledged is asked of the second one.
        disk.cut_after(10 + dice.below(300));
        if let Ok(store) = Store::open(disk.config()) {
            clients(&[store], &history, &mut dice, round / 2, 6).await;
        }
        disk.power_on(&mut dice);
    }
    let store = Store::open(disk.config()).unwrap();
    history.settle(&store).await;
    assert!(history.check() > 200);
}

fn operation(called: u64, returned: u64, call: Call, outcome: Outcome) -> Operation {
    Operation { called, returned, call, outcome }
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let put = |value| Call::Write { expect: Expect::Any, to: Some(value) };
    let done = Outcome::Done;
    let read = |value| Outcome::Read(value);
    let good = |operations: &[Operation]| linearisable(operations, None);
    // One after the other: the read sees the last write, and nothing else.
    let after =
        |seen| [operation(0, 1, put(1), done), operation(2, 3, put(2), done), operation(4, 5, Call::Read, read(seen))];
    assert!(good(&after(Some(2))));
    assert!(!good(&after(Some(1))), "a stale read");
    assert!(!good(&after(None)), "a lost write");
    // At the same time: either order, but for all readers the same.
    let meet = |first, second| {
        [
            operation(0, 9, put(1), done),
            operation(0, 9, put(2), done),
            operation(10, 11, Call::Read, read(first)),
            operation(12, 13, Call::Read, read(second)),
        ]
    };
    assert!(good(&meet(Some(1), Some(1))) && good(&meet(Some(2), Some(2))));
    assert!(!good(&meet(Some(1), Some(2))));
    // An unknown write may be seen late or never, but once seen it stays.
    let late = |first, second| {
        [
            operation(0, 1, put(1), Outcome::Unknown),
            operation(2, 3, Call::Read, read(first)),
            operation(4, 5, Call::Read, read(second)),
        ]
    };
    assert!(good(&late(None, None)) && good(&late(None, Some(1))) && good(&late(Some(1), Some(1))));
    assert!(!good(&late(Some(1), None)));
    // Two that both expected absence cannot both have won.
    let create = |value| Call::Write { expect: Expect::State(None), to: Some(value) };
    let race = |second| [operation(0, 9, create(1), done), operation(0, 9, create(2), second)];
    assert!(good(&race(Outcome::Conflict)) && !good(&race(done)));
}
