//! What a store may hold after a cut: everything acknowledged as durable, nothing by halves, a prefix of the rest.

use std::collections::{BTreeMap, HashMap};

use bramble_store::{Change, Record, Revision, Write};

pub(crate) type Map = BTreeMap<String, Vec<u8>>;

/// Everything that one client tried since the state that the last boot found, in order. A client owns its keys.
#[derive(Default)]
pub(crate) struct Client {
    begin: Map,
    batches: Vec<Vec<Write>>,
    /// The revisions of those that were answered.
    revisions: Vec<Revision>,
    /// So many of the batches must be there after a cut.
    durable: usize,
}

/// How far the clients were at some moment.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    durable: Vec<usize>,
    tried: Vec<usize>,
    highest: Revision,
    shown: usize,
}

impl Moment {
    /// Some moment between two.
    pub(crate) fn until(self, later: Moment) -> Moment {
        Moment { durable: self.durable, highest: self.highest, ..later }
    }
}

/// The clients together, and what was shown to them.
#[derive(Default)]
pub(crate) struct Model {
    clients: Vec<Client>,
    /// No revision at or below this may come again.
    highest: Revision,
    /// Every value that somebody saw, and as the how manieth.
    shown: HashMap<(String, Revision), (usize, Vec<u8>)>,
}

impl Model {
    pub(crate) fn new(clients: usize) -> Model {
        Model { clients: (0..clients).map(|_| Client::default()).collect(), ..Model::default() }
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            durable: self.clients.iter().map(|client| client.durable).collect(),
            tried: self.clients.iter().map(|client| client.batches.len()).collect(),
            highest: self.highest,
            shown: self.shown.len(),
        }
    }

    /// The highest revision that anybody was told of.
    pub(crate) fn highest(&self) -> Revision {
        self.highest
    }

    /// How many batches the longest client has tried.
    pub(crate) fn length(&self) -> usize {
        self.clients.iter().map(|client| client.batches.len()).max().unwrap_or_default()
    }

    /// A client sends a batch; gives its number.
    pub(crate) fn tries(&mut self, client: usize, batch: Vec<Write>) -> usize {
        self.clients[client].batches.push(batch);
        self.clients[client].batches.len()
    }

    /// A batch was answered. `durable`: nothing up to it may go.
    pub(crate) fn answered(&mut self, client: usize, number: usize, revision: Revision, durable: bool) {
        let client = &mut self.clients[client];
        assert_eq!(client.revisions.len() + 1, number, "answers come in order");
        client.revisions.push(revision);
        if durable {
            client.durable = number;
        }
        self.saw(revision);
    }

    /// Somebody was told of this revision.
    pub(crate) fn saw(&mut self, revision: Revision) {
        self.highest = self.highest.max(revision);
    }

    /// Somebody was shown a value.
    pub(crate) fn showed(&mut self, key: &str, revision: Revision, value: &[u8]) {
        self.saw(revision);
        let count = self.shown.len();
        let (_, before) = self.shown.entry((key.to_owned(), revision)).or_insert_with(|| (count, value.to_vec()));
        assert_eq!(before, value, "{key} at {revision} was shown with another value");
    }

    /// A watcher saw the event of a durable batch: from now on it may not go, answered or not.
    pub(crate) fn watched(&mut self, client: usize, key: &str, value: &[u8]) {
        let client = &mut self.clients[client];
        let put = |write: &Write| write.key == key && matches!(&write.change, Change::Put(put) if *put == *value);
        if let Some(index) = client.batches.iter().rposition(|batch| batch.iter().any(put)) {
            client.durable = client.durable.max(index + 1);
        }
    }

    /// What is wrong with a store that shows these records, at this revision, after a cut at that moment.
    pub(crate) fn judge(&self, moment: &Moment, revision: Revision, records: &[Record]) -> Result<(), String> {
        if revision < moment.highest {
            return Err(format!("revision {revision} after {}", moment.highest));
        }
        let mut found: Vec<Map> = vec![Map::new(); self.clients.len()];
        for record in records {
            if record.revision > revision {
                return Err(format!("{} has a revision above the store's", record.key));
            }
            let before = self.shown.get(&(record.key.clone(), record.revision));
            if before.is_some_and(|(index, value)| *index < moment.shown && *value != record.value) {
                return Err(format!("{} at {} was shown with another value", record.key, record.revision));
            }
            if let Some(client) = record.key.split('/').nth(1).and_then(|name| name.parse::<usize>().ok()) {
                found[client].insert(record.key.clone(), record.value.to_vec());
            }
        }
        let ends: Vec<Vec<bool>> = (0..found.len()).map(|index| self.ends(index, moment, &found[index])).collect();
        for (index, ends) in ends.iter().enumerate() {
            if !ends.contains(&true) {
                let (durable, tried) = (moment.durable[index], moment.tried[index]);
                return Err(format!("client {index}: no prefix of {tried} batches that holds {durable}"));
            }
        }
        if self.revisions().any(|last| self.is_prefix(last, &ends)) {
            return Ok(());
        }
        Err("the clients' prefixes are none of all batches together".into())
    }

    /// After which batches of a client its state is the one that was found; so many must be there.
    fn ends(&self, index: usize, moment: &Moment, found: &Map) -> Vec<bool> {
        let client = &self.clients[index];
        let mut state = client.begin.clone();
        let mut differ: std::collections::HashSet<String> =
            state.keys().chain(found.keys()).filter(|key| state.get(*key) != found.get(*key)).cloned().collect();
        let mut ends = vec![differ.is_empty() && moment.durable[index] == 0];
        for (number, batch) in (1..).zip(&client.batches[..moment.tried[index]]) {
            apply(&mut state, batch);
            for write in batch {
                if state.get(&write.key) == found.get(&write.key) {
                    differ.remove(&write.key);
                } else {
                    differ.insert(write.key.clone());
                }
            }
            ends.push(differ.is_empty() && number >= moment.durable[index]);
        }
        ends
    }

    fn revisions(&self) -> impl Iterator<Item = Revision> {
        let known = self.clients.iter().flat_map(|client| client.revisions.iter().copied());
        known.chain([Revision(0), Revision(u64::MAX)])
    }

    /// Whether everything up to a revision, and nothing that is known to be after it, could be what was found. What was
    /// not answered may have been before or after.
    fn is_prefix(&self, last: Revision, ends: &[Vec<bool>]) -> bool {
        self.clients.iter().zip(ends).all(|(client, ends)| {
            let known = client.revisions.partition_point(|revision| *revision <= last).min(ends.len() - 1);
            let open = known >= client.revisions.len();
            let upto = if open { ends.len() } else { known + 1 };
            ends[known..upto].contains(&true)
        })
    }

    /// Life goes on from what a boot found after a cut at that moment; what was later never was.
    pub(crate) fn go_on(&mut self, moment: &Moment, records: &[Record]) {
        self.highest = moment.highest;
        self.shown.retain(|_, (index, _)| *index < moment.shown);
        for (index, client) in self.clients.iter_mut().enumerate() {
            let own = |record: &&Record| record.key.split('/').nth(1) == Some(index.to_string().as_str());
            let begin = records.iter().filter(own).map(|record| (record.key.clone(), record.value.to_vec())).collect();
            *client = Client { begin, ..Client::default() };
        }
    }
}

fn apply(state: &mut Map, batch: &[Write]) {
    for write in batch {
        match &write.change {
            Change::Put(value) => state.insert(write.key.clone(), value.to_vec()),
            Change::Delete => state.remove(&write.key),
        };
    }
}
