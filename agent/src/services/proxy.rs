//! Shell: the one writer of our nftables table.

use super::conntrack::{self, Stale};
use super::difference::{self, Hairpin};
use super::health::Healths;
use super::index::{Announced, Collection, Index, Key, Snapshot};
use super::render::{self, Facts};
use super::unit::Unit;
use crate::instance::Instance;
use crate::netlink::nft;
use crate::netlink::socket::{Error as NetlinkError, Heard, Socket};
use crate::netlink::wire::Batch;
use crate::network::Cidr;
use crate::pods::HostPort;
use rustix::io::Errno;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::{Notify, watch};

/// How often a transaction is tried when others change the ruleset between our look and our commit.
const TRIES: u32 = 16;
/// Own generations that are remembered; notifications of them come within microseconds.
const OWN_GENERATIONS: usize = 64;
/// The kernel refuses a transaction whose generation has passed.
const RESTART: Errno = Errno::from_raw_os_error(85);

/// Why the table is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("nftables table {table}")]
    Table {
        /// Its name.
        table: String,
        /// The message and the errno.
        source: NetlinkError,
    },
}

/// What the table depends on beside services.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose table it is.
    pub instance: Instance,
    /// Endpoints with this node name are local.
    pub node_name: String,
    /// Pod ranges of the whole cluster.
    pub cluster_ranges: Vec<Cidr>,
    /// Ranges of cluster addresses of services.
    pub service_ranges: Vec<Cidr>,
    /// Cluster DNS; answered on the board itself, never rewritten.
    pub dns_addresses: Vec<IpAddr>,
}

/// Services and endpoints, and the table that they are programmed into; clones share both.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    table: String,
    index: Arc<RwLock<Index>>,
    state: Mutex<State>,
    changed: Notify,
    announced: watch::Sender<Announced>,
    /// This board leaves the announcing to others.
    silent: AtomicBool,
    healths: watch::Sender<Healths>,
}

struct State {
    facts: Facts,
    /// Host ports by sandbox.
    host_ports: BTreeMap<String, (Vec<IpAddr>, Vec<HostPort>)>,
    changed_sandboxes: BTreeSet<String>,
    /// Units of network policies by owner; none before they are known.
    policies: Option<BTreeMap<String, Unit>>,
    /// What stands in the kernel; none when the table has to be replaced whole.
    programmed: Option<Programmed>,
    own_generations: VecDeque<u32>,
}

struct Programmed {
    services: BTreeMap<Key, Snapshot>,
    sandboxes: BTreeMap<String, Unit>,
    policies: BTreeMap<String, Unit>,
    hairpin: Hairpin,
    generation: u32,
    /// Some element is claimed twice, so that units no longer say what stands in the kernel.
    contested: bool,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Proxy").field(&self.0.table).finish()
    }
}

impl Proxy {
    /// Knows nothing yet and has touched nothing.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let facts = Facts {
            cluster_ranges: options.cluster_ranges.clone(),
            own_ranges: Vec::new(),
            service_ranges: options.service_ranges.clone(),
            dns_addresses: options.dns_addresses.clone(),
            zone: String::new(),
            interface_prefix: options.instance.interface(""),
        };
        let state = State {
            facts,
            host_ports: BTreeMap::new(),
            changed_sandboxes: BTreeSet::new(),
            policies: None,
            programmed: None,
            own_generations: VecDeque::new(),
        };
        Self(Arc::new(Inner {
            table: options.instance.nft_table(),
            index: Arc::new(RwLock::new(Index::new(&options.node_name))),
            state: Mutex::new(state),
            changed: Notify::new(),
            announced: watch::Sender::default(),
            silent: AtomicBool::new(false),
            healths: watch::Sender::default(),
        }))
    }

    /// The index that names are answered from.
    #[must_use]
    pub fn index(&self) -> Arc<RwLock<Index>> {
        self.0.index.clone()
    }

    /// An object of the collection named by `kind` (`Service` or `EndpointSlice`) is new or changed; other kinds are
    /// no business of ours. Nothing is programmed before [`Proxy::sync`].
    pub fn apply(&self, kind: &str, object: &Value) {
        if let Some(of) = collection(kind) {
            self.write_index().apply(of, object);
        }
    }

    /// An object is gone.
    pub fn delete(&self, kind: &str, object: &Value) {
        if let Some(of) = collection(kind) {
            self.write_index().delete(of, object);
        }
    }

    /// A list of the kind begins: what it does not name is gone at its end.
    pub fn list_begins(&self, kind: &str) {
        if let Some(of) = collection(kind) {
            self.write_index().list_begins(of);
        }
    }

    /// A list of the kind is complete.
    pub fn list_ends(&self, kind: &str) {
        if let Some(of) = collection(kind) {
            self.write_index().list_ends(of);
        }
    }

    /// The pod ranges of this board are known or have changed.
    pub fn set_own_ranges(&self, ranges: &[Cidr]) {
        let mut state = self.state();
        if state.facts.own_ranges != ranges {
            ranges.clone_into(&mut state.facts.own_ranges);
            state.programmed = None;
            self.0.changed.notify_one();
        }
    }

    /// The zone of this board is known or has changed; hints are for boards of a zone.
    pub fn set_zone(&self, zone: &str) {
        let mut state = self.state();
        if state.facts.zone != zone {
            zone.clone_into(&mut state.facts.zone);
            state.programmed = None;
            self.0.changed.notify_one();
        }
    }

    /// Whether this board shall draw no traffic of load balancers
    /// (`node.kubernetes.io/exclude-from-external-load-balancers`).
    pub fn set_silent(&self, silent: bool) {
        if self.0.silent.swap(silent, Ordering::Relaxed) != silent {
            self.announce();
        }
    }

    /// The ports of the board that lead to this pod; none takes them away.
    pub fn set_host_ports(&self, sandbox_id: &str, ips: &[IpAddr], ports: &[HostPort]) {
        let mut state = self.state();
        let old = if ports.is_empty() {
            state.host_ports.remove(sandbox_id)
        } else {
            state.host_ports.insert(sandbox_id.to_owned(), (ips.to_vec(), ports.to_vec()))
        };
        if old.is_some_and(|old| old != (ips.to_vec(), ports.to_vec())) || !ports.is_empty() {
            state.changed_sandboxes.insert(sandbox_id.to_owned());
            self.0.changed.notify_one();
        }
    }

    /// What network policies need of the table, by owner.
    pub(crate) fn set_policies(&self, units: BTreeMap<String, Unit>) {
        let mut state = self.state();
        if state.policies.as_ref() != Some(&units) {
            state.policies = Some(units);
            self.0.changed.notify_one();
        }
    }

    /// Resolves when something else than the collections asks for [`Proxy::sync`].
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Programs what has changed, or the whole table where that is not known; blocks for milliseconds.
    ///
    /// # Errors
    /// [`Error::Table`]; the next call replaces the whole table.
    pub fn sync(&self) -> Result<(), Error> {
        let mut state = self.state();
        let stale = match self.program(&mut state) {
            Ok(stale) => stale,
            Err(source) => {
                state.programmed = None;
                return Err(Error::Table { table: self.0.table.clone(), source });
            }
        };
        drop(state);
        self.announce();
        if stale != Stale::Nothing {
            match conntrack::forget(&stale) {
                Ok(flows) => tracing::debug!(flows, "forgot UDP flows to endpoints that are gone"),
                Err(error) => tracing::warn!(error = %chain(&error), "UDP flows to endpoints that are gone stay"),
            }
        }
        Ok(())
    }

    /// The addresses of the site's load balancer that this board may announce, once they lead somewhere.
    #[must_use]
    pub fn announced(&self) -> watch::Receiver<Announced> {
        self.0.announced.subscribe()
    }

    /// Where load balancers ask for the health of a Service on this board.
    pub(crate) fn healths(&self) -> watch::Receiver<Healths> {
        self.0.healths.subscribe()
    }

    fn announce(&self) {
        let index = self.0.index.read().unwrap_or_else(PoisonError::into_inner);
        let silent = self.0.silent.load(Ordering::Relaxed);
        let announced = if silent { Announced::default() } else { index.announced() };
        let healths = index.healths();
        drop(index);
        tell(&self.0.announced, announced);
        tell(&self.0.healths, healths);
    }

    /// Reads the notifications on `monitor`; when somebody else changed our table it is to be replaced whole.
    pub(crate) fn hear(&self, monitor: &Socket) -> Result<(), NetlinkError> {
        let mut state = self.state();
        let heard = monitor.heard(&self.0.table, |generation| state.own_generations.contains(&generation));
        let Some(programmed) = &state.programmed else { return Ok(()) };
        let foreign = match heard {
            Heard::Nothing => false,
            Heard::Foreign => true,
            Heard::Lost => Socket::netfilter()?.generation()? != programmed.generation,
        };
        if foreign {
            tracing::warn!(table = self.0.table, "somebody else changed our table");
            state.programmed = None;
            self.0.changed.notify_one();
        }
        Ok(())
    }

    fn program(&self, state: &mut State) -> Result<Stale, NetlinkError> {
        let socket = Socket::netfilter()?;
        // Until all lists have been read a table of an earlier run is better than what we know.
        let is_known = self.write_index().is_listed() && state.policies.is_some();
        if state.programmed.is_none() && !is_known && socket.has_table(&self.0.table)? {
            return Ok(Stale::Nothing);
        }
        if state.programmed.as_ref().is_none_or(|programmed| programmed.contested) {
            return self.program_whole(state, &socket);
        }
        match self.program_step(state, &socket) {
            Err(error @ NetlinkError::Refused { .. }) => {
                tracing::warn!(error = %chain(&error), table = self.0.table, "replacing the whole table");
                self.program_whole(state, &socket)
            }
            other => other,
        }
    }

    fn program_whole(&self, state: &mut State, socket: &Socket) -> Result<Stale, NetlinkError> {
        let services: BTreeMap<Key, Snapshot> = {
            let mut index = self.write_index();
            index.take_changed();
            index.keys().filter_map(|key| Some((key.clone(), index.snapshot(key)?))).collect()
        };
        state.changed_sandboxes.clear();
        let was_contested = state.programmed.as_ref().is_some_and(|programmed| programmed.contested);
        let sandboxes: BTreeMap<String, Unit> = state
            .host_ports
            .iter()
            .map(|(sandbox_id, (ips, ports))| (sandbox_id.clone(), render::host_ports(ips, ports)))
            .collect();
        let policies = state.policies.clone().unwrap_or_default();
        let facts = &state.facts;
        let units = || {
            let of_services = services.iter().map(|(key, snapshot)| render::service(facts, key, snapshot));
            of_services.chain(sandboxes.values().cloned()).chain(policies.values().cloned())
        };
        let (mut batch, mut hairpin) = difference::whole(&self.0.table, facts, units(), false);
        let mut contested = false;
        let mut committed = commit(socket, &mut batch);
        if matches!(&committed, Err(error) if error.errno() == Some(Errno::EXIST)) {
            if !was_contested {
                tracing::warn!(table = self.0.table, "two services claim one address and port; the first one has it");
            }
            contested = true;
            (batch, hairpin) = difference::whole(&self.0.table, facts, units(), true);
            committed = commit(socket, &mut batch);
        }
        let generation = committed?;
        tracing::info!(table = self.0.table, services = services.len(), generation, "replaced the table");
        let there = units().flat_map(|unit| unit.udp_targets).collect();
        let stale = Stale::ToNoneOf(there, facts.cluster_ranges.clone());
        state.remember(generation);
        state.programmed = Some(Programmed { services, sandboxes, policies, hairpin, generation, contested });
        Ok(stale)
    }

    fn program_step(&self, state: &mut State, socket: &Socket) -> Result<Stale, NetlinkError> {
        let State { facts, host_ports, programmed, changed_sandboxes, policies, .. } = state;
        let Some(programmed) = programmed else { return Ok(Stale::Nothing) };
        let changed: Vec<(Key, Option<Snapshot>)> = {
            let mut index = self.write_index();
            let changed = index.take_changed();
            changed.into_iter().map(|key| (key.clone(), index.snapshot(&key))).collect()
        };
        let unit = |key: &Key, snapshot: Option<&Snapshot>| {
            snapshot.map(|snapshot| render::service(facts, key, snapshot)).unwrap_or_default()
        };
        let mut units: Vec<(Unit, Unit)> = changed
            .iter()
            .map(|(key, new)| (unit(key, programmed.services.get(key)), unit(key, new.as_ref())))
            .collect();
        for sandbox_id in changed_sandboxes.iter() {
            let new = host_ports.get(sandbox_id).map(|(ips, ports)| render::host_ports(ips, ports));
            units.push((programmed.sandboxes.remove(sandbox_id).unwrap_or_default(), new.clone().unwrap_or_default()));
            if let Some(new) = new {
                programmed.sandboxes.insert(sandbox_id.clone(), new);
            }
        }
        if let Some(wanted) = policies {
            units.extend(policy_changes(&programmed.policies, wanted));
            programmed.policies.clone_from(wanted);
        }
        units.retain(|(old, new)| old != new);
        for (key, new) in changed {
            match new {
                Some(new) => drop(programmed.services.insert(key, new)),
                None => drop(programmed.services.remove(&key)),
            }
        }
        changed_sandboxes.clear();
        if units.is_empty() {
            return Ok(Stale::Nothing);
        }
        let pairs = units.iter().map(|(old, new)| (old, new));
        let mut batch = difference::step(&self.0.table, &mut programmed.hairpin, pairs);
        let generation = commit(socket, &mut batch)?;
        programmed.generation = generation;
        tracing::debug!(table = self.0.table, units = units.len(), generation, "changed the table");
        state.remember(generation);
        let gone: BTreeSet<SocketAddr> =
            units.iter().flat_map(|(old, new)| old.udp_targets.difference(&new.udp_targets)).copied().collect();
        Ok(if gone.is_empty() { Stale::Nothing } else { Stale::To(gone) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked in there left a state that is replaced whole at the worst.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_index(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.0.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some element is claimed twice.
    #[cfg(test)]
    pub(crate) fn is_contested(&self) -> bool {
        self.state().programmed.as_ref().is_none_or(|programmed| programmed.contested)
    }

    /// What the table should be, as `nft list` would print it.
    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        let state = self.state();
        let index = self.0.index.read().unwrap();
        let services = index.keys().map(|key| render::service(&state.facts, key, &index.snapshot(key).unwrap()));
        let sandboxes = state.host_ports.values().map(|(ips, ports)| render::host_ports(ips, ports));
        let policies = state.policies.iter().flat_map(|units| units.values().cloned());
        let units: Vec<_> = services.chain(sandboxes).chain(policies).collect();
        super::listing::text(&self.0.table, &state.facts, units.iter())
    }
}

impl State {
    fn remember(&mut self, generation: u32) {
        if self.own_generations.len() == OWN_GENERATIONS {
            self.own_generations.pop_front();
        }
        self.own_generations.push_back(generation);
    }
}

/// Tells a value on where it is another one than before.
fn tell<T: PartialEq>(to: &watch::Sender<T>, now: T) {
    to.send_if_modified(|known| {
        let changed = *known != now;
        *known = now;
        changed
    });
}

/// Pairs of what stands and what is wanted, of the owners where they differ.
fn policy_changes<'a>(
    stand: &'a BTreeMap<String, Unit>,
    wanted: &'a BTreeMap<String, Unit>,
) -> impl Iterator<Item = (Unit, Unit)> + 'a {
    let owners: BTreeSet<&String> = stand.keys().chain(wanted.keys()).collect();
    let of = |units: &BTreeMap<String, Unit>, owner: &String| units.get(owner).cloned().unwrap_or_default();
    owners
        .into_iter()
        .filter(|owner| stand.get(*owner) != wanted.get(*owner))
        .map(move |owner| (of(stand, owner), of(wanted, owner)))
}

/// Commits on top of whatever generation stands; the one that it made.
fn commit(socket: &Socket, batch: &mut Batch) -> Result<u32, NetlinkError> {
    let mut tries = 0;
    loop {
        let generation = socket.generation()?;
        nft::set_generation(batch, generation);
        match socket.commit(batch) {
            // Zero stands for "any" and is passed over.
            Ok(()) => return Ok(generation.wrapping_add(1).max(1)),
            Err(error) if error.errno() == Some(RESTART) && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Removes the table of an instance, whoever made it; nothing there is fine.
pub(crate) fn remove_table(instance: &Instance) -> Result<(), NetlinkError> {
    let socket = Socket::netfilter()?;
    let table = instance.nft_table();
    if !socket.has_table(&table)? {
        return Ok(());
    }
    let mut batch = Batch::default();
    nft::begin(&mut batch, 0);
    nft::delete_table(&mut batch, &table);
    nft::end(&mut batch);
    commit(&socket, &mut batch).map(drop)
}

fn collection(kind: &str) -> Option<Collection> {
    match kind {
        "Service" => Some(Collection::Services),
        "EndpointSlice" => Some(Collection::Slices),
        _ => None,
    }
}

/// An error with all of its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(at) = cause {
        text.push_str(": ");
        text.push_str(&at.to_string());
        cause = at.source();
    }
    text
}
