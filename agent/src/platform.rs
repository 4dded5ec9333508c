//! Shell: the agent's only unsafe lines: descriptors for the event loop, one of the link layer, and memory given back to the
//! system.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netlink::socket::Socket;

/// Registers a descriptor of ours with the event loop.
///
/// # Errors
/// The kernel's: descriptors that cannot be polled, such as regular files.
pub fn pollable(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, and `AsyncFd` deregisters it before that.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}

/// The same for a netlink socket of ours.
pub(crate) fn pollable_socket(socket: Socket) -> std::io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, always names the same one and closes it only when it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? })
}

/// The protocols of Ethernet that are heard.
pub(crate) const ARP: u16 = libc::ETH_P_ARP as u16;
pub(crate) const IPV6: u16 = libc::ETH_P_IPV6 as u16;

/// Hears, on one interface, frames of a protocol that have these words (offset, value), and sends there. Nothing else wakes
/// it up.
///
/// # Errors
/// The kernel's.
pub(crate) fn frame_socket(interface: u32, protocol: u16, words: &[(u32, u32)]) -> std::io::Result<OwnedFd> {
    let protocol = protocol.to_be();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Deaf until it is bound and filtered.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let statement = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    // Is every word what it should be? Then all of the frame, else nothing.
    let mut program = Vec::with_capacity(2 * words.len() + 2);
    for (at, (offset, value)) in words.iter().enumerate() {
        let to_nothing = (2 * (words.len() - at) - 1) as u8;
        program.push(statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, *offset));
        program.push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_nothing, *value));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, 0, u32::MAX));
    program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let fd = socket.as_raw_fd();
    // SAFETY: the descriptor is open, and the program lives and is as long as it says during the call.
    let filtered = unsafe {
        let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size)
    };
    // SAFETY: it is a plain structure, of which all zeroes are a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(interface).unwrap_or_default();
    let bind = || {
        // SAFETY: the descriptor is open, and the address is as long as it says.
        unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
    };
    if filtered != 0 || bind() != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(socket)
}

/// A network namespace that lives as long as the file is open, for tests on boards that have no tools.
#[cfg(test)]
pub(crate) fn new_net_namespace() -> std::fs::File {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let made = std::thread::spawn(|| {
        // SAFETY: nothing but the network of this thread becomes another one, and the thread ends.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    });
    made.join().unwrap()
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

/// Moments of rest that make a burst; an idle board has a few of them a second at most.
const BURST_RESTS: u32 = 200;
/// A burst that does not end is cleaned up after as often as this: under steady load it shall not happen all the time.
const LONG_BURST_RESTS: u32 = 5000;
/// A burst is over when nothing happened for so long.
const QUIET: Duration = Duration::from_secs(1);

/// To be called whenever the event loop comes to rest: gives memory back when a burst is over.
pub fn at_rest() -> impl Fn() + Send + Sync + 'static {
    let state = Mutex::new((0_u32, Instant::now()));
    move || {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let quiet = now.duration_since(state.1) >= QUIET;
        let rests = state.0 + 1;
        let due = is_over(rests, quiet);
        *state = (if due { 0 } else { rests }, now);
        if due {
            trim_memory();
            unload_program();
        }
    }
}

fn is_over(rests: u32, quiet: bool) -> bool {
    rests >= if quiet { BURST_RESTS } else { LONG_BURST_RESTS }
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

/// Lets go of the program's own pages after a burst: most of what joining, a rollout or a large request ran through is
/// not run again for long. The pages are clean and stay in the page cache; each comes back by itself when it is needed.
#[cfg(target_env = "gnu")]
pub fn unload_program() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
        fn madvise(start: *mut u8, length: usize, advice: i32) -> i32;
    }
    const DONTNEED: i32 = 4;
    // The largest page of the architectures that we run on.
    const PAGE: usize = 64 << 10;
    let begin = (&raw const __executable_start).addr().next_multiple_of(PAGE);
    let length = ((&raw const etext).addr() & !(PAGE - 1)).saturating_sub(begin);
    let begin = std::ptr::with_exposed_provenance_mut(begin);
    // SAFETY: the linker's symbols enclose the program's constants and code, which nobody writes: without relocations in
    // them every page is read from the file again as it was.
    unsafe { madvise(begin, length, DONTNEED) };
}

/// Elsewhere the linker has other symbols.
#[cfg(not(target_env = "gnu"))]
pub fn unload_program() {}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_when_it_becomes_quiet() {
        assert!(!is_over(BURST_RESTS, false) && is_over(BURST_RESTS, true));
        assert!(!is_over(BURST_RESTS - 1, true) && is_over(LONG_BURST_RESTS, false));
    }

    #[test]
    fn the_program_goes_on_after_its_pages_went() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = resident();
        unload_program();
        let after = resident();
        assert!(after < before, "{before} kB before, {after} kB after");
        assert_eq!(serde_json::from_str::<Vec<u8>>("[1]").unwrap(), [1]);
    }
}
