//! Shell: the supervisor of one board: starts controller and agent, restarts what dies, ends both when it ends.
//!
//! ```text
//! lock data dir -> controller -> "ready" -> agent -> "ready" -> [demo] -> wait for a signal
//!                      ^  exit: restarted after a growing pause  |
//! ```
//! It is one thread: the children ask the kernel for a signal on the death of the thread that started them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Options, ranges};

/// The pause after a first crash, as systemd's own: short, because every second without an agent is one without probes.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// A child that lived this long has its restart pause forgotten.
const STEADY: Duration = Duration::from_secs(60);
/// The longest pause before a restart: long enough not to wear a board, short enough for a person who watches.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// How long children may take to end in order; upstream's kubelet and systemd agree on this order of magnitude.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often one child may end before its first "ready" until `up` gives up.
const FIRST_START_TRIES: u32 = 3;

pub(crate) fn up(options: &Options) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("`bramble up` makes namespaces, mounts and cgroups: run it as root (sudo)");
    }
    super::check::essential()?;
    // Told now, not by a controller that ends again and again.
    #[cfg(feature = "controller")]
    super::daemon::site(options)?;
    let _lock = lock(&options.data_dir, LOCK_FILE)?;
    private_dir(&options.run_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(options))
}

/// Creates `dir` for root only; an existing one is left as it is.
pub(crate) fn private_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create {}", dir.display()))
}

/// Name of the file below the data directory that a running supervisor locks and that holds its process id.
pub(crate) const LOCK_FILE: &str = "lock";

fn open_lock(data_dir: &Path, name: &str) -> anyhow::Result<File> {
    private_dir(data_dir)?;
    let path = data_dir.join(name);
    let mut open = File::options();
    open.create(true).truncate(false).read(true).write(true).mode(0o600);
    open.open(&path).with_context(|| format!("cannot open {}", path.display()))
}

/// Waits until no earlier `daemon` of this data directory runs, and is the only one until the file is dropped. A killed
/// supervisor's lock is free at once, while its children may still be about to end.
pub(crate) fn succeed(data_dir: &Path, daemon: &str) -> anyhow::Result<File> {
    let mut file = open_lock(data_dir, &daemon_lock(daemon))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).context("cannot wait for the earlier one to end")?;
    sign(&mut file)?;
    Ok(file)
}

/// Name of the file below the data directory that a running `daemon` locks and that holds its process id.
pub(crate) fn daemon_lock(daemon: &str) -> String {
    format!("{daemon}.lock")
}

/// Says whose the lock is, for who wants it next.
fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

/// Takes a lock of the data directory for this process until the file is dropped.
pub(crate) fn lock(data_dir: &Path, name: &str) -> anyhow::Result<File> {
    let path = data_dir.join(name);
    let mut file = open_lock(data_dir, name)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let owner = std::fs::read_to_string(&path).unwrap_or_default();
        bail!(
            "{} is in use by process {}: stop that one first, or choose another --data-dir",
            data_dir.display(),
            owner.trim()
        );
    }
    sign(&mut file)?;
    Ok(file)
}

/// What the supervisor hears.
enum Heard {
    Line(usize, String),
    Ended(usize, std::io::Result<ExitStatus>),
    Restart(usize),
}

/// One supervised process.
struct Child {
    name: &'static str,
    args: Vec<String>,
    pid: Option<u32>,
    started: Instant,
    pause: Duration,
    was_ready: bool,
    tries: u32,
}

impl Child {
    fn new(name: &'static str, args: Vec<String>) -> Self {
        Self { name, args, pid: None, started: Instant::now(), pause: PAUSE_FIRST, was_ready: false, tries: 0 }
    }

    fn start(&mut self, index: usize, heard: &mpsc::Sender<Heard>) -> anyhow::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(self.name).args(&self.args).arg("--die-with-parent").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("cannot start the {}", self.name))?;
        self.pid = process.id();
        self.started = Instant::now();
        let stdout = process.stdout.take().context("the child's output is piped")?;
        let heard = heard.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = heard.send(Heard::Line(index, line)).await;
            }
            let _ = heard.send(Heard::Ended(index, process.wait().await)).await;
        });
        Ok(())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // An error means that it has just ended, which is what was asked for.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Where the agent finds its one-time token and the CA's pin.
pub(crate) fn join_file(options: &Options) -> std::path::PathBuf {
    options.run_dir.join("join")
}

fn children(options: &Options) -> anyhow::Result<Vec<Child>> {
    let text = |path: &Path| path.to_str().map(str::to_owned).context("paths must be UTF-8");
    let mut shared = vec![
        "--data-dir".into(),
        text(&options.data_dir)?,
        "--run-dir".into(),
        text(&options.run_dir)?,
        "--join-file".into(),
        text(&join_file(options))?,
    ];
    for (name, value) in [("--node-name", &options.node_name), ("--cgroup-root", &options.cgroup_root)] {
        if let Some(value) = value {
            shared.extend([name.to_owned(), value.clone()]);
        }
    }
    shared.extend(ranges::flags(options));
    let mut controller = shared.clone();
    for range in &options.load_balancer_pool {
        controller.extend(["--load-balancer-pool".into(), range.clone()]);
    }
    if let Some(path) = &options.site {
        controller.extend(["--site".into(), text(path)?]);
    }
    if let Some(period) = options.node_monitor_grace_period {
        controller.extend(["--node-monitor-grace-period".into(), format!("{}s", period.as_secs())]);
    }
    for listen in &options.listen {
        controller.extend(["--listen".into(), listen.clone()]);
    }
    if let Some(address) = &options.advertise_address {
        controller.extend(["--advertise-address".into(), address.clone()]);
    }
    if !options.mdns {
        controller.push("--no-mdns".into());
    }
    controller.extend(options.snapshots.flags()?);
    if let Some(path) = &options.encryption_provider_config {
        controller.extend(["--encryption-provider-config".into(), text(path)?]);
    }
    etcd_flags(options, &mut controller)?;
    let mut agent = shared;
    agent.extend(["--server".into(), super::daemon::local_server(options)?]);
    agent.extend(["--kubelet-port".into(), options.kubelet_port.to_string()]);
    if let Some(duration) = options.node_lease_duration {
        agent.extend(["--node-lease-duration".into(), format!("{}s", duration.as_secs())]);
    }
    agent.extend(["--resolv-conf".into(), text(&options.resolv_conf)?]);
    if options.external_provider {
        agent.extend(["--cloud-provider".into(), "external".into()]);
    }
    for registry in &options.insecure_registries {
        agent.extend(["--insecure-registry".into(), registry.clone()]);
    }
    for mirror in &options.registry_mirrors {
        agent.extend(["--registry-mirror".into(), mirror.clone()]);
    }
    for authority in &options.registry_authorities {
        agent.extend(["--registry-ca".into(), authority.clone()]);
    }
    if let Some(overlay) = options.overlay {
        agent.extend(["--overlay".into(), overlay.word().into()]);
    }
    if let Some(seconds) = options.overlay_keepalive_s {
        agent.extend(["--overlay-keepalive".into(), seconds.to_string()]);
    }
    if let Some(folder) = &options.cni_conf_dir {
        agent.extend(["--cni-conf-dir".into(), text(folder)?, "--cni-bin-dir".into(), options.cni_bin_dir.clone()]);
    }
    Ok(vec![Child::new("controller", controller), Child::new("agent", agent)])
}

/// What a controller is told of a shared etcd.
fn etcd_flags(options: &Options, flags: &mut Vec<String>) -> anyhow::Result<()> {
    if options.etcd.servers.is_empty() {
        return Ok(());
    }
    let etcd = &options.etcd;
    flags.extend(["--etcd-servers".into(), etcd.servers.join(","), "--etcd-prefix".into(), etcd.prefix.clone()]);
    for (name, path) in [
        ("--etcd-cafile", &etcd.cafile),
        ("--etcd-certfile", &etcd.certfile),
        ("--etcd-keyfile", &etcd.keyfile),
        ("--token-file", &options.token_file),
    ] {
        if let Some(path) = path {
            flags.extend([name.to_owned(), path.to_str().context("paths must be UTF-8")?.to_owned()]);
        }
    }
    Ok(())
}

async fn supervise(options: &Options) -> anyhow::Result<ExitCode> {
    let (send, mut heard) = mpsc::channel(16);
    let mut children = children(options)?;
    // The agent waits for the controller's first "ready", the demonstration for the agent's.
    let mut waiting: VecDeque<usize> = (1..children.len()).collect();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    eprintln!("bramble: starting the controller; data in {}", options.data_dir.display());
    children[0].start(0, &send)?;
    loop {
        let event = tokio::select! {
            event = heard.recv() => event.context("the supervisor holds a sender itself")?,
            () = either(&mut interrupt, &mut terminate) => break,
        };
        match event {
            Heard::Line(index, line) => {
                let child = &mut children[index];
                let name = child.name;
                eprintln!("bramble: {name} {line}");
                if line.starts_with("ready") && !std::mem::replace(&mut child.was_ready, true) {
                    match waiting.pop_front() {
                        Some(next) => children[next].start(next, &send)?,
                        None => all_ready(options),
                    }
                }
            }
            Heard::Ended(index, status) => {
                if let Err(error) = ended(&mut children[index], index, status, &send) {
                    stop(&mut children, &mut heard).await;
                    return Err(error);
                }
            }
            Heard::Restart(index) => children[index].start(index, &send)?,
        }
    }
    stop(&mut children, &mut heard).await;
    eprintln!("bramble: stopped; containers go on. `bramble up` takes them over again, `bramble down` removes them.");
    Ok(ExitCode::SUCCESS)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Plans the restart of a child that ended, or gives up when it never became ready.
fn ended(
    child: &mut Child,
    index: usize,
    status: std::io::Result<ExitStatus>,
    send: &mpsc::Sender<Heard>,
) -> anyhow::Result<()> {
    child.pid = None;
    child.tries += 1;
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    if !child.was_ready && child.tries >= FIRST_START_TRIES {
        bail!("the {} did not start ({how}); its last words stand above", child.name);
    }
    if child.started.elapsed() >= STEADY {
        child.pause = PAUSE_FIRST;
    }
    let pause = child.pause;
    child.pause = (pause * 2).min(PAUSE_MAX);
    eprintln!("bramble: the {} ended ({how}); it starts again in {pause:?}", child.name);
    let send = send.clone();
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        let _ = send.send(Heard::Restart(index)).await;
    });
    Ok(())
}

/// Agent first, so that its last status still reaches the controller.
async fn stop(children: &mut [Child], heard: &mut mpsc::Receiver<Heard>) {
    for index in (0..children.len()).rev() {
        children[index].signal(rustix::process::Signal::TERM);
        children[index].signal(rustix::process::Signal::CONT);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while children[index].pid.is_some() {
            match tokio::time::timeout_at(deadline, heard.recv()).await {
                Ok(Some(Heard::Ended(ended, _))) => children[ended].pid = None,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    eprintln!("bramble: the {} does not end; killing it", children[index].name);
                    children[index].signal(rustix::process::Signal::KILL);
                    break;
                }
            }
        }
    }
}

/// Tells the user what to do next; the demonstration runs in a process of its own so that this one stays tiny.
fn all_ready(options: &Options) {
    let kubeconfig = options.data_dir.join("admin.kubeconfig");
    eprintln!("bramble: up. export KUBECONFIG={}", kubeconfig.display());
    if options.demo {
        let mut demo = Command::new("/proc/self/exe");
        demo.arg("demo").arg("--data-dir").arg(&options.data_dir).arg("--run-dir").arg(&options.run_dir);
        demo.arg("--die-with-parent").stdin(Stdio::null());
        match demo.spawn() {
            Ok(mut process) => drop(tokio::spawn(async move { process.wait().await })),
            Err(error) => eprintln!("bramble: cannot start the demonstration: {error}"),
        }
    }
}
