//! Shell: process 1 of a board: mounts, network, the daemons watched over, an orderly end.
//!
//! ```text
//! mounts -> bramble.toml -> data partition -> clock -> modules, swap, network -> daemons -> "ready": slot confirmed
//!                                                       TERM: reset    USR2: power off    INT (keys): reset
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Pid;
use rustix::system::RebootCommand;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::card::{DATA_PARTITION, read_state, write_state};
use super::config::{self, Config, Role};
use super::console::{self, Consoles};
use super::disk::Disk;
use super::ring::Ring;
use super::slots::Slot;
use super::status::Status;
use super::{clock, kernel, modules, net, swap, watchdog};

mod additions;
mod arguments;
mod companions;
mod firmware;
mod programs;
mod ssh;
mod wifi;

use additions::copy_new;
use arguments::arguments;
use companions::Companions;
use firmware::{join_file, read_config, take_bundle, take_site, with_firmware};
use programs::{end_all, forward, reap, start, stop};

/// The data partition.
const DATA: &str = "/data";
/// Where image archives and manifests from the firmware's partition are taken in from.
const ADDITIONS: &str = "/data/additions";
/// The authorities of registries, as files.
const AUTHORITIES: &str = "/run/bramble-authorities";
/// The join bundle that `bramble.toml` names, in memory.
const BUNDLE: &str = "/run/bramble-bundle";
/// The description of the site that it names.
const SITE: &str = "/run/bramble-site";
/// The daemons' run directory.
const RUN: &str = "/run/bramble";
/// Before a daemon that ended is started again; doubled each time, until one has lived for a while.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A confirmed system is taken for good again when its daemons have lived so long, controller or not.
const SETTLED: Duration = Duration::from_secs(30);
/// Lines that wait to be shown; who writes more waits.
const WAITING_LINES: usize = 256;

/// Never returns.
pub fn run() -> ! {
    let end = match boot() {
        Ok(end) => end,
        Err(error) => {
            Consoles::open().line(format!("bramble: the board does not start: {error}"));
            std::thread::sleep(RESTART_PAUSE);
            End::Restart
        }
    };
    finish(end)
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Restart,
    PowerOff,
}

fn boot() -> io::Result<End> {
    let mut consoles = Consoles::open();
    consoles.line(concat!("bramble: version ", env!("CARGO_PKG_VERSION"), " starts"));
    mount_kernel_views(&mut consoles)?;
    let line = fs::read_to_string("/proc/cmdline")?;
    let disk = Disk::wait()?;
    let (mut config, mut mistakes) = read_config(&disk);
    mistakes.extend(take_bundle(&mut config, &disk));
    mistakes.extend(take_site(&mut config, &disk));
    for mistake in &mistakes {
        consoles.line(format!("bramble: {mistake}"));
    }
    if let Err(error) = mount_data(&disk) {
        consoles.line(format!("bramble: the data partition: {error}; what is kept now is lost with the power"));
    }
    if let Err(error) = clock::set_floor(Path::new(DATA)) {
        consoles.line(format!("bramble: the clock: {error}"));
    }
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    for refused in modules::load_for_devices(&Path::new("/lib/modules").join(kernel)) {
        consoles.line(format!("bramble: module {refused}"));
    }
    for refused in modules::load_list(Path::new("/lib/modules/always")) {
        consoles.line(format!("bramble: module {refused}"));
    }
    // The serial number may be a wire's, which is there by now.
    let node_name = config.node_name.clone().unwrap_or_else(|| config::default_name(&serial()));
    rustix::system::sethostname(node_name.as_bytes())?;
    if let Err(error) = swap::start() {
        consoles.line(format!("bramble: compressed swap: {error}"));
    }
    let status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slot: Slot::of_command_line(&line),
        node_name,
        ssh: None,
        wifi: None,
        state: "starting".to_owned(),
        mistakes,
    };
    let ring = Ring::open(Path::new(RUN))?;
    let mut board =
        Board { disk, config, status, ring, consoles, companions: Companions::default(), brought_in: false, air: None };
    board.let_in();
    board.take_to_air();
    board.tell_status();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(board.live())
}

/// Everything that a container runtime expects of a system.
fn mount_kernel_views(consoles: &mut Consoles) -> io::Result<()> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/run", "tmpfs", plain, Some(c"mode=0755,size=25%"))?;
    mount("tmpfs", "/tmp", "tmpfs", plain, Some(c"mode=1777,size=25%"))?;
    for (kind, at, options) in [
        ("devpts", "/dev/pts", c"ptmxmode=0666,mode=0620"),
        ("tmpfs", "/dev/shm", c"mode=1777"),
        ("mqueue", "/dev/mqueue", c""),
    ] {
        fs::create_dir_all(at)?;
        mount(kind, at, kind, MountFlags::NOSUID | MountFlags::NOEXEC, Some(options))?;
    }
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", plain | MountFlags::NOEXEC, None)?;
    // Processes that are none of a pod's may stay in the root only because it delegates to pods.
    let all = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    for controller in all.split_whitespace() {
        if let Err(error) = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}")) {
            consoles.line(format!("bramble: cgroup controller {controller}: {error}"));
        }
    }
    fs::create_dir_all(RUN)?;
    // As elsewhere: a volume that asks for it sees what is mounted later.
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::SHARED | rustix::mount::MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// The serial number that the firmware tells; else the first wire's address.
fn serial() -> String {
    let told = fs::read_to_string("/proc/device-tree/serial-number").unwrap_or_default();
    if !told.trim_matches('\0').is_empty() {
        return told;
    }
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut addresses: Vec<String> = entries
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| fs::read_to_string(entry.path().join("address")).ok())
        .collect();
    addresses.sort();
    addresses.into_iter().next().unwrap_or_default()
}

fn mount_data(disk: &Disk) -> io::Result<()> {
    let grown = disk.grow_data()?;
    let device = disk.partition(DATA_PARTITION)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    // The rarer the journal is written the longer a card lives; what must not be lost is flushed by who writes it.
    mount(&device, DATA, "ext4", flags, Some(c"errors=continue,commit=30"))?;
    let bytes = kernel::device_bytes(&fs::File::open(&device)?)?;
    let stat = rustix::fs::statvfs(DATA)?;
    if grown || stat.f_blocks * stat.f_frsize < bytes / 10 * 8 {
        kernel::grow_ext4(&fs::File::open(DATA)?, bytes / stat.f_frsize)?;
    }
    fs::create_dir_all(Path::new(DATA).join("bramble"))
}

struct Board {
    disk: Disk,
    config: Config,
    status: Status,
    ring: Ring,
    consoles: Consoles,
    /// Programs beside the daemons.
    companions: Companions,
    /// What lies beside `bramble.toml` was brought in since this boot.
    brought_in: bool,
    /// How the radio is, where a network is to be joined.
    air: Option<wifi::Heard>,
}

impl Board {
    /// Prepares a login for those whose keys `bramble.toml` names. Called before children are waited for.
    fn let_in(&mut self) {
        if self.config.ssh_keys.is_empty() {
            return;
        }
        match ssh::prepare(&self.config.ssh_keys, Path::new(DATA)) {
            Ok((key, fingerprint)) => {
                self.consoles.line(format!("bramble: ssh listens; its key is {fingerprint}"));
                self.status.ssh = Some(fingerprint);
                self.companions.add("ssh", ssh::command_line(&key));
            }
            Err(error) => self.consoles.line(format!("bramble: nobody can log in: {error}")),
        }
    }

    fn tell_status(&self) {
        let written = with_firmware(&self.disk, MountFlags::SYNCHRONOUS, |folder| self.status.write(folder, &now()));
        if let Err(error) = written {
            eprintln!("bramble: {}: {error}", super::status::NAME);
        }
    }

    /// To whoever looks now, and to `bramble logs`.
    fn say(&mut self, line: &[u8]) {
        self.consoles.line(line);
        if let Err(error) = self.ring.line(&now(), line) {
            self.consoles.line(format!("bramble: keeping lines: {error}").as_bytes());
        }
    }

    /// Watches over the daemons until somebody asks for the end.
    async fn live(&mut self) -> io::Result<End> {
        let (mut restart, mut off) = (signal(SignalKind::terminate())?, signal(SignalKind::user_defined2())?);
        let (mut keys, mut children) = (signal(SignalKind::interrupt())?, signal(SignalKind::child())?);
        let (send, mut lines) = mpsc::channel(WAITING_LINES);
        let own = tokio::net::unix::pipe::Receiver::from_owned_fd(console::redirect_standard_streams()?.into())?;
        forward(own, "", &send);
        let wifi = self.air.is_some().then(|| self.config.wifi.clone());
        let (found, mut radio) = oneshot::channel();
        let settings = (self.config.network.clone(), wifi);
        let network = tokio::spawn(net::run(settings, self.status.node_name.clone(), found));
        let dog = self.config.watchdog.then(|| tokio::spawn(watchdog::run()));
        let (mut daemon, mut begun, mut pause) = (self.start_daemon(&send)?, Instant::now(), RESTART_PAUSE / 2);
        let mut again = None;
        let trial = self.is_trial();
        let mut judged = Some(Instant::now() + if trial { self.trial_limit() } else { SETTLED });
        let end = loop {
            let at = judged.unwrap_or_else(Instant::now);
            tokio::select! {
                _ = restart.recv() => break End::Restart,
                _ = keys.recv() => break End::Restart,
                _ = off.recv() => break End::PowerOff,
                _ = children.recv() => {
                    let ended = reap();
                    for told in self.companions.ended(&ended, Instant::now()) {
                        self.say(told.as_bytes());
                    }
                    let Some((_, how)) = ended.into_iter().find(|(pid, _)| *pid == daemon) else { continue };
                    pause = if begun.elapsed() > SETTLED { RESTART_PAUSE } else { (pause * 2).min(RESTART_PAUSE_MAX) };
                    self.say(format!("bramble: the daemon ended ({how}); it starts again in {pause:?}").as_bytes());
                    again = Some(Instant::now() + pause);
                }
                () = sleep_until(again.unwrap_or(at)), if again.is_some() => {
                    again = None;
                    (daemon, begun) = (self.start_daemon(&send)?, Instant::now());
                    // Only a life without an end is taken for good.
                    if !trial {
                        judged = judged.map(|_| Instant::now() + SETTLED);
                    }
                }
                () = sleep_until(self.companions.due().unwrap_or(at)), if self.companions.due().is_some() => {
                    for told in self.companions.start_due(Instant::now(), &send) {
                        self.say(told.as_bytes());
                    }
                }
                Ok(name) = &mut radio, if !radio.is_terminated() => {
                    self.companions.add("wifi", super::wifi::command_line(&name, wifi::CONFIGURATION));
                }
                Some(line) = lines.recv() => {
                    self.hear(&line);
                    if is_ready(&line) {
                        if judged.take().is_some() {
                            self.confirm("ready");
                        }
                        if let Err(error) = self.bring_in(&send) {
                            self.say(format!("bramble: what lies beside bramble.toml: {error}").as_bytes());
                        }
                    }
                }
                () = sleep_until(at), if judged.is_some() => {
                    judged = None;
                    if trial {
                        self.say(b"bramble: this system was on trial and did not become ready; the former one boots again");
                        break End::Restart;
                    }
                    self.confirm("running, not (yet) in touch with its controller");
                }
            }
        };
        self.say(b"bramble: stopping pods and daemons");
        // The agent tells its controller while there is a network.
        drop(fs::write(Path::new(RUN).join(crate::agent::SHUTDOWN_MARK), ""));
        if again.is_none() {
            stop(daemon).await;
        }
        network.abort();
        end_all().await;
        // Last: it covers a hang up to here.
        if let Some(dog) = dog {
            dog.abort();
            let _ = dog.await;
        }
        Ok(end)
    }

    /// A system on trial that has not become ready by then is not good: the board is reset, and the other slot boots.
    fn trial_limit(&self) -> Duration {
        Duration::from_secs(self.config.update.trial_seconds)
    }

    fn is_trial(&self) -> bool {
        let slot = self.status.slot;
        let read = || read_state(&mut self.disk.open()?);
        match (slot, read()) {
            (Some(slot), Ok(state)) => state.is_trial(slot),
            (_, Err(error)) => {
                eprintln!("bramble: the boot state: {error}");
                false
            }
            (None, _) => false,
        }
    }

    /// This slot boots from now on.
    fn confirm(&mut self, state: &str) {
        if let Some(slot) = self.status.slot {
            let confirmed = || {
                let mut card = self.disk.open()?;
                let mut state = read_state(&mut card)?;
                if !state.is_confirmed(slot) {
                    state.confirm(slot);
                    write_state(&mut card, &state)?;
                }
                Ok::<_, io::Error>(())
            };
            let told = match confirmed() {
                Ok(()) => format!("bramble: slot {slot} is confirmed; {}", uptime()),
                Err(error) => format!("bramble: slot {slot} is not confirmed: {error}"),
            };
            self.say(told.as_bytes());
        }
        state.clone_into(&mut self.status.state);
        self.tell_status();
        let _ = clock::mark(Path::new(DATA));
    }

    /// Image archives and manifests that lie beside `bramble.toml`: once, when the daemons can take them.
    fn bring_in(&mut self, lines: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
        if std::mem::replace(&mut self.brought_in, true) {
            return Ok(());
        }
        let place = Path::new(ADDITIONS);
        let copied = with_firmware(&self.disk, MountFlags::RDONLY, |folder| {
            copy_new(&folder.join("manifests"), &place.join("manifests"))?;
            copy_new(&folder.join("images"), &place.join("images"))
        });
        // An archive that was there before is an image already.
        let archives = copied.unwrap_or_else(|error| {
            self.say(format!("bramble: what lies beside bramble.toml: {error}").as_bytes());
            Vec::new()
        });
        let import = |path: &PathBuf| vec!["image".into(), "import".into(), path.to_string_lossy().into_owned()];
        let mut steps: Vec<Vec<String>> = archives.iter().map(import).collect();
        // An agent has no cluster of its own.
        if self.config.role != Role::Agent {
            steps.push(vec!["apply".into(), place.join("manifests").to_string_lossy().into_owned()]);
        }
        for mut words in steps {
            words.extend(["--run-dir".into(), RUN.into(), "--data-dir".into(), format!("{DATA}/bramble")]);
            // All at once: a pod whose image is still being read tries again.
            let _ = start(&words, lines)?;
        }
        Ok(())
    }

    fn start_daemon(&self, lines: &mpsc::Sender<Vec<u8>>) -> io::Result<Pid> {
        let controller = &self.config.controller;
        for (host, pem) in &self.config.registries.ca {
            fs::create_dir_all(AUTHORITIES)?;
            fs::write(arguments::authority_file(host), pem)?;
        }
        // Secrets go through a file that only root reads.
        let join_file = match (&controller.token, &controller.ca_pin) {
            (Some(token), Some(pin)) if self.config.role == Role::Agent => Some(join_file(token, pin)?),
            _ => None,
        };
        start(&arguments(&self.config, &self.status.node_name, join_file.as_deref()), lines)
    }
}

/// What `up` and `agent` say when all of them runs.
fn is_ready(line: &[u8]) -> bool {
    line.starts_with(b"bramble: up.")
        || line.starts_with(b"ready; the node is registered")
        || line.starts_with(b"ready; kubeconfig")
}

fn finish(end: End) -> ! {
    let _ = clock::mark(Path::new(DATA));
    rustix::fs::sync();
    let _ = unmount(DATA, UnmountFlags::empty());
    // Where something still holds it.
    let _ = rustix::mount::mount_remount(DATA, MountFlags::RDONLY, c"");
    rustix::fs::sync();
    let command = if end == End::PowerOff { RebootCommand::PowerOff } else { RebootCommand::Restart };
    let _ = rustix::system::reboot(command);
    // A board without a switch of its own stands still until it is unplugged.
    loop {
        std::thread::park();
    }
}

fn uptime() -> String {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    format!("{} s after the kernel's start", text.split(' ').next().unwrap_or("?"))
}

fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    crate::pods::time::rfc3339(i64::try_from(since.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_what_the_daemons_say() {
        assert!(is_ready(b"bramble: up. export KUBECONFIG=/x") && is_ready(b"ready; the node is registered"));
        assert!(!is_ready(b"bramble: upside down") && !is_ready(b""));
    }
}
