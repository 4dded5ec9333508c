//! Shell: carries out what was planned.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::Path;

use bramble_runtime::SandboxStatus;
use tracing::{info, warn};

use super::super::board::FALLBACK_ANNOTATION;
use super::super::config::{self, Inputs};
use super::super::plan::{self, Action};
use super::super::spec::Container;
use super::super::state::{Hook, KillStage, Observed, Pull, Readiness, RestartBackoff, StartFailure};
use super::super::{ContainerKind, HostPort, NamedPort, PodNetRequest, Protocol, hosts};
use super::{Message, Worker};
use crate::volumes;

/// What an action means for the loop.
pub(super) enum Applied {
    /// The world changed: observe again at once.
    Again,
    /// Something will tell when it changed.
    Nothing,
    /// The pod is no more.
    Finished,
}

/// What failed is tried again after this, as the kubelet's sync loop does.
const RETRY_MS: i64 = 10_000;
/// A sandbox is tried again sooner: it only needs the host.
const SANDBOX_RETRY_MS: i64 = 3_000;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

impl Worker {
    pub(super) async fn apply(&mut self, action: Action, observed: &Observed) -> Applied {
        match action {
            Action::SetUpVolumes => return self.set_up_volumes().await,
            Action::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
            Action::Pull { name } => {
                self.pull(name);
                return Applied::Nothing;
            }
            Action::Start { name, attempt } => self.start_container(&name, attempt, observed).await,
            Action::Kill { id, name, message, grace_s } => {
                return self.kill(id, &name, message, grace_s, observed).await;
            }
            Action::SignalStop { id, .. } => return self.signal_stop(&id, observed).await,
            Action::SignalKill { id } => {
                if let Some(killing) = self.memory.killing.get_mut(&id) {
                    killing.stage = KillStage::Killed;
                }
                self.signal(id, SIGKILL).await;
                return Applied::Nothing;
            }
            Action::Remove { id } => self.remove_instance(id, observed).await,
            Action::StopSandbox { id } => self.stop_sandbox(id).await,
            Action::RemoveSandbox { id } => {
                self.ask("remove a former sandbox", move |runtime| runtime.remove_sandbox(&id)).await
            }
            Action::Fail { reason, message } => {
                self.board.recorder.normal(&self.pod, None, "DeadlineExceeded", message.clone());
                self.memory.verdict = Some((reason, message));
            }
            Action::Finish => return self.finish(observed).await,
        }
        Applied::Again
    }

    async fn ask(
        &self,
        what: &'static str,
        call: impl FnOnce(&dyn crate::pods::ContainerRuntime) -> Result<(), bramble_runtime::Error> + Send + 'static,
    ) {
        if let Err(error) = self.board.blocking(call).await {
            warn!(pod = %self.pod.display(), %error, "{what}");
            // Planned again after the next observation; not in a tight loop.
            tokio::time::sleep(super::RUNTIME_RETRY).await;
        }
    }

    async fn set_up_volumes(&mut self) -> Applied {
        let outcome = match self.mount().await {
            Some(outcome) => outcome,
            None => return Applied::Nothing,
        };
        match outcome {
            Ok(()) => {
                self.memory.volumes = Readiness::Ready;
                Applied::Again
            }
            Err(message) => {
                self.board.recorder.warning(&self.pod, None, "FailedMount", message.clone());
                self.memory.volumes = Readiness::Failed(message, self.board.now_ms() + RETRY_MS / 5);
                Applied::Again
            }
        }
    }

    /// None while something that the pod refers to is not known yet: the change will notify.
    async fn mount(&mut self) -> Option<Result<(), String>> {
        if let Err(error) = self.tokens.refresh(&self.board.link, &self.pod, self.board.now_ms()).await {
            return Some(Err(format!("failed to fetch token: {error}")));
        }
        let (config_maps, secrets) = volumes::references(&self.pod);
        let namespace = self.pod.metadata.namespace.clone();
        let stamp = self.stamp(self.board.references.stamp(&namespace, &config_maps, &secrets));
        if self.mounted == Some(stamp) {
            return Some(Ok(()));
        }
        let sources = self.board.references.sources(&namespace, &config_maps, &secrets)?;
        self.mounted = None;
        let (board, pod, tokens) = (self.board.clone(), self.pod.clone(), self.tokens.texts());
        let ips = self.ips.as_ref().map(|(_, ips)| ips.clone()).unwrap_or_default();
        let made = tokio::task::spawn_blocking(move || {
            let made = volumes::set_up(&board.places, &pod, &sources, &board.facts(&ips), &tokens)?;
            Ok::<_, volumes::VolumeError>(made)
        });
        Some(match made.await {
            Ok(Ok(made)) => {
                self.volumes = made;
                self.mounted = Some(stamp);
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Changes when anything that a volume may show does.
    fn stamp(&self, references: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (references, &self.object, &self.ips, self.tokens.texts()).hash(&mut hasher);
        hasher.finish()
    }

    /// Content that changed reaches running containers; what fails is tried with the next change.
    pub(super) async fn refresh_volumes(&mut self) {
        if let Some(Err(error)) = self.mount().await {
            warn!(pod = %self.pod.display(), %error, "bringing volumes up to date");
        }
    }

    async fn create_sandbox(&mut self, attempt: u32) {
        let board = self.board.clone();
        let config =
            config::sandbox(&self.pod, &bramble_runtime::new_id(), attempt, &board.log_root, &board.dns.domain);
        let id = config.id.clone();
        let made = async {
            let sandbox = board.blocking(move |runtime| runtime.run_sandbox(&config)).await?;
            let ips = match self.attach(&sandbox).await {
                Ok(ips) => ips,
                Err(error) => {
                    let id = sandbox.id.clone();
                    let _ = board.blocking(move |runtime| runtime.remove_sandbox(&id)).await;
                    return Err(error);
                }
            };
            self.write_own_files(&ips).await?;
            Ok((sandbox.id, ips))
        };
        match made.await {
            Ok((id, ips)) => {
                info!(pod = %self.pod.display(), sandbox = %id, ?ips, "sandbox");
                self.ips = Some((id, ips));
                self.memory.sandbox_failure = None;
            }
            Err(error) => {
                let message = format!(
                    "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup sandbox \"{id}\": {error}"
                );
                self.board.recorder.warning(&self.pod, None, "FailedCreatePodSandBox", message.clone());
                let retry_at_ms = self.board.now_ms() + SANDBOX_RETRY_MS;
                self.memory.sandbox_failure = Some(StartFailure { reason: "ContainerCreating", message, retry_at_ms });
            }
        }
    }

    pub(super) async fn attach(&self, sandbox: &SandboxStatus) -> Result<Vec<IpAddr>, String> {
        if self.pod.spec.host_network {
            return Ok(self.board.host_ips.clone());
        }
        let netns = sandbox.netns_path.as_deref().ok_or("the sandbox has no network namespace")?;
        let request = net_request(&self.pod);
        self.board.network.attach(netns, &sandbox.id, &request).await.map_err(|error| error.to_string())
    }

    pub(super) async fn write_own_files(&self, ips: &[IpAddr]) -> Result<(), String> {
        let (board, pod, ips) = (self.board.clone(), self.pod.clone(), ips.to_vec());
        let written = tokio::task::spawn_blocking(move || {
            let dir = board.places.pod(&pod.metadata.uid);
            let of_host = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
            let name = config::hostname(&pod, &board.dns.domain);
            volumes::own_file(
                &dir.join("etc-hosts"),
                &hosts::hosts(&pod, &ips, &board.dns, &of_host("/etc/hosts".as_ref())),
            )?;
            let resolv = hosts::resolv_conf(&pod, &board.dns, &of_host(&board.resolv_conf));
            volumes::own_file(&dir.join("resolv.conf"), &resolv)?;
            volumes::own_file(&dir.join("hostname"), &format!("{name}\n"))
        });
        match written.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn start_container(&mut self, name: &str, attempt: u32, observed: &Observed) {
        let now_ms = self.board.now_ms();
        let Some((kind, container)) = self.pod.container(name).map(|(kind, container)| (kind, container.clone()))
        else {
            return;
        };
        if let Some(ended) = observed.newest(name).filter(|one| one.has_ended()) {
            let former = self.memory.restarts.get(name).copied();
            let next = RestartBackoff::after_restart(former, ended.finished_ms(), now_ms);
            self.memory.restarts.insert(name.to_owned(), next);
        }
        if self.pod.restart_policy() == "Never" {
            let (pods, uid) = (self.board.places.pods.clone(), self.pod.metadata.uid.clone());
            let _ = tokio::task::spawn_blocking(move || super::begun::note(&pods, &uid)).await;
        }
        match self.create_and_start(kind, &container, attempt, observed).await {
            Ok(id) => {
                self.memory.failures.remove(name);
                // The next instance asks for its image again, as the pull policy says.
                self.memory.images.remove(name);
                self.told.remove(name);
                self.begin_post_start(id, &container, observed);
            }
            Err((reason, message)) => {
                self.board.recorder.warning(&self.pod, Some(name), "Failed", format!("Error: {message}"));
                let failure = StartFailure { reason, message, retry_at_ms: now_ms + RETRY_MS };
                self.memory.failures.insert(name.to_owned(), failure);
            }
        }
    }

    async fn create_and_start(
        &mut self,
        kind: ContainerKind,
        container: &Container,
        attempt: u32,
        observed: &Observed,
    ) -> Result<String, (&'static str, String)> {
        const CONFIG: &str = "CreateContainerConfigError";
        let Some(Pull::Ready(_, image)) = self.memory.images.get(&container.name).cloned() else {
            return Err((CONFIG, "the image is not there".to_owned()));
        };
        let sandbox = observed.sandbox.as_ref().ok_or((CONFIG, "there is no sandbox".to_owned()))?;
        let (config_maps, secrets) = volumes::references(&self.pod);
        let sources = self.board.references.sources(&self.pod.metadata.namespace, &config_maps, &secrets);
        let sources = sources
            .ok_or((CONFIG, "failed to sync configmap cache: timed out waiting for the condition".to_owned()))?;
        let facts = self.board.facts(&observed.ips);
        let services = self.board.services_of(&self.pod.metadata.namespace);
        let id = bramble_runtime::new_id();
        let sub_paths = self.sub_paths(container, &facts).await.map_err(|error| (CONFIG, error))?;
        let pod_dir = self.board.places.pod(&self.pod.metadata.uid);
        let mut config = config::container(&Inputs {
            pod: &self.pod,
            kind,
            container,
            attempt,
            id: &id,
            image: &image,
            sources: &sources,
            services: &services,
            facts: &facts,
            volumes: &self.volumes,
            sub_paths: &sub_paths,
            pod_dir: &pod_dir,
            seccomp_dir: &self.board.seccomp_dir,
        })
        .map_err(|error| (CONFIG, error))?;
        if container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") {
            config.annotations.insert(FALLBACK_ANNOTATION.to_owned(), "true".to_owned());
        }
        let message = pod_dir.join("containers").join(&container.name).join(&id);
        let (sandbox_id, reference) = (sandbox.id.clone(), container.image.clone());
        let log_dir = sandbox.log_dir.join(&container.name);
        let never_ran = observed.instances.iter().filter(|one| one.is_only_made() && one.status.name == container.name);
        let never_ran: Vec<String> = never_ran.map(|one| one.id().to_owned()).collect();
        let created = self.board.blocking(move |runtime| {
            for id in &never_ran {
                runtime.remove_container(id)?;
            }
            prepare_files(&message, &log_dir);
            runtime.create_container(&sandbox_id, config, &reference)
        });
        let id = created.await.map_err(|error| ("CreateContainerError", error))?;
        self.board.recorder.normal(&self.pod, Some(&container.name), "Created", "Container created".to_owned());
        let starting = id.clone();
        let started = self.board.blocking(move |runtime| runtime.start_container(&starting)).await;
        started.map_err(|error| ("RunContainerError", error))?;
        self.board.recorder.normal(&self.pod, Some(&container.name), "Started", "Container started".to_owned());
        Ok(id)
    }

    async fn sub_paths(
        &self,
        container: &Container,
        facts: &super::super::env::Facts,
    ) -> Result<std::collections::BTreeMap<usize, std::path::PathBuf>, String> {
        if container.volume_mounts.iter().all(|mount| mount.sub_path.is_empty() && mount.sub_path_expr.is_empty()) {
            return Ok(std::collections::BTreeMap::new());
        }
        let plain: Vec<(String, String)> = container
            .env
            .iter()
            .map(|variable| {
                let field = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
                let value =
                    field.and_then(|field| super::super::env::field_value(&self.pod, &field.field_path, facts).ok());
                (variable.name.clone(), value.unwrap_or_else(|| variable.value.clone()))
            })
            .collect();
        let (board, pod, container, known) =
            (self.board.clone(), self.pod.clone(), container.clone(), self.volumes.clone());
        let resolved = tokio::task::spawn_blocking(move || {
            let lookup = |name: &str| plain.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            let expand = |text: &str| super::super::env::expand(text, &lookup);
            volumes::resolve_sub_paths(&board.places, &pod, &container, &known, &expand)
        });
        match resolved.await {
            Ok(result) => result.map_err(|error| format!("failed to prepare subPath for volumeMount: {error}")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn kill(&mut self, id: String, name: &str, message: String, grace_s: i64, observed: &Observed) -> Applied {
        if self.memory.killing.contains_key(&id) {
            return Applied::Nothing;
        }
        self.board.recorder.normal(&self.pod, Some(name), "Killing", message);
        let container = self.pod.container(name).map(|(_, container)| container.clone());
        let hook = container.as_ref().and_then(|container| container.lifecycle.pre_stop.clone());
        let killing = plan::killing(hook.is_some(), grace_s, self.board.now_ms());
        let stage = killing.stage;
        self.memory.killing.insert(id.clone(), killing);
        match (stage, hook, container) {
            (KillStage::Hook, Some(hook), Some(container)) => {
                self.begin_pre_stop(id, &container, hook, grace_s, observed);
                Applied::Nothing
            }
            _ => self.signal_stop(&id, observed).await,
        }
    }

    /// The stop signal of the container; with no grace at all SIGKILL.
    pub(super) async fn signal_stop(&mut self, id: &str, observed: &Observed) -> Applied {
        let now_ms = self.board.now_ms();
        let Some(killing) = self.memory.killing.get_mut(id) else { return Applied::Nothing };
        let at_once = killing.deadline_ms <= now_ms;
        killing.stage = if at_once { KillStage::Killed } else { KillStage::Signalled };
        let own = observed.instances.iter().find(|one| one.id() == id).and_then(|one| one.status.stop_signal);
        self.signal(id.to_owned(), if at_once { SIGKILL } else { own.unwrap_or(SIGTERM) }).await;
        // Its end is an event of the runtime; its deadline must be planned.
        Applied::Again
    }

    async fn signal(&self, id: String, signal: i32) {
        if let Err(error) = self.board.blocking(move |runtime| runtime.signal_container(&id, signal)).await {
            warn!(pod = %self.pod.display(), %error, signal, "signal");
        }
    }

    async fn remove_instance(&mut self, id: String, observed: &Observed) {
        let log = observed.instances.iter().find(|one| one.id() == id).map(|one| one.status.log_path.clone());
        self.ask("remove an old container", move |runtime| {
            runtime.remove_container(&id)?;
            if let Some(log) = log.filter(|log| !log.as_os_str().is_empty()) {
                super::super::rotation::remove(&log);
            }
            Ok(())
        })
        .await;
    }

    async fn stop_sandbox(&mut self, id: String) {
        if !self.pod.spec.host_network
            && let Err(error) = self.board.network.detach(&id).await
        {
            warn!(pod = %self.pod.display(), %error, "taking the network away");
        }
        self.ips = None;
        self.ask("stop the sandbox", move |runtime| runtime.stop_sandbox(&id)).await;
    }

    async fn finish(&mut self, observed: &Observed) -> Applied {
        let ids: Vec<String> = observed.sandbox.iter().chain(&observed.former).map(|one| one.id.clone()).collect();
        for id in &ids {
            if let Err(error) = self.board.network.detach(id).await {
                warn!(pod = %self.pod.display(), %error, "taking the network away");
            }
        }
        let (board, uid) = (self.board.clone(), self.pod.metadata.uid.clone());
        let log_dir = config::log_dir(&self.board.log_root, &self.pod);
        let removed = self
            .board
            .blocking(move |runtime| {
                ids.iter().try_for_each(|id| runtime.remove_sandbox(id))?;
                if let Err(error) = volumes::tear_down(&board.places, &uid) {
                    warn!(%error, "removing volumes");
                }
                let _ = std::fs::remove_dir_all(log_dir);
                Ok(())
            })
            .await;
        if let Err(error) = removed {
            warn!(pod = %self.pod.display(), %error, "removing the pod");
            tokio::time::sleep(super::RUNTIME_RETRY).await;
            return Applied::Again;
        }
        info!(pod = %self.pod.display(), "gone");
        Applied::Finished
    }

    pub(super) fn begun(&mut self, id: String, result: Result<(), String>) {
        let hook = match result {
            Ok(()) => Hook::Done,
            Err(message) => {
                // Its output may hold a secret: it stays in the board's log, as upstream keeps it out of the event.
                warn!(pod = %self.pod.display(), id, message, "postStart hook");
                let text = "PostStartHook failed".to_owned();
                self.board.recorder.warning(&self.pod, None, "FailedPostStartHook", text);
                Hook::Failed(message)
            }
        };
        self.memory.hooks.insert(id, hook);
    }

    pub(super) fn tell(
        sender: &tokio::sync::mpsc::Sender<Message>,
        message: Message,
    ) -> impl Future<Output = ()> + use<> {
        let sender = sender.clone();
        async move {
            // The pod's task ended meanwhile: nobody needs to know.
            let _ = sender.send(message).await;
        }
    }
}

/// The file that is mounted as the termination message, writable for whatever user, and the log's directory.
fn prepare_files(message: &Path, log_dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Some(dir) = message.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    if std::fs::File::create(message).is_ok() {
        let _ = std::fs::set_permissions(message, std::fs::Permissions::from_mode(0o666));
    }
    let _ = std::fs::create_dir_all(log_dir);
}

/// From the checkpoint, or from the API server.
fn former_ips(pod: &super::Pod) -> Vec<IpAddr> {
    let reported = pod.status["podIPs"].as_array().into_iter().flatten().filter_map(|one| one["ip"].as_str());
    let known = pod.former_ips.iter().map(String::as_str);
    let ips: Vec<IpAddr> = known.filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() { reported.filter_map(|ip| ip.parse().ok()).collect() } else { ips }
}

fn net_request(pod: &super::Pod) -> PodNetRequest {
    let meta = &pod.metadata;
    let ports = || pod.all_containers().flat_map(|(_, container)| &container.ports);
    let bits = |key: &str| {
        let text = meta.annotations.get(key)?;
        let units = super::super::quantity::units(&serde_json::Value::String(text.clone()))?;
        u64::try_from(units).ok()
    };
    PodNetRequest {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        labels: meta.labels.clone(),
        former_ips: former_ips(pod),
        ports: ports()
            .filter(|port| !port.name.is_empty())
            .map(|port| NamedPort {
                name: port.name.clone(),
                protocol: Protocol::named(&port.protocol),
                port: port.container_port,
            })
            .collect(),
        host_ports: ports()
            .filter(|port| port.host_port > 0)
            .map(|port| HostPort {
                host_ip: port.host_ip.parse().ok(),
                host_port: port.host_port,
                container_port: port.container_port,
                protocol: Protocol::named(&port.protocol),
            })
            .collect(),
        ingress_bits_per_second: bits("kubernetes.io/ingress-bandwidth"),
        egress_bits_per_second: bits("kubernetes.io/egress-bandwidth"),
    }
}
