//! Shell: `container-start` and `container-exec`: libcontainer in a process of its own, forked from the shim.
//!
//! Descriptor 3 leads to the shim (the new process's id, a terminal's master), 4 to the caller (`ok` or `err` and the
//! message, a terminal's master). The working directory is the sandbox's.

use std::{
    cell::RefCell,
    ffi::OsString,
    fs::{self, File},
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use libcontainer::{
    container::builder::ContainerBuilder,
    oci_spec::runtime::{LinuxNamespaceType, Spec},
    syscall::syscall::SyscallType,
};
use serde_json::json;

use super::{
    launch::{Guard, Launch},
    trace::Collector,
};
use crate::{
    cgroup::Hierarchy,
    config::{ExecConfig, Size},
    devices,
    host::Host,
    record,
    shim::{exit::now_ns, spawn},
};

/// libcontainer's own state, beside the containers' directories.
const STATE: &str = "oci";

struct Verb {
    id: String,
    number: u32,
    shim: OwnedFd,
    caller: OwnedFd,
    said: Collector,
    report: OwnedFd,
    /// Until the new process has its copy.
    reporter: RefCell<Option<OwnedFd>>,
}

type Made = Result<(i32, Option<OwnedFd>), String>;

/// Makes and starts a container.
pub(crate) fn start(args: &[OsString]) -> ExitCode {
    run(args, |verb| {
        let made = verb.start();
        if let Err(message) = &made {
            let _ = record::write(&container_dir(&verb.id).join("message"), message.as_bytes());
        }
        made
    })
}

/// Makes a further process in a container.
pub(crate) fn exec(args: &[OsString]) -> ExitCode {
    run(args, |verb| {
        let made = verb.exec();
        let _ = fs::remove_dir_all(verb.exec_dir());
        made
    })
}

fn run(args: &[OsString], make: impl FnOnce(&Verb) -> Made) -> ExitCode {
    let Some(verb) = Verb::new(args) else { return ExitCode::from(2) };
    let (text, master) = match make(&verb) {
        Ok((pid, master)) => (format!("ok {pid}"), master),
        Err(message) => (format!("err {message}"), None),
    };
    let text = &text.as_bytes()[..text.len().min(4096)];
    let _ = spawn::send(verb.caller.as_fd(), text, master.as_ref().map(|m| m.as_fd()).as_slice());
    if text.starts_with(b"ok") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn container_dir(id: &str) -> PathBuf {
    Path::new("c").join(id)
}

/// A socket at which libcontainer delivers a terminal's master.
struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    fn new(path: PathBuf) -> Result<Console, String> {
        let _ = fs::remove_file(&path);
        // The short relative path: sun_path ends at 108 bytes.
        let listener = UnixListener::bind(&path).map_err(|e| format!("console socket: {e}"))?;
        Ok(Console { path: std::env::current_dir().unwrap_or_default().join(path), listener })
    }

    /// The terminal belongs to the container's user, as with upstream's runtimes.
    fn master(self, owner: (u32, u32)) -> Result<OwnedFd, String> {
        let (stream, _) = self.listener.accept().map_err(|e| format!("console socket: {e}"))?;
        let mut name = [0u8; 64];
        let (_, mut fds) = spawn::receive(stream.as_fd(), &mut name).map_err(|e| format!("console socket: {e}"))?;
        let master = fds.pop().ok_or("console socket: no terminal arrived")?;
        if let Ok(peer) =
            rustix::pty::ioctl_tiocgptpeer(&master, rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
        {
            let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
            let _ = rustix::fs::fchown(&peer, Some(uid), Some(gid));
        }
        Ok(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Verb {
    fn new(args: &[OsString]) -> Option<Verb> {
        let id = args.first()?.to_str()?.to_string();
        let number = args.get(1)?.to_str()?.parse().ok()?;
        // SAFETY: the shim put these two descriptors in place for this process, and nothing else owns them.
        let (shim, caller) = unsafe { (OwnedFd::from_raw_fd(spawn::SHIM_FD), OwnedFd::from_raw_fd(spawn::RESULT_FD)) };
        for fd in [&shim, &caller] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).ok()?;
        }
        default_signals();
        // libcontainer does not call setgroups for an empty list.
        // SAFETY: an empty list is valid; this process has one thread.
        unsafe { libc::setgroups(0, std::ptr::null()) };
        let (report, reporter) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
        Some(Verb {
            id,
            number,
            shim,
            caller,
            said: Collector::install(),
            report,
            reporter: RefCell::new(Some(reporter)),
        })
    }

    fn builder(&self, root: &Path) -> Result<ContainerBuilder, String> {
        fs::create_dir_all(root).map_err(|e| format!("make {}: {e}", root.display()))?;
        ContainerBuilder::new(self.id.clone(), SyscallType::default())
            .with_root_path(root)
            .map_err(|e| self.why(&e, String::new()))
    }

    fn launch(&self, guard: Option<Guard>, size: Option<Size>) -> Launch {
        Launch { report: self.reporter.borrow().as_ref().map_or(-1, |fd| fd.as_raw_fd()), guard, size }
    }

    /// Our own report says it best, then libcontainer's first words, then its error with its causes.
    fn why(&self, error: &dyn std::error::Error, reported: String) -> String {
        if !reported.is_empty() {
            return reported;
        }
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            let said = next.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = next.source();
        }
        for said in self.said.said() {
            if !text.contains(&said) {
                text = format!("{text}; {said}");
            }
        }
        text
    }

    fn start(&self) -> Made {
        let dir = std::env::current_dir().map_err(|e| e.to_string())?;
        let bundle = dir.join(container_dir(&self.id));
        let spec = Spec::load(bundle.join("config.json")).map_err(|e| self.why(&e, String::new()))?;
        let terminal = spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false);
        let console = terminal.then(|| Console::new(container_dir(&self.id).join("console.sock"))).transpose()?;
        let root = dir.join(STATE);
        let built = self
            .builder(&root)?
            .with_executor(self.launch(None, None))
            .with_console_socket(console.as_ref().map(|c| c.path.clone()))
            .as_init(&bundle)
            .with_systemd(false)
            .with_detach(true)
            .as_sibling(true)
            .build();
        let mut container = built.map_err(|e| self.why(&e, self.drain_report()))?;
        let pid = container.pid().ok_or("the container has no process")?.as_raw();
        let master = console.map(|c| c.master(owner(&spec))).transpose()?;
        spawn::send_pid(self.shim.as_fd(), pid, master.as_ref().map(|m| m.as_fd())).map_err(|e| e.to_string())?;
        if let Err(message) = restrict_devices(&spec) {
            kill(pid);
            return Err(message);
        }
        let started_at = now_ns();
        if let Err(e) = container.start() {
            kill(pid);
            return Err(self.why(&e, self.drain_report()));
        }
        let reported = self.until_program_runs();
        if !reported.is_empty() {
            return Err(reported);
        }
        let started = json!({ "pid": pid, "started_at": started_at, "start_time": record::start_time(pid) });
        let file = bundle.join("started");
        record::write(&file, started.to_string().as_bytes()).map_err(|e| e.chain())?;
        Ok((pid, master))
    }

    /// libcontainer looks for its sockets beside `state.json`: each exec gets a directory of its own with a link to it, so
    /// that what it leaves there goes with the directory.
    fn exec_dir(&self) -> PathBuf {
        Path::new("x").join(self.number.to_string())
    }

    fn exec(&self) -> Made {
        let dir = std::env::current_dir().map_err(|e| e.to_string())?;
        let bundle = dir.join(container_dir(&self.id));
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let asked = bundle.join(format!("exec-{}.json", self.number));
        let config: ExecConfig = fs::read(&asked)
            .map_err(|e| text(&e))
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| text(&e)))?;
        let _ = fs::remove_file(&asked);
        let spec = Spec::load(bundle.join("config.json")).map_err(|e| self.why(&e, String::new()))?;
        let own = dir.join(self.exec_dir());
        fs::create_dir_all(own.join(&self.id)).map_err(|e| text(&e))?;
        let state = dir.join(STATE).join(&self.id).join("state.json");
        std::os::unix::fs::symlink(state, own.join(&self.id).join("state.json")).map_err(|e| text(&e))?;
        let process = own.join("process.json");
        fs::write(&process, exec_process(&spec, &config)?.to_string()).map_err(|e| text(&e))?;
        let console = config.tty.map(|_| Console::new(self.exec_dir().join("console.sock"))).transpose()?;
        let guard = self.guard(&spec, &bundle)?;
        let built = self
            .builder(&own)?
            .with_executor(self.launch(Some(guard), config.tty))
            .with_console_socket(console.as_ref().map(|c| c.path.clone()))
            .as_tenant()
            .with_detach(true)
            .as_sibling(true)
            .with_process(Some(&process))
            .with_container_args(config.args.clone())
            .build();
        let pid = built.map_err(|e| self.why(&e, self.drain_report()))?.as_raw();
        let master = console.map(|c| c.master(owner(&spec))).transpose()?;
        spawn::send_pid(self.shim.as_fd(), pid, None).map_err(|e| text(&e))?;
        let reported = self.until_program_runs();
        if reported.is_empty() { Ok((pid, master)) } else { Err(reported) }
    }

    fn guard(&self, spec: &Spec, bundle: &Path) -> Result<Guard, String> {
        let process = spec.process().as_ref().ok_or("the specification has no process")?;
        let linux = spec.linux().as_ref().ok_or("the specification is not for Linux")?;
        let in_userns = linux.namespaces().iter().flatten().any(|n| n.typ() == LinuxNamespaceType::User);
        let userns = if in_userns {
            let pid = record::started(bundle).ok_or("the container is not running")?.pid;
            let file = File::open(format!("/proc/{pid}/ns/user")).map_err(|e| e.to_string())?;
            // Kept open until this process becomes the program or ends.
            Some(std::os::fd::IntoRawFd::into_raw_fd(file))
        } else {
            None
        };
        Ok(Guard {
            userns,
            seccomp: linux.seccomp().clone(),
            capabilities: process.capabilities().clone().unwrap_or_default(),
            uid: process.user().uid(),
            gid: process.user().gid(),
            groups: process.user().additional_gids().clone().unwrap_or_default(),
            no_new_privileges: process.no_new_privileges() == Some(true),
        })
    }

    /// The other end closes when the program starts: the launcher's copy is close-on-exec.
    fn until_program_runs(&self) -> String {
        self.reporter.take();
        let mut text = String::new();
        if let Ok(mut reader) = self.report.try_clone().map(File::from) {
            let _ = reader.read_to_string(&mut text);
        }
        text
    }

    fn drain_report(&self) -> String {
        let mut bytes = [0u8; 4096];
        let _ = rustix::io::ioctl_fionbio(&self.report, true);
        let count = rustix::io::read(&self.report, &mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }
}

fn kill(pid: i32) {
    if let Some(init) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(init, rustix::process::Signal::KILL);
    }
}

/// On cgroup v2 libcontainer leaves every device open.
fn restrict_devices(spec: &Spec) -> Result<(), String> {
    if Hierarchy::detect() != Hierarchy::V2 {
        return Ok(());
    }
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|l| l.cgroups_path().clone()).unwrap_or_default();
    let rules = linux.and_then(|l| l.resources().as_ref()).and_then(|r| r.devices().clone()).unwrap_or_default();
    let cgroup = Hierarchy::V2.memory_dir(&path.to_string_lossy());
    devices::restrict(&cgroup, &rules).map_err(|e| format!("restrict devices: {e}"))
}

/// Rust's runtime ignores SIGPIPE, and an ignored signal stays ignored through exec; so does what our own parents ignored.
fn default_signals() {
    // The kernel's own structure (handler, flags, restorer, mask): all zero is SIG_DFL. libc's wrapper refuses two signals.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the structure is as large as the kernel reads and the mask's size is that of its 64 signals.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8) };
    }
}

fn owner(spec: &Spec) -> (u32, u32) {
    spec.process().as_ref().map_or((0, 0), |p| (p.user().uid(), p.user().gid()))
}

/// The process as libcontainer is to make it: root with all that we hold, so that the guard can join and then drop.
fn exec_process(spec: &Spec, config: &ExecConfig) -> Result<serde_json::Value, String> {
    let process = spec.process().as_ref().ok_or("the specification has no process")?;
    let mut env = process.env().clone().unwrap_or_default();
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_string();
    env.retain(|old| config.env.iter().all(|new| key(new) != key(old)));
    env.extend(config.env.iter().cloned());
    if config.tty.is_some() && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    let held = Host::read().capabilities;
    let mut made = json!({
        "terminal": config.tty.is_some(),
        "user": { "uid": 0, "gid": 0 },
        "args": config.args,
        "env": env,
        "cwd": process.cwd(),
        "capabilities": { "bounding": held, "effective": held, "permitted": held },
        "rlimits": process.rlimits(),
    });
    if let Some(score) = process.oom_score_adj() {
        made["oomScoreAdj"] = json!(score);
    }
    Ok(made)
}
