//! Pure: pods that wait: ready ones by priority, failed ones until something happens that their plugins wait for, and then
//! no sooner than their back-off.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::cluster::Happening;
use super::filter::Plugin;
use crate::controllers::view::meta::Uid;

/// The first pause of a pod that found no node; doubles with every attempt (upstream's podInitialBackoffSeconds).
const BACKOFF_MIN_S: u64 = 1;
/// The longest pause (upstream's podMaxBackoffSeconds).
const BACKOFF_MAX_S: u64 = 10;

/// Highest priority first, then who came first.
type Rank = (Reverse<i64>, i64, u64);

struct Waiting {
    rank: Rank,
    attempts: u32,
    plugins: BTreeSet<Plugin>,
    not_before: Duration,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    BackingOff,
    Unschedulable,
    Placing { moved: bool },
}

/// The queue. Time is an argument.
#[derive(Default)]
pub(crate) struct Queue {
    pods: HashMap<Uid, Waiting>,
    ready: BTreeSet<(Rank, Uid)>,
    backing_off: BTreeSet<(Duration, Uid)>,
    ticket: u64,
}

impl Queue {
    /// A pod without a node appeared, or changed in a way that matters.
    pub(crate) fn add(&mut self, pod: Uid, priority: i64, created: i64) {
        self.ticket += 1;
        let rank = (Reverse(priority), created, self.ticket);
        let known = self.pods.entry(pod).or_insert(Waiting {
            rank,
            attempts: 0,
            plugins: BTreeSet::new(),
            not_before: Duration::ZERO,
            state: State::Ready,
        });
        match known.state {
            State::Ready => drop(self.ready.insert((known.rank, pod))),
            State::Placing { .. } => known.state = State::Placing { moved: true },
            State::BackingOff | State::Unschedulable => {}
        }
    }

    /// The pod is gone, bound, or gated again.
    pub(crate) fn remove(&mut self, pod: Uid) {
        if let Some(waiting) = self.pods.remove(&pod) {
            self.ready.remove(&(waiting.rank, pod));
            self.backing_off.remove(&(waiting.not_before, pod));
        }
    }

    /// Takes out everything that may be placed now, best first, up to `most`.
    pub(crate) fn take(&mut self, now: Duration, most: usize) -> Vec<Uid> {
        while let Some((_, pod)) = self.backing_off.first().copied().filter(|(due, _)| *due <= now) {
            self.backing_off.pop_first();
            self.ready_now(pod);
        }
        let mut batch = Vec::new();
        while let (true, Some((_, pod))) = (batch.len() < most, self.ready.first().copied()) {
            self.ready.pop_first();
            if let Some(waiting) = self.pods.get_mut(&pod) {
                waiting.state = State::Placing { moved: false };
                waiting.attempts += 1;
                batch.push(pod);
            }
        }
        batch
    }

    /// No node was found, by these plugins' refusals.
    pub(crate) fn failed(&mut self, pod: Uid, plugins: BTreeSet<Plugin>, now: Duration) {
        let Some(waiting) = self.pods.get_mut(&pod) else { return };
        let moved = waiting.state == State::Placing { moved: true };
        let pause = (BACKOFF_MIN_S << (waiting.attempts.max(1) - 1).min(8)).min(BACKOFF_MAX_S);
        waiting.not_before = now + Duration::from_secs(pause);
        waiting.plugins = plugins;
        waiting.state = State::Unschedulable;
        if moved {
            self.back_off(pod, now);
        }
    }

    /// The binding failed: again after the pause.
    pub(crate) fn retry(&mut self, pod: Uid, now: Duration) {
        self.failed(pod, BTreeSet::new(), now);
        self.back_off(pod, now);
    }

    /// Something happened: pods that may have waited for it get another try.
    pub(crate) fn happened(&mut self, what: Happening, now: Duration) {
        let mut moved = Vec::new();
        for (pod, waiting) in &mut self.pods {
            let waits = waiting.plugins.is_empty() || waiting.plugins.iter().any(|plugin| interests(*plugin, what));
            match waiting.state {
                State::Unschedulable if waits => moved.push(*pod),
                State::Placing { .. } => waiting.state = State::Placing { moved: true },
                _ => {}
            }
        }
        moved.into_iter().for_each(|pod| self.back_off(pod, now));
    }

    fn back_off(&mut self, pod: Uid, now: Duration) {
        let Some(waiting) = self.pods.get_mut(&pod) else { return };
        if waiting.not_before <= now {
            self.ready_now(pod);
        } else {
            waiting.state = State::BackingOff;
            self.backing_off.insert((waiting.not_before, pod));
        }
    }

    fn ready_now(&mut self, pod: Uid) {
        if let Some(waiting) = self.pods.get_mut(&pod) {
            waiting.state = State::Ready;
            self.ready.insert((waiting.rank, pod));
        }
    }

    /// When the next back-off ends.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.backing_off.first().map(|(due, _)| *due)
    }
}

/// Which happenings can change a plugin's mind (upstream's queueing hints, by kind of event).
fn interests(plugin: Plugin, what: Happening) -> bool {
    use Happening::{NodeAdded, NodeFreed, NodeLabels, NodeTaints, PodChanged, PodGone, PodPlaced};
    match plugin {
        Plugin::NodeUnschedulable | Plugin::TaintToleration => matches!(what, NodeAdded | NodeTaints),
        Plugin::NodeAffinity => matches!(what, NodeAdded | NodeLabels),
        Plugin::NodePorts => matches!(what, NodeAdded | PodGone),
        Plugin::NodeResourcesFit => matches!(what, NodeAdded | NodeFreed | PodGone | PodChanged),
        Plugin::PodTopologySpread | Plugin::InterPodAffinity => {
            matches!(what, NodeAdded | NodeLabels | NodeTaints | PodGone | PodPlaced | PodChanged)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> Uid {
        Uid::parse(text)
    }

    #[test]
    fn priority_first_then_age() {
        let mut queue = Queue::default();
        queue.add(uid("late"), 0, 20);
        queue.add(uid("early"), 0, 10);
        queue.add(uid("important"), 100, 30);
        assert_eq!(queue.take(Duration::ZERO, 9), [uid("important"), uid("early"), uid("late")]);
    }

    #[test]
    fn only_what_a_plugin_waits_for_brings_a_pod_back_after_its_pause() {
        let mut queue = Queue::default();
        queue.add(uid("a"), 0, 0);
        queue.take(Duration::ZERO, 9);
        queue.failed(uid("a"), BTreeSet::from([Plugin::NodeResourcesFit]), Duration::ZERO);
        queue.happened(Happening::NodeTaints, Duration::ZERO);
        assert_eq!(queue.next_due(), None);
        queue.happened(Happening::PodGone, Duration::ZERO);
        assert_eq!(queue.take(Duration::ZERO, 9), []);
        assert_eq!(queue.next_due(), Some(Duration::from_secs(1)));
        assert_eq!(queue.take(Duration::from_secs(1), 9), [uid("a")]);
    }

    #[test]
    fn what_happens_while_a_pod_is_placed_is_not_lost() {
        let mut queue = Queue::default();
        queue.add(uid("a"), 0, 0);
        queue.take(Duration::ZERO, 9);
        queue.happened(Happening::PodGone, Duration::ZERO);
        queue.failed(uid("a"), BTreeSet::from([Plugin::NodeResourcesFit]), Duration::ZERO);
        assert_eq!(queue.next_due(), Some(Duration::from_secs(1)));
    }
}
