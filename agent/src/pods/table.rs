//! Pure: what runs on this board, as the kubelet's server needs it to find a container's log, process or address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::link::Object;

/// The shared snapshot. Each pod's task is the only writer of its own entry; readers get whole entries.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<RwLock<BTreeMap<String, Arc<PodEntry>>>>);

/// One pod of this board.
#[derive(Debug, Clone, Default)]
pub struct PodEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid (for a static pod the one made on the board).
    pub uid: String,
    /// The sandbox that it runs in now.
    pub sandbox_id: Option<String>,
    /// The network namespace's path, for port-forward; none for the host's network.
    pub netns_path: Option<PathBuf>,
    /// True for pods of the host's network.
    pub host_network: bool,
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Where its logs lie: `<log root>/<namespace>_<name>_<uid>`.
    pub log_dir: PathBuf,
    /// Its containers: init containers, containers, ephemeral containers, in this order.
    pub containers: Vec<ContainerEntry>,
    /// The pod without its status.
    pub object: Option<Object>,
    /// The status as last computed here.
    pub status: Option<Object>,
}

/// One container of a pod.
#[derive(Debug, Clone)]
pub struct ContainerEntry {
    /// Its name.
    pub name: String,
    /// From which list of the spec it comes.
    pub kind: ContainerKind,
    /// `stdin` of the spec.
    pub stdin: bool,
    /// `stdinOnce` of the spec.
    pub stdin_once: bool,
    /// `tty` of the spec.
    pub tty: bool,
    /// The newest instance, running or not.
    pub current: Option<ContainerInstance>,
    /// The instance before that, while its log is kept (`logs --previous`).
    pub previous: Option<ContainerInstance>,
    /// Why it waits, when it does (`ContainerCreating`, `CrashLoopBackOff`, ...).
    pub waiting_reason: Option<String>,
}

/// The list of the spec that a container comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    /// `initContainers` (sidecars are among them).
    Init,
    /// `containers`.
    Main,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInstance {
    /// The runtime's id, without `bramble://`.
    pub id: String,
    /// The restart count when it was made.
    pub attempt: u32,
    /// How it stands.
    pub state: InstanceState,
    /// The log in the CRI format, absolute. Rotated files lie beside it.
    pub log_path: PathBuf,
}

/// How an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// Made, not started.
    Created,
    /// Its process lives.
    Running,
    /// It ended with this code.
    Exited(i32),
    /// It ended, and nobody knows how.
    Unknown,
}

/// Why there is no such container; Display is the kubelet's wording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No pod of this name (and uid) is on this board: 404.
    #[error("pod \"{1}\" not found")]
    PodNotFound(String, String),
    /// The pod has no such container: 400 or 404 as the caller does.
    #[error("container \"{container}\" not found in pod \"{pod}\"")]
    ContainerNotFound {
        /// The pod, `<name>_<namespace>` as the kubelet prints it.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// It has never run, or not yet.
    #[error("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")]
    Waiting {
        /// The pod's name.
        pod: String,
        /// The container's name.
        container: String,
        /// The waiting reason.
        reason: String,
    },
    /// `--previous` was asked and there is none.
    #[error("previous terminated container \"{container}\" in pod \"{pod}\" not found")]
    NoPrevious {
        /// The pod's name.
        pod: String,
        /// The container's name.
        container: String,
    },
}

impl Table {
    /// Puts or replaces a pod.
    pub fn put(&self, entry: PodEntry) {
        let key = key(&entry.namespace, &entry.name);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(entry));
    }

    /// Removes the pod if the entry is still this uid's.
    pub fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let mut pods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = key(namespace, name);
        if pods.get(&key).is_some_and(|entry| entry.uid == uid) {
            pods.remove(&key);
        }
    }

    /// The pod; with `uid` only if it is that one.
    ///
    /// # Errors
    /// [`LookupError::PodNotFound`].
    pub fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Arc<PodEntry>, LookupError> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(&key(namespace, name))
            .filter(|entry| uid.is_none_or(|uid| entry.uid == uid))
            .cloned()
            .ok_or_else(|| LookupError::PodNotFound(namespace.to_owned(), name.to_owned()))
    }

    /// The newest instance of a container, or the one before it.
    ///
    /// # Errors
    /// Any [`LookupError`].
    pub fn instance(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerInstance, LookupError> {
        let pod = self.pod(namespace, name, None)?;
        let entry = pod.container(container).ok_or_else(|| LookupError::ContainerNotFound {
            pod: format!("{name}_{namespace}"),
            container: container.to_owned(),
        })?;
        let (pod, container) = (name.to_owned(), container.to_owned());
        if previous {
            return entry.previous.clone().ok_or(LookupError::NoPrevious { pod, container });
        }
        let reason = entry.waiting_reason.clone().unwrap_or_else(|| "ContainerCreating".to_owned());
        entry.current.clone().ok_or(LookupError::Waiting { pod, container, reason })
    }

    /// Every pod, ordered by namespace and name.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<PodEntry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl PodEntry {
    /// The whole pod, for `/pods`.
    #[must_use]
    pub fn whole(&self) -> Value {
        let mut whole = self.object.as_ref().map(Object::value).unwrap_or_default();
        whole["status"] = self.status.as_ref().map(Object::value).unwrap_or_default();
        whole
    }

    /// The container of this name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerEntry> {
        self.containers.iter().find(|entry| entry.name == name)
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_an_older_uid_is_not_removed_for_the_newer_one() {
        let table = Table::default();
        table.put(PodEntry { namespace: "a".into(), name: "p".into(), uid: "2".into(), ..PodEntry::default() });
        table.remove("a", "p", "1");
        assert!(table.pod("a", "p", Some("2")).is_ok());
        assert_eq!(table.pod("a", "p", Some("1")).unwrap_err().to_string(), "pod \"p\" not found");
    }
}
