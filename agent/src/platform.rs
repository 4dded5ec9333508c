//! Shell: the agent's only unsafe lines: a descriptor for the event loop, and memory given back to the system.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor of ours with the event loop.
///
/// # Errors
/// The kernel's: descriptors that cannot be polled, such as regular files.
pub fn pollable(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, and `AsyncFd` deregisters it before that.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}

/// Gives freed memory back after a burst (many connections closed, a large list read): glibc keeps it otherwise.
/// Called after bursts, never on a timer.
#[cfg(target_env = "gnu")]
pub fn trim_memory() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> i32;
    }
    // SAFETY: glibc's malloc_trim takes any pad, locks its own arenas and touches only free memory.
    unsafe { malloc_trim(0) };
}

/// Other allocators give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn trim_memory() {}
