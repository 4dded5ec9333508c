//! Pure: `plan(pod, observed, memory, now)`: what to do next for one pod.
//!
//! ```text
//!  volumes -> sandbox -> init containers, one after the other (sidecars stay) -> containers
//!      ended for good or deleted: containers stop -> sidecars stop, last first -> sandbox stops -> finished
//! ```
//! The plan is total: the same input gives the same actions, and an action that was carried out is not planned again
//! because its effect is then in `observed` or in `memory`.

use super::backoff::{self, Decision};
use super::spec::{Container, Pod};
use super::state::{Hook, Instance, KillStage, Killing, Memory, Observed, Pull, Readiness};
use super::status::has_ended_for_good;
use super::{ContainerKind, PullPolicy};

/// A step of the pod's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Mount volumes (again).
    SetUpVolumes,
    /// Make the pod's namespaces and attach its network.
    CreateSandbox {
        /// How many came before.
        attempt: u32,
    },
    /// Bring the container's image, in the background.
    Pull {
        /// The container.
        name: String,
    },
    /// Make and start a container.
    Start {
        /// The container.
        name: String,
        /// How many came before.
        attempt: u32,
    },
    /// Begin to end a container: preStop hook or at once the stop signal.
    Kill {
        /// The instance.
        id: String,
        /// Of this container.
        name: String,
        /// For the event `Killing`.
        message: String,
        /// Seconds until SIGKILL.
        grace_s: i64,
    },
    /// The hook has run (or its time is up): send the stop signal.
    SignalStop {
        /// The instance.
        id: String,
        /// Of this container.
        name: String,
    },
    /// The grace is over.
    SignalKill {
        /// The instance.
        id: String,
    },
    /// Forget an old instance, its log and its files.
    Remove {
        /// The instance.
        id: String,
    },
    /// Take the network away and stop the sandbox.
    StopSandbox {
        /// The sandbox.
        id: String,
    },
    /// Forget a sandbox that came before.
    RemoveSandbox {
        /// The sandbox.
        id: String,
    },
    /// The pod failed as a whole.
    Fail {
        /// `DeadlineExceeded`.
        reason: String,
        /// For people.
        message: String,
    },
    /// Nothing of a deleted pod runs any more: clean up, report, delete from the API.
    Finish,
}

/// What to do, and when to look again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake_at_ms: Option<i64>,
}

impl Plan {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake(&mut self, at_ms: i64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |wake| wake.min(at_ms)));
    }
}

/// Between two tries to attach the network of a sandbox that an earlier agent made.
const ATTACH_RETRY_MS: i64 = 1_000;

/// Instances of one container that are kept: the newest and the one before, for `logs --previous`.
const KEPT_INSTANCES: usize = 2;

/// See the file's head.
pub(crate) fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now_ms: i64) -> Plan {
    let mut plan = Plan::default();
    escalate(observed, memory, now_ms, &mut plan);
    deadline(pod, memory, now_ms, &mut plan);
    let deleted = pod.is_deleted();
    let over = memory.verdict.is_some() || matches!(pod.status["phase"].as_str(), Some("Succeeded" | "Failed"));
    if deleted || over || has_ended_for_good(pod, observed) {
        wind_down(pod, observed, memory, now_ms, &mut plan);
        return plan;
    }
    for sandbox in &observed.former {
        plan.act(Action::RemoveSandbox { id: sandbox.id.clone() });
    }
    prune(pod, observed, &mut plan);
    if !ready_to_run(observed, memory, now_ms, &mut plan) {
        return plan;
    }
    let machine = Machine { pod, observed, memory, now_ms };
    for container in &pod.spec.ephemeral_containers {
        if observed.current(&container.name).is_none() {
            machine.start(ContainerKind::Ephemeral, container, &mut plan);
        }
    }
    if machine.initialize(&mut plan) {
        for container in &pod.spec.containers {
            machine.keep_running(ContainerKind::Main, container, &mut plan);
        }
    }
    plan
}

/// Volumes and sandbox come first.
fn ready_to_run(observed: &Observed, memory: &Memory, now_ms: i64, plan: &mut Plan) -> bool {
    match &memory.volumes {
        Readiness::Ready => {}
        Readiness::Failed(_, retry_at_ms) if *retry_at_ms > now_ms => {
            plan.wake(*retry_at_ms);
            return observed.is_sandbox_ready() && observed.instances.iter().any(Instance::is_running);
        }
        // A pod that an earlier agent left running is adopted first and mounted again beside that.
        Readiness::Pending | Readiness::Failed(..) => {
            plan.act(Action::SetUpVolumes);
            return false;
        }
    }
    if observed.is_sandbox_ready() {
        if observed.detached {
            plan.wake(now_ms + ATTACH_RETRY_MS);
        }
        // What an earlier agent left running is looked after meanwhile; nothing begins without a network.
        return !observed.detached || observed.running().next().is_some();
    }
    if let Some(failure) = memory.sandbox_failure.as_ref().filter(|failure| failure.retry_at_ms > now_ms) {
        plan.wake(failure.retry_at_ms);
        return false;
    }
    if let Some(sandbox) = &observed.sandbox {
        plan.act(Action::StopSandbox { id: sandbox.id.clone() });
    }
    let attempt = observed.sandbox.as_ref().map_or(0, |sandbox| sandbox.pod.attempt + 1);
    plan.act(Action::CreateSandbox { attempt });
    false
}

/// Drives instances that were asked to end.
fn escalate(observed: &Observed, memory: &Memory, now_ms: i64, plan: &mut Plan) {
    for instance in observed.running() {
        let Some(killing) = memory.killing.get(instance.id()) else { continue };
        match killing.stage {
            KillStage::Killed => {}
            KillStage::Hook if killing.hooked => {
                let (id, name) = (instance.id().to_owned(), instance.status.name.clone());
                plan.act(Action::SignalStop { id, name });
            }
            _ if now_ms >= killing.deadline_ms => plan.act(Action::SignalKill { id: instance.id().to_owned() }),
            KillStage::Hook | KillStage::Signalled => plan.wake(killing.deadline_ms),
        }
    }
}

fn deadline(pod: &Pod, memory: &Memory, now_ms: i64, plan: &mut Plan) {
    let Some(seconds) = pod.spec.active_deadline_seconds.filter(|_| memory.verdict.is_none()) else { return };
    let at_ms = memory.started_ms + seconds * 1000;
    if now_ms < at_ms {
        plan.wake(at_ms);
    } else {
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        plan.act(Action::Fail { reason: "DeadlineExceeded".to_owned(), message });
    }
}

/// Everything ends: containers first, then sidecars from the last to the first, then the sandbox.
fn wind_down(pod: &Pod, observed: &Observed, memory: &Memory, now_ms: i64, plan: &mut Plan) {
    let grace_s = memory.grace_s.unwrap_or_else(|| pod.grace_s());
    let is_sidecar = |name: &str| pod.spec.init_containers.iter().any(|one| one.name == name && one.is_sidecar());
    let mut running: Vec<&Instance> = observed.running().filter(|one| !is_sidecar(&one.status.name)).collect();
    if running.is_empty() {
        let last = pod
            .spec
            .init_containers
            .iter()
            .rev()
            .find_map(|container| observed.running().find(|one| one.status.name == container.name));
        running.extend(last);
    }
    if running.is_empty() {
        running.extend(observed.running());
    }
    for instance in &running {
        begin_to_end(instance, memory, grace_s, now_ms, plan);
    }
    if !running.is_empty() {
        return;
    }
    if let Some(sandbox) = observed.sandbox.as_ref().filter(|sandbox| sandbox.ready) {
        plan.act(Action::StopSandbox { id: sandbox.id.clone() });
        return;
    }
    if pod.is_deleted() {
        plan.act(Action::Finish);
    }
}

fn begin_to_end(instance: &Instance, memory: &Memory, grace_s: i64, now_ms: i64, plan: &mut Plan) {
    let (id, name) = (instance.id().to_owned(), instance.status.name.clone());
    match memory.killing.get(&id) {
        None => {
            let message = format!("Stopping container {name}");
            plan.act(Action::Kill { id, name, message, grace_s });
        }
        // A second deletion with less grace shortens the first.
        Some(killing) if killing.stage != KillStage::Killed && grace_s == 0 && now_ms < killing.deadline_ms => {
            plan.act(Action::SignalKill { id });
        }
        Some(_) => {}
    }
}

/// Old instances go, except the newest and the one before.
fn prune(pod: &Pod, observed: &Observed, plan: &mut Plan) {
    for (_, container) in pod.all_containers() {
        let mut dead: Vec<&Instance> =
            observed.instances.iter().filter(|one| one.status.name == container.name).collect();
        dead.sort_by_key(|one| std::cmp::Reverse(one.status.attempt));
        for instance in dead.iter().skip(KEPT_INSTANCES).filter(|one| one.has_ended()) {
            plan.act(Action::Remove { id: instance.id().to_owned() });
        }
    }
}

struct Machine<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a Memory,
    now_ms: i64,
}

impl Machine<'_> {
    /// Plans init containers and sidecars; true when containers may run.
    fn initialize(&self, plan: &mut Plan) -> bool {
        // Once a container ran in this sandbox, initialization is over for it; sidecars are still kept running.
        let begun = self.pod.spec.containers.iter().any(|one| self.observed.current(&one.name).is_some());
        for container in &self.pod.spec.init_containers {
            if container.is_sidecar() {
                self.keep_running(ContainerKind::Init, container, plan);
                if !begun && !self.has_started(container) {
                    return false;
                }
                continue;
            }
            if begun {
                continue;
            }
            match self.observed.current(&container.name) {
                Some(instance) if instance.succeeded() => {}
                _ => {
                    self.keep_running(ContainerKind::Init, container, plan);
                    return false;
                }
            }
        }
        true
    }

    /// A sidecar has started when its process runs, its hook is done and its startup probe succeeded.
    fn has_started(&self, container: &Container) -> bool {
        self.observed.current(&container.name).is_some_and(|instance| {
            instance.is_running() && super::status::is_started(container, instance, self.memory)
        })
    }

    fn keep_running(&self, kind: ContainerKind, container: &Container, plan: &mut Plan) {
        let Some(instance) = self.observed.current(&container.name) else {
            return self.start(kind, container, plan);
        };
        if instance.is_running() {
            return self.check_running(container, instance, plan);
        }
        if instance.has_ended() {
            if backoff::restarts(self.pod.restart_policy(), kind, container, instance) {
                self.restart(kind, container, instance, plan);
            }
            return;
        }
        // Made but never started: its start failed, or an agent died in between.
        let failed = self.memory.failures.get(&container.name);
        match failed.filter(|failure| failure.retry_at_ms > self.now_ms) {
            Some(failure) => plan.wake(failure.retry_at_ms),
            None => self.start(kind, container, plan),
        }
    }

    fn check_running(&self, container: &Container, instance: &Instance, plan: &mut Plan) {
        if self.memory.killing.contains_key(instance.id()) {
            return;
        }
        let name = &container.name;
        let probed = self.memory.probes.get(instance.id());
        let (message, probe) = if let Some(Hook::Failed(_)) = self.memory.hooks.get(instance.id()) {
            ("FailedPostStartHook".to_owned(), None)
        } else if let Some(which) = probed.and_then(|probed| probed.dead) {
            let probe = if which == "startup" { &container.startup_probe } else { &container.liveness_probe };
            (format!("Container {name} failed {which} probe, will be restarted"), probe.as_ref())
        } else if instance
            .status
            .labels
            .get(super::state::HASH_LABEL)
            .is_some_and(|hash| *hash != super::config::hash(container))
        {
            (format!("Container {name} definition changed, will be restarted"), None)
        } else {
            return;
        };
        let grace_s =
            probe.and_then(|probe| probe.termination_grace_period_seconds).unwrap_or_else(|| self.pod.grace_s());
        plan.act(Action::Kill { id: instance.id().to_owned(), name: name.clone(), message, grace_s });
    }

    fn restart(&self, kind: ContainerKind, container: &Container, ended: &Instance, plan: &mut Plan) {
        let former = self.memory.restarts.get(&container.name).copied();
        match backoff::decide(former, ended.finished_ms(), self.now_ms) {
            Decision::Now => self.start(kind, container, plan),
            Decision::At(at_ms) => plan.wake(at_ms),
        }
    }

    /// The image first, then the container.
    fn start(&self, _kind: ContainerKind, container: &Container, plan: &mut Plan) {
        let name = container.name.clone();
        if let Some(failure) = self.memory.failures.get(&name).filter(|failure| failure.retry_at_ms > self.now_ms) {
            return plan.wake(failure.retry_at_ms);
        }
        match self.memory.images.get(&name) {
            Some(Pull::Running) => {}
            Some(Pull::Ready(reference, _)) if *reference == container.image => {
                let attempt = match self.observed.current(&name) {
                    // An agent died before it started this one: that is no restart.
                    Some(made) if made.is_only_made() && !self.memory.failures.contains_key(&name) => {
                        made.status.attempt
                    }
                    _ => next_attempt(self.pod, self.observed, &name),
                };
                plan.act(Action::Start { name, attempt });
            }
            Some(Pull::Failed { delay_ms, at_ms, .. }) if at_ms + delay_ms > self.now_ms => plan.wake(at_ms + delay_ms),
            _ => plan.act(Action::Pull { name }),
        }
    }
}

/// One more than the newest instance; after a reboot one more than the API knows.
fn next_attempt(pod: &Pod, observed: &Observed, name: &str) -> u32 {
    if let Some(newest) = observed.newest(name) {
        return newest.status.attempt + 1;
    }
    let known = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"]
        .iter()
        .find_map(|list| pod.status[*list].as_array()?.iter().find(|status| status["name"] == name));
    let ran = known.filter(|status| status["containerID"].as_str().is_some_and(|id| !id.is_empty()));
    ran.map_or(0, |status| u32::try_from(status["restartCount"].as_u64().unwrap_or(0)).unwrap_or(0) + 1)
}

/// What the pull policy is when it is not written: Always for `:latest`, as the API server defaults it.
pub(crate) fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some(_) => PullPolicy::IfNotPresent,
        None => {
            let last = container.image.rsplit('/').next().unwrap_or_default();
            let floating = !last.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
            if floating { PullPolicy::Always } else { PullPolicy::IfNotPresent }
        }
    }
}

/// The memory after `Kill` was carried out: a hook gets its time, the rest gets the signal at once.
pub(crate) fn killing(has_hook: bool, grace_s: i64, now_ms: i64) -> Killing {
    let stage = if has_hook && grace_s > 0 { KillStage::Hook } else { KillStage::Signalled };
    Killing { stage, deadline_ms: now_ms + grace_s.max(0) * 1000, hooked: false }
}

#[cfg(test)]
mod tests;
