//! Pure: from a pod and an image to the configuration of its sandbox and containers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bramble_runtime::{
    Capabilities, ContainerConfig, DeviceMapping, IdMap, ImageId, Mount, PodIdentity, Propagation, SandboxConfig,
    Seccomp, Security,
};

use super::env::{Facts, ServiceLink, Sources, environment, expand};
use super::spec::{Container, Pod, SeccompProfile};
use super::state::{HASH_LABEL, IMAGE_ANNOTATION, IMAGE_ID_ANNOTATION, KIND_LABEL, MESSAGE_ANNOTATION};
use super::{ContainerKind, ImageRef, resources};

/// Everything that the configuration of a container derives from.
pub(crate) struct Inputs<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) kind: ContainerKind,
    pub(crate) container: &'a Container,
    pub(crate) attempt: u32,
    pub(crate) id: &'a str,
    pub(crate) image: &'a ImageRef,
    pub(crate) sources: &'a Sources,
    pub(crate) services: &'a [ServiceLink],
    pub(crate) facts: &'a Facts,
    /// Where each volume of the pod lies on the host.
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    /// Mounts with a subPath, by their index: where they lie.
    pub(crate) sub_paths: &'a BTreeMap<usize, PathBuf>,
    /// The pod's own directory on the host.
    pub(crate) pod_dir: &'a Path,
    /// Where seccomp profiles of the board lie.
    pub(crate) seccomp_dir: &'a Path,
}

/// Changes when the container must be replaced: as upstream, its name and image only.
pub(crate) fn hash(container: &Container) -> String {
    let text = format!("{}\n{}", container.name, container.image);
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// The sandbox; its network is attached afterwards.
pub(crate) fn sandbox(pod: &Pod, id: &str, attempt: u32, log_root: &Path, cluster_domain: &str) -> SandboxConfig {
    let meta = &pod.metadata;
    let userns = (pod.spec.host_users == Some(false)).then(|| user_range(&meta.uid));
    SandboxConfig {
        id: id.to_owned(),
        pod: PodIdentity { namespace: meta.namespace.clone(), name: meta.name.clone(), uid: meta.uid.clone(), attempt },
        hostname: hostname(pod, cluster_domain),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        host_network: pod.spec.host_network,
        host_pid: pod.spec.host_pid,
        host_ipc: pod.spec.host_ipc,
        share_process_namespace: pod.spec.share_process_namespace,
        userns,
        sysctls: pod.spec.security_context.sysctls.iter().map(|one| (one.name.clone(), one.value.clone())).collect(),
        cgroup_parent: resources::qos(pod).cgroup(&meta.uid),
        resources: resources::pod(pod),
        log_dir: log_dir(log_root, pod),
    }
}

/// 65536 ids a pod, from 65536 on, by the pod's uid; two pods that share a range are kept apart by everything else.
fn user_range(uid: &str) -> IdMap {
    let hash = uid.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    IdMap { host_id: 65_536 * (1 + hash % 30_000), size: 65_536 }
}

/// `<log root>/<namespace>_<name>_<uid>`, as CRI logs lie.
pub(crate) fn log_dir(log_root: &Path, pod: &Pod) -> PathBuf {
    let meta = &pod.metadata;
    log_root.join(format!("{}_{}_{}", meta.namespace, meta.name, meta.uid))
}

/// The host name in the pod.
pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> String {
    if let Some(name) = &pod.spec.hostname_override {
        return name.clone();
    }
    let name = if pod.spec.hostname.is_empty() { &pod.metadata.name } else { &pod.spec.hostname };
    let name = name.get(..63).unwrap_or(name).trim_end_matches(['-', '.']).to_owned();
    match full_domain(pod, cluster_domain) {
        Some(domain) if pod.spec.set_hostname_as_fqdn => format!("{name}.{domain}"),
        _ => name,
    }
}

fn full_domain(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let subdomain = &pod.spec.subdomain;
    (!subdomain.is_empty()).then(|| format!("{subdomain}.{}.svc.{cluster_domain}", pod.metadata.namespace))
}

/// The container; the error is the message of `CreateContainerConfigError`.
pub(crate) fn container(inputs: &Inputs<'_>) -> Result<ContainerConfig, String> {
    let (pod, container) = (inputs.pod, inputs.container);
    let env = environment(pod, container, &inputs.image.config.env, inputs.sources, inputs.services, inputs.facts)?;
    let lookup = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let args = arguments(container, inputs.image, &lookup);
    if args.is_empty() {
        return Err("no command specified".to_owned());
    }
    let mut env_pairs: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !pod.spec.host_network && lookup("HOSTNAME").is_none() {
        env_pairs.push(format!("HOSTNAME={}", hostname(pod, "")));
    }
    if container.tty && lookup("TERM").is_none() {
        env_pairs.push("TERM=xterm".to_owned());
    }
    let image = &inputs.image.config;
    let working_dir = if container.working_dir.is_empty() { &image.working_dir } else { &container.working_dir };
    let message = inputs.pod_dir.join("containers").join(&container.name).join(inputs.id);
    let mut labels = BTreeMap::new();
    labels.insert(HASH_LABEL.to_owned(), hash(container));
    labels.insert(KIND_LABEL.to_owned(), format!("{:?}", inputs.kind));
    let mut annotations = BTreeMap::new();
    annotations.insert(IMAGE_ANNOTATION.to_owned(), shown_image(container));
    let image_id = inputs.image.repo_digest.clone().unwrap_or_else(|| inputs.image.id.clone());
    annotations.insert(IMAGE_ID_ANNOTATION.to_owned(), image_id);
    annotations.insert(MESSAGE_ANNOTATION.to_owned(), message.display().to_string());
    let stop = container.lifecycle.stop_signal.as_deref().or(image.stop_signal.as_deref());
    Ok(ContainerConfig {
        id: inputs.id.to_owned(),
        name: container.name.clone(),
        attempt: inputs.attempt,
        image: ImageId(inputs.image.id.clone()),
        args,
        env: env_pairs,
        working_dir: working_dir.clone(),
        mounts: mounts(inputs, &message)?,
        devices: devices(container),
        labels,
        annotations,
        log_path: PathBuf::from(&container.name).join(format!("{}.log", inputs.attempt)),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        resources: resources::container(pod, container, inputs.facts.node_memory_bytes),
        security: security(inputs)?,
        stop_signal: stop.and_then(signal_number),
        ..ContainerConfig::default()
    })
}

/// The status shows the image with its tag, `docker.io/library/` included, as containerd does.
fn shown_image(container: &Container) -> String {
    bramble_runtime::reference::Reference::parse(&container.image)
        .map_or_else(|_| container.image.clone(), |reference| reference.to_string())
}

fn arguments(container: &Container, image: &ImageRef, lookup: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let expanded = |list: &[String]| list.iter().map(|one| expand(one, lookup)).collect::<Vec<_>>();
    let mut args =
        if container.command.is_empty() { image.config.entrypoint.clone() } else { expanded(&container.command) };
    if !container.args.is_empty() {
        args.extend(expanded(&container.args));
    } else if container.command.is_empty() {
        args.extend(image.config.cmd.clone());
    }
    args
}

fn mounts(inputs: &Inputs<'_>, message: &Path) -> Result<Vec<Mount>, String> {
    let (pod, container) = (inputs.pod, inputs.container);
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let source = inputs.sub_paths.get(&index).or_else(|| inputs.volumes.get(&mount.name));
        let source = source.ok_or_else(|| {
            format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, container.name)
        })?;
        let target = Path::new("/").join(&mount.mount_path);
        mounts.push(Mount {
            source: source.clone(),
            target,
            readonly: mount.read_only || is_of_the_api(pod, &mount.name),
            recursive_read_only: mount.read_only
                && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    let taken = |mounts: &[Mount], target: &str| mounts.iter().any(|mount| mount.target == Path::new(target));
    for (file, target) in
        [("etc-hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")]
    {
        if (file != "hostname" || !pod.spec.host_network) && !taken(&mounts, target) {
            mounts.push(Mount { source: inputs.pod_dir.join(file), target: target.into(), ..Mount::default() });
        }
    }
    let target = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !target.is_empty() {
        mounts.push(Mount { source: message.to_owned(), target: target.into(), ..Mount::default() });
    }
    Ok(mounts)
}

/// Content that comes from the API is never the container's to change.
fn is_of_the_api(pod: &Pod, volume: &str) -> bool {
    let of_the_api = ["configMap", "secret", "downwardAPI", "projected"];
    let named = pod.spec.volumes.iter().find(|one| one["name"] == volume);
    named.is_some_and(|one| of_the_api.iter().any(|kind| one.get(kind).is_some()))
}

/// Raw block volumes; boards' own devices come through extended resources.
fn devices(container: &Container) -> Vec<DeviceMapping> {
    let _ = container;
    Vec::new()
}

fn security(inputs: &Inputs<'_>) -> Result<Security, String> {
    let (pod, container) = (inputs.pod, inputs.container);
    let (own, shared) = (&container.security_context, &pod.spec.security_context);
    let run_as_user = own.run_as_user.or(shared.run_as_user);
    non_root(pod, container, run_as_user, &inputs.image.config.user)?;
    let mut groups = shared.supplemental_groups.clone();
    groups.extend(shared.fs_group);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let user =
        (run_as_user.is_none() && !inputs.image.config.user.is_empty()).then(|| inputs.image.config.user.clone());
    Ok(Security {
        user,
        run_as_user,
        run_as_group: own.run_as_group.or(shared.run_as_group),
        supplemental_groups: groups,
        privileged: own.privileged,
        capabilities: Capabilities { add: own.capabilities.add.clone(), drop: own.capabilities.drop.clone() },
        read_only_rootfs: own.read_only_root_filesystem,
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !own.privileged,
        seccomp: seccomp(
            own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref()),
            own.privileged,
            inputs.seccomp_dir,
        ),
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
    })
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, dir: &Path) -> Seccomp {
    match profile {
        _ if privileged => Seccomp::Unconfined,
        Some(profile) if profile.r#type == "Unconfined" => Seccomp::Unconfined,
        Some(profile) if profile.r#type == "Localhost" => {
            Seccomp::Localhost(dir.join(profile.localhost_profile.as_deref().unwrap_or_default()))
        }
        _ => Seccomp::RuntimeDefault,
    }
}

/// Upstream's `verifyRunAsNonRoot`.
fn non_root(pod: &Pod, container: &Container, run_as_user: Option<u32>, image_user: &str) -> Result<(), String> {
    let wanted = container.security_context.run_as_non_root.or(pod.spec.security_context.run_as_non_root);
    if wanted != Some(true) {
        return Ok(());
    }
    let whose = format!("(pod: \"{}\", container: {})", pod.display(), container.name);
    match run_as_user {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {whose}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<u32>() {
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {whose}"
        )),
    }
}

/// `SIGTERM`, `TERM` or `15`; real-time signals as `SIGRTMIN+3`.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "POLL", "PWR", "SYS",
    ];
    let bare = name.trim().strip_prefix("SIG").unwrap_or(name.trim());
    if let Ok(number) = bare.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        return offset
            .trim_start_matches('+')
            .parse::<i32>()
            .ok()
            .or(offset.is_empty().then_some(0))
            .map(|more| 34 + more);
    }
    NAMES.iter().position(|known| *known == bare).and_then(|index| i32::try_from(index + 1).ok())
}

#[cfg(test)]
mod tests;
