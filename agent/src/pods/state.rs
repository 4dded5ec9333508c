//! Pure: what a pod's task sees and remembers; the input of plan and status.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bramble_runtime::{ContainerState, ContainerStatus, SandboxStatus};
use serde_json::Value;

use super::{ImageRef, PullError};

/// In front of the ids of our containers in a status.
pub(crate) const ID_SCHEME: &str = "bramble://";
/// The label of a container that holds the hash of its spec, so that a later agent knows what was made from it.
pub(crate) const HASH_LABEL: &str = "bramble.dev/container-hash";
/// The label of a container that holds its list (`Init`, `Main`, `Ephemeral`).
pub(crate) const KIND_LABEL: &str = "bramble.dev/container-kind";
/// The annotation of a container that holds the image as written and its digest in the registry.
pub(crate) const IMAGE_ANNOTATION: &str = "bramble.dev/image";
pub(crate) const IMAGE_ID_ANNOTATION: &str = "bramble.dev/image-id";
/// The annotation of a container that holds where its termination message lies on the host.
pub(crate) const MESSAGE_ANNOTATION: &str = "bramble.dev/termination-message";

/// What the runtime says about one pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Observed {
    /// The newest sandbox.
    pub(crate) sandbox: Option<SandboxStatus>,
    /// Sandboxes that came before and are still there.
    pub(crate) former: Vec<SandboxStatus>,
    /// The newest sandbox's addresses; empty until the network is attached.
    pub(crate) ips: Vec<IpAddr>,
    /// The sandbox of an earlier agent could not be attached again yet.
    pub(crate) detached: bool,
    /// Every instance of every container, oldest attempt first.
    pub(crate) instances: Vec<Instance>,
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instance {
    pub(crate) status: ContainerStatus,
    /// The termination message, once it ended.
    pub(crate) termination: String,
}

impl Instance {
    pub(crate) fn id(&self) -> &str {
        &self.status.id
    }

    pub(crate) fn is_running(&self) -> bool {
        self.status.state == ContainerState::Running
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.status.state, ContainerState::Exited | ContainerState::Unknown)
    }

    /// Made but never started: its start failed, or an agent died in between.
    pub(crate) fn is_only_made(&self) -> bool {
        self.status.state == ContainerState::Created
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.status.state == ContainerState::Exited && self.status.exit_code == Some(0)
    }

    pub(crate) fn finished_ms(&self) -> i64 {
        self.status.finished_at / 1_000_000
    }
}

impl Observed {
    /// The newest instance of a container, in whatever sandbox.
    pub(crate) fn newest(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().filter(|one| one.status.name == name).max_by_key(|one| one.status.attempt)
    }

    /// The newest instance of a container in the sandbox that is now.
    pub(crate) fn current(&self, name: &str) -> Option<&Instance> {
        let sandbox = self.sandbox.as_ref()?;
        self.newest(name).filter(|one| one.status.sandbox_id == sandbox.id)
    }

    /// The instance before the newest.
    pub(crate) fn previous(&self, name: &str) -> Option<&Instance> {
        let newest = self.newest(name)?.status.attempt;
        let older = self.instances.iter().filter(|one| one.status.name == name && one.status.attempt < newest);
        older.max_by_key(|one| one.status.attempt)
    }

    pub(crate) fn is_sandbox_ready(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|one| one.is_running())
    }
}

/// What the task remembers beside that. Nothing in it is needed to adopt a running pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// Volumes are mounted.
    pub(crate) volumes: Readiness,
    /// Pulls, by container.
    pub(crate) images: BTreeMap<String, Pull>,
    /// Restart back-off, by container.
    pub(crate) restarts: BTreeMap<String, RestartBackoff>,
    /// Containers that were asked to end, by id.
    pub(crate) killing: BTreeMap<String, Killing>,
    /// postStart hooks, by container id.
    pub(crate) hooks: BTreeMap<String, Hook>,
    /// Probe results, by container id.
    pub(crate) probes: BTreeMap<String, Probed>,
    /// Why a container could not be made, by container.
    pub(crate) failures: BTreeMap<String, StartFailure>,
    /// Why the sandbox could not be made, and when to try again.
    pub(crate) sandbox_failure: Option<StartFailure>,
    /// The pod as a whole has failed (deadline, eviction): reason and message. Never taken back.
    pub(crate) verdict: Option<(String, String)>,
    /// When this board took the pod up, Unix milliseconds.
    pub(crate) started_ms: i64,
    /// A grace that somebody gave with a second deletion, or eviction.
    pub(crate) grace_s: Option<i64>,
}

impl Memory {
    /// Takes over what probes of an earlier agent have found, as the status tells it. It holds until a probe of this one
    /// says otherwise, so that a restart of the agent takes no pod out of its Services.
    pub(crate) fn recall_probes(&mut self, status: &Value) {
        let lists = ["initContainerStatuses", "containerStatuses"].map(|field| status[field].as_array());
        for container in lists.into_iter().flatten().flatten() {
            let id = container["containerID"].as_str().and_then(|id| id.strip_prefix(ID_SCHEME));
            let Some(id) = id.filter(|_| container["state"]["running"].is_object()) else { continue };
            let probed = self.probes.entry(id.to_owned()).or_default();
            for (field, found) in [("started", &mut probed.started), ("ready", &mut probed.ready)] {
                if container[field] == true {
                    found.get_or_insert(true);
                }
            }
        }
    }
}

/// Something that must be done first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Readiness {
    #[default]
    Pending,
    Ready,
    /// Message and when to try again.
    Failed(String, i64),
}

/// A pull.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Pull {
    /// A task is at it.
    Running,
    /// For this reference.
    Ready(String, Box<ImageRef>),
    /// The last attempt's error, the delay after it, and when it ended.
    Failed { error: PullError, delay_ms: i64, at_ms: i64 },
}

/// Ten seconds doubling to five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestartBackoff {
    pub(crate) delay_ms: i64,
    pub(crate) updated_ms: i64,
}

/// `--max-container-restart-period` and its start.
pub(crate) const BACKOFF_FIRST_MS: i64 = 10_000;
pub(crate) const BACKOFF_MOST_MS: i64 = 300_000;

impl RestartBackoff {
    /// The state after a restart at `now_ms` of a container that ended at `finished_ms`.
    pub(crate) fn after_restart(former: Option<Self>, finished_ms: i64, now_ms: i64) -> Self {
        let delay_ms = match former {
            Some(former) if finished_ms - former.updated_ms <= 2 * BACKOFF_MOST_MS => {
                (former.delay_ms * 2).min(BACKOFF_MOST_MS)
            }
            _ => BACKOFF_FIRST_MS,
        };
        Self { delay_ms, updated_ms: now_ms }
    }

    /// When a container that ended at `finished_ms` may be restarted.
    pub(crate) fn allowed_at(former: Option<Self>, finished_ms: i64) -> i64 {
        match former {
            Some(former) if finished_ms - former.updated_ms <= 2 * BACKOFF_MOST_MS => finished_ms + former.delay_ms,
            _ => finished_ms,
        }
    }
}

/// A container on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Killing {
    pub(crate) stage: KillStage,
    /// When SIGKILL comes.
    pub(crate) deadline_ms: i64,
    /// The preStop hook is done.
    pub(crate) hooked: bool,
}

/// ```text
/// Hook -> Signalled -> Killed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KillStage {
    /// preStop runs.
    Hook,
    /// The stop signal was sent.
    Signalled,
    /// SIGKILL was sent.
    Killed,
}

/// A postStart hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hook {
    Running,
    Done,
    Failed(String),
}

/// What the probes of one container say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Probed {
    /// The startup probe; none while undecided.
    pub(crate) started: Option<bool>,
    /// The readiness probe; none while undecided.
    pub(crate) ready: Option<bool>,
    /// The liveness (or startup) probe gave up: the container must go. Holds which probe.
    pub(crate) dead: Option<&'static str>,
}

/// Why something could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartFailure {
    /// The waiting reason: `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) retry_at_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crashing_container_waits_ten_seconds_doubling_to_five_minutes_and_is_forgiven_after_ten() {
        let mut state = None;
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let allowed = RestartBackoff::allowed_at(state, now);
            delays.push((allowed - now) / 1000);
            state = Some(RestartBackoff::after_restart(state, now, allowed));
            now = allowed;
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(RestartBackoff::allowed_at(state, now + 600_001), now + 600_001);
    }
}
