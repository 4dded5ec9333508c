//! Shell: how processes end: reaping, adopted processes, exit files, deadlines.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use heapless::String;
use rustix::fs::{Mode, OFlags};

use super::{JobKind, Shim, Watch, log::with_c_path};
use crate::wire::{KILL_ALL, PATH_MAX};

/// How long a container's output may go on after its first process has ended.
const DRAIN_MS: u64 = 2_000;
/// How long an adopted process may wait to be reaped by its new parent, which is when its exit code can be read.
const REAP_MS: u64 = 5_000;
/// The exit code of an adopted process that nobody saw.
const UNSEEN: i32 = i32::MIN;
/// Do not ask the kernel for an adopted process's exit code.
pub(crate) const NO_EXIT_INFO: u8 = 16;

/// How a container's first process ended.
pub(crate) struct Ended {
    /// A wait status, or `UNSEEN`.
    status: i32,
    finished_at: i64,
    pub(super) deadline_ms: u64,
}

pub(super) fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Unix nanoseconds.
pub(crate) fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A wait status as (code, signal).
pub(crate) fn code_and_signal(status: i32) -> (i32, i32) {
    if libc::WIFSIGNALED(status) {
        (128 + libc::WTERMSIG(status), libc::WTERMSIG(status))
    } else {
        (libc::WEXITSTATUS(status), 0)
    }
}

fn tell_exit(pipe: &OwnedFd, status: i32) {
    let (code, signal) = code_and_signal(status);
    let mut bytes = [0u8; 8];
    bytes[..4].copy_from_slice(&code.to_le_bytes());
    bytes[4..].copy_from_slice(&signal.to_le_bytes());
    let _ = rustix::io::write(pipe, &bytes);
}

impl Shim {
    /// A verb spoke, or ended.
    pub(super) fn job_told(&mut self, index: usize) {
        let told = super::spawn::receive_pid(self.state.jobs[index].channel.as_fd());
        let (pid, master) = match told {
            Some((pid, master)) if pid > 0 => (pid, master),
            Some(_) => return,
            None => (0, None),
        };
        let job = self.state.jobs.swap_remove(index);
        match job.kind {
            JobKind::Start(id) => self.container_started(&id, pid, master),
            // Dropping the pipe without a word tells the caller that there was no process.
            JobKind::Exec { exit, deadline_ms } if pid > 0 => self.exec_started(Watch { pid, exit, deadline_ms }),
            JobKind::Exec { .. } => {}
        }
    }

    fn container_started(&mut self, id: &str, pid: i32, master: Option<OwnedFd>) {
        let Some(index) = self.slot(id) else { return };
        if pid == 0 {
            // The verb failed and no process is left: exit code 128, as containerd reports a failed start.
            self.end(index, 128 << 8);
            return;
        }
        let slot = &mut self.state.slots[index];
        slot.pid = pid;
        if master.is_some() {
            slot.master = master;
        }
        if let Some(status) = self.early_exit(pid) {
            self.end(index, status);
        }
    }

    fn exec_started(&mut self, watch: Watch) {
        if let Some(status) = self.early_exit(watch.pid) {
            tell_exit(&watch.exit, status);
        } else {
            let _ = self.state.watches.push(watch);
        }
    }

    fn early_exit(&mut self, pid: i32) -> Option<i32> {
        let at = self.state.early.iter().position(|(early, _)| *early == pid)?;
        Some(self.state.early.swap_remove(at).1)
    }

    pub(super) fn reap(&mut self) {
        let mut sink = [0u8; 128];
        while rustix::io::read(&self.signals, &mut sink).is_ok_and(|n| n > 0) {}
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the result.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            if let Some(index) = self.state.slots.iter().position(|s| s.pid == pid && s.pidfd.is_none()) {
                self.end(index, status);
            } else if let Some(at) = self.state.watches.iter().position(|w| w.pid == pid) {
                tell_exit(&self.state.watches.swap_remove(at).exit, status);
            } else if !self.state.jobs.is_empty() {
                // Whose it is may be told a moment later; orphans fall out at the other end.
                if self.state.early.is_full() {
                    self.state.early.remove(0);
                }
                let _ = self.state.early.push((pid, status));
            }
            if self.state.jobs.is_empty() {
                self.state.early.clear();
            }
        }
    }

    /// An adopted process is dead, and perhaps reaped.
    pub(super) fn adopted_ended(&mut self, index: usize) {
        let slot = &mut self.state.slots[index];
        let Some(pidfd) = &slot.pidfd else { return };
        let asked = if slot.flags & NO_EXIT_INFO != 0 { None } else { exit_info(pidfd) };
        if let Some(ended) = &mut slot.ended {
            // Second look: it is reaped now.
            ended.status = asked.unwrap_or(ended.status);
            slot.pidfd = None;
            return;
        }
        self.end(index, asked.unwrap_or(UNSEEN));
        let slot = &mut self.state.slots[index];
        if asked.is_some() || slot.has(NO_EXIT_INFO) {
            slot.pidfd = None;
        }
    }

    fn end(&mut self, index: usize, status: i32) {
        let slot = &mut self.state.slots[index];
        if slot.ended.is_none() {
            let patience = if slot.pidfd.is_some() { REAP_MS } else { DRAIN_MS };
            slot.ended = Some(Ended { status, finished_at: now_ns(), deadline_ms: monotonic_ms() + patience });
        }
        if slot.has(KILL_ALL) {
            kill_cgroup(&slot.cgroup);
        }
        if slot.pid == 0 {
            (slot.stdout, slot.stderr) = (None, None);
        }
        self.finish_if_drained(index);
    }

    /// Once a container has ended and its output has too, its exit file is written and its slot freed.
    pub(super) fn finish_if_drained(&mut self, index: usize) {
        let slot = &self.state.slots[index];
        let Some(ended) = &slot.ended else { return };
        let drained = slot.sources().iter().all(Option::is_none) && slot.pidfd.is_none();
        if !drained && monotonic_ms() < ended.deadline_ms {
            return;
        }
        self.write_exit_file(index);
        let slot = self.state.slots.swap_remove(index);
        let status = slot.ended.map_or(UNSEEN, |e| e.status);
        for at in (0..self.state.clients.len()).rev() {
            if self.state.clients[at].lane == slot.lane {
                let client = self.state.clients.swap_remove(at);
                if status != UNSEEN {
                    tell_exit(&client.exit, status);
                }
            }
        }
    }

    /// `<sandbox>.<container>.exit`, by rename: it is there whole or not at all. The run dir is volatile, so no fsync.
    fn write_exit_file(&self, index: usize) {
        let slot = &self.state.slots[index];
        let Some(ended) = &slot.ended else { return };
        let mut text = String::<256>::new();
        let oom = oom_killed(&slot.cgroup);
        let (code, signal) = if ended.status == UNSEEN { (-1, 0) } else { code_and_signal(ended.status) };
        let _ = std::fmt::write(
            &mut text,
            format_args!(
                "{{\"code\":{code},\"signal\":{signal},\"oom_killed\":{oom},\"finished_at\":{}}}",
                ended.finished_at
            ),
        );
        let mut name = String::<{ PATH_MAX }>::new();
        let _ = std::fmt::write(&mut name, format_args!("{}.{}.exit", self.start.sandbox_id, slot.id));
        let mut aside = String::<{ PATH_MAX }>::new();
        let _ = std::fmt::write(&mut aside, format_args!(".{name}"));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let exits = &self.start.exits;
        let Some(file) =
            with_c_path(&aside, |path| rustix::fs::openat(exits, path, flags, Mode::from_raw_mode(0o600)).ok())
        else {
            return;
        };
        let _ = rustix::io::write(&file, text.as_bytes());
        with_c_path(&aside, |from| {
            with_c_path(&name, |to| rustix::fs::renameat(exits, from, exits, to).ok());
            Some(())
        });
    }

    pub(super) fn enforce_deadlines(&mut self) {
        let now = monotonic_ms();
        for watch in self.state.watches.iter_mut() {
            if watch.deadline_ms != 0 && watch.deadline_ms <= now {
                // SAFETY: the process is our own child and not reaped yet, so the id is still its own.
                unsafe { libc::kill(watch.pid, libc::SIGKILL) };
                watch.deadline_ms = 0;
            }
        }
        for index in (0..self.state.slots.len()).rev() {
            self.finish_if_drained(index);
        }
    }
}

/// The wait status of a process that has been reaped by its own parent; Linux 6.15 and later.
pub(crate) fn exit_info(pidfd: &OwnedFd) -> Option<i32> {
    /// `struct pidfd_info` of linux/pidfd.h, its first version.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup_id: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xff << 8) | 11;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request number carries the size of `info`, 64 bytes, which the kernel does not exceed.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

fn read_small<'a>(directory: &str, name: &str, buffer: &'a mut [u8]) -> Option<&'a str> {
    let mut path = String::<{ PATH_MAX + 32 }>::new();
    std::fmt::write(&mut path, format_args!("{directory}/{name}")).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = with_c_path(&path, |path| rustix::fs::open(path, flags, Mode::empty()).ok())?;
    let count = rustix::io::read(&file, &mut *buffer).ok()?;
    std::str::from_utf8(&buffer[..count]).ok()
}

/// The container's own counter: v1's is not hierarchical, so it must be read before the cgroup goes.
fn oom_killed(cgroup: &str) -> bool {
    if cgroup.is_empty() {
        return false;
    }
    let mut buffer = [0u8; 512];
    for name in ["memory.oom_control", "memory.events"] {
        if let Some(text) = read_small(cgroup, name, &mut buffer) {
            let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            return count.is_some_and(|n| n.trim() != "0");
        }
    }
    false
}

fn kill_cgroup(cgroup: &str) {
    let mut buffer = [0u8; 2048];
    let Some(text) = read_small(cgroup, "cgroup.procs", &mut buffer) else { return };
    for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1) {
        // SAFETY: a plain signal to a process that the kernel lists in this container's own cgroup.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(code_and_signal(7 << 8), (7, 0));
        assert_eq!(code_and_signal(libc::SIGKILL), (137, libc::SIGKILL));
    }
}
