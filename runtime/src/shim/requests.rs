//! Shell: what the agent asks of a shim, one connection a request.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use heapless::{String, Vec};
use rustix::{
    fs::{FileType, Mode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType, sockopt::Timeout},
};

use super::{
    Client, Job, JobKind, Shim, Slot,
    exit::monotonic_ms,
    log::{Log, with_c_path},
    spawn::{Stdio, container_path, receive, send, spawn},
};
use crate::wire::{FDS_MAX, MESSAGE_MAX, Request, STDIN, STDIN_ONCE, TTY, Verb};

type Fds = Vec<OwnedFd, FDS_MAX>;
/// An errno, and what goes back when there is none.
type Answer = Result<Option<OwnedFd>, i32>;

impl Shim {
    pub(super) fn serve_request(&mut self) {
        let Ok(connection) = rustix::net::accept_with(&self.start.listener, SocketFlags::CLOEXEC) else { return };
        // A caller that dies between connect and send must not hold up the pod.
        let patience = std::time::Duration::from_secs(1);
        let _ = rustix::net::sockopt::set_socket_timeout(&connection, Timeout::Recv, Some(patience));
        let mut bytes = [0u8; MESSAGE_MAX];
        let Ok((count, fds)) = receive(connection.as_fd(), &mut bytes) else { return };
        let Some(request) = Request::decode(&bytes[..count]) else { return };
        let answer = self.answer(&request, fds);
        let errno = answer.as_ref().err().copied().unwrap_or(0);
        let fd = answer.ok().flatten();
        let _ = send(connection.as_fd(), &errno.to_le_bytes(), fd.as_ref().map(|fd| fd.as_fd()).as_slice());
    }

    fn answer(&mut self, request: &Request, fds: Fds) -> Answer {
        match request.verb {
            Verb::Start => self.start_container(request, fds),
            Verb::Exec => self.exec(request, fds),
            Verb::Adopt => self.adopt(request, fds),
            Verb::Quit => {
                self.quit = true;
                Ok(None)
            }
            _ => {
                let index = self.slot(&request.id).ok_or(libc::ESRCH)?;
                self.answer_for_slot(index, request, fds)
            }
        }
    }

    fn answer_for_slot(&mut self, index: usize, request: &Request, fds: Fds) -> Answer {
        if request.verb == Verb::Attach {
            return self.attach(index, request, fds);
        }
        let slot = &mut self.state.slots[index];
        match request.verb {
            Verb::CloseStdin => {
                slot.stdin = None;
                Ok(None)
            }
            Verb::Keeper => Ok(slot.keeper()),
            Verb::Signal => slot.signal(request.number as i32),
            Verb::Resize => {
                let master = slot.master.as_ref().ok_or(libc::ENOTTY)?;
                let size = rustix::termios::Winsize {
                    ws_row: request.height,
                    ws_col: request.width,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                rustix::termios::tcsetwinsize(master, size).map_err(|e| e.raw_os_error()).map(|()| None)
            }
            Verb::ReopenLog => {
                slot.log.reopen();
                Ok(None)
            }
            _ => Err(libc::EINVAL),
        }
    }

    fn new_slot(&mut self, request: &Request) -> Result<Slot, i32> {
        if self.slot(&request.id).is_some() {
            return Err(libc::EEXIST);
        }
        Ok(Slot {
            id: request.id.clone(),
            flags: request.flags,
            pid: 0,
            pidfd: None,
            stdout: None,
            stderr: None,
            stdin: None,
            master: None,
            log: Log::open(&request.log_path, request.log_max_bytes, request.log_max_files),
            cgroup: request.cgroup.clone(),
            lane: self.free_lane().ok_or(libc::EMFILE)?,
            held: [0; 2],
            ended: None,
        })
    }

    fn start_container(&mut self, request: &Request, fds: Fds) -> Answer {
        let result = fds.first().ok_or(libc::EINVAL)?;
        let mut slot = self.new_slot(request)?;
        let path = |name| container_path(&request.id, name);
        let (stdin, stdout, stderr) = (path("stdin"), path("stdout"), path("stderr"));
        let mut stdio = [Stdio::Null, Stdio::Null, Stdio::Null];
        if !request.has(TTY) {
            make_fifo(&stdout, request)?;
            make_fifo(&stderr, request)?;
            slot.stdout = Some(open_fifo(&stdout, OFlags::RDONLY)?);
            slot.stderr = Some(open_fifo(&stderr, OFlags::RDONLY)?);
            // Read-write: the container's own end keeps the pipe alive when this process dies.
            stdio[1] = Stdio::Fifo(&stdout, libc::O_RDWR);
            stdio[2] = Stdio::Fifo(&stderr, libc::O_RDWR);
            if request.has(STDIN) {
                make_fifo(&stdin, request)?;
                slot.stdin = Some(open_fifo(&stdin, OFlags::RDWR)?);
                stdio[0] = Stdio::Fifo(&stdin, libc::O_RDONLY);
            }
        }
        let channel = self.begin(c"container-start", request, stdio, result.as_fd())?;
        self.state.jobs.push(Job { channel, kind: JobKind::Start(request.id.clone()) }).map_err(|_| libc::EBUSY)?;
        self.state.slots.push(slot).map_err(|_| libc::EMFILE)?;
        Ok(None)
    }

    fn exec(&mut self, request: &Request, mut fds: Fds) -> Answer {
        if fds.len() < 2 || self.state.watches.is_full() {
            return Err(libc::EINVAL);
        }
        // In the order of wire.rs; a stdin only if it was announced.
        let mut given = fds.iter().skip(2);
        let mut stdio = [Stdio::Null, Stdio::Null, Stdio::Null];
        if request.has(STDIN) && !request.has(TTY) {
            stdio[0] = given.next().map_or(Stdio::Null, |fd| Stdio::Given(fd.as_fd()));
        }
        for stream in &mut stdio[1..] {
            *stream = given.next().map_or(Stdio::Null, |fd| Stdio::Given(fd.as_fd()));
        }
        let channel = self.begin(c"container-exec", request, stdio, fds[0].as_fd())?;
        let exit = fds.swap_remove(1);
        let deadline_ms = if request.timeout_ms == 0 { 0 } else { monotonic_ms() + u64::from(request.timeout_ms) };
        self.state.jobs.push(Job { channel, kind: JobKind::Exec { exit, deadline_ms } }).map_err(|_| libc::EBUSY)?;
        Ok(None)
    }

    /// Forks the verb; returns our end of its channel.
    fn begin(
        &mut self,
        verb: &std::ffi::CStr,
        request: &Request,
        stdio: [Stdio<'_>; 3],
        result: BorrowedFd<'_>,
    ) -> Result<OwnedFd, i32> {
        if self.state.jobs.is_full() {
            return Err(libc::EBUSY);
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| e.raw_os_error())?;
        spawn(verb, &request.id, request.number, stdio, theirs.as_fd(), result)?;
        Ok(ours)
    }

    fn adopt(&mut self, request: &Request, fds: Fds) -> Answer {
        let mut slot = self.new_slot(request)?;
        let mut fds = fds.into_iter();
        slot.pid = request.pid;
        slot.pidfd = Some(fds.next().ok_or(libc::EINVAL)?);
        let keeper = fds.next();
        if request.has(TTY) {
            slot.master = keeper;
        } else {
            let path = |name| container_path(&request.id, name);
            slot.stdout = open_fifo(&path("stdout"), OFlags::RDONLY).ok();
            slot.stderr = open_fifo(&path("stderr"), OFlags::RDONLY).ok();
            slot.stdin = keeper;
        }
        self.state.slots.push(slot).map_err(|_| libc::EMFILE)?;
        Ok(None)
    }

    fn attach(&mut self, index: usize, request: &Request, fds: Fds) -> Answer {
        let slot = &mut self.state.slots[index];
        let mut fds = fds.into_iter();
        let exit = fds.next().ok_or(libc::EINVAL)?;
        let (stdout, stderr) = (fds.next(), fds.next());
        for sink in [&stdout, &stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(sink, true).map_err(|e| e.raw_os_error())?;
        }
        let client = Client { lane: slot.lane, stdout, stderr, exit };
        let answer = slot.keeper();
        if request.has(STDIN) && slot.has(STDIN_ONCE) && !slot.has(TTY) {
            // From here on only the caller's copy keeps stdin open.
            slot.stdin = None;
        }
        self.state.clients.push(client).map_err(|_| libc::EBUSY)?;
        Ok(answer)
    }
}

impl Slot {
    /// The terminal's master, or the writing end of stdin.
    fn keeper(&self) -> Option<OwnedFd> {
        self.master.as_ref().or(self.stdin.as_ref()).and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok())
    }

    /// Our own child is not reaped while it has a slot, so its id is its own; an adopted one has a pidfd.
    fn signal(&self, signal: i32) -> Answer {
        if self.ended.is_some() || self.pid <= 0 {
            return Err(libc::ESRCH);
        }
        use std::os::fd::AsRawFd;
        // SAFETY: plain system calls; the target is certain, as said above.
        let result = unsafe {
            match &self.pidfd {
                Some(fd) => {
                    libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0)
                }
                None => libc::c_long::from(libc::kill(self.pid, signal)),
            }
        };
        if result == 0 { Ok(None) } else { Err(rustix_errno()) }
    }
}

fn rustix_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Owned by the container's user, so that it can open /dev/stdout anew.
fn make_fifo(path: &String<{ crate::wire::PATH_MAX }>, request: &Request) -> Result<(), i32> {
    with_c_path(path, |path| {
        let at = rustix::fs::CWD;
        let _ = rustix::fs::unlinkat(at, path, rustix::fs::AtFlags::empty());
        let made = rustix::fs::mknodat(at, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .and_then(|()| {
                let owner = rustix::fs::Uid::from_raw(request.uid);
                let group = rustix::fs::Gid::from_raw(request.gid);
                rustix::fs::chownat(at, path, Some(owner), Some(group), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            })
            .map_err(|e| e.raw_os_error());
        Some(made)
    })
    .unwrap_or(Err(libc::ENAMETOOLONG))
}

fn open_fifo(path: &String<{ crate::wire::PATH_MAX }>, how: OFlags) -> Result<OwnedFd, i32> {
    with_c_path(path, |path| {
        let flags = how | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Some(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| e.raw_os_error()))
    })
    .unwrap_or(Err(libc::ENAMETOOLONG))
}
