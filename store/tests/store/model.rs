//! Random histories against a map, with reopening. A failing run prints its seed.

use std::collections::{BTreeMap, HashMap};

use bramble_store::{
    Config, Durability, EventKind, ListQuery, Precondition, ReadError, Revision, Store, Watch, WatchError, Write,
    WriteError,
};

use crate::dice::Dice;
use crate::disk::Disk;

type Map = BTreeMap<String, (Revision, Vec<u8>)>;

const STEPS: usize = 3000;
const RESOURCES: [&str; 3] = ["pods", "pods.metrics", "nodes"];

struct Model {
    store: Store,
    now: Map,
    /// What a key may come back as after a reopen, beside `now`: its states since its last write that was not volatile.
    volatile: HashMap<String, Vec<Option<Vec<u8>>>>,
    /// The states of this boot, for lists at older revisions and for watches.
    states: Vec<(Revision, Map)>,
    /// No revision of a key is ever shown with two values.
    shown: HashMap<(String, Revision), Vec<u8>>,
    highest: Revision,
    counter: u64,
}

#[tokio::test]
async fn memory_behaves_like_a_map() {
    let mut dice = Dice::roll();
    let mut model = Model::new(Store::open(small(Config::memory())).unwrap());
    for _ in 0..STEPS {
        model.step(&mut dice).await;
    }
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn etcd_behaves_like_a_map() {
    let (mut dice, member) = (Dice::roll(), crate::etcd::Member::start());
    let mut model = Model::new(Store::open(small(member.config())).unwrap());
    for _ in 0..STEPS {
        model.step(&mut dice).await;
    }
}

#[tokio::test]
async fn redb_behaves_like_a_map_that_is_reopened() {
    let mut dice = Dice::roll();
    let disk = Disk::default();
    let config = small(disk.config());
    let mut model = Model::new(Store::open(config.clone()).unwrap());
    for _ in 0..STEPS {
        if dice.below(150) == 0 {
            model = model.reopen(&config).await;
        }
        model.step(&mut dice).await;
    }
}

/// Bounds that a few thousand steps reach.
fn small(mut config: Config) -> Config {
    config.history_bytes_per_resource = 20_000;
    config.history_bytes = 50_000;
    config.overlay_bytes = 3_000;
    config.revision_block = 50;
    config
}

impl Model {
    fn new(store: Store) -> Model {
        Model {
            store,
            now: Map::new(),
            volatile: HashMap::new(),
            states: Vec::new(),
            shown: HashMap::new(),
            highest: Revision(0),
            counter: 0,
        }
    }

    async fn reopen(mut self, config: &Config) -> Model {
        drop(self.store);
        self.store = Store::open(config.clone()).unwrap();
        assert!(self.store.revision() >= self.highest, "revisions went backwards");
        let page = self.store.list(ListQuery::all("")).await.unwrap();
        let found: Map =
            page.records.into_iter().map(|record| (record.key, (record.revision, record.value.to_vec()))).collect();
        for key in found.keys().chain(self.now.keys()).chain(self.volatile.keys()) {
            let came_back = found.get(key).map(|(_, value)| value.clone());
            let last = self.now.get(key).map(|(_, value)| value.clone());
            let may = self.volatile.get(key).is_some_and(|states| states.contains(&came_back));
            assert!(came_back == last || may, "{key} came back as {came_back:?}");
        }
        self.now = found;
        self.volatile.clear();
        self.states.clear();
        self.show();
        self
    }

    /// Notes everything that a client sees now.
    fn show(&mut self) {
        self.highest = self.highest.max(self.store.revision());
        for (key, (revision, value)) in &self.now {
            let before = self.shown.entry((key.clone(), *revision)).or_insert_with(|| value.clone());
            assert_eq!(before, value, "{key} at {revision} was shown with another value");
        }
        self.states.push((self.store.revision(), self.now.clone()));
    }

    async fn step(&mut self, dice: &mut Dice) {
        match dice.below(20) {
            0 => self.check_list(dice).await,
            1 => self.check_watch(dice),
            2 => self.check_keys(dice).await,
            3 => {
                self.store.flush().await.unwrap();
            }
            _ => self.write(dice).await,
        }
    }

    async fn write(&mut self, dice: &mut Dice) {
        let floor = [Durability::Volatile, Durability::Deferred, Durability::Durable][dice.below(3) as usize];
        let mut batch: Vec<Write> = Vec::new();
        for _ in 0..=dice.below(3) {
            let key = format!("{}/{}", RESOURCES[dice.below(3) as usize], dice.below(12));
            if batch.iter().any(|write| write.key == key) {
                continue;
            }
            let at = self.now.get(&key).map(|(revision, _)| *revision);
            let precondition = match (dice.below(8), at) {
                (0, _) => Precondition::Absent,
                (1, _) => Precondition::Present,
                (2, _) => Precondition::At(Revision(dice.below(100))),
                (3..=5, Some(at)) => Precondition::At(at),
                _ => Precondition::Any,
            };
            self.counter += 1;
            batch.push(if dice.chance(30) {
                Write::delete(key, precondition)
            } else {
                Write::put(key, precondition, vec![b'a' + (self.counter % 26) as u8; 1 + dice.below(300) as usize])
            });
        }
        let conflict = batch.iter().find(|write| !self.holds(write)).map(|write| write.key.clone());
        let before = self.store.revision();
        match self.store.write(batch.clone(), floor).await {
            Ok(revision) => {
                assert_eq!(conflict, None);
                let changed = batch.iter().filter(|write| self.apply(write, revision, floor)).count();
                assert_eq!(revision > before, changed > 0);
                if changed > 0 {
                    self.show();
                }
            }
            Err(WriteError::Conflict { key, current }) => {
                assert_eq!(Some(&key), conflict.as_ref());
                assert_eq!(current, self.now.get(&key).map(|(revision, _)| *revision));
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn holds(&self, write: &Write) -> bool {
        let at = self.now.get(&write.key).map(|(revision, _)| *revision);
        match write.precondition {
            Precondition::Any => true,
            Precondition::Absent => at.is_none(),
            Precondition::Present => at.is_some(),
            Precondition::At(revision) => at == Some(revision),
        }
    }

    fn apply(&mut self, write: &Write, revision: Revision, floor: Durability) -> bool {
        let before = self.now.get(&write.key).map(|(_, value)| value.clone());
        let changed = match &write.change {
            bramble_store::Change::Put(value) => {
                self.now.insert(write.key.clone(), (revision, value.to_vec()));
                true
            }
            bramble_store::Change::Delete => self.now.remove(&write.key).is_some(),
        };
        if floor > Durability::Volatile {
            self.volatile.remove(&write.key);
        } else if changed {
            self.volatile.entry(write.key.clone()).or_default().push(before);
        }
        changed
    }

    fn random_state(&self, dice: &mut Dice) -> Option<(Revision, Map)> {
        let count = self.states.len() as u64;
        (count > 0).then(|| self.states[dice.below(count) as usize].clone())
    }

    async fn check_list(&mut self, dice: &mut Dice) {
        let Some((at, state)) = self.random_state(dice) else { return };
        let prefix = ["pods/", "pods.metrics/", "nodes/", "", "pods"][dice.below(5) as usize];
        let expected: Vec<_> = state.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        let limit = dice.below(6) as usize;
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let query = ListQuery { prefix, after: after.as_deref(), limit, at: Some(at) };
            let page = match self.store.list(query).await {
                Ok(page) => page,
                Err(ReadError::Compacted { oldest }) => return assert!(oldest > at),
                Err(error) => panic!("{error}"),
            };
            found.extend(page.records);
            assert_eq!(page.remaining as usize, expected.len() - found.len());
            if !page.more {
                break;
            }
            after = found.last().map(|record| record.key.clone());
        }
        assert_eq!(found.len(), expected.len());
        for (record, (key, (revision, value))) in found.iter().zip(expected) {
            assert_eq!((&record.key, record.revision, &record.value[..]), (key, *revision, &value[..]));
        }
    }

    /// Events after an older state lead to the present one.
    fn check_watch(&mut self, dice: &mut Dice) {
        let Some((after, mut state)) = self.random_state(dice) else { return };
        let prefix = ["pods/", "pods.metrics/", "nodes/", "nodes/1"][dice.below(4) as usize];
        let mut watch: Watch = match self.store.watch(prefix, after) {
            Ok(watch) => watch,
            Err(WatchError::Compacted { oldest }) => return assert!(oldest > after),
            Err(error) => panic!("{error}"),
        };
        let mut last = after;
        while let Some(event) = watch.try_next().unwrap() {
            assert!(event.revision >= last && event.key.starts_with(prefix));
            last = event.revision;
            let before = match event.kind {
                EventKind::Put => state.insert(event.key.to_string(), (event.revision, event.value.to_vec())),
                EventKind::Delete => state.remove(&*event.key),
            };
            assert_eq!(before, event.previous.map(|(revision, value)| (revision, value.to_vec())));
        }
        assert_eq!(watch.caught_up_to(), self.store.revision());
        let under =
            |map: &Map| -> Vec<_> { map.clone().into_iter().filter(|(key, _)| key.starts_with(prefix)).collect() };
        assert_eq!(under(&state), under(&self.now));
    }

    async fn check_keys(&mut self, dice: &mut Dice) {
        let prefix = ["pods/", "pods.metrics/", "nodes/", "", "nodes/1"][dice.below(5) as usize];
        let expected = self.now.keys().filter(|key| key.starts_with(prefix)).count() as u64;
        assert_eq!(self.store.keys(prefix).await.unwrap(), expected);
        for (key, (revision, value)) in &self.now {
            let record = self.store.get(key).await.unwrap().unwrap();
            assert_eq!((record.revision, &record.value[..]), (*revision, &value[..]));
        }
    }
}
