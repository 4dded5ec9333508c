//! Shell: watches what policies are about, and has them programmed.
//!
//! As long as there is no policy, only policies are watched: pods of the whole cluster change often.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::model::{Model, Pod, Policy};
use super::render::units;
use super::selector::labels;
use crate::link::{Delta, Interest, Link, Reflection};
use crate::services::Proxy;

/// Changes of pods come in bursts.
const SETTLE: Duration = Duration::from_millis(100);

/// For ever.
pub(crate) async fn run(link: Link, proxy: Proxy, node_name: String) {
    let mut model = Model::default();
    let mut policies = Followed::new(link.reflect(Interest::all("/apis/networking.k8s.io/v1/networkpolicies")));
    let (mut namespaces, mut pods): (Option<Followed>, Option<Followed>) = (None, None);
    let mut due: Option<Instant> = None;
    loop {
        let at = due.unwrap_or_else(Instant::now);
        let changed = tokio::select! {
            delta = policies.reflection.next() => {
                policies.take(delta, &mut model.policies, Policy::parse)
            }
            delta = next(&mut namespaces) => {
                let Some(namespaces) = &mut namespaces else { continue };
                namespaces.take(delta, &mut model.namespaces, |object| Some(labels(object)))
            }
            delta = next(&mut pods) => {
                let Some(pods) = &mut pods else { continue };
                pods.take(delta, &mut model.pods, |object| Pod::parse(object, &node_name))
            }
            () = sleep_until(at), if due.is_some() => {
                due = None;
                proxy.set_policies(units(&model));
                continue;
            }
        };
        if policies.synced && model.policies.is_empty() && pods.is_some() {
            // Nobody asks any more.
            (namespaces, pods) = (None, None);
            (model.namespaces, model.pods) = Default::default();
        } else if !model.policies.is_empty() && pods.is_none() {
            let follow = |path: &str| Followed::new(link.reflect(Interest::all(path)));
            (namespaces, pods) = (Some(follow("/api/v1/namespaces")), Some(follow("/api/v1/pods")));
        }
        let known = policies.synced && [&namespaces, &pods].iter().all(|one| one.as_ref().is_none_or(|one| one.synced));
        if changed && known {
            due = due.or(Some(Instant::now() + SETTLE));
        }
    }
}

/// A collection that is followed.
struct Followed {
    reflection: Reflection,
    /// What a list that runs has named so far.
    listed: Option<BTreeSet<String>>,
    /// A list was read to its end.
    synced: bool,
}

impl Followed {
    fn new(reflection: Reflection) -> Self {
        Self { reflection, listed: None, synced: false }
    }

    /// Takes a change in; whether it is one for us.
    fn take<T: PartialEq>(
        &mut self,
        delta: Delta,
        known: &mut std::collections::BTreeMap<String, T>,
        parse: impl FnOnce(&serde_json::Value) -> Option<T>,
    ) -> bool {
        let key = |object: &crate::link::Object| {
            let identity = object.identity();
            if identity.namespace.is_empty() {
                identity.name
            } else {
                format!("{}/{}", identity.namespace, identity.name)
            }
        };
        match delta {
            Delta::Restarted => {
                self.listed = Some(BTreeSet::new());
                false
            }
            Delta::Synced => {
                let listed = self.listed.take().unwrap_or_default();
                known.retain(|key, _| listed.contains(key));
                self.synced = true;
                true
            }
            Delta::Deleted(object) => known.remove(&key(&object)).is_some(),
            Delta::Applied(object) => {
                let key = key(&object);
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                match parse(&object.value()) {
                    Some(new) if known.get(&key) == Some(&new) => false,
                    Some(new) => {
                        known.insert(key, new);
                        true
                    }
                    None => known.remove(&key).is_some(),
                }
            }
        }
    }
}

async fn next(followed: &mut Option<Followed>) -> Delta {
    match followed {
        Some(followed) => followed.reflection.next().await,
        None => std::future::pending().await,
    }
}
