//! Shell: which pods there are: from the checkpoint at once, from the API when it answers; one task each.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use bramble_runtime::{EventKind, Events, RuntimeEvent};
use serde_json::Value;
use tokio::io::Interest as Readiness;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::board::{Board, BoardOptions};
use super::env::{ServiceLink, ServiceLinks};
use super::spec::Pod;
use super::worker::{Handle, Message, Worker};
use crate::checkpoint::Checkpoint;
use crate::link::{Clock, Delta, Interest, Link, Object};
use crate::volumes;

/// Runs the pods of this board for ever.
pub async fn run(options: BoardOptions, link: Link, clock: Arc<Clock>, checkpoint: Option<Checkpoint>) {
    let (services, receiver) = watch::channel(ServiceLinks::new());
    let node_name = options.node_name.clone();
    let mut jumps = clock.jumps();
    let board = Arc::new(Board::new(options, link.clone(), clock, receiver));
    let prepared = {
        let places = board.places.clone();
        tokio::task::spawn_blocking(move || places.prepare()).await
    };
    if let Ok(Err(error)) = prepared {
        warn!(%error, "the place of volumes");
    }
    let (events, mut happened) = mpsc::channel(64);
    tokio::spawn(follow_runtime(Arc::clone(&board), events));
    tokio::spawn(super::rotation::run(Arc::clone(&board)));
    tokio::spawn(follow_services(link.clone(), services));
    let mut dispatch = Dispatch { board, workers: BTreeMap::new(), finished: BTreeSet::new(), checkpoint };
    dispatch.restore().await;
    let path = Interest { field_selector: format!("spec.nodeName={node_name}"), ..Interest::all("/api/v1/pods") };
    let mut changes = link.reflect(path);
    let mut seen = BTreeSet::new();
    loop {
        tokio::select! {
            delta = changes.next() => match delta {
                Delta::Restarted => seen.clear(),
                Delta::Applied(object) => {
                    seen.insert(object.identity().uid);
                    dispatch.applied(object).await;
                }
                Delta::Deleted(object) => dispatch.deleted(&object.identity().uid).await,
                Delta::Synced => dispatch.synced(&seen).await,
            },
            Some(event) = happened.recv() => dispatch.happened(&event),
            // A token that was good for an hour has ended in a partition of three days.
            Ok(()) = jumps.changed() => dispatch.look_again(),
        }
    }
}

struct Dispatch {
    board: Arc<Board>,
    workers: BTreeMap<String, Handle>,
    /// Ended here, but the API has not told of their deletion yet.
    finished: BTreeSet<String>,
    checkpoint: Option<Checkpoint>,
}

impl Dispatch {
    /// What this board had to run when it last knew.
    async fn restore(&mut self) {
        let Some(checkpoint) = &self.checkpoint else { return };
        let loaded = checkpoint.load().await;
        info!(pods = loaded.pods.len(), "desired state from the checkpoint");
        for (kind, object) in loaded.references {
            self.board.references.remember(kind, object);
        }
        for object in loaded.pods {
            self.start(object);
        }
    }

    fn reap(&mut self) {
        let finished = &mut self.finished;
        self.workers.retain(|uid, handle| {
            let done = handle.task.is_finished();
            if done {
                finished.insert(uid.clone());
            }
            !done
        });
    }

    async fn applied(&mut self, object: Object) {
        self.reap();
        let uid = object.identity().uid;
        if self.finished.contains(&uid) {
            return;
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.pod(&object).await;
            for (kind, known) in self.board.references.known() {
                checkpoint.reference(kind, &known).await;
            }
        }
        match self.workers.get(&uid) {
            Some(handle) => {
                // The task ended this very moment: it is reaped with the next change.
                let _ = handle.sender.send(Message::Desired(object)).await;
            }
            None => self.start(object),
        }
    }

    fn start(&mut self, object: Object) {
        let uid = object.identity().uid;
        match object.read::<Pod>() {
            // The picture of a pod that comes from a file of this board.
            Ok(pod) if pod.is_mirror() => {}
            Ok(pod) => {
                let handle = Worker::start(Arc::clone(&self.board), &object, pod);
                self.workers.insert(uid, handle);
            }
            Err(error) => warn!(uid, %error, "a pod that cannot be read"),
        }
    }

    async fn deleted(&mut self, uid: &str) {
        self.finished.remove(uid);
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.forget(uid).await;
        }
        if let Some(handle) = self.workers.get(uid) {
            let _ = handle.sender.send(Message::Gone).await;
        }
    }

    /// The list is whole: what is not on it is not ours any more.
    async fn synced(&mut self, seen: &BTreeSet<String>) {
        self.reap();
        self.finished.retain(|uid| seen.contains(uid));
        let gone: Vec<String> = self.workers.keys().filter(|uid| !seen.contains(*uid)).cloned().collect();
        for uid in gone {
            info!(uid, "a pod that the API no longer has");
            self.deleted(&uid).await;
        }
        self.sweep().await;
    }

    /// Sandboxes and directories of pods that nobody has a task for.
    async fn sweep(&self) {
        let known: BTreeSet<String> = self.workers.keys().cloned().collect();
        let places = self.board.places.clone();
        // Asked before the sandboxes are listed: one that is attached meanwhile must not be taken for an orphan.
        let attached = self.board.network.attached();
        let living = self.board.blocking(move |runtime| {
            let orphans: Vec<_> =
                runtime.sandboxes()?.into_iter().filter(|one| !known.contains(&one.pod.uid)).collect();
            for orphan in &orphans {
                info!(
                    namespace = orphan.pod.namespace,
                    pod = orphan.pod.name,
                    sandbox = orphan.id,
                    "removing an orphan"
                );
                runtime.stop_sandbox(&orphan.id)?;
                runtime.remove_sandbox(&orphan.id)?;
            }
            for uid in volumes::known(&places).iter().filter(|uid| !known.contains(*uid)) {
                if let Err(error) = volumes::tear_down(&places, uid) {
                    warn!(uid, %error, "removing volumes of an orphan");
                }
            }
            Ok(runtime.sandboxes()?.into_iter().map(|one| one.id).collect::<Vec<_>>())
        });
        match living.await {
            Ok(living) => {
                for id in attached.iter().filter(|id| !living.contains(id)) {
                    if let Err(error) = self.board.network.detach(id).await {
                        warn!(sandbox = id, %error, "the network of an orphan");
                    }
                }
            }
            Err(error) => warn!(%error, "removing orphans"),
        }
    }

    fn happened(&self, event: &RuntimeEvent) {
        let of_pod =
            self.board.table.pods().into_iter().find(|pod| pod.sandbox_id.as_deref() == Some(&event.sandbox_id));
        match of_pod.and_then(|pod| self.workers.get(&pod.uid)) {
            Some(handle) => handle.notify.notify_one(),
            // A sandbox that is being made is not in the table yet.
            None => self.look_again(),
        }
    }

    fn look_again(&self) {
        self.workers.values().for_each(|handle| handle.notify.notify_one());
    }
}

/// The runtime's events as tokio can wait for them.
struct Source(Events);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Brings the runtime's events over; replaces shims that died.
async fn follow_runtime(board: Arc<Board>, events: mpsc::Sender<RuntimeEvent>) {
    let source = match board.blocking(|runtime| runtime.events()).await {
        Ok(Some(source)) => source,
        Ok(None) => return,
        Err(error) => return warn!(%error, "no events of the runtime"),
    };
    #[allow(deprecated, reason = "its successor is unsafe; the descriptor is owned by `Source` and lives as long")]
    let registered = AsyncFd::with_interest(Source(source), Readiness::READABLE);
    let source = match registered {
        Ok(source) => source,
        Err(error) => return warn!(%error, "no events of the runtime"),
    };
    loop {
        let happened = match source.readable().await {
            Ok(mut guard) => {
                let happened = guard.get_inner().0.drain();
                guard.clear_ready();
                happened
            }
            Err(error) => return warn!(%error, "events of the runtime"),
        };
        for event in happened.unwrap_or_default() {
            if event.kind == EventKind::ShimLost {
                let id = event.sandbox_id.clone();
                if let Err(error) = board.blocking(move |runtime| runtime.adopt(&id)).await {
                    warn!(sandbox = event.sandbox_id, %error, "replacing a shim");
                }
            }
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Keeps the few fields of services that environment variables show.
async fn follow_services(link: Link, services: watch::Sender<ServiceLinks>) {
    let mut changes = link.reflect(Interest::all("/api/v1/services"));
    let mut listed = BTreeSet::new();
    loop {
        let delta = changes.next().await;
        // Changed in place: a cluster may have thousands.
        services.send_modify(|known| match delta {
            Delta::Restarted => listed.clear(),
            Delta::Applied(object) => {
                let service = service_link(&object.value());
                let key = (service.namespace.clone(), service.name.clone());
                listed.insert(key.clone());
                known.insert(key, service);
            }
            Delta::Deleted(object) => {
                let service = service_link(&object.value());
                known.remove(&(service.namespace, service.name));
            }
            Delta::Synced => {
                let listed = std::mem::take(&mut listed);
                known.retain(|key, _| listed.contains(key));
            }
        });
    }
}

fn service_link(object: &Value) -> ServiceLink {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ports = object["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    ServiceLink {
        namespace: text(&object["metadata"]["namespace"]),
        name: text(&object["metadata"]["name"]),
        cluster_ip: text(&object["spec"]["clusterIP"]),
        ports: ports
            .iter()
            .map(|port| {
                let number = port["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
                (text(&port["name"]), number, port["protocol"].as_str().unwrap_or("TCP").to_owned())
            })
            .collect(),
    }
}
