//! Shell: what this board has to run, kept on the board, so that it starts with no controller and no network.
//!
//! Only desired fields are kept and only their changes are written, together, so that a quiet cluster writes nothing.
//! Secrets are in it too, so everything is sealed at rest with a key of this board beside it (`checkpoint.key`, 0600).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bramble_store::{Config, Durability, ListQuery, LocalAlgorithm, LocalKey, Precondition, Sealing, Store, Write};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use tracing::warn;

use crate::link::Object;
use crate::pods::references::Kind;

mod kept;

pub(crate) use kept::Kept;

const PODS: &str = "pods/";
const CONFIG_MAPS: &str = "configmaps/";
const SECRETS: &str = "secrets/";
const NOTES: &str = "notes/";
/// Beside what the API knows of a pod.
const FORMER_IPS: &str = "formerIps";

/// A collection of the whole cluster that the board works by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collection {
    Services,
    EndpointSlices,
    NetworkPolicies,
    Namespaces,
    /// What network policies need of every pod.
    PolicyPods,
}

impl Collection {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Services => "services/",
            Self::EndpointSlices => "endpointslices/",
            Self::NetworkPolicies => "networkpolicies/",
            Self::Namespaces => "namespaces/",
            Self::PolicyPods => "policypods/",
        }
    }

    fn key(self, object: &Object) -> String {
        let identity = object.identity();
        format!("{}{}/{}", self.prefix(), identity.namespace, identity.name)
    }
}

/// What was learned is on the card so soon: the many changes of a rollout share a commit, and a board whose plug is pulled
/// right after a pod has started starts it again without its controller.
const DELAY_MAX: Duration = Duration::from_millis(200);
/// The file is small: a board runs at most some hundred pods.
const CACHE_BYTES: usize = 256 << 10;

/// Nobody watches the checkpoint or reads its past.
const HISTORY_BYTES: usize = 16 << 10;

/// Objects of one page when it is read.
const PAGE: usize = 64;

/// Length of the key.
const KEY_BYTES: usize = 32;

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file.
    #[error("{0}")]
    File(std::io::Error),
    /// The store over it.
    #[error("{0}")]
    Store(String),
}

/// The checkpoint of this board.
pub struct Checkpoint {
    store: Store,
    /// What is written, by key, as a hash: an object that did not change is not written again.
    written: BTreeMap<String, u64>,
}

/// What an earlier run knew.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) pods: Vec<Object>,
    pub(crate) references: Vec<(Kind, Object)>,
}

impl Checkpoint {
    /// Opens or creates `<agent_dir>/checkpoint.redb`. Blocks.
    ///
    /// # Errors
    /// The disk's, or a file that is not whole.
    pub fn open(agent_dir: &Path) -> Result<Self, CheckpointError> {
        let path = agent_dir.join("checkpoint.redb");
        std::fs::create_dir_all(agent_dir).map_err(CheckpointError::File)?;
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(CheckpointError::File)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(CheckpointError::File)?;
        let mut config = Config::redb(path);
        config.cache_bytes = CACHE_BYTES;
        config.deferred_max_delay = DELAY_MAX;
        config.history_bytes_per_resource = HISTORY_BYTES;
        config.history_bytes = HISTORY_BYTES;
        config.sealing = sealing(&agent_dir.join("checkpoint.key"))?;
        let store = Store::open(config).map_err(|error| CheckpointError::Store(error.to_string()))?;
        Ok(Self { store, written: BTreeMap::new() })
    }

    #[cfg(test)]
    fn in_memory() -> Self {
        Self { store: Store::open(Config::memory()).expect("memory"), written: BTreeMap::new() }
    }

    /// Everything that is there; what cannot be read is left out.
    pub(crate) async fn load(&self) -> Loaded {
        let mut loaded = Loaded { pods: self.all(PODS).await, references: Vec::new() };
        for (kind, prefix) in [(Kind::ConfigMap, CONFIG_MAPS), (Kind::Secret, SECRETS)] {
            loaded.references.extend(self.all(prefix).await.into_iter().map(|object| (kind, object)));
        }
        loaded
    }

    async fn all(&self, prefix: &str) -> Vec<Object> {
        let mut objects = Vec::new();
        let mut after = None;
        loop {
            let query = ListQuery { prefix, after: after.as_deref(), limit: PAGE, at: None };
            let page = match self.store.list(query).await {
                Ok(page) => page,
                Err(error) => {
                    warn!(prefix, %error, "reading the checkpoint");
                    return objects;
                }
            };
            after = page.records.last().map(|record| record.key.to_string());
            objects.extend(page.records.iter().filter_map(|record| Object::parse(&record.value).ok()));
            if !page.more {
                return objects;
            }
        }
    }

    /// Notes a pod; writes only if something desired changed.
    pub(crate) async fn pod(&mut self, object: &Object) {
        let identity = object.identity();
        // A pod that was told to end is never begun again, also when this process is killed in the middle of its end.
        let ends = identity.deletion_timestamp.is_some();
        let floor = if ends { Durability::Durable } else { Durability::Deferred };
        self.put(format!("{PODS}{}", identity.uid), &desired_pod(object), floor).await;
    }

    /// Notes a ConfigMap or Secret that a pod refers to.
    pub(crate) async fn reference(&mut self, kind: Kind, object: &Object) {
        let prefix = if kind == Kind::Secret { SECRETS } else { CONFIG_MAPS };
        let identity = object.identity();
        let key = format!("{prefix}{}/{}", identity.namespace, identity.name);
        self.put(key, &desired(object), Durability::Deferred).await;
    }

    /// The same file for another task, which notes other objects.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { store: self.store.clone(), written: BTreeMap::new() }
    }

    /// What an earlier run knew of a collection.
    pub(crate) async fn collection(&self, of: Collection) -> Vec<Object> {
        self.all(of.prefix()).await
    }

    /// Notes an object of a collection; gives the key by which it is kept.
    pub(crate) async fn keep(&mut self, of: Collection, object: &Object) -> String {
        let key = of.key(object);
        let kept = object.without(&[], &["resourceVersion", "managedFields"]);
        self.put(key.clone(), &kept, Durability::Deferred).await;
        key
    }

    /// An object of a collection is gone.
    pub(crate) async fn lose(&mut self, of: Collection, object: &Object) {
        self.remove(of.key(object)).await;
    }

    /// A list of the collection was complete: what it did not have is gone.
    pub(crate) async fn keep_only(&mut self, of: Collection, listed: &BTreeSet<String>) {
        let known: Vec<String> = self.all(of.prefix()).await.iter().map(|object| of.key(object)).collect();
        for key in known.into_iter().filter(|key| !listed.contains(key)) {
            self.remove(key).await;
        }
    }

    /// Notes for later starts that something was the case once.
    pub(crate) async fn note(&mut self, what: &str) {
        let object = Object::from(&serde_json::json!({}));
        self.put(format!("{NOTES}{what}"), &object, Durability::Deferred).await;
    }

    /// Whether it was.
    pub(crate) async fn noted(&self, what: &str) -> bool {
        matches!(self.store.get(&format!("{NOTES}{what}")).await, Ok(Some(_)))
    }

    async fn put(&mut self, key: String, object: &Object, floor: Durability) {
        let text = object.text();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if self.written.get(&key) == Some(&hash) {
            return;
        }
        // After a restart nothing is remembered: the same content on disk is as good.
        let same = self.store.get(&key).await.ok().flatten().is_some_and(|record| record.value == text.as_bytes());
        if !same {
            self.write(Write::put(key.clone(), Precondition::Any, text.as_bytes().to_vec()), floor).await;
        }
        self.written.insert(key, hash);
    }

    /// The pod is no longer ours.
    pub(crate) async fn forget(&mut self, uid: &str) {
        self.remove(format!("{PODS}{uid}")).await;
    }

    async fn remove(&mut self, key: String) {
        self.written.remove(&key);
        if matches!(self.store.get(&key).await, Ok(Some(_))) {
            self.write(Write::delete(key, Precondition::Any), Durability::Deferred).await;
        }
    }

    /// Deferred ones share a commit, as the many changes of a rollout; what a power cut takes, the API server tells again.
    async fn write(&self, write: Write, floor: Durability) {
        if let Err(error) = self.store.write(vec![write], floor).await {
            warn!(%error, "writing the checkpoint");
        }
    }
}

/// Everything, with the key in this file; it is made when it is missing. Pods hold secrets too, in their environment.
fn sealing(path: &Path) -> Result<Sealing, CheckpointError> {
    let key = match std::fs::read(path) {
        Ok(key) => key,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = vec![0; KEY_BYTES];
            SystemRandom::new()
                .fill(&mut key)
                .map_err(|_| CheckpointError::File(std::io::Error::other("no random bytes")))?;
            let write = || {
                let new = path.with_extension("new");
                let mut file =
                    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
                file.write_all(&key)?;
                file.sync_all()?;
                std::fs::rename(&new, path)
            };
            write().map_err(CheckpointError::File)?;
            key
        }
        Err(error) => return Err(CheckpointError::File(error)),
    };
    let key = LocalKey::new("checkpoint", LocalAlgorithm::ChaCha20Poly1305, &key);
    let key = key.ok_or_else(|| CheckpointError::Store(format!("{} is no key", path.display())))?;
    Ok(Sealing::prefixes(&[PODS, CONFIG_MAPS, SECRETS], Arc::new(key)))
}

/// What decides what runs; status, versions and managers change without meaning for that.
fn desired(object: &Object) -> Object {
    object.without(&["status"], &["resourceVersion", "managedFields"])
}

/// The same for a pod, with the addresses by which Services and other pods know it.
fn desired_pod(object: &Object) -> Object {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Reported {
        status: Status,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        #[serde(rename = "podIPs")]
        pod_ips: Option<Vec<serde_json::Value>>,
    }
    let ips = object.read::<Reported>().unwrap_or_default().status.pod_ips.unwrap_or_default();
    let ips: Vec<&str> = ips.iter().filter_map(|one| one["ip"].as_str()).collect();
    let desired = desired(object);
    if ips.is_empty() { desired } else { desired.with(FORMER_IPS, &serde_json::json!(ips)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn nothing_of_it_lies_plain_on_the_board() {
        let dir = std::env::temp_dir().join(format!("bramble-checkpoint-{}", std::process::id()));
        let secret =
            Object::from(&json!({"metadata": {"namespace": "n", "name": "s"}, "data": {"a": "plainly-to-be-seen"}}));
        let mut checkpoint = Checkpoint::open(&dir).unwrap();
        checkpoint.reference(Kind::Secret, &secret).await;
        checkpoint.store.flush().await.unwrap();
        drop(checkpoint);
        let files = std::fs::read_dir(&dir).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        let files = files.collect::<Vec<_>>().concat();
        let found = |text: &[u8]| files.windows(text.len()).any(|window| window == text);
        assert!(!found(b"plainly-to-be-seen"));
        assert!(found(b"secrets/n/s"), "keys are plain: the search finds what is there");
        assert_eq!(Checkpoint::open(&dir).unwrap().load().await.references.len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn only_desired_changes_are_written() {
        let mut checkpoint = Checkpoint::in_memory();
        let pod = |version: &str, phase: &str, image: &str| {
            Object::from(&json!({"metadata": {"uid": "u", "name": "a", "resourceVersion": version},
                "spec": {"containers": [{"name": "c", "image": image}]}, "status": {"phase": phase}}))
        };
        checkpoint.pod(&pod("1", "Pending", "a:1")).await;
        let revision = checkpoint.store.revision();
        checkpoint.pod(&pod("2", "Running", "a:1")).await;
        assert_eq!(checkpoint.store.revision(), revision, "a status is no desire");
        let mut known = pod("2", "Running", "a:1").value();
        known["status"]["podIPs"] = json!([{"ip": "10.42.0.7"}]);
        checkpoint.pod(&Object::from(&known)).await;
        assert_eq!(checkpoint.load().await.pods[0].value()[FORMER_IPS], json!(["10.42.0.7"]));
        checkpoint.pod(&pod("3", "Running", "a:2")).await;
        let secret = json!({"metadata": {"namespace": "n", "name": "s"}});
        checkpoint.reference(Kind::Secret, &Object::from(&secret)).await;
        let loaded = checkpoint.load().await;
        assert_eq!(loaded.pods[0].value()["spec"]["containers"][0]["image"], "a:2");
        assert_eq!(loaded.references.len(), 1);
        checkpoint.forget("u").await;
        assert!(checkpoint.load().await.pods.is_empty());
    }

    #[tokio::test]
    async fn a_collection_is_as_the_last_list_and_its_changes_say() {
        let checkpoint = Checkpoint::in_memory();
        let mut services = checkpoint.share();
        let service = |name: &str, version: &str| {
            Object::from(&json!({"metadata": {"namespace": "n", "name": name, "resourceVersion": version},
                "spec": {"clusterIP": "10.43.0.7"}, "status": {"loadBalancer": {}}}))
        };
        let mut listed = BTreeSet::new();
        listed.insert(services.keep(Collection::Services, &service("a", "1")).await);
        services.keep(Collection::Services, &service("b", "1")).await;
        services.keep(Collection::Services, &service("c", "1")).await;
        services.lose(Collection::Services, &service("c", "2")).await;
        let revision = checkpoint.store.revision();
        services.keep(Collection::Services, &service("a", "2")).await;
        assert_eq!(checkpoint.store.revision(), revision, "a version alone is no change");
        services.keep_only(Collection::Services, &listed).await;
        let known = checkpoint.share().collection(Collection::Services).await;
        assert_eq!(known.iter().map(|object| object.identity().name).collect::<Vec<_>>(), ["a"]);
        assert!(checkpoint.collection(Collection::EndpointSlices).await.is_empty());
    }
}
