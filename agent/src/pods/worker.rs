//! Shell: the one task of one pod: observe, plan, apply, report, wait.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use super::board::Board;
use super::plan::plan;
use super::post::{self, Address};
use super::spec::{Container, Pod};
use super::state::{Hook, Memory, Observed, Readiness};
use super::status::{self, Now};
use super::{ImageRef, PullError};
use crate::link::Object;
use crate::probes::{self, Outcome, Which};
use crate::volumes::{self, Tokens};

mod apply;
mod begun;
mod entry;
mod hooks;
mod pull;

/// Messages that wait for a pod's task.
const WAITING_MESSAGES: usize = 32;

/// When the runtime cannot be asked: again after this.
const RUNTIME_RETRY: Duration = Duration::from_secs(2);

/// What the task is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// The API (or a file) has a newer object.
    Desired(Object),
    /// The API no longer has it: end it, tell nobody.
    Gone,
    /// An image is there, or is not.
    Pulled { name: String, reference: String, result: Result<Box<ImageRef>, PullError>, took_ms: i64 },
    /// A preStop hook ended.
    Stopped { id: String },
    /// A postStart hook ended.
    Begun { id: String, result: Result<(), String> },
    /// A probe has something to say.
    Probe { id: String, name: String, which: Which, outcome: Outcome },
}

/// How the rest of the agent reaches a pod's task.
pub(crate) struct Handle {
    pub(crate) sender: mpsc::Sender<Message>,
    /// Something of the pod changed in the runtime or in what it refers to.
    pub(crate) notify: Arc<Notify>,
    pub(crate) task: JoinHandle<()>,
}

/// What comes after a turn.
enum Turn {
    Again,
    /// Until something happens, or until then.
    Wait(Option<i64>),
    Finished,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) struct Worker {
    board: Arc<Board>,
    /// As the API has it, without its status; all that is kept of the pod while the task waits.
    object: Object,
    /// The status as last computed here.
    status: Object,
    /// Both parsed, for the length of a turn.
    pod: Arc<Pod>,
    gone: bool,
    /// An earlier agent noted that this pod must not begin again; asked once, when the runtime has told what is left.
    noted: bool,
    /// That it is over is only assumed from that; how it ended, the API knows.
    assumed_over: bool,
    /// What the API holds of the status is known. Nothing is told to it before: what it knows of containers that an
    /// earlier agent started (above all that they are ready) would be taken back until the first probe.
    heard: bool,
    memory: Memory,
    /// Of the sandbox of this id.
    ips: Option<(String, Vec<IpAddr>)>,
    volumes: BTreeMap<String, PathBuf>,
    /// Of what the volumes were last made; none before that and after a failure.
    mounted: Option<u64>,
    tokens: Tokens,
    probers: BTreeMap<(String, Which), AbortOnDrop>,
    messages: mpsc::Receiver<Message>,
    sender: mpsc::Sender<Message>,
    notify: Arc<Notify>,
    newest: watch::Sender<Object>,
    /// What others made of it.
    foreign: watch::Sender<post::Foreign>,
    posting: Option<JoinHandle<()>>,
    /// The instance whose back-off was told as an event, by container.
    told: BTreeMap<String, String>,
    /// The delay after the last failed pull, by container.
    delays: BTreeMap<String, i64>,
}

impl Worker {
    /// Starts the task of a pod.
    pub(crate) fn start(board: Arc<Board>, object: &Object, pod: Pod) -> Handle {
        let (sender, messages) = mpsc::channel(WAITING_MESSAGES);
        let notify = Arc::new(Notify::new());
        let address = address(&pod);
        let status = Object::from(&pod.status);
        let (newest, receiver) = watch::channel(status.clone());
        let (foreign, theirs) = watch::channel(None);
        let posting = (!pod.is_static())
            .then(|| tokio::spawn(post::statuses(board.link.clone(), address, (receiver, theirs), status.clone())));
        let mut memory = Memory { started_ms: started_ms(&pod).unwrap_or_else(|| board.now_ms()), ..Memory::default() };
        memory.recall_probes(&pod.status);
        // The checkpoint keeps no status, the API gives each pod one.
        let heard = pod.is_static() || pod.status.is_object();
        let noted = begun::is_noted(&board.places.pods, &pod.metadata.uid);
        let worker = Self {
            board,
            object: kept(object),
            status,
            pod: Arc::new(pod),
            gone: false,
            noted,
            assumed_over: false,
            heard,
            memory,
            ips: None,
            volumes: BTreeMap::new(),
            mounted: None,
            tokens: Tokens::default(),
            probers: BTreeMap::new(),
            messages,
            sender: sender.clone(),
            notify: Arc::clone(&notify),
            newest,
            foreign,
            posting,
            told: BTreeMap::new(),
            delays: BTreeMap::new(),
        };
        let task = tokio::spawn(worker.run());
        Handle { sender, notify, task }
    }

    async fn run(mut self) {
        self.claim();
        loop {
            // On the heap while it lasts: a turn is large, and a pod waits most of its life.
            match Box::pin(self.turn()).await {
                Turn::Again => {}
                Turn::Wait(wake_at_ms) => self.wait(wake_at_ms).await,
                Turn::Finished => return Box::pin(self.farewell()).await,
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                warn!(pod = %self.pod.display(), %error, "asking the runtime");
                tokio::time::sleep(RUNTIME_RETRY).await;
                return Turn::Again;
            }
        };
        self.judge_the_past(&observed);
        self.forget_the_dead(&observed);
        self.sync_probes(&observed);
        let now_ms = self.board.now_ms();
        let plan = plan(&self.pod, &observed, &self.memory, now_ms);
        self.report(&observed);
        let mut again = false;
        for action in plan.actions {
            match self.apply(action, &observed).await {
                apply::Applied::Again => again = true,
                apply::Applied::Nothing => {}
                apply::Applied::Finished => return Turn::Finished,
            }
        }
        if again { Turn::Again } else { Turn::Wait(plan.wake_at_ms) }
    }

    /// Waits for a message, a notification, or the time; takes everything that is there.
    async fn wait(&mut self, wake_at_ms: Option<i64>) {
        let now_ms = self.board.now_ms();
        let wake = [wake_at_ms, self.tokens.next_ms()].into_iter().flatten().min();
        let pause = wake.map(|at_ms| Duration::from_millis(u64::try_from(at_ms - now_ms).unwrap_or(0)));
        let notify = Arc::clone(&self.notify);
        // A parsed pod takes ten times the room of its text, and most pods wait most of the time.
        self.pod = Arc::clone(&self.board.nothing);
        let message = tokio::select! {
            Some(message) = self.messages.recv() => Some(message),
            () = notify.notified() => None,
            // A moment more than asked, because timers have a coarser grain than clocks.
            () = tokio::time::sleep(pause.unwrap_or_default() + Duration::from_millis(1)), if pause.is_some() => None,
        };
        self.wake();
        if let Some(message) = message {
            self.take(message);
        }
        while let Ok(message) = self.messages.try_recv() {
            self.take(message);
        }
        if self.memory.volumes == Readiness::Ready {
            Box::pin(self.refresh_volumes()).await;
        }
    }

    /// Parses what is kept.
    fn wake(&mut self) {
        // It was read before it was kept.
        let Ok(mut pod) = self.object.read::<Pod>() else { return };
        pod.status = self.status.value();
        if self.gone {
            pod.metadata.deletion_timestamp.get_or_insert_default();
        }
        self.pod = Arc::new(pod);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Desired(object) => self.desire(&object),
            Message::Gone => {
                self.gone = true;
                self.wake();
                self.memory.grace_s = Some(self.pod.grace_s());
            }
            Message::Pulled { name, reference, result, took_ms } => self.pulled(name, reference, result, took_ms),
            Message::Stopped { id } => {
                if let Some(killing) = self.memory.killing.get_mut(&id) {
                    // Upstream leaves two seconds after the hook, whatever it took.
                    killing.deadline_ms = killing.deadline_ms.max(self.board.now_ms() + 2000);
                    killing.hooked = true;
                }
            }
            Message::Begun { id, result } => self.begun(id, result),
            Message::Probe { id, name, which, outcome } => self.probed(&id, &name, which, outcome),
        }
    }

    fn desire(&mut self, object: &Object) {
        let Ok(pod) = object.read::<Pod>() else { return };
        // What this board computed is newer than what the API holds, except for other people's conditions.
        let mut own = self.status.value();
        let first = !std::mem::replace(&mut self.heard, true);
        if first {
            self.memory.recall_probes(&pod.status);
        }
        let assumed = std::mem::take(&mut self.assumed_over);
        if assumed && status::is_final(&pod.status) {
            self.memory.verdict = None;
        }
        if own.is_object() && (!first || status::is_final(&own) && !assumed) {
            merge_foreign_conditions(&mut own, &pod.status);
            self.status = Object::from(&own);
            if post::is_ready(&own) != post::is_ready(&pod.status) {
                let version = object.identity().resource_version.parse().unwrap_or_default();
                self.foreign.send_replace(Some((version, Object::from(&pod.status))));
            }
        } else {
            self.status = Object::from(&pod.status);
        }
        self.object = kept(object);
        self.wake();
        self.claim();
    }

    fn claim(&self) {
        let (config_maps, secrets) = volumes::references(&self.pod);
        let meta = &self.pod.metadata;
        self.board.references.claim(&meta.uid, &meta.namespace, &config_maps, &secrets, &self.notify);
    }

    async fn observe(&mut self) -> Result<Observed, String> {
        let mut observed = self.board.observe(&self.pod.metadata.uid).await?;
        let Some(sandbox) = observed.sandbox.clone().filter(|sandbox| sandbox.ready) else { return Ok(observed) };
        match &self.ips {
            Some((id, ips)) if *id == sandbox.id => observed.ips = ips.clone(),
            // A sandbox of an earlier agent: its network is attached again, which answers the same addresses.
            _ => match self.attach(&sandbox).await {
                Ok(ips) => {
                    if observed.instances.is_empty() {
                        // That agent may not have come to write them.
                        self.write_own_files(&ips).await?;
                    }
                    self.ips = Some((sandbox.id.clone(), ips.clone()));
                    observed.ips = ips;
                }
                Err(error) => {
                    warn!(pod = %self.pod.display(), %error, "attaching the network again");
                    observed.detached = true;
                }
            },
        }
        Ok(observed)
    }

    /// A pod that has run before this board's boot, and whose policy is against a second time, is over.
    fn judge_the_past(&mut self, observed: &Observed) {
        let lost = observed.sandbox.is_none() && observed.instances.is_empty();
        let open = self.memory.verdict.is_none() && !status::is_final(&self.pod.status);
        if std::mem::take(&mut self.noted) && lost && open {
            let message = "The node restarted while the pod ran, or after it had ended".to_owned();
            self.memory.verdict = Some(("Terminated".to_owned(), message));
            self.assumed_over = true;
        }
    }

    /// Memory and probers of containers that are gone go too.
    fn forget_the_dead(&mut self, observed: &Observed) {
        let lives = |id: &String| observed.running().any(|instance| instance.id() == id);
        self.memory.killing.retain(|id, _| lives(id));
        self.memory.hooks.retain(|id, _| lives(id));
        self.memory.probes.retain(|id, _| lives(id));
        self.probers.retain(|(id, _), _| lives(id));
    }

    fn sync_probes(&mut self, observed: &Observed) {
        let host_ip = self.board.host_ips.first().copied();
        let ip = if self.pod.spec.host_network { host_ip } else { observed.ips.first().copied() };
        for instance in observed.running() {
            let Some((_, container)) = self.pod.container(&instance.status.name) else { continue };
            let started = status::is_started(container, instance, &self.memory);
            let hooked = matches!(self.memory.hooks.get(instance.id()), Some(Hook::Running));
            let due = if started {
                [Some(Which::Liveness), Some(Which::Readiness)]
            } else {
                [(!hooked).then_some(Which::Startup), None]
            };
            for which in due.into_iter().flatten() {
                let key = (instance.id().to_owned(), which);
                let Some(probe) = which.of(container).filter(|_| !self.probers.contains_key(&key)) else { continue };
                let since_ms = self.board.now_ms() - instance.status.started_at / 1_000_000;
                let prober = self.prober(instance.id(), container, which, probe.clone(), since_ms, ip);
                self.probers.insert(key, prober);
            }
        }
    }

    fn prober(
        &self,
        id: &str,
        container: &Container,
        which: Which,
        probe: super::spec::Probe,
        since_ms: i64,
        ip: Option<IpAddr>,
    ) -> AbortOnDrop {
        let target = probes::Target {
            runtime: Arc::clone(&self.board.runtime),
            container_id: id.to_owned(),
            container: Arc::new(container.clone()),
            ip,
        };
        let (sender, id, name) = (self.sender.clone(), id.to_owned(), container.name.clone());
        AbortOnDrop(tokio::spawn(async move {
            let tell = move |outcome| {
                let message = Message::Probe { id: id.clone(), name: name.clone(), which, outcome };
                // A task that is this far behind hears the next result.
                let _ = sender.try_send(message);
            };
            probes::watch(target, which, probe, since_ms, tell).await;
        }))
    }

    fn probed(&mut self, id: &str, name: &str, which: Which, outcome: Outcome) {
        let probed = self.memory.probes.entry(id.to_owned()).or_default();
        match outcome {
            Outcome::Failure(message) => {
                let text = format!("{} probe failed: {message}", which.title());
                self.board.recorder.warning(&self.pod, Some(name), "Unhealthy", text);
            }
            Outcome::Verdict(good) => match which {
                Which::Startup => {
                    probed.started = Some(good);
                    probed.dead = (!good).then_some("startup");
                }
                Which::Readiness => probed.ready = Some(good),
                Which::Liveness => probed.dead = (!good).then_some("liveness"),
            },
        }
    }

    /// Computes the status, shows it to servers on this board, and hands it to the poster.
    fn report(&mut self, observed: &Observed) {
        let now = Now { host_ips: &self.board.host_ips, now_ms: self.board.now_ms() };
        let status = status::status(&self.pod, observed, &self.memory, &now);
        self.tell_back_offs(&status);
        if status::is_final(&status) && !status::is_final(&self.status.value()) {
            let (pods, uid) = (self.board.places.pods.clone(), self.pod.metadata.uid.clone());
            drop(tokio::task::spawn_blocking(move || begun::note(&pods, &uid)));
        }
        self.status = Object::from(&status);
        Arc::make_mut(&mut self.pod).status = status;
        self.board.table.put(entry::entry(&self.pod, &self.object, &self.status, observed, &self.board));
        if !self.gone && self.heard {
            self.newest.send_if_modified(|known| {
                let changed = *known != self.status;
                if changed {
                    *known = self.status.clone();
                }
                changed
            });
        }
    }

    /// An event for each time that a container begins to wait for its restart.
    fn tell_back_offs(&mut self, status: &Value) {
        for list in ["initContainerStatuses", "containerStatuses"] {
            for container in status[list].as_array().into_iter().flatten() {
                let (Some(name), Some(id)) = (container["name"].as_str(), container["containerID"].as_str()) else {
                    continue;
                };
                let waits = container["state"]["waiting"]["reason"] == "CrashLoopBackOff";
                if waits && self.told.get(name).is_none_or(|told| told != id) {
                    self.told.insert(name.to_owned(), id.to_owned());
                    let text = format!("Back-off restarting failed container {name} in pod {}", self.pod.display());
                    self.board.recorder.warning(&self.pod, Some(name), "BackOff", text);
                }
            }
        }
    }

    /// Nothing runs any more: the last word to the API.
    async fn farewell(mut self) {
        let meta = &self.pod.metadata;
        if let Some(posting) = self.posting.take() {
            posting.abort();
        }
        if !self.gone && !self.pod.is_static() {
            post::farewell(&self.board.link, &address(&self.pod), &self.status).await;
        }
        self.board.references.release(&meta.uid);
        self.board.table.remove(&meta.namespace, &meta.name, &meta.uid);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(posting) = self.posting.take() {
            posting.abort();
        }
    }
}

fn address(pod: &Pod) -> Address {
    let meta = &pod.metadata;
    Address { namespace: meta.namespace.clone(), name: meta.name.clone(), uid: meta.uid.clone() }
}

/// The status is kept apart, and nobody here asks who manages which field.
fn kept(object: &Object) -> Object {
    object.without(&["status"], &["managedFields"])
}

fn started_ms(pod: &Pod) -> Option<i64> {
    pod.status["startTime"].as_str().and_then(super::time::parse_rfc3339)
}

/// Conditions that others set (readiness gates, disruption targets) reach the status that this board holds.
fn merge_foreign_conditions(own: &mut Value, theirs: &Value) {
    const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let foreign = |one: &Value| !OURS.iter().any(|kind| one["type"] == *kind);
    let Some(conditions) = own["conditions"].as_array_mut() else { return };
    conditions.retain(|one| !foreign(one));
    conditions.extend(theirs["conditions"].as_array().into_iter().flatten().filter(|one| foreign(one)).cloned());
}

#[cfg(test)]
mod tests;
