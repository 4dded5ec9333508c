//! Shell: everything that the tasks of all pods share: doors, places, clocks, what is known of the cluster.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bramble_runtime::{ContainerState, Error};
use tokio::sync::watch;

use super::env::{Facts, ServiceLink, ServiceLinks};
use super::events::Recorder;
use super::hosts::Dns;
use super::references::References;
use super::spec::Pod;
use super::state::{Instance, MESSAGE_ANNOTATION, Observed};
use super::{ContainerRuntime, Images, PodNetwork, Table};
use crate::link::{Clock, Link};
use crate::volumes::Places;

/// The doors and settings of the pod machine.
pub struct BoardOptions {
    /// Sandboxes and containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Addresses.
    pub network: Arc<dyn PodNetwork>,
    /// Where servers find what runs.
    pub table: Table,
    /// The node's name.
    pub node_name: String,
    /// `<data-dir>/agent`.
    pub agent_dir: PathBuf,
    /// `<run-dir>`.
    pub run_dir: PathBuf,
    /// `<data-dir>/logs/pods`, as CRI logs lie.
    pub log_root: PathBuf,
    /// Addresses of the cluster's DNS.
    pub dns_servers: Vec<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The board's own resolvers, usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// What the node has.
    pub node: crate::node::Facts,
}

pub(crate) struct Board {
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) link: Link,
    pub(crate) clock: Arc<Clock>,
    pub(crate) table: Table,
    pub(crate) places: Places,
    pub(crate) log_root: PathBuf,
    pub(crate) seccomp_dir: PathBuf,
    pub(crate) dns: Dns,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) host_ips: Vec<IpAddr>,
    pub(crate) node_name: String,
    pub(crate) node: crate::node::Facts,
    pub(crate) services: watch::Receiver<ServiceLinks>,
    pub(crate) references: References,
    pub(crate) recorder: Recorder,
    /// What a pod's task holds in place of its pod while it waits.
    pub(crate) nothing: Arc<Pod>,
}

/// The last bytes of a log that `FallbackToLogsOnError` shows, and of a termination message.
const MAX_MESSAGE_BYTES: usize = 4096;
const MAX_LOG_MESSAGE_BYTES: usize = 2048;

impl Board {
    pub(crate) fn new(
        options: BoardOptions,
        link: Link,
        clock: Arc<Clock>,
        services: watch::Receiver<ServiceLinks>,
    ) -> Self {
        Self {
            runtime: options.runtime,
            images: options.images,
            network: options.network,
            recorder: Recorder::start(link.clone(), Arc::clone(&clock), &options.node_name),
            references: References::new(link.clone()),
            link,
            clock,
            table: options.table,
            places: Places { pods: options.agent_dir.join("pods"), memory: options.run_dir.join("volumes") },
            log_root: options.log_root,
            seccomp_dir: options.agent_dir.join("seccomp"),
            dns: Dns { servers: options.dns_servers, domain: options.cluster_domain },
            resolv_conf: options.resolv_conf,
            host_ips: options.host_ips,
            node_name: options.node_name,
            node: options.node,
            services,
            nothing: Arc::default(),
        }
    }

    /// The Services that a pod of this namespace may be told of.
    pub(crate) fn services_of(&self, namespace: &str) -> Vec<ServiceLink> {
        let all = self.services.borrow();
        all.values().filter(|service| service.namespace == namespace || service.is_the_api()).cloned().collect()
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub(crate) fn facts(&self, pod_ips: &[IpAddr]) -> Facts {
        Facts {
            node_name: self.node_name.clone(),
            host_ips: self.host_ips.clone(),
            pod_ips: pod_ips.to_vec(),
            node_cpus: self.node.cpus,
            node_memory_bytes: self.node.memory_bytes,
            node_storage_bytes: self.node.storage_bytes,
        }
    }

    /// Calls the runtime on a blocking thread.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn ContainerRuntime) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, String> {
        let runtime = Arc::clone(&self.runtime);
        match tokio::task::spawn_blocking(move || call(&*runtime)).await {
            Ok(result) => result.map_err(|error| error.chain()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the runtime says about one pod. Addresses are the caller's to keep.
    pub(crate) async fn observe(&self, uid: &str) -> Result<Observed, String> {
        let uid = uid.to_owned();
        self.blocking(move |runtime| {
            let (mut sandboxes, containers) = runtime.pod(&uid)?;
            sandboxes.sort_by_key(|one| one.pod.attempt);
            let mut instances: Vec<Instance> =
                containers.into_iter().map(|status| Instance { termination: termination(&status), status }).collect();
            instances.sort_by_key(|one| one.status.attempt);
            let sandbox = sandboxes.pop();
            Ok(Observed { sandbox, former: sandboxes, instances, ..Observed::default() })
        })
        .await
    }
}

/// The termination message of an ended container.
fn termination(status: &bramble_runtime::ContainerStatus) -> String {
    if status.state != ContainerState::Exited {
        return String::new();
    }
    let path = status.annotations.get(MESSAGE_ANNOTATION).map(PathBuf::from).unwrap_or_default();
    let message = tail(&path, MAX_MESSAGE_BYTES);
    let falls_back = status.annotations.contains_key(FALLBACK_ANNOTATION);
    if !message.is_empty() || !falls_back || status.exit_code == Some(0) {
        return message;
    }
    last_words(&tail(&status.log_path, 4 * MAX_LOG_MESSAGE_BYTES))
}

/// What the last lines of a CRI log (time, stream, tag, text) said, as `FallbackToLogsOnError` shows it.
fn last_words(log: &str) -> String {
    const LINES_MAX: usize = 80;
    let lines: Vec<&str> = log.lines().collect();
    let mut text = String::new();
    for line in &lines[lines.len().saturating_sub(LINES_MAX)..] {
        // The first line may be the end of a longer one: then it has no tag where it must be.
        let mut parts = line.splitn(4, ' ').skip(2);
        if let (Some(tag @ ("F" | "P")), Some(said)) = (parts.next(), parts.next()) {
            text.push_str(said);
            text.push_str(if tag == "F" { "\n" } else { "" });
        }
    }
    let from = text.len().saturating_sub(MAX_LOG_MESSAGE_BYTES);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text.split_off(from)
}

/// Set on containers whose `terminationMessagePolicy` is `FallbackToLogsOnError`.
pub(crate) const FALLBACK_ANNOTATION: &str = "bramble.dev/termination-from-log";

fn tail(path: &std::path::Path, most: usize) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    let length = file.metadata().map_or(0, |meta| meta.len());
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(most as u64)));
    let mut bytes = Vec::new();
    let _ = file.take(most as u64).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_whole_lines() {
        let log = "half of a line\n2026-01-01T00:00:00Z stdout P be\n2026-01-01T00:00:00Z stdout F cause\n\
                   2026-01-01T00:00:01Z stderr F of this\n";
        assert_eq!(last_words(log), "because\nof this\n");
        let long = format!("2026-01-01T00:00:00Z stdout F {}\n", "x".repeat(3 * MAX_LOG_MESSAGE_BYTES));
        assert_eq!(last_words(&long).len(), MAX_LOG_MESSAGE_BYTES);
    }
}
