//! Shell: the shim: one tiny process a pod that owns its containers' stdio, logs and exit codes.
//!
//! Single-threaded; signalfd and poll; every buffer lies in one static of fixed capacity, so nothing is allocated after
//! start, and only the pages that a pod really uses are ever touched. It never calls libcontainer: a verb of the same
//! binary does, forked from here so that the container becomes this process's child.
//!
//! ```text
//!  Start ──fork──> job ──pid──> slot (running) ──SIGCHLD or pidfd──> ended ──output at its end──> <id>.exit, freed
//!  Exec  ──fork──> job ──pid──> watch          ──SIGCHLD──────────────────> 8 bytes into the caller's exit pipe
//! ```

pub(crate) mod exit;
pub(crate) mod log;
mod output;
mod requests;
pub(crate) mod spawn;

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::addr_of_mut,
};

use heapless::{String, Vec};
use rustix::{
    event::{PollFd, PollFlags},
    time::Timespec,
};

use self::{
    exit::{Ended, monotonic_ms},
    log::{Log, PIECE_MAX},
};
use crate::wire::{ID_MAX, PATH_MAX};

/// Running containers of one pod.
const SLOTS: usize = 64;
/// Verbs in flight.
const JOBS: usize = 16;
/// Exec'd processes of one pod.
const WATCHES: usize = 64;
/// Attached callers of one pod.
const CLIENTS: usize = 16;
/// Exits seen before the verb told whose they are.
const EARLY: usize = 32;
/// Everything that may be polled at once.
const POLLS: usize = 2 + SLOTS * 3 + JOBS + CLIENTS * 3;

/// A container.
pub(crate) struct Slot {
    id: String<ID_MAX>,
    flags: u8,
    /// 0 until the verb has told it.
    pid: i32,
    /// Of an adopted container, whose exit is no SIGCHLD of ours.
    pidfd: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// The writing end that keeps stdin open.
    stdin: Option<OwnedFd>,
    master: Option<OwnedFd>,
    log: Log,
    cgroup: String<PATH_MAX>,
    /// Which two line buffers are its own.
    lane: usize,
    held: [usize; 2],
    ended: Option<Ended>,
}

/// A verb in flight.
struct Job {
    channel: OwnedFd,
    kind: JobKind,
}

enum JobKind {
    Start(String<ID_MAX>),
    Exec { exit: OwnedFd, deadline_ms: u64 },
}

/// An exec'd process.
struct Watch {
    pid: i32,
    exit: OwnedFd,
    deadline_ms: u64,
}

/// An attached caller.
struct Client {
    lane: usize,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    exit: OwnedFd,
}

/// Whole pages, so that the unused ones can be given back.
#[repr(align(4096))]
struct Line([u8; PIECE_MAX]);

struct State {
    slots: Vec<Slot, SLOTS>,
    jobs: Vec<Job, JOBS>,
    watches: Vec<Watch, WATCHES>,
    clients: Vec<Client, CLIENTS>,
    early: Vec<(i32, i32), EARLY>,
    lines: [[Line; 2]; SLOTS],
}

static mut STATE: State = State {
    slots: Vec::new(),
    jobs: Vec::new(),
    watches: Vec::new(),
    clients: Vec::new(),
    early: Vec::new(),
    lines: [const { [const { Line([0; PIECE_MAX]) }; 2] }; SLOTS],
};

/// What the process that starts a shim hands to it.
pub(crate) struct Start {
    pub(crate) sandbox_id: String<ID_MAX>,
    pub(crate) listener: OwnedFd,
    /// Directory of the exit files.
    pub(crate) exits: OwnedFd,
}

struct Shim {
    start: Start,
    signals: OwnedFd,
    state: &'static mut State,
    quit: bool,
}

/// Runs until it is told to quit. The working directory is the sandbox's.
pub(crate) fn run(start: Start) {
    // SAFETY: plain prctl calls on this process.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::prctl(libc::PR_SET_NAME, c"bramble-shim".as_ptr());
    }
    let Some(signals) = signal_fd() else { return };
    // SAFETY: this is the process's only thread, and `run` is called once in its life.
    let state = unsafe { &mut *addr_of_mut!(STATE) };
    let mut shim = Shim { start, signals, state, quit: false };
    // What the process ran through before it became the shim.
    give_back_stack();
    while !shim.quit {
        shim.turn();
    }
}

fn signal_fd() -> Option<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; the descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGHUP);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

/// What poll said, by descriptor number.
struct Ready(Vec<(i32, PollFlags), POLLS>);

impl Ready {
    fn of(&self, fd: &impl AsRawFd) -> PollFlags {
        let raw = fd.as_raw_fd();
        self.0.iter().find(|(number, _)| *number == raw).map_or(PollFlags::empty(), |(_, flags)| *flags)
    }

    fn readable(&self, fd: &impl AsRawFd) -> bool {
        self.of(fd).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
    }
}

impl Shim {
    fn turn(&mut self) {
        let ready = self.poll();
        for index in (0..self.state.jobs.len()).rev() {
            if ready.readable(&self.state.jobs[index].channel) {
                self.job_told(index);
            }
        }
        if ready.readable(&self.signals) {
            self.reap();
        }
        for index in (0..self.state.slots.len()).rev() {
            self.serve_slot(index, &ready);
        }
        self.drop_gone_clients(&ready);
        self.enforce_deadlines();
        if ready.readable(&self.start.listener) {
            self.serve_request();
            give_back_stack();
        }
    }

    fn poll(&self) -> Ready {
        let mut polls = Vec::<PollFd<'_>, POLLS>::new();
        let mut add = |fd: BorrowedFd<'_>, flags| {
            // SAFETY: the descriptor is owned by `self`, which outlives this call and is not changed during it.
            let _ = polls.push(PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }, flags));
        };
        add(self.signals.as_fd(), PollFlags::IN);
        add(self.start.listener.as_fd(), PollFlags::IN);
        for job in &self.state.jobs {
            add(job.channel.as_fd(), PollFlags::IN);
        }
        for slot in &self.state.slots {
            for source in slot.sources().into_iter().flatten() {
                // An attached caller that is slow slows the container, as it would with a terminal.
                if !self.blocked(slot.lane) {
                    add(source.as_fd(), PollFlags::IN);
                }
            }
            if let Some(pidfd) = &slot.pidfd {
                let wanted = if slot.ended.is_some() { PollFlags::empty() } else { PollFlags::IN };
                add(pidfd.as_fd(), wanted);
            }
        }
        for client in &self.state.clients {
            for sink in [&client.stdout, &client.stderr].into_iter().flatten() {
                let full = !output::writable(sink.as_fd());
                add(sink.as_fd(), if full { PollFlags::OUT } else { PollFlags::empty() });
            }
            add(client.exit.as_fd(), PollFlags::empty());
        }
        let timeout = self.timeout();
        loop {
            match rustix::event::poll(&mut polls, timeout.as_ref()) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        let mut ready = Ready(Vec::new());
        for poll in &polls {
            if !poll.revents().is_empty() {
                let _ = ready.0.push((poll.as_fd().as_raw_fd(), poll.revents()));
            }
        }
        ready
    }

    /// The nearest deadline; usually none.
    fn timeout(&self) -> Option<Timespec> {
        let watches = self.state.watches.iter().map(|w| w.deadline_ms);
        let slots = self.state.slots.iter().filter_map(|s| s.ended.as_ref()).map(|e| e.deadline_ms);
        let nearest = watches.chain(slots).filter(|d| *d != 0).min()?;
        let left = nearest.saturating_sub(monotonic_ms());
        Some(Timespec { tv_sec: (left / 1000) as i64, tv_nsec: (left % 1000 * 1_000_000) as i64 })
    }

    fn slot(&mut self, id: &str) -> Option<usize> {
        self.state.slots.iter().position(|slot| slot.id.as_str() == id)
    }

    fn free_lane(&self) -> Option<usize> {
        (0..SLOTS).find(|lane| self.state.slots.iter().all(|slot| slot.lane != *lane))
    }
}

/// Requests reach deep; what lies below this frame is garbage until the next one, and a pod waits long for it.
#[inline(never)]
fn give_back_stack() {
    const MARGIN: usize = 1024;
    const DEPTH: usize = 96 * 1024;
    const PAGE: usize = 4096;
    let here = 0u8;
    let top = (std::ptr::from_ref(&here) as usize - MARGIN) & !(PAGE - 1);
    // SAFETY: stacks grow downwards here, and the range begins below this function's frame, its callee's frame and the
    // red zone, which are some hundred bytes together: nothing live lies in it. What is not mapped yet is passed over.
    unsafe { libc::madvise((top - DEPTH) as *mut libc::c_void, DEPTH, libc::MADV_DONTNEED) };
}

impl Slot {
    fn sources(&self) -> [Option<&OwnedFd>; 3] {
        [self.stdout.as_ref(), self.stderr.as_ref(), self.master.as_ref()]
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
