//! Pure: what is published: one consistent view of backing, overlay and history, changed only by the writer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{BackingError, Snapshot};
use crate::error::{ReadError, WatchError};
use crate::history::{Bounds, Event, EventKind, Ring};
use crate::overlay::{Held, Overlay};
use crate::page::Unread;
use crate::record::{Revision, Version};
use crate::seal::Sealer;
use crate::stage::{Current, Pending};
use crate::write::{Durability, resource};

/// The ring of a resource, and how many keys it has, once somebody counted.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) ring: Ring,
    pub(crate) keys: Option<u64>,
}

/// Revisions as records at rest show them.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Above every revision that an earlier boot showed.
    pub(crate) base: Revision,
    /// Where a restore happened.
    pub(crate) floor: Revision,
    /// Resources whose records may have been shown newer than they are at rest, by an earlier boot.
    pub(crate) soft: BTreeSet<String>,
    pub(crate) sealer: Arc<Sealer>,
}

impl Shown {
    /// The revision to show for a record at rest.
    pub(crate) fn revision(&self, key: &str, stored: Revision) -> Revision {
        let soft = resource(key).is_some_and(|resource| self.soft.contains(resource));
        stored.max(self.floor).max(if soft { self.base } else { Revision(0) })
    }

    /// A record at rest, as it is shown.
    pub(crate) fn current(&self, key: &str, raw: &[u8]) -> Current {
        match self.sealer.decode(key, raw) {
            Ok(version) => {
                Current::Version(Version { revision: self.revision(key, version.revision), value: version.value })
            }
            Err(_) => Current::Damaged,
        }
    }
}

/// A view to read without any lock: a snapshot and what lies above it.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) revision: Revision,
    pub(crate) snapshot: Arc<dyn Snapshot>,
    pub(crate) shown: Arc<Shown>,
    /// Keys whose state is not the snapshot's.
    pub(crate) patch: BTreeMap<Arc<str>, Option<Version>>,
}

pub(crate) struct State {
    pub(crate) published: Revision,
    pub(crate) shown: Arc<Shown>,
    pub(crate) snapshot: Arc<dyn Snapshot>,
    pub(crate) overlay: Overlay,
    pub(crate) resources: HashMap<String, Resource>,
    history_bytes: usize,
    history: Bounds,
    /// The oldest deferred write that is not at rest.
    pub(crate) oldest_deferred: Option<Revision>,
    pub(crate) closed: bool,
    pub(crate) unread: Unread,
}

/// What the writer publishes.
pub(crate) struct Publication {
    pub(crate) events: Vec<Event>,
    pub(crate) pending: HashMap<Arc<str>, Pending>,
    /// The snapshot after the commit, where there was one; then every deferred write of the overlay is at rest too.
    pub(crate) committed: Option<Arc<dyn Snapshot>>,
    /// All volatile records of the overlay went along.
    pub(crate) spilled: bool,
    /// What the clock shows.
    pub(crate) now: Duration,
}

impl State {
    pub(crate) fn new(shown: Shown, snapshot: Arc<dyn Snapshot>, history: Bounds) -> State {
        State {
            published: shown.base,
            shown: Arc::new(shown),
            snapshot,
            overlay: Overlay::default(),
            resources: HashMap::new(),
            history_bytes: 0,
            history,
            oldest_deferred: None,
            closed: false,
            unread: Unread::default(),
        }
    }

    /// The ring of a resource; it begins where this boot began.
    pub(crate) fn resource(&mut self, name: &str) -> &mut Resource {
        if !self.resources.contains_key(name) {
            let resource = Resource { ring: Ring::new(self.shown.base), keys: None };
            self.resources.insert(name.to_owned(), resource);
        }
        self.resources.get_mut(name).expect("it was just inserted")
    }

    /// Where a watch of a resource after `after` begins.
    pub(crate) fn watch_from(&mut self, name: &str, after: Revision) -> Result<u64, WatchError> {
        if after > self.published {
            return Err(WatchError::TooNew { current: self.published });
        }
        let ring = &self.resource(name).ring;
        if after < ring.floor() {
            return Err(WatchError::Compacted { oldest: ring.floor() });
        }
        Ok(ring.position_after(after))
    }

    /// The records under a prefix after a key, as of `at`: the present ones with newer events undone.
    pub(crate) fn view(&self, prefix: &str, after: Option<&str>, at: Option<Revision>) -> Result<View, ReadError> {
        let revision = at.unwrap_or(self.published);
        if revision > self.published {
            return Err(ReadError::TooNew { current: self.published });
        }
        let mut patch: BTreeMap<_, _> =
            self.overlay.range(prefix, after).map(|(key, held)| (key.clone(), held.version.clone())).collect();
        if revision < self.published {
            self.undo(prefix, after, revision, &mut patch)?;
        }
        Ok(View { revision, snapshot: self.snapshot.clone(), shown: self.shown.clone(), patch })
    }

    fn undo(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: Revision,
        patch: &mut BTreeMap<Arc<str>, Option<Version>>,
    ) -> Result<(), ReadError> {
        if revision < self.shown.base {
            return Err(ReadError::Compacted { oldest: self.shown.base });
        }
        let touched = |name: &str| match prefix.split_once('/') {
            Some((resource, _)) => name == resource,
            None => name.starts_with(prefix),
        };
        for (_, resource) in self.resources.iter().filter(|(name, _)| touched(name)) {
            let ring = &resource.ring;
            if revision < ring.floor() {
                return Err(ReadError::Compacted { oldest: ring.floor() });
            }
            let newer = ring.from(ring.position_after(revision)).into_iter().flatten();
            for event in newer.rev().filter(|event| event.key.starts_with(prefix)) {
                if after.is_none_or(|after| &*event.key > after) {
                    patch.insert(event.key.clone(), event.before());
                }
            }
        }
        Ok(())
    }

    /// Makes staged events visible, all at once; returns the resources that they touch.
    pub(crate) fn publish(&mut self, publication: Publication) -> BTreeSet<String> {
        let Publication { events, pending, committed, spilled, now } = publication;
        let carried = committed.is_some();
        if let Some(snapshot) = committed {
            self.snapshot = snapshot;
            self.drop_carried(spilled);
        }
        for (key, pending) in pending {
            self.hold(key, pending, carried);
        }
        let mut touched = BTreeSet::new();
        if let Some(last) = events.last() {
            self.published = last.revision;
        }
        for event in events {
            let name = resource(&event.key).unwrap_or_default();
            if !touched.contains(name) {
                touched.insert(name.to_owned());
            }
            self.remember(event, now);
        }
        if !touched.is_empty() {
            self.forget_old(now);
        }
        touched
    }

    /// History begins here: what was before is lost, and every watcher has to list again. Returns all resources.
    #[cfg(feature = "etcd")]
    pub(crate) fn begin_again(&mut self, base: Revision) -> BTreeSet<String> {
        let Shown { floor, soft, sealer, .. } = &*self.shown;
        self.shown = Arc::new(Shown { base, floor: *floor, soft: soft.clone(), sealer: sealer.clone() });
        self.published = base;
        self.history_bytes = 0;
        for resource in self.resources.values_mut() {
            resource.ring.begin_again(base);
        }
        self.resources.keys().cloned().collect()
    }

    /// The value that a key got at a revision, where the history still has it.
    #[cfg(feature = "etcd")]
    pub(crate) fn remembered(&self, key: &str, at: Revision) -> Option<bytes::Bytes> {
        self.resources.get(resource(key)?)?.ring.value(key, at)
    }

    /// What a commit carried is at rest now.
    fn drop_carried(&mut self, spilled: bool) {
        let carried: Vec<Arc<str>> = self
            .overlay
            .iter()
            .filter(|(_, held)| spilled || held.deferred.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        for key in carried {
            self.overlay.remove(&key);
        }
        self.oldest_deferred = None;
    }

    /// Puts a key's new state above the backing, unless the commit just took it there.
    fn hold(&mut self, key: Arc<str>, pending: Pending, carried: bool) {
        if carried && pending.floor > Durability::Volatile {
            self.overlay.remove(&key);
            return;
        }
        if pending.version.is_none() && matches!(read(&*self.snapshot, &self.shown, &key), Ok(Current::Absent)) {
            self.overlay.remove(&key);
            return;
        }
        let deferred = self.overlay.get(&key).and_then(|held| held.deferred).or(pending.deferred);
        self.overlay.insert(key, Held { version: pending.version, deferred });
        if let Some(revision) = deferred {
            self.oldest_deferred = Some(self.oldest_deferred.map_or(revision, |oldest| oldest.min(revision)));
        }
    }

    /// A volatile deletion is to be carried by the next commit.
    pub(crate) fn confirm(&mut self, key: &str) {
        let published = self.published;
        if let Some(held) = self.overlay.get_mut(key)
            && held.deferred.is_none()
        {
            held.deferred = Some(published);
            self.oldest_deferred.get_or_insert(published);
        }
    }

    fn remember(&mut self, event: Event, now: Duration) {
        let name = resource(&event.key).unwrap_or_default().to_owned();
        let per_resource = self.history.bytes_per_resource;
        let resource = self.resource(&name);
        if let Some(keys) = &mut resource.keys {
            match (event.kind, &event.previous) {
                (EventKind::Put, None) => *keys += 1,
                (EventKind::Delete, _) => *keys -= 1,
                (EventKind::Put, Some(_)) => {}
            }
        }
        let before = resource.ring.bytes();
        resource.ring.push(event, now);
        while resource.ring.bytes() > per_resource && resource.ring.forget() {}
        let after = resource.ring.bytes();
        self.history_bytes = self.history_bytes - before + after;
        self.shrink_history();
    }

    /// What is too old goes, of all resources: one that nobody writes to keeps it no longer.
    fn forget_old(&mut self, now: Duration) {
        let Some(time) = now.checked_sub(self.history.age) else { return };
        for resource in self.resources.values_mut() {
            let before = resource.ring.bytes();
            resource.ring.forget_before(time);
            self.history_bytes = self.history_bytes - before + resource.ring.bytes();
        }
    }

    fn shrink_history(&mut self) {
        while self.history_bytes > self.history.bytes {
            let largest = self.resources.values_mut().max_by_key(|resource| resource.ring.bytes());
            let Some(largest) = largest else { return };
            let before = largest.ring.bytes();
            if !largest.ring.forget() {
                return;
            }
            self.history_bytes -= before - largest.ring.bytes();
        }
    }

    /// The last revision of which everything but volatile writes is at rest.
    pub(crate) fn durable(&self) -> Revision {
        self.oldest_deferred.map_or(self.published, |oldest| Revision(oldest.0 - 1))
    }
}

/// A key's state at rest.
pub(crate) fn read(snapshot: &dyn Snapshot, shown: &Shown, key: &str) -> Result<Current, BackingError> {
    let mut current = Current::Absent;
    snapshot.get(key, &mut |raw| current = shown.current(key, raw))?;
    Ok(current)
}
