//! Shell: THE reconcile loop of every controller.
//!
//! ```text
//! watches --(bounded channel)--> view --keys--> queue --key--> plan --needs--> read --.
//!                                 ^               ^             | steps               |
//!                                 |               '-- fence <-- carry out      plan <-'
//!                                 '------------------ API server <--'
//! ```
//! One task owns view, queue and fences, so nothing is locked; only reads and writes run beside it. The next plan of a key
//! waits until the view has reached what the key's own writes returned, so that no plan sees a world without them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::Options;
use super::apply::{Fence, Hands, Outcome, discover, resource};
use super::events::{Events, now};
use super::kind::{KindId, Kinds};
use super::plan::{Context, Controller, Plan, Reads};
use super::queue::Queue;
use super::time::Now;
use super::view::{Change, Heard, Key, View};
use crate::client::{Client, ListOptions, Step};

/// Plans that are being carried out at a time: bounds requests in flight.
const MAX_JOBS: usize = 16;
/// Watch events that wait for the view; a full channel slows the watches down.
const FEED_DEPTH: usize = 64;
/// Watch events taken in before plans are started again.
const BATCH: usize = 128;
/// A plan asks for more to read at most this often.
const MAX_READS: usize = 8;
/// The pause before discovery is tried again.
const DISCOVERY_PAUSE: Duration = Duration::from_millis(500);

/// A key of one controller, by its place in the table.
type Item = (usize, Key);

struct Job {
    item: Item,
    done: Done,
}

enum Done {
    Read { reads: Reads, rounds: usize },
    Wrote { outcome: Outcome, again: Option<Duration> },
}

struct Running {
    controller: &'static Controller,
    hands: Hands,
    events: Events,
}

struct Loop {
    view: View,
    controllers: Vec<Running>,
    queue: Queue<Item>,
    fences: HashMap<Item, Vec<Fence>>,
    failures: HashMap<Item, String>,
    jobs: JoinSet<Job>,
    options: Arc<Options>,
    started: Instant,
}

/// Runs the controllers of the table until `shutdown` changes or closes. `client` is asked for each service account and,
/// under the name `kube-controller-manager`, for the identity of the shared watches (as upstream's shared informers).
pub(crate) async fn run(
    table: &'static [Controller],
    client: &(dyn Fn(&str) -> Client + Sync),
    options: Options,
    mut shutdown: tokio::sync::watch::Receiver<bool>,
) {
    let reader = client("kube-controller-manager");
    let Some((kinds, offered)) = stopped_or(&mut shutdown, kinds(&reader)).await else { return };
    let (feed, mut steps) = mpsc::channel(FEED_DEPTH);
    let mut tasks = JoinSet::new();
    let mut this = Loop::new(table, client, &kinds, options);
    for id in kinds.ids() {
        if !offered.contains(&id) {
            this.view.begin_list(id);
            this.view.end_list(id, 0, Duration::ZERO);
            continue;
        }
        let mut follow = reader.follow(&resource(kinds.get(id)), None, ListOptions::default());
        let feed = feed.clone();
        tasks.spawn(async move { while feed.send((id, follow.next().await)).await.is_ok() {} });
    }
    drop(feed);
    loop {
        this.start_plans();
        let due = this.queue.next_due();
        let deadline = tokio::time::Instant::from_std(this.started + due.unwrap_or_default());
        tokio::select! {
            step = steps.recv() => match step {
                Some((kind, step)) => this.take_in(kind, step, &mut steps),
                None => return,
            },
            Some(job) = this.jobs.join_next(), if !this.jobs.is_empty() => this.finish(job),
            () = tokio::time::sleep_until(deadline), if due.is_some() && this.view.synced() => {}
            _ = shutdown.changed() => return,
        }
    }
}

async fn stopped_or<T>(shutdown: &mut tokio::sync::watch::Receiver<bool>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = shutdown.changed() => None,
    }
}

/// The table's kinds and what discovery found beyond them; and which of them the server offers.
async fn kinds(reader: &Client) -> (Arc<Kinds>, Vec<KindId>) {
    loop {
        match discover(reader).await {
            Ok(found) => {
                let mut kinds = Kinds::new();
                for kind in &found {
                    kinds.add(kind.clone());
                }
                let offers = |id: &KindId| {
                    let wanted = kinds.get(*id);
                    found.iter().any(|kind| kind.group == wanted.group && kind.plural == wanted.plural)
                };
                let offered = kinds.ids().filter(offers).collect();
                return (Arc::new(kinds), offered);
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "discovery failed"),
        }
        tokio::time::sleep(DISCOVERY_PAUSE).await;
    }
}

impl Loop {
    fn new(
        table: &'static [Controller],
        client: &(dyn Fn(&str) -> Client + Sync),
        kinds: &Arc<Kinds>,
        options: Options,
    ) -> Loop {
        let options = Arc::new(options);
        let controllers = table.iter().map(|controller| {
            let hands = Hands { client: client(controller.account), kinds: kinds.clone(), options: options.clone() };
            let events = Events::start(hands.client.clone(), controller.component);
            Running { controller, hands, events }
        });
        Loop {
            view: View::new(kinds.as_ref().clone()),
            controllers: controllers.collect(),
            queue: Queue::default(),
            fences: HashMap::new(),
            failures: HashMap::new(),
            jobs: JoinSet::new(),
            options,
            started: Instant::now(),
        }
    }

    fn now(&self) -> Now {
        now(self.started)
    }

    fn take_in(&mut self, kind: KindId, step: Step, steps: &mut mpsc::Receiver<(KindId, Step)>) {
        self.step(kind, step);
        for _ in 0..BATCH {
            match steps.try_recv() {
                Ok((kind, step)) => self.step(kind, step),
                Err(_) => break,
            }
        }
        self.lift();
    }

    fn step(&mut self, kind: KindId, step: Step) {
        let now = self.started.elapsed();
        match step {
            Step::Reset => self.view.begin_list(kind),
            Step::Applied(object) => {
                let change = self.view.apply(kind, Heard::Present, &object, now);
                self.changed(&change);
            }
            Step::Deleted(object) => {
                let change = self.view.apply(kind, Heard::Gone, &object, now);
                self.changed(&change);
            }
            Step::Synced(revision) => {
                for change in self.view.end_list(kind, revision.parse().unwrap_or_default(), now) {
                    self.changed(&change);
                }
                self.relisted(kind);
                if self.view.synced() {
                    let (objects, bytes) = self.view.weigh();
                    let each = bytes / objects.max(1);
                    tracing::debug!(objects, bytes, bytes_per_object = each, "controllers' view");
                }
            }
            Step::Reached(revision) => self.view.bookmark(kind, revision.parse().unwrap_or_default()),
        }
    }

    fn changed(&mut self, change: &Change) {
        let mut keys = Vec::new();
        for (place, running) in self.controllers.iter().enumerate() {
            let watches = running.controller.watches;
            if !watches.is_empty() && !watches.contains(&change.key.kind) {
                continue;
            }
            (running.controller.keys)(&self.view, change, &mut keys);
            keys.drain(..).for_each(|key| self.queue.add((place, key)));
        }
    }

    /// Owners that went between two lists left no trace: their dependents are looked at again.
    fn relisted(&mut self, kind: KindId) {
        let mut keys = Vec::new();
        super::garbage::keys_after_list(&self.view, kind, &mut keys);
        for (place, running) in self.controllers.iter().enumerate() {
            if running.controller.account == super::garbage::CONTROLLER.account {
                keys.drain(..).for_each(|key| self.queue.add((place, key)));
            }
        }
    }

    /// Lets go of the keys whose writes the view has seen.
    fn lift(&mut self) {
        let view = &self.view;
        let mut lifted = Vec::new();
        self.fences.retain(|item, fences| {
            fences.retain(|fence| !passed(view, fence));
            if fences.is_empty() {
                lifted.push(item.clone());
            }
            !fences.is_empty()
        });
        lifted.iter().for_each(|item| self.queue.lift(item));
    }

    fn start_plans(&mut self) {
        if !self.view.synced() {
            return;
        }
        while self.jobs.len() < MAX_JOBS {
            let Some(item) = self.queue.pop(self.started.elapsed()) else { return };
            self.plan(item, Reads::default(), 0);
        }
    }

    fn plan(&mut self, item: Item, reads: Reads, rounds: usize) {
        let running = &self.controllers[item.0];
        let now = self.now();
        let key = &item.1;
        let kind = self.view.kinds.get(key.kind).kind.clone();
        let resource_version = self.view.object(key).map_or(0, |object| object.meta().revision);
        let span = tracing::info_span!("reconcile", controller = running.controller.account, %kind,
            namespace = %key.namespace, name = %key.name, resource_version);
        let failure = self.failures.get(&item).map(String::as_str);
        let context = Context { now, options: &self.options, reads: &reads, failure };
        let Plan { needs, steps, requeue_after } =
            span.in_scope(|| (running.controller.plan)(&self.view, &item.1, &context));
        let hands = running.hands.clone();
        if !needs.is_empty() && rounds < MAX_READS {
            self.jobs.spawn(
                async move {
                    match hands.read(needs, reads).await {
                        Ok(reads) => Job { item, done: Done::Read { reads, rounds: rounds + 1 } },
                        Err(failure) => {
                            let outcome = Outcome { failure: Some(failure), ..Outcome::default() };
                            Job { item, done: Done::Wrote { outcome, again: None } }
                        }
                    }
                }
                .instrument(span),
            );
        } else if steps.iter().all(Vec::is_empty) {
            self.settle(item, Outcome::default(), requeue_after);
        } else {
            self.jobs.spawn(
                async move {
                    let outcome = hands.carry_out(steps, now).await;
                    Job { item, done: Done::Wrote { outcome, again: requeue_after } }
                }
                .instrument(span),
            );
        }
    }

    fn finish(&mut self, job: Result<Job, tokio::task::JoinError>) {
        match job {
            Ok(Job { item, done: Done::Read { reads, rounds } }) => self.plan(item, reads, rounds),
            Ok(Job { item, done: Done::Wrote { outcome, again } }) => self.settle(item, outcome, again),
            // A panic in a write is a bug of ours: it must end the process, not leave a key stuck for ever.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    fn settle(&mut self, item: Item, outcome: Outcome, again: Option<Duration>) {
        let running = &self.controllers[item.0];
        for report in outcome.reports {
            running.events.send(report);
        }
        let failed = outcome.failure.is_some();
        match outcome.failure {
            Some(failure) => {
                if !failure.raced {
                    tracing::warn!(
                        controller = running.controller.account,
                        key = item.1.path(),
                        error = failure.message,
                        "reconcile failed"
                    );
                    self.failures.insert(item.clone(), failure.message);
                }
            }
            None => drop(self.failures.remove(&item)),
        }
        let fences: Vec<Fence> = outcome.fences.into_iter().filter(|fence| !passed(&self.view, fence)).collect();
        let now = self.started.elapsed();
        self.queue.done(item.clone(), failed, again, !fences.is_empty(), now);
        if !fences.is_empty() {
            self.fences.insert(item, fences);
        }
    }
}

fn passed(view: &View, fence: &Fence) -> bool {
    match fence {
        Fence::Revision(kind, revision) => view.caught_up(*kind) >= *revision,
        Fence::Gone(key, uid) => view.object(key).is_none_or(|object| {
            let meta = object.meta();
            meta.uid != *uid || meta.deleted.is_some()
        }),
    }
}
