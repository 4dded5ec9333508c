//! Shell: the ConfigMaps and Secrets that pods of this board refer to: one watch an object, shared by its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::env::Sources;
use crate::link::{Delta, Interest, Link, Object};

/// `configmaps` or `secrets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// As objects say it; items of a list leave it out.
    fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }
}

type Key = (Kind, String, String);

struct Entry {
    /// None: not known yet. Some(None): known to be absent.
    found: Option<Option<Object>>,
    users: BTreeMap<String, Arc<Notify>>,
    task: JoinHandle<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Shared by all pods.
#[derive(Clone)]
pub(crate) struct References {
    link: Link,
    entries: Arc<Mutex<BTreeMap<Key, Entry>>>,
    /// What an earlier run knew, until the API answers.
    remembered: Arc<Mutex<BTreeMap<Key, Object>>>,
}

impl References {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, entries: Arc::default(), remembered: Arc::default() }
    }

    /// Takes what the checkpoint holds.
    pub(crate) fn remember(&self, kind: Kind, object: Object) {
        let identity = object.identity();
        let key = (kind, identity.namespace, identity.name);
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).insert(key, object);
    }

    /// Everything that is known, for the checkpoint.
    pub(crate) fn known(&self) -> Vec<(Kind, Object)> {
        let entries = self.lock();
        entries.iter().filter_map(|((kind, ..), entry)| Some((*kind, entry.found.clone()??))).collect()
    }

    /// Pod `uid` refers to exactly these from now on; `notify` tells it of changes.
    pub(crate) fn claim(
        &self,
        uid: &str,
        namespace: &str,
        config_maps: &BTreeSet<String>,
        secrets: &BTreeSet<String>,
        notify: &Arc<Notify>,
    ) {
        let keys = |kind, names: &BTreeSet<String>| {
            names.iter().map(|name| (kind, namespace.to_owned(), name.clone())).collect::<Vec<_>>()
        };
        let mut wanted = keys(Kind::ConfigMap, config_maps);
        wanted.extend(keys(Kind::Secret, secrets));
        let mut entries = self.lock();
        for (key, entry) in entries.iter_mut() {
            if !wanted.contains(key) {
                entry.users.remove(uid);
            }
        }
        for key in wanted {
            let entry = entries.entry(key.clone()).or_insert_with(|| self.follow(key));
            entry.users.insert(uid.to_owned(), Arc::clone(notify));
        }
        entries.retain(|_, entry| !entry.users.is_empty());
    }

    /// The pod is gone.
    pub(crate) fn release(&self, uid: &str) {
        let mut entries = self.lock();
        entries.values_mut().for_each(|entry| drop(entry.users.remove(uid)));
        entries.retain(|_, entry| !entry.users.is_empty());
    }

    /// A number that changes when one of these does.
    pub(crate) fn stamp(&self, namespace: &str, config_maps: &BTreeSet<String>, secrets: &BTreeSet<String>) -> u64 {
        let entries = self.lock();
        let mut hasher = DefaultHasher::new();
        for (kind, names) in [(Kind::ConfigMap, config_maps), (Kind::Secret, secrets)] {
            for name in names {
                let entry = entries.get(&(kind, namespace.to_owned(), name.clone()));
                entry.map(|entry| &entry.found).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// What is known of these, parsed; none while something is not known.
    pub(crate) fn sources(
        &self,
        namespace: &str,
        config_maps: &BTreeSet<String>,
        secrets: &BTreeSet<String>,
    ) -> Option<Sources> {
        let entries = self.lock();
        let find = |kind, names: &BTreeSet<String>| {
            let one = |name: &String| {
                let found = entries.get(&(kind, namespace.to_owned(), name.clone()))?.found.as_ref()?;
                let parsed = found.as_ref().map(|object| {
                    let mut object = object.value();
                    object["kind"] = kind.name().into();
                    Arc::new(object)
                });
                Some((name.clone(), parsed))
            };
            names.iter().map(one).collect::<Option<BTreeMap<_, _>>>()
        };
        Some(Sources { config_maps: find(Kind::ConfigMap, config_maps)?, secrets: find(Kind::Secret, secrets)? })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, key: Key) -> Entry {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let references = self.clone();
        let task = tokio::spawn(async move {
            let (kind, namespace, name) = &key;
            let path = format!("/api/v1/namespaces/{namespace}/{}", kind.plural());
            let mut changes = references.link.reflect(Interest::named(&path, name));
            let mut listed = false;
            loop {
                match changes.next().await {
                    Delta::Restarted => listed = false,
                    Delta::Applied(object) => {
                        listed = true;
                        references.set(&key, Some(object.without(&[], &["managedFields"])));
                    }
                    Delta::Deleted(_) => references.set(&key, None),
                    Delta::Synced => {
                        if !listed {
                            references.set(&key, None);
                        }
                    }
                }
            }
        });
        Entry { found: remembered.map(Some), users: BTreeMap::new(), task }
    }

    fn set(&self, key: &Key, found: Option<Object>) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return };
        if entry.found.as_ref() == Some(&found) {
            return;
        }
        entry.found = Some(found);
        entry.users.values().for_each(|notify| notify.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::link::fakes::FakeTransport;

    #[tokio::test(start_paused = true)]
    async fn what_is_absent_is_known_to_be_absent() {
        let transport = FakeTransport::new(|_, path, _| {
            let items = if path.contains("configmaps") {
                json!([{"metadata": {"name": "a"}, "data": {"k": "v"}}])
            } else {
                json!([])
            };
            (200, vec![Bytes::from(json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string())])
        });
        let references = References::new(Link::new(transport));
        let (config_maps, secrets) = (BTreeSet::from(["a".to_owned()]), BTreeSet::from(["b".to_owned()]));
        let notify = Arc::new(Notify::new());
        references.claim("u", "n", &config_maps, &secrets, &notify);
        assert_eq!(references.sources("n", &config_maps, &secrets), None, "nothing is known yet");
        let sources = loop {
            notify.notified().await;
            if let Some(sources) = references.sources("n", &config_maps, &secrets) {
                break sources;
            }
        };
        assert!(sources.config_maps["a"].is_some() && sources.secrets["b"].is_none());
        references.release("u");
        assert!(references.known().is_empty());
    }
}
