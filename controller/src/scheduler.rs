//! Shell: filter, then rank; this file watches, places whole batches, and binds.
//!
//! ```text
//! watches (pods, nodes, namespaces) --> cluster --> queue --batch--> plan --> bind | tell why not, perhaps preempt
//!                                          ^------------- assumed placements -----'
//! ```

mod affinity;
mod amounts;
mod ask;
mod cluster;
mod filter;
mod placement;
mod plan;
mod preempt;
mod queue;
mod score;
mod spread;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::cluster::{Cluster, Pod};
use self::plan::Decision;
use self::preempt::Preemption;
use self::queue::Queue;
use crate::client::{Client, ClientError, DeleteOptions, ListOptions, PatchKind, Resource, Step};
use crate::controllers::events::{About, Events};
use crate::controllers::kind::KindId;
use crate::controllers::text::{Str, str_at};
use crate::controllers::view::Key;
use crate::controllers::view::meta::Uid;
use crate::object::time;

const PODS: Resource = Resource::new("", "v1", "pods");
const NODES: Resource = Resource::new("", "v1", "nodes");
const NAMESPACES: Resource = Resource::new("", "v1", "namespaces");

/// Pods placed in one pass: bounds how long the watches wait for it.
const BATCH: usize = 256;
/// Watch events that wait; a full channel slows the watches down.
const FEED_DEPTH: usize = 64;
/// Bindings and reports on their way at a time.
const MAX_JOBS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Pods,
    Nodes,
    Namespaces,
}

/// How a job ended.
enum Done {
    Bound,
    NotBound(Uid),
    Told,
}

struct Scheduler {
    client: Client,
    cluster: Cluster,
    queue: Queue,
    jobs: JoinSet<Done>,
    events: Events,
    started: Instant,
    /// Lists that are under way: what they have not met yet.
    unmet: [std::collections::BTreeSet<Str>; 3],
    listed: [bool; 3],
}

/// Places pods until `shutdown` changes or closes. `client` acts as `system:kube-scheduler`.
pub async fn run(client: Client, mut shutdown: tokio::sync::watch::Receiver<bool>) {
    // Leader election goes here: hold the Lease, run, stop when it is lost.
    let (feed, mut steps) = mpsc::channel(FEED_DEPTH);
    let mut watches = JoinSet::new();
    for (source, of) in [(Source::Nodes, NODES), (Source::Namespaces, NAMESPACES), (Source::Pods, PODS)] {
        let mut follow = client.follow(&of, None, ListOptions::default());
        let feed = feed.clone();
        watches.spawn(async move { while feed.send((source, follow.next().await)).await.is_ok() {} });
    }
    drop(feed);
    let mut this = Scheduler {
        events: Events::start(client.clone(), "default-scheduler"),
        client,
        cluster: Cluster::default(),
        queue: Queue::default(),
        jobs: JoinSet::new(),
        started: Instant::now(),
        unmet: Default::default(),
        listed: [false; 3],
    };
    loop {
        this.place();
        let due = this.queue.next_due();
        let deadline = tokio::time::Instant::from_std(this.started + due.unwrap_or_default());
        tokio::select! {
            step = steps.recv() => match step {
                Some((source, step)) => {
                    this.step(source, step);
                    // What waits already belongs to the same batch.
                    while let Ok((source, step)) = steps.try_recv() {
                        this.step(source, step);
                    }
                }
                None => return,
            },
            Some(done) = this.jobs.join_next(), if !this.jobs.is_empty() => this.finish(done),
            () = tokio::time::sleep_until(deadline), if due.is_some() => {}
            _ = shutdown.changed() => return,
        }
    }
}

impl Scheduler {
    fn step(&mut self, source: Source, step: Step) {
        match step {
            Step::Reset => {
                self.unmet[source as usize] = match source {
                    Source::Pods => self.cluster.pods.keys().map(|uid| uid.to_string().into()).collect(),
                    Source::Nodes => self.cluster.live_nodes().map(|node| node.name.0.clone()).collect(),
                    Source::Namespaces => self.cluster.namespaces.keys().cloned().collect(),
                };
            }
            Step::Applied(object) => {
                let field = if source == Source::Pods { "uid" } else { "name" };
                self.unmet[source as usize].remove(str_at(&object, &["metadata", field]));
                self.applied(source, &object);
            }
            Step::Deleted(object) => {
                let field = if source == Source::Pods { "uid" } else { "name" };
                self.gone(source, str_at(&object, &["metadata", field]));
            }
            Step::Synced(_) => {
                for name in std::mem::take(&mut self.unmet[source as usize]) {
                    self.gone(source, &name);
                }
                self.listed[source as usize] = true;
                let (nodes, pods) = self.cluster.figures();
                tracing::debug!(nodes, pods, ?source, "scheduler's view");
            }
            Step::Reached(_) => {}
        }
    }

    fn applied(&mut self, source: Source, object: &Value) {
        let now = self.started.elapsed();
        let happening = match source {
            Source::Namespaces => {
                self.cluster.put_namespace(object);
                None
            }
            Source::Nodes => self.cluster.put_node(object),
            Source::Pods => {
                let happening = self.cluster.put_pod(object);
                let uid = Uid::parse(str_at(object, &["metadata", "uid"]));
                match self.cluster.pods.get(&uid) {
                    Some(pod) if pod.node.is_none() && !pod.gated && !pod.deleted => {
                        self.queue.add(uid, pod.ask.priority, pod.created);
                    }
                    _ => self.queue.remove(uid),
                }
                happening
            }
        };
        if let Some(happening) = happening {
            self.queue.happened(happening, now);
        }
    }

    fn gone(&mut self, source: Source, name: &str) {
        match source {
            Source::Namespaces => drop(self.cluster.namespaces.remove(name)),
            Source::Nodes => self.cluster.remove_node(name),
            Source::Pods => {
                let uid = Uid::parse(name);
                self.queue.remove(uid);
                if let Some(happening) = self.cluster.remove_pod(uid) {
                    self.queue.happened(happening, self.started.elapsed());
                }
            }
        }
    }

    /// Places what is ready, as long as there is room for jobs.
    fn place(&mut self) {
        while self.listed == [true; 3] && self.jobs.len() < MAX_JOBS {
            let batch = self.queue.take(self.started.elapsed(), BATCH.min(MAX_JOBS - self.jobs.len()));
            if batch.is_empty() {
                return;
            }
            let decisions = plan::plan(&mut self.cluster, &batch);
            decisions.into_iter().for_each(|decision| self.carry_out(decision));
        }
    }

    fn carry_out(&mut self, decision: Decision) {
        match decision {
            Decision::Bind { pod, node } => {
                let Some(pod) = self.cluster.pods.get(&pod) else { return };
                self.jobs.spawn(bind(self.client.clone(), self.events.clone(), pod.clone(), node));
            }
            Decision::Wait { pod, message, plugins, preemption } => {
                let now = self.started.elapsed();
                let victims: Vec<Pod> = preemption
                    .iter()
                    .flat_map(|preemption| &preemption.victims)
                    .filter_map(|uid| self.cluster.pods.get(uid).cloned())
                    .collect();
                let Some(waiting) = self.cluster.pods.get(&pod) else { return };
                if waiting.told.as_deref() != Some(&message) || preemption.is_some() {
                    let job =
                        tell(self.client.clone(), self.events.clone(), waiting.clone(), message, preemption, victims);
                    self.jobs.spawn(job);
                }
                self.queue.failed(pod, plugins, now);
            }
        }
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::NotBound(pod)) => {
                self.cluster.forget(pod);
                self.queue.retry(pod, self.started.elapsed());
            }
            Ok(Done::Bound | Done::Told) => {}
            // A panic in a binding is a bug of ours: it must end the process, not leave a pod assumed for ever.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
}

fn about(pod: &Pod) -> About {
    About { key: Key { kind: KindId::PODS, namespace: pod.namespace.clone(), name: pod.name.clone() }, uid: pod.uid }
}

#[tracing::instrument(skip_all, fields(namespace = %pod.namespace, name = %pod.name, %node))]
async fn bind(client: Client, events: Events, pod: Pod, node: Str) -> Done {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": { "namespace": &*pod.namespace, "name": &*pod.name, "uid": pod.uid.to_string() },
        "target": { "kind": "Node", "name": &*node },
    });
    match client.create_subresource(&PODS, Some(&pod.namespace), &pod.name, "binding", &binding).await {
        Ok(_) => {
            let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
            events.record(about(&pod), false, "Scheduled", message);
            Done::Bound
        }
        // Gone, or bound by somebody else: the watch tells.
        Err(error) if error.is_not_found() || error.is_conflict() => Done::NotBound(pod.uid),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "binding failed");
            let message = format!("binding rejected: {error}");
            events.record(about(&pod), true, "FailedScheduling", message);
            Done::NotBound(pod.uid)
        }
    }
}

async fn tell(
    client: Client,
    events: Events,
    pod: Pod,
    message: String,
    preemption: Option<Preemption>,
    victims: Vec<Pod>,
) -> Done {
    events.record(about(&pod), true, "FailedScheduling", message.clone());
    let stamp = time::format(wall());
    let mut status = json!({ "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastProbeTime": null, "lastTransitionTime": stamp,
    }] });
    if let Some(preemption) = &preemption {
        status["nominatedNodeName"] = Value::from(&*preemption.node);
    }
    let patch = json!({ "metadata": { "uid": pod.uid.to_string() }, "status": status });
    let strategic = (PatchKind::Strategic, &patch);
    if let Err(error) = client.patch(&PODS, Some(&pod.namespace), &pod.name, Some("status"), strategic).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "the pod was not told why it waits");
    }
    for victim in victims.iter().filter(|victim| !victim.deleted) {
        if let Err(error) = evict(&client, &events, &pod, victim, &stamp).await {
            tracing::warn!(error = &error as &dyn std::error::Error, victim = %victim.name, "preemption failed");
        }
    }
    Done::Told
}

/// Marks a victim (KEP-3329) and deletes it.
async fn evict(client: &Client, events: &Events, pod: &Pod, victim: &Pod, stamp: &str) -> Result<(), ClientError> {
    let condition = json!({ "metadata": { "uid": victim.uid.to_string() }, "status": { "conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": "default-scheduler: preempting to accommodate a higher priority pod", "lastTransitionTime": stamp,
    }] } });
    let (namespace, strategic) = (Some(&*victim.namespace), (PatchKind::Strategic, &condition));
    client.patch(&PODS, namespace, &victim.name, Some("status"), strategic).await?;
    client.delete(&PODS, namespace, &victim.name, &DeleteOptions::of_uid(&victim.uid.to_string())).await?;
    let node = victim.node.as_deref().unwrap_or_default();
    let message = format!("Preempted by pod {} on node {node}", pod.uid);
    events.record(about(victim), false, "Preempted", message);
    Ok(())
}

fn wall() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.as_ref().map_or(0, Duration::as_secs) as i64
}
