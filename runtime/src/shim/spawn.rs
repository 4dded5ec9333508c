//! Shell: forking a verb out of the shim, and hearing from it. Allocates nothing.

use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use heapless::{String, Vec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::log::with_c_path;
use crate::wire::PATH_MAX;

/// In a verb: the socket to the shim, for the pid and a terminal's master.
pub(crate) const SHIM_FD: RawFd = 3;
/// In a verb: the socket to the caller, for the result.
pub(crate) const RESULT_FD: RawFd = 4;

/// Where a verb's standard stream comes from.
pub(super) enum Stdio<'a> {
    Null,
    /// A FIFO in the sandbox's directory, opened in the child.
    Fifo(&'a str, libc::c_int),
    Given(BorrowedFd<'a>),
}

/// Forks and executes `bramble <verb> <id> <number>`.
pub(super) fn spawn(
    verb: &CStr,
    id: &str,
    number: u32,
    stdio: [Stdio<'_>; 3],
    channel: BorrowedFd<'_>,
    result: BorrowedFd<'_>,
) -> Result<i32, i32> {
    let mut count = String::<12>::new();
    let _ = std::fmt::write(&mut count, format_args!("{number}"));
    let pid = with_c_path(id, |id| {
        with_c_path(&count, |count| {
            let argv = [c"bramble".as_ptr(), verb.as_ptr(), id.as_ptr(), count.as_ptr(), std::ptr::null()];
            // SAFETY: this process has one thread, so the child may run ordinary code; it only makes system calls.
            match unsafe { libc::fork() } {
                0 => become_verb(&argv, stdio, channel, result),
                pid => Some(pid),
            }
        })
    });
    match pid {
        Some(pid) if pid > 0 => Ok(pid),
        _ => Err(libc::EAGAIN),
    }
}

fn become_verb(
    argv: &[*const libc::c_char],
    stdio: [Stdio<'_>; 3],
    channel: BorrowedFd<'_>,
    result: BorrowedFd<'_>,
) -> ! {
    // SAFETY: system calls on this child's own descriptors and signal state; execve replaces the process, and on any
    // failure it leaves by _exit, so nothing of the shim runs twice.
    unsafe {
        // First out of the way of 0..=4, then into place.
        let mut moved = [-1; 5];
        for (at, stream) in stdio.iter().enumerate() {
            moved[at] = match stream {
                Stdio::Null => libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC),
                Stdio::Fifo(path, flags) => {
                    with_c_path(path, |path| Some(libc::open(path.as_ptr(), *flags | libc::O_CLOEXEC))).unwrap_or(-1)
                }
                Stdio::Given(fd) => fd.as_raw_fd(),
            };
        }
        moved[SHIM_FD as usize] = channel.as_raw_fd();
        moved[RESULT_FD as usize] = result.as_raw_fd();
        for fd in &mut moved {
            *fd = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 10);
        }
        for (at, fd) in moved.iter().enumerate() {
            if *fd < 0 || libc::dup2(*fd, at as libc::c_int) < 0 {
                libc::_exit(125);
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let environment = [std::ptr::null::<libc::c_char>()];
        libc::execve(c"/proc/self/exe".as_ptr(), argv.as_ptr(), environment.as_ptr());
        libc::_exit(126)
    }
}

/// From a verb: the pid that it made, and the terminal's master if it has one.
pub(crate) fn send_pid(channel: BorrowedFd<'_>, pid: i32, master: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
    send(channel, &pid.to_le_bytes(), master.as_slice())
}

/// In the shim: `None` when the verb has ended.
pub(super) fn receive_pid(channel: BorrowedFd<'_>) -> Option<(i32, Option<OwnedFd>)> {
    let mut bytes = [0u8; 4];
    let (count, mut fds) = receive(channel, &mut bytes).ok()?;
    (count == 4).then(|| (i32::from_le_bytes(bytes), fds.pop()))
}

/// One packet with descriptors.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(socket, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// One packet with descriptors; a count of 0 is the end.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> rustix::io::Result<(usize, Vec<OwnedFd, { crate::wire::FDS_MAX }>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(bytes)];
    let got = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for fd in rights {
                let _ = fds.push(fd);
            }
        }
    }
    Ok((got.bytes, fds))
}

/// `c/<id>/<name>`, relative to the sandbox's directory.
pub(super) fn container_path(id: &str, name: &str) -> String<PATH_MAX> {
    let mut path = String::new();
    let _ = std::fmt::write(&mut path, format_args!("c/{id}/{name}"));
    path
}
