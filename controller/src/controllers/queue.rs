//! Pure: the queue of keys to plan: each key once, one plan of a key at a time, back-off per key, fences on own writes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// The first pause after a failure; it doubles with every further one (upstream's rate limiter).
const BACKOFF_MIN_MS: u64 = 5;
/// The longest pause: a full disk or a quota is looked at again within this.
const BACKOFF_MAX_MS: u64 = 60_000;

#[derive(Default)]
struct State {
    queued: bool,
    running: bool,
    /// Wanted again while it ran.
    dirty: bool,
    failures: u32,
    due: Option<(Duration, u64)>,
}

impl State {
    fn idle(&self) -> bool {
        !self.queued && !self.running && self.failures == 0 && self.due.is_none()
    }
}

/// The queue. Time is an argument.
pub(crate) struct Queue<K> {
    ready: VecDeque<K>,
    states: HashMap<K, State>,
    timers: BTreeMap<(Duration, u64), K>,
    fenced: BTreeSet<K>,
    ticket: u64,
}

impl<K: Clone + Eq + Hash + Ord> Default for Queue<K> {
    fn default() -> Queue<K> {
        Queue {
            ready: VecDeque::new(),
            states: HashMap::new(),
            timers: BTreeMap::new(),
            fenced: BTreeSet::new(),
            ticket: 0,
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// Something about this key changed.
    pub(crate) fn add(&mut self, key: K) {
        let state = self.states.entry(key.clone()).or_default();
        if state.running || self.fenced.contains(&key) {
            state.dirty = true;
        } else if state.failures > 0 && state.due.is_some() {
            // A key that failed keeps its pause: changes must not turn the back-off into a spin.
        } else if !state.queued {
            state.queued = true;
            self.ready.push_back(key);
        }
    }

    /// The next key to plan; it counts as running until [`Queue::done`].
    pub(crate) fn pop(&mut self, now: Duration) -> Option<K> {
        self.expire(now);
        let key = self.ready.pop_front()?;
        if let Some(state) = self.states.get_mut(&key) {
            state.queued = false;
            state.running = true;
            if let Some(due) = state.due.take() {
                self.timers.remove(&due);
            }
        }
        Some(key)
    }

    /// The plan of a key was carried out. `fenced` keeps the key out until [`Queue::lift`].
    pub(crate) fn done(&mut self, key: K, failed: bool, again: Option<Duration>, fenced: bool, now: Duration) {
        let state = self.states.entry(key.clone()).or_default();
        state.running = false;
        state.failures = if failed { state.failures + 1 } else { 0 };
        let due = if failed { Some(backoff(state.failures)) } else { again };
        if let Some(wait) = due {
            self.ticket += 1;
            let due = (now + wait, self.ticket);
            state.due = Some(due);
            self.timers.insert(due, key.clone());
        }
        if fenced {
            self.fenced.insert(key);
            return;
        }
        self.settle(key);
    }

    /// The view has reached what the key's own writes returned.
    pub(crate) fn lift(&mut self, key: &K) {
        if self.fenced.remove(key) {
            self.settle(key.clone());
        }
    }

    fn settle(&mut self, key: K) {
        let Some(state) = self.states.get_mut(&key) else { return };
        if std::mem::take(&mut state.dirty) {
            self.add(key);
        } else if state.idle() {
            self.states.remove(&key);
        }
    }

    fn expire(&mut self, now: Duration) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            let Some(state) = self.states.get_mut(&key) else { continue };
            state.due = None;
            if state.running || self.fenced.contains(&key) {
                state.dirty = true;
            } else if !state.queued {
                state.queued = true;
                self.ready.push_back(key);
            }
        }
    }

    /// When the next timer rings.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// Keys known: queued, running, waiting.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }
}

fn backoff(failures: u32) -> Duration {
    Duration::from_millis(BACKOFF_MIN_MS.saturating_mul(1 << (failures - 1).min(20)).min(BACKOFF_MAX_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Duration = Duration::ZERO;

    #[test]
    fn a_key_waits_once_and_runs_alone() {
        let mut queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.pop(ZERO), Some("a"));
        queue.add("a");
        assert_eq!(queue.pop(ZERO), None);
        queue.done("a", false, None, false, ZERO);
        assert_eq!(queue.pop(ZERO), Some("a"));
        queue.done("a", false, None, false, ZERO);
        assert_eq!((queue.pop(ZERO), queue.len()), (None, 0));
    }

    #[test]
    fn failures_back_off_and_changes_do_not_shorten_it() {
        let mut queue = Queue::default();
        queue.add("a");
        queue.pop(ZERO);
        queue.done("a", true, None, false, ZERO);
        queue.add("a");
        assert_eq!(queue.pop(ZERO), None);
        assert_eq!(queue.next_due(), Some(Duration::from_millis(5)));
        assert_eq!(queue.pop(Duration::from_millis(5)), Some("a"));
        queue.done("a", true, None, false, ZERO);
        assert_eq!(queue.next_due(), Some(Duration::from_millis(10)));
        assert_eq!(backoff(64), Duration::from_millis(BACKOFF_MAX_MS));
    }

    #[test]
    fn a_fence_holds_a_key_until_lifted() {
        let mut queue = Queue::default();
        queue.add("a");
        queue.pop(ZERO);
        queue.done("a", false, None, true, ZERO);
        queue.add("a");
        assert_eq!(queue.pop(ZERO), None);
        queue.lift(&"a");
        assert_eq!(queue.pop(ZERO), Some("a"));
    }

    #[test]
    fn a_plan_may_ask_to_be_woken() {
        let mut queue = Queue::default();
        queue.add("a");
        queue.pop(ZERO);
        queue.done("a", false, Some(Duration::from_secs(3)), false, ZERO);
        assert_eq!(queue.pop(Duration::from_secs(2)), None);
        assert_eq!(queue.pop(Duration::from_secs(3)), Some("a"));
    }
}
