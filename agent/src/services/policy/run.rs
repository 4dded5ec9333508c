//! Shell: follows what policies are about, has it programmed, and keeps it for the next start.
//!
//! As long as there is no policy, only policies are followed: pods of the whole cluster change often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::known::Policies;
use super::model::{Model, Pod, Policy, kept_namespace, kept_pod, kept_policy};
use super::selector::labels;
use crate::checkpoint::{Checkpoint, Collection, Kept};
use crate::link::{Delta, Interest, Link, Object, Reflection};

/// Changes of pods come in bursts.
const SETTLE: Duration = Duration::from_millis(100);
/// Noted in the checkpoint once the policies of the cluster were known, be it that there were none.
const KNOWN: &str = "policies";

/// For ever.
pub(crate) async fn run(link: Link, policies: Policies, node_name: String, checkpoint: Option<Checkpoint>) {
    let followed = Followed::new(POLICIES, &link, checkpoint.as_ref());
    let mut task = Task { link, policies, node_name, checkpoint, followed, peers: None };
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
        if task.is_synced() {
            task.tell_known().await;
            due = due.or(changed.then(|| Instant::now() + SETTLE));
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
    followed: Followed,
    /// Namespaces and pods, followed only while there is a policy.
    peers: Option<(Followed, Followed)>,
}

impl Task {
    /// What an earlier run knew. Pods of this board have other addresses since; whoever connects them tells.
    async fn recall(&mut self) {
        let Some(checkpoint) = &self.checkpoint else { return };
        if !checkpoint.noted(KNOWN).await {
            return;
        }
        let policies = recalled(POLICIES, checkpoint, Policy::parse).await;
        let namespaces = recalled(NAMESPACES, checkpoint, |object| Some(labels(object))).await;
        let mut pods = recalled(PODS, checkpoint, |object| Pod::parse(object, &self.node_name)).await;
        pods.retain(|_, pod| !pod.local);
        if !policies.is_empty() {
            tracing::info!(policies = policies.len(), "known from the checkpoint");
        }
        self.policies.change(|model| (model.policies, model.namespaces, model.pods) = (policies, namespaces, pods));
        self.policies.set_known();
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
        if !none && self.peers.is_none() {
            let follow = |source| Followed::new(source, &self.link, self.checkpoint.as_ref());
            self.peers = Some((follow(NAMESPACES), follow(PODS)));
        } else if none
            && self.followed.synced
            && let Some((namespaces, pods)) = self.peers.take()
        {
            self.policies.change(|model| (model.namespaces, model.pods) = Default::default());
            namespaces.kept.clear().await;
            pods.kept.clear().await;
        }
    }

    fn is_synced(&self) -> bool {
        self.followed.synced && self.peers.as_ref().is_none_or(|(namespaces, pods)| namespaces.synced && pods.synced)
    }

    /// Once.
    async fn tell_known(&mut self) {
        if self.policies.is_known() {
            return;
        }
        self.policies.set_known();
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.note(KNOWN).await;
        }
    }
}

/// A collection: where it is, where it is kept, what is kept of an object.
#[derive(Clone, Copy)]
struct Source {
    path: &'static str,
    of: Collection,
    shorten: fn(&Value) -> Value,
}

const POLICIES: Source = Source {
    path: "/apis/networking.k8s.io/v1/networkpolicies",
    of: Collection::NetworkPolicies,
    shorten: kept_policy,
};
const NAMESPACES: Source = Source { path: "/api/v1/namespaces", of: Collection::Namespaces, shorten: kept_namespace };
const PODS: Source = Source { path: "/api/v1/pods", of: Collection::PolicyPods, shorten: kept_pod };

fn key(object: &Object) -> String {
    let identity = object.identity();
    if identity.namespace.is_empty() { identity.name } else { format!("{}/{}", identity.namespace, identity.name) }
}

async fn recalled<T>(
    source: Source,
    checkpoint: &Checkpoint,
    parse: impl Fn(&Value) -> Option<T>,
) -> BTreeMap<String, T> {
    let objects = checkpoint.collection(source.of).await;
    objects.iter().filter_map(|object| Some((key(object), parse(&object.value())?))).collect()
}

/// A collection that is followed.
struct Followed {
    source: Source,
    reflection: Reflection,
    kept: Kept,
    /// What a list that runs has named so far.
    listed: Option<BTreeSet<String>>,
    /// A list was read to its end.
    synced: bool,
}

impl Followed {
    fn new(source: Source, link: &Link, checkpoint: Option<&Checkpoint>) -> Self {
        let (reflection, kept) = (link.reflect(Interest::all(source.path)), Kept::new(source.of, checkpoint));
        Self { source, reflection, kept, listed: None, synced: false }
    }

    /// Takes a change in; whether it is one for us.
    async fn take<T: PartialEq>(
        &mut self,
        mut delta: Delta,
        policies: &Policies,
        place: impl Fn(&mut Model) -> &mut BTreeMap<String, T>,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> bool {
        let mut value = Value::Null;
        let changed = match &delta {
            Delta::Restarted => {
                self.listed = Some(BTreeSet::new());
                false
            }
            Delta::Synced => {
                let listed = self.listed.take().unwrap_or_default();
                policies.change(|model| place(model).retain(|key, _| listed.contains(key)));
                self.synced = true;
                true
            }
            Delta::Deleted(object) => policies.change(|model| place(model).remove(&key(object)).is_some()),
            Delta::Applied(object) => {
                let key = key(object);
                value = object.value();
                match parse(&value) {
                    Some(new) => {
                        if let Some(listed) = &mut self.listed {
                            listed.insert(key.clone());
                        }
                        policies.change(|model| {
                            let known = place(model);
                            known.get(&key) != Some(&new) && {
                                known.insert(key, new);
                                true
                            }
                        })
                    }
                    // Policies have no more to do with it.
                    None => {
                        delta = Delta::Deleted(object.clone());
                        policies.change(|model| place(model).remove(&key).is_some())
                    }
                }
            }
        };
        self.kept.take(&delta, |_| Object::from(&(self.source.shorten)(&value))).await;
        changed
    }
}

async fn next(followed: Option<&mut Followed>) -> Delta {
    match followed {
        Some(followed) => followed.reflection.next().await,
        None => std::future::pending().await,
    }
}
