//! Shell: follows what policies are about, has it programmed, and keeps it for the next start.
//!
//! As long as there is no policy, only policies are followed: pods of the whole cluster change often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::known::Policies;
use super::model::{Model, Pod, Policy, kept_namespace, kept_pod, kept_policy};
use super::selector::{Labels, labels};
use crate::checkpoint::{Checkpoint, Collection};
use crate::link::{Delta, Interest, Link, Object, Reflection};

/// Changes of pods come in bursts.
const SETTLE: Duration = Duration::from_millis(100);
/// Noted in the checkpoint once the policies of the cluster were known, be it that there were none.
const KNOWN: &str = "policies";

/// For ever.
pub(crate) async fn run(link: Link, policies: Policies, node_name: String, checkpoint: Option<Checkpoint>) {
    let mut task = Task {
        kept: checkpoint.as_ref().map(Checkpoint::share),
        followed: Followed::new(POLICIES, &link, checkpoint.as_ref()),
        peers: None,
        link,
        policies,
        node_name,
        checkpoint,
    };
    task.recall().await;
    let mut due: Option<Instant> = None;
    loop {
        let at = due.unwrap_or_else(Instant::now);
        let heard = tokio::select! {
            heard = task.hear() => heard,
            () = sleep_until(at), if due.is_some() => {
                due = None;
                task.policies.program();
                continue;
            }
        };
        let changed = task.take(heard).await;
        task.follow_peers().await;
        if changed && task.is_synced() {
            due = due.or(Some(Instant::now() + SETTLE));
        }
    }
}

enum Heard {
    Policy(Delta),
    Namespace(Delta),
    Pod(Delta),
}

struct Task {
    link: Link,
    policies: Policies,
    node_name: String,
    checkpoint: Option<Checkpoint>,
    kept: Option<Checkpoint>,
    followed: Followed<Policy>,
    /// Followed only while there is a policy.
    peers: Option<(Followed<Labels>, Followed<Pod>)>,
}

impl Task {
    /// What an earlier run knew. Pods of this board have other addresses since; whoever connects them tells.
    async fn recall(&mut self) {
        let Some(checkpoint) = &self.kept else { return };
        if !checkpoint.noted(KNOWN).await {
            return;
        }
        let mut model = Model::default();
        recall(POLICIES, checkpoint, &mut model.policies, Policy::parse).await;
        recall(NAMESPACES, checkpoint, &mut model.namespaces, |object| Some(labels(object))).await;
        recall(PODS, checkpoint, &mut model.pods, |object| Pod::parse(object, &self.node_name)).await;
        model.pods.retain(|_, pod| !pod.local);
        let count = model.policies.len();
        self.policies.change(|known| {
            model.locals = std::mem::take(&mut known.locals);
            *known = model;
        });
        self.policies.set_known();
        if count > 0 {
            tracing::info!(policies = count, "known from the checkpoint");
        }
    }

    /// Loses nothing when it is dropped.
    async fn hear(&mut self) -> Heard {
        let (namespaces, pods) = self.peers.as_mut().map(|(namespaces, pods)| (namespaces, pods)).unzip();
        tokio::select! {
            delta = self.followed.reflection.next() => Heard::Policy(delta),
            delta = next(namespaces) => Heard::Namespace(delta),
            delta = next(pods) => Heard::Pod(delta),
        }
    }

    /// Whether it is a change for us.
    async fn take(&mut self, heard: Heard) -> bool {
        let policies = &self.policies;
        match (heard, &mut self.peers) {
            (Heard::Policy(delta), _) => {
                self.followed.take(delta, policies, |model| &mut model.policies, Policy::parse).await
            }
            (Heard::Namespace(delta), Some((namespaces, _))) => {
                namespaces.take(delta, policies, |model| &mut model.namespaces, |object| Some(labels(object))).await
            }
            (Heard::Pod(delta), Some((_, pods))) => {
                let parse = |object: &Value| Pod::parse(object, &self.node_name);
                pods.take(delta, policies, |model| &mut model.pods, parse).await
            }
            (_, None) => false,
        }
    }

    /// Pods and namespaces are asked for when there is a policy, and no more when there is none.
    async fn follow_peers(&mut self) {
        let none = self.policies.change(|model| model.policies.is_empty());
        if self.followed.synced && none && self.peers.take().is_some() {
            self.policies.change(|model| (model.namespaces, model.pods) = Default::default());
            if let Some(kept) = &mut self.kept {
                kept.keep_only(NAMESPACES.of, &BTreeSet::new()).await;
                kept.keep_only(PODS.of, &BTreeSet::new()).await;
            }
        } else if !none && self.peers.is_none() {
            let checkpoint = self.checkpoint.as_ref();
            let namespaces = Followed::new(NAMESPACES, &self.link, checkpoint);
            self.peers = Some((namespaces, Followed::new(PODS, &self.link, checkpoint)));
        }
        if self.is_synced() && !self.policies.is_known() {
            self.policies.set_known();
            if let Some(kept) = &mut self.kept {
                kept.note(KNOWN).await;
            }
        }
    }

    fn is_synced(&self) -> bool {
        self.followed.synced && self.peers.as_ref().is_none_or(|(namespaces, pods)| namespaces.synced && pods.synced)
    }
}

/// A collection: where it is, where it is kept, what is kept of an object.
#[derive(Clone, Copy)]
struct Source {
    path: &'static str,
    of: Collection,
    kept: fn(&Value) -> Value,
}

const POLICIES: Source =
    Source { path: "/apis/networking.k8s.io/v1/networkpolicies", of: Collection::NetworkPolicies, kept: kept_policy };
const NAMESPACES: Source = Source { path: "/api/v1/namespaces", of: Collection::Namespaces, kept: kept_namespace };
const PODS: Source = Source { path: "/api/v1/pods", of: Collection::PolicyPods, kept: kept_pod };

fn key(object: &Object) -> String {
    let identity = object.identity();
    if identity.namespace.is_empty() { identity.name } else { format!("{}/{}", identity.namespace, identity.name) }
}

async fn recall<T>(
    source: Source,
    checkpoint: &Checkpoint,
    known: &mut BTreeMap<String, T>,
    parse: impl Fn(&Value) -> Option<T>,
) {
    let objects = checkpoint.collection(source.of).await;
    known.extend(objects.iter().filter_map(|object| Some((key(object), parse(&object.value())?))));
}

/// A collection that is followed.
struct Followed<T> {
    source: Source,
    reflection: Reflection,
    checkpoint: Option<Checkpoint>,
    /// What a list that runs has named so far, by our key and by the checkpoint's.
    listed: Option<(BTreeSet<String>, BTreeSet<String>)>,
    /// A list was read to its end.
    synced: bool,
    of: std::marker::PhantomData<T>,
}

impl<T: PartialEq> Followed<T> {
    fn new(source: Source, link: &Link, checkpoint: Option<&Checkpoint>) -> Self {
        Self {
            source,
            reflection: link.reflect(Interest::all(source.path)),
            checkpoint: checkpoint.map(Checkpoint::share),
            listed: None,
            synced: false,
            of: std::marker::PhantomData,
        }
    }

    /// Takes a change in; whether it is one for us.
    async fn take(
        &mut self,
        delta: Delta,
        policies: &Policies,
        place: impl Fn(&mut Model) -> &mut BTreeMap<String, T>,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> bool {
        match delta {
            Delta::Restarted => {
                self.listed = Some(Default::default());
                false
            }
            Delta::Synced => {
                let (listed, kept) = self.listed.take().unwrap_or_default();
                policies.change(|model| place(model).retain(|key, _| listed.contains(key)));
                if let Some(checkpoint) = &mut self.checkpoint {
                    checkpoint.keep_only(self.source.of, &kept).await;
                }
                self.synced = true;
                true
            }
            Delta::Deleted(object) => self.lose(&object, policies, place).await,
            Delta::Applied(object) => {
                let (key, value) = (key(&object), object.value());
                let Some(new) = parse(&value) else { return self.lose(&object, policies, place).await };
                if let Some((listed, kept)) = &mut self.listed {
                    kept.insert(self.source.of.key(&object));
                    listed.insert(key.clone());
                }
                let changed = policies.change(|model| {
                    let changed = place(model).get(&key) != Some(&new);
                    place(model).insert(key, new);
                    changed
                });
                if let Some(checkpoint) = self.checkpoint.as_mut().filter(|_| changed) {
                    checkpoint.keep(self.source.of, &Object::from(&(self.source.kept)(&value))).await;
                }
                changed
            }
        }
    }

    async fn lose(
        &mut self,
        object: &Object,
        policies: &Policies,
        place: impl Fn(&mut Model) -> &mut BTreeMap<String, T>,
    ) -> bool {
        let known = policies.change(|model| place(model).remove(&key(object)).is_some());
        if let Some(checkpoint) = self.checkpoint.as_mut().filter(|_| known) {
            checkpoint.lose(self.source.of, object).await;
        }
        known
    }
}

async fn next<T>(followed: Option<&mut Followed<T>>) -> Delta {
    match followed {
        Some(followed) => followed.reflection.next().await,
        None => std::future::pending().await,
    }
}
