//! Shell: events about pods: aggregated, bounded, never in anybody's way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::debug;

use super::spec::Pod;
use super::time::rfc3339;
use crate::link::{Clock, Link, PatchKind};

/// Events that wait; more are dropped, because an event is a courtesy.
const WAITING_EVENTS: usize = 128;
/// Events that are remembered for counting them.
const REMEMBERED: usize = 512;
/// Upstream's spam filter: a burst of 25 a pod, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL_PER_MS: f64 = 1.0 / 300_000.0;

/// Where events are given.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Note>,
    node_name: Arc<str>,
}

struct Note {
    object: Value,
    namespace: String,
    kind: &'static str,
    reason: &'static str,
    message: String,
}

impl Recorder {
    pub(crate) fn start(link: Link, clock: Arc<Clock>, node_name: &str) -> Self {
        let (sender, notes) = mpsc::channel(WAITING_EVENTS);
        let node_name: Arc<str> = node_name.into();
        tokio::spawn(post(notes, link, clock, Arc::clone(&node_name)));
        Self { sender, node_name }
    }

    /// `Normal` about a pod, or about one of its containers.
    pub(crate) fn normal(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: String) {
        self.record(pod, container, "Normal", reason, message);
    }

    /// `Warning` about a pod, or about one of its containers.
    pub(crate) fn warning(&self, pod: &Pod, container: Option<&str>, reason: &'static str, message: String) {
        self.record(pod, container, "Warning", reason, message);
    }

    /// `Normal` about something else than a pod, by its reference.
    pub(crate) fn about(&self, object: Value, namespace: &str, reason: &'static str, message: String) {
        // A full queue drops the event.
        let _ = self.sender.try_send(Note { object, namespace: namespace.to_owned(), kind: "Normal", reason, message });
    }

    fn record(&self, pod: &Pod, container: Option<&str>, kind: &'static str, reason: &'static str, message: String) {
        let meta = &pod.metadata;
        let mut object = json!({
            "kind": "Pod", "apiVersion": "v1", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid,
        });
        if let Some(path) = container.and_then(|name| field_path(pod, name)) {
            object["fieldPath"] = json!(path);
        }
        debug!(pod = %pod.display(), node = %self.node_name, reason, message, "event");
        // A full queue drops the event.
        let _ = self.sender.try_send(Note { object, namespace: meta.namespace.clone(), kind, reason, message });
    }
}

fn field_path(pod: &Pod, name: &str) -> Option<String> {
    let list = match pod.container(name)?.0 {
        super::ContainerKind::Init => "initContainers",
        super::ContainerKind::Main => "containers",
        super::ContainerKind::Ephemeral => "ephemeralContainers",
    };
    Some(format!("spec.{list}{{{name}}}"))
}

struct Known {
    path: String,
    count: u64,
}

async fn post(mut notes: mpsc::Receiver<Note>, link: Link, clock: Arc<Clock>, node_name: Arc<str>) {
    let mut known: HashMap<String, Known> = HashMap::new();
    let mut order: VecDeque<String> = VecDeque::new();
    let mut budgets: HashMap<String, (f64, i64)> = HashMap::new();
    while let Some(note) = notes.recv().await {
        let now_ms = clock.now_ms();
        if !allowed(&mut budgets, &note, now_ms) {
            continue;
        }
        let key = format!("{}\n{}\n{}\n{}", note.object, note.kind, note.reason, note.message);
        if let Some(seen) = known.get_mut(&key) {
            seen.count += 1;
            let patch = json!({"count": seen.count, "lastTimestamp": rfc3339(now_ms)});
            match link.patch(&seen.path, PatchKind::Merge, &patch).await {
                Err(error) if error.is_not_found() => {
                    known.remove(&key);
                }
                _ => continue,
            }
        }
        let (namespace, event) = event(&note, &node_name, now_ms);
        let collection = format!("/api/v1/namespaces/{namespace}/events");
        if let Err(error) = link.create(&collection, &event).await {
            debug!(%error, "an event");
            continue;
        }
        let path = format!("{collection}/{}", event["metadata"]["name"].as_str().unwrap_or_default());
        known.insert(key.clone(), Known { path, count: 1 });
        order.push_back(key);
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }
}

fn allowed(budgets: &mut HashMap<String, (f64, i64)>, note: &Note, now_ms: i64) -> bool {
    if budgets.len() > REMEMBERED {
        budgets.clear();
    }
    let uid = note.object["uid"].as_str().unwrap_or_default().to_owned();
    let (budget, at_ms) = budgets.entry(uid).or_insert((BURST, now_ms));
    let since = f64::from(u32::try_from((now_ms - *at_ms).max(0)).unwrap_or(u32::MAX));
    *budget = (*budget + since * REFILL_PER_MS).min(BURST);
    *at_ms = now_ms;
    if *budget < 1.0 {
        return false;
    }
    *budget -= 1.0;
    true
}

fn event<'a>(note: &'a Note, node_name: &str, now_ms: i64) -> (&'a str, Value) {
    let name = note.object["name"].as_str().unwrap_or_default();
    let suffix = bramble_runtime::new_id();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{}", &suffix[..16]), "namespace": note.namespace},
        "involvedObject": note.object,
        "type": note.kind,
        "reason": note.reason,
        "message": note.message,
        "source": {"component": "kubelet", "host": node_name},
        "reportingComponent": "kubelet",
        "reportingInstance": node_name,
        "firstTimestamp": rfc3339(now_ms),
        "lastTimestamp": rfc3339(now_ms),
        "count": 1,
    });
    (&note.namespace, event)
}
