//! Shell: the agent's only unsafe lines: a descriptor for the event loop, and memory given back to the system.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// Keeps the daemons' heaps small: one arena for all threads, because each further one keeps what its bursts freed.
#[cfg(target_env = "gnu")]
pub fn keep_one_heap() {
    unsafe extern "C" {
        fn mallopt(parameter: i32, value: i32) -> i32;
    }
    const ARENA_MAX: i32 = -8;
    // SAFETY: glibc's mallopt takes any number; it is called before there are threads.
    unsafe { mallopt(ARENA_MAX, 1) };
}

/// Other allocators are as they are.
#[cfg(not(target_env = "gnu"))]
pub fn keep_one_heap() {}

/// Work between two moments of rest that makes a burst; an idle board rests a few times a second at most.
const BURST_RESTS: u32 = 200;
/// Between two trims: a board under steady load shall not trim all the time.
const TRIM_PAUSE: Duration = Duration::from_secs(5);

/// To be called whenever the event loop comes to rest: trims when a burst is over.
pub fn at_rest() -> impl Fn() + Send + Sync + 'static {
    let state = Mutex::new((0_u32, Instant::now()));
    move || {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        if state.0 >= BURST_RESTS && state.1.elapsed() >= TRIM_PAUSE {
            *state = (0, Instant::now());
            trim_memory();
        }
    }
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
