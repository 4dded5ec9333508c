//! Pure: a small world for tests: an API server as a map with revisions, fed synchronously into the view. No sleeps, no tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::Options;
use super::kind::{KindId, Kinds};
use super::plan::{Action, Context, Controller, Need, Plan, Reads, Report};
use super::text::{list_at, merge, str_at};
use super::time::Now;
use super::view::meta::Uid;
use super::view::{Change, Heard, Key, View};

/// A plan that has not settled after this many rounds never will.
const MAX_ROUNDS: usize = 2_000;

pub(crate) struct World {
    pub(crate) objects: BTreeMap<Key, Value>,
    pub(crate) view: View,
    pub(crate) now: Now,
    pub(crate) reports: Vec<Report>,
    pub(crate) actions: usize,
    /// Errors that writes of these kinds meet.
    pub(crate) refuse: BTreeMap<KindId, String>,
    pub(crate) options: Options,
    pub(crate) allowed: BTreeSet<String>,
    table: Vec<&'static Controller>,
    queue: BTreeSet<(usize, Key)>,
    failures: BTreeMap<(usize, Key), String>,
    alarms: BTreeMap<(usize, Key), Duration>,
    revision: u64,
    names: u64,
}

impl World {
    pub(crate) fn new(table: &[&'static Controller]) -> World {
        let mut view = View::new(Kinds::new());
        for id in view.kinds.ids() {
            view.begin_list(id);
            view.end_list(id, 0, Duration::ZERO);
        }
        World {
            objects: BTreeMap::new(),
            view,
            now: Now { wall_ms: 1_700_000_000_000, monotonic: Duration::from_secs(1) },
            reports: Vec::new(),
            actions: 0,
            refuse: BTreeMap::new(),
            options: Options {
                load_balancer_pool: Default::default(),
                site: None,
                node_grace: Duration::from_secs(50),
                root_ca: "CA".into(),
                cluster_cidrs: vec!["10.42.0.0/16".parse().expect("a range")],
                sign: Arc::new(|_, _| Ok("signed".into())),
                account_token: Arc::new(|_, _, _, _| Ok("token".into())),
            },
            allowed: BTreeSet::new(),
            table: table.to_vec(),
            queue: BTreeSet::new(),
            failures: BTreeMap::new(),
            alarms: BTreeMap::new(),
            revision: 0,
            names: 0,
        }
    }

    pub(crate) fn key(&self, object: &Value) -> Key {
        let kind = self.view.kinds.find(str_at(object, &["apiVersion"]), str_at(object, &["kind"])).unwrap();
        Key::new(kind, str_at(object, &["metadata", "namespace"]), str_at(object, &["metadata", "name"]))
    }

    /// What a client or an agent writes; creates or replaces.
    pub(crate) fn put(&mut self, mut object: Value) -> Key {
        self.revision += 1;
        let key = self.key(&object);
        let metadata = &mut object["metadata"];
        let known = self.objects.get(&key);
        metadata["resourceVersion"] = self.revision.to_string().into();
        if metadata["uid"].is_null() {
            let uid = known.map_or(json!(format!("00000000-0000-0000-0000-{:012x}", self.revision)), |known| {
                known["metadata"]["uid"].clone()
            });
            metadata["uid"] = uid;
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = self.now.stamp().into();
        }
        let generation = known.map_or(1, |known| {
            let former = known["metadata"]["generation"].as_i64().unwrap_or(1);
            former + i64::from(known["spec"] != object["spec"])
        });
        object["metadata"]["generation"] = generation.into();
        self.objects.insert(key.clone(), object.clone());
        let change = self.view.apply(key.kind, Heard::Present, &object, self.now.monotonic);
        self.changed(&change);
        key
    }

    /// Changes an object by a merge patch.
    pub(crate) fn change(&mut self, key: &Key, patch: Value) {
        let mut object = self.objects[key].clone();
        merge(&mut object, &patch);
        self.put(object);
    }

    /// As the API server deletes: finalizers and pods' grace first.
    pub(crate) fn delete(&mut self, key: &Key, propagation: &str) {
        let Some(mut object) = self.objects.get(key).cloned() else { return };
        if propagation == "Orphan" || propagation == "Foreground" {
            let name = if propagation == "Orphan" { "orphan" } else { "foregroundDeletion" };
            let mut finalizers = list_at(&object, &["metadata", "finalizers"]).to_vec();
            finalizers.push(name.into());
            object["metadata"]["finalizers"] = finalizers.into();
        }
        let waits = !list_at(&object, &["metadata", "finalizers"]).is_empty()
            || !str_at(&object, &["spec", "nodeName"]).is_empty()
            || key.kind == KindId::NAMESPACES;
        if waits {
            if object["metadata"]["deletionTimestamp"].is_null() {
                object["metadata"]["deletionTimestamp"] = self.now.stamp().into();
                if key.kind == KindId::NAMESPACES {
                    object["status"]["phase"] = "Terminating".into();
                }
                self.put(object);
            }
        } else {
            self.remove(key);
        }
    }

    /// Gone at once.
    pub(crate) fn remove(&mut self, key: &Key) {
        let Some(mut object) = self.objects.remove(key) else { return };
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let change = self.view.apply(key.kind, Heard::Gone, &object, self.now.monotonic);
        self.changed(&change);
    }

    fn changed(&mut self, change: &Change) {
        for (place, controller) in self.table.iter().enumerate() {
            if controller.watches.is_empty() || controller.watches.contains(&change.key.kind) {
                let mut keys = Vec::new();
                (controller.keys)(&self.view, change, &mut keys);
                self.queue.extend(keys.into_iter().map(|key| (place, key)));
            }
        }
    }

    pub(crate) fn advance(&mut self, seconds: u64) {
        self.now.wall_ms += seconds as i64 * 1000;
        self.now.monotonic += Duration::from_secs(seconds);
        let due: Vec<_> =
            self.alarms.iter().filter(|(_, due)| **due <= self.now.monotonic).map(|(item, _)| item.clone()).collect();
        for item in due {
            self.alarms.remove(&item);
            self.queue.insert(item);
        }
    }

    /// Plans until nothing is left to do, which must happen.
    pub(crate) fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            let Some(item) = self.queue.pop_first() else { return };
            self.step(item);
        }
        panic!("no fixed point: {:?}", self.queue);
    }

    /// One plan of one key; failed ones wait for the next [`World::retry`].
    fn step(&mut self, item: (usize, Key)) {
        let plan = self.plan(&item);
        if let Some(after) = plan.requeue_after {
            self.alarms.insert(item.clone(), self.now.monotonic + after);
        }
        let mut failed = None;
        for step in plan.steps {
            for action in step {
                self.actions += 1;
                if let Err(message) = self.perform(action) {
                    failed = Some(message);
                }
            }
            if failed.is_some() {
                break;
            }
        }
        match failed {
            Some(message) => drop(self.failures.insert(item, message)),
            None => drop(self.failures.remove(&item)),
        }
    }

    /// Plans anew what failed.
    pub(crate) fn retry(&mut self) {
        self.queue.extend(self.failures.keys().cloned());
        self.settle();
    }

    fn plan(&self, item: &(usize, Key)) -> Plan {
        let mut reads = Reads::default();
        for _ in 0..8 {
            let failure = self.failures.get(item).map(String::as_str);
            let context = Context { now: self.now, options: &self.options, reads: &reads, failure };
            let plan = (self.table[item.0].plan)(&self.view, &item.1, &context);
            if plan.needs.is_empty() {
                return plan;
            }
            for need in plan.needs {
                match need {
                    Need::Object(key) => drop(reads.objects.insert(key.clone(), self.objects.get(&key).cloned())),
                    Need::List(kind, namespace) => {
                        let items = self.list(kind, &namespace).cloned().collect();
                        reads.lists.insert((kind, namespace), items);
                    }
                    Need::Access(spec) => {
                        let allowed = self.allowed.iter().any(|known| spec.contains(known));
                        reads.access.insert(spec, allowed);
                    }
                }
            }
        }
        panic!("a plan keeps asking");
    }

    /// All objects of a kind in a namespace.
    pub(crate) fn list(&self, kind: KindId, namespace: &str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |(key, _)| key.kind == kind && &*key.namespace == namespace)
            .map(|(_, object)| object)
    }

    fn perform(&mut self, action: Action) -> Result<(), String> {
        let kind = match &action {
            Action::Create { kind, .. } | Action::DeleteCollection { kind, .. } => Some(*kind),
            Action::Delete { key, .. } => Some(key.kind),
            _ => None,
        };
        let refused = kind.and_then(|kind| self.refuse.get(&kind)).cloned();
        match action {
            Action::Create { note, .. } | Action::Delete { note, .. } if refused.is_some() => {
                let message = refused.unwrap_or_default();
                self.reports.extend(note.map(|note| note.failed(&message)));
                return Err(message);
            }
            Action::Create { kind, mut body, exists_ok, note } => {
                if body["metadata"]["name"].is_null() {
                    self.names += 1;
                    body["metadata"]["name"] =
                        format!("{}{:05}", str_at(&body, &["metadata", "generateName"]), self.names).into();
                }
                body["apiVersion"] = self.view.kinds.get(kind).api_version().into();
                let key = self.key(&body);
                if self.objects.contains_key(&key) {
                    return if exists_ok { Ok(()) } else { Err(format!("{} already exists", key.path())) };
                }
                self.reports.extend(note.map(|note| note.succeeded(&key.name)));
                self.put(body);
            }
            Action::Edit { key, uid, revision, merge, .. } => {
                let Some(object) = self.objects.get(&key) else { return Err("gone".into()) };
                assert_eq!(Uid::parse(str_at(object, &["metadata", "uid"])), uid);
                assert!(
                    revision.is_none_or(|known| known.to_string() == str_at(object, &["metadata", "resourceVersion"]))
                );
                self.change(&key, merge);
                self.finish(&key);
            }
            Action::Replace { key, body, .. } => {
                let uid = self.objects[&key]["metadata"]["uid"].clone();
                let mut body = body;
                body["metadata"]["uid"] = uid;
                self.put(body);
                self.finish(&key);
            }
            Action::Patch { key, body, .. } => {
                self.strategic(&key, body);
                self.finish(&key);
            }
            Action::Delete { key, uid, propagation, grace_seconds, note } => {
                let found = self.objects.get(&key).map(|object| Uid::parse(str_at(object, &["metadata", "uid"])));
                if found == Some(uid) {
                    self.reports.extend(note.map(|note| note.succeeded(&key.name)));
                    match grace_seconds {
                        Some(0) => self.remove(&key),
                        _ => self.delete(&key, propagation),
                    }
                }
            }
            Action::DeleteCollection { kind, namespace } => {
                let keys: Vec<Key> = self.list(kind, &namespace).map(|object| self.key(object)).collect();
                keys.iter().for_each(|key| self.delete(key, ""));
            }
            Action::Event(report) => self.reports.push(report),
            Action::Sign { key, .. } => self.change(&key, json!({ "status": { "certificate": "signed" } })),
            Action::Token { key, account_uid, .. } => self.change(
                &key,
                json!({
                    "metadata": { "annotations": { "kubernetes.io/service-account.uid": account_uid.to_string() } },
                    "data": { "token": "t", "ca.crt": BASE64_STANDARD.encode("CA"), "namespace": "n" },
                }),
            ),
        }
        Ok(())
    }

    /// An object that waited for its last finalizer goes.
    fn finish(&mut self, key: &Key) {
        let Some(object) = self.objects.get(key) else { return };
        let free = list_at(object, &["metadata", "finalizers"]).is_empty()
            && (key.kind != KindId::NAMESPACES || list_at(object, &["spec", "finalizers"]).is_empty());
        if free && !object["metadata"]["deletionTimestamp"].is_null() && key.kind != KindId::PODS {
            self.remove(key);
        }
    }

    /// Only what our plans send: owner references by uid, finalizers by value, conditions by type; the rest merges.
    fn strategic(&mut self, key: &Key, mut body: Value) {
        let Some(mut object) = self.objects.get(key).cloned() else { return };
        for list in ["ownerReferences", "finalizers"] {
            let Some(changes) = body["metadata"].as_object_mut().and_then(|metadata| metadata.remove(list)) else {
                continue;
            };
            let mut items = list_at(&object, &["metadata", list]).to_vec();
            for change in list_at(&json!({ "list": changes }), &["list"]) {
                items.retain(|item| item["uid"] != change["uid"] || change["uid"].is_null());
                if change["$patch"] != "delete" {
                    items.push(change.clone());
                }
            }
            object["metadata"][list] = items.into();
        }
        if let Some(Value::Array(changes)) = body["status"].as_object_mut().and_then(|it| it.remove("conditions")) {
            let mut conditions = list_at(&object, &["status", "conditions"]).to_vec();
            for change in changes {
                conditions.retain(|known| known["type"] != change["type"]);
                if change["$patch"] != "delete" {
                    conditions.push(change);
                }
            }
            object["status"]["conditions"] = conditions.into();
        }
        merge(&mut object, &body);
        self.put(object);
    }
}

/// A Deployment named `web` in `shop`.
pub(crate) fn deployment(replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "namespace": "shop", "name": "web" },
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
            "template": template(image),
        },
    })
}

/// A ReplicaSet named `set` in `shop`.
pub(crate) fn replica_set(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "namespace": "shop", "name": "set" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } }, "template": template("a") },
    })
}

fn template(image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "main", "image": image }] },
    })
}

impl World {
    /// What agent and scheduler would do: every pod is bound and ready, every deleted pod goes.
    pub(crate) fn run_pods(&mut self) {
        let pods: Vec<Key> = self.objects.keys().filter(|key| key.kind == KindId::PODS).cloned().collect();
        for key in pods {
            let pod = &self.objects[&key];
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.remove(&key);
            } else if pod["status"]["phase"].is_null() {
                self.make_ready(&key);
            }
        }
    }

    pub(crate) fn make_ready(&mut self, key: &Key) {
        let stamp = self.now.stamp();
        self.change(key, json!({
            "spec": { "nodeName": "pi-1" },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": stamp }] },
        }));
    }

    /// Controllers and pods in turn until both rest.
    pub(crate) fn converge(&mut self) {
        for _ in 0..200 {
            self.settle();
            let before = self.revision;
            self.run_pods();
            if self.revision == before && self.queue.is_empty() {
                return;
            }
        }
        panic!("controllers and pods do not come to rest");
    }

    pub(crate) fn count(&self, kind: KindId) -> usize {
        self.objects.keys().filter(|key| key.kind == kind).count()
    }

    pub(crate) fn messages(&self) -> Vec<&str> {
        self.reports.iter().map(|report| report.message.as_str()).collect()
    }
}
