//! A bad line between a board and its link: frames are lost, overtake each other, or do not get through in one direction.
//!
//! A thread carries every frame between two TAP devices, one in the board's namespace and one in the link's; the kernels of
//! some machines have no netem. Chance comes from a fixed seed, so that the same traffic meets the same fate.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A frame that waits for another one to overtake it waits no longer than this.
const HELD: Duration = Duration::from_millis(5);
/// The largest frame of a device with the usual MTU.
const FRAME: usize = 2048;

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the board.
    Out,
    /// To the board.
    In,
}

/// A line, until it is dropped.
pub struct Line {
    fates: [Arc<Fate>; 2],
    stop: Arc<OwnedFd>,
    carrier: Option<JoinHandle<()>>,
}

/// What happens to frames of one direction, in thousandths, and what has happened.
#[derive(Default)]
struct Fate {
    lost: AtomicU32,
    overtaken: AtomicU32,
    frames: AtomicU64,
    losses: AtomicU64,
    overtakings: AtomicU64,
}

impl Line {
    /// Makes `inner` in the namespace `board` and `outer` in the namespace `link`, and carries what they send.
    ///
    /// # Panics
    /// The kernel has no TAP devices, or the namespaces do not exist.
    #[must_use]
    pub(crate) fn new(board: &str, inner: &str, link: &str, outer: &str) -> Self {
        let taps = [tap(board, inner), tap(link, outer)];
        let fates = [Arc::new(Fate::default()), Arc::new(Fate::default())];
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"));
        let (told, ends) = (fates.clone(), stop.clone());
        let carrier = std::thread::spawn(move || carry(&taps, &told, &ends));
        Self { fates, stop, carrier: Some(carrier) }
    }

    /// From now on so many frames of a thousand are lost, and so many overtaken by the next one.
    pub fn spoil(&self, way: Way, lost: u32, overtaken: u32) {
        let fate = &self.fates[way as usize];
        fate.lost.store(lost, Ordering::Relaxed);
        fate.overtaken.store(overtaken, Ordering::Relaxed);
    }

    /// Frames that came, were lost, and were overtaken.
    #[must_use]
    pub fn counts(&self, way: Way) -> [u64; 3] {
        let fate = &self.fates[way as usize];
        [&fate.frames, &fate.losses, &fate.overtakings].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

/// One direction's state: a frame that another one is to overtake.
struct Direction<'a> {
    fate: &'a Fate,
    to: &'a File,
    held: Option<Vec<u8>>,
    chance: u32,
}

impl Direction<'_> {
    fn take(&mut self, frame: &[u8]) {
        self.fate.frames.fetch_add(1, Ordering::Relaxed);
        let (lost, overtaken) = (self.fate.lost.load(Ordering::Relaxed), self.fate.overtaken.load(Ordering::Relaxed));
        if self.roll() < lost {
            self.fate.losses.fetch_add(1, Ordering::Relaxed);
        } else if self.held.is_none() && self.roll() < overtaken {
            self.held = Some(frame.to_vec());
        } else {
            self.send(frame);
            self.release(true);
        }
    }

    /// A device that is down takes nothing; that is the sender's loss, as on a wire.
    fn send(&self, frame: &[u8]) {
        let _ = (&mut &*self.to).write(frame);
    }

    fn release(&mut self, overtaken: bool) {
        if let Some(frame) = self.held.take() {
            self.fate.overtakings.fetch_add(u64::from(overtaken), Ordering::Relaxed);
            self.send(&frame);
        }
    }

    /// 0 to 999 (xorshift).
    fn roll(&mut self) -> u32 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 17;
        self.chance ^= self.chance << 5;
        self.chance % 1000
    }
}

fn carry(taps: &[File; 2], fates: &[Arc<Fate>; 2], stop: &OwnedFd) {
    let mut ways = [
        Direction { fate: &fates[0], to: &taps[1], held: None, chance: 0x2545_f491 },
        Direction { fate: &fates[1], to: &taps[0], held: None, chance: 0x9e37_79b9 },
    ];
    let mut frame = [0; FRAME];
    loop {
        let waits = ways.iter().any(|way| way.held.is_some());
        let timeout = waits.then(|| HELD.try_into().expect("milliseconds"));
        let wanted = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = [wanted(taps[0].as_fd()), wanted(taps[1].as_fd()), wanted(stop.as_fd())];
        let ready = poll(&mut fds, timeout.as_ref()).unwrap_or(0);
        let [from_board, from_link, ends] = fds.map(|fd| !fd.revents().is_empty());
        if ends {
            return;
        }
        if ready == 0 {
            ways.iter_mut().for_each(|way| way.release(false));
        }
        for (at, came) in [from_board, from_link].into_iter().enumerate() {
            if came && let Ok(bytes) = (&mut &taps[at]).read(&mut frame) {
                ways[at].take(&frame[..bytes]);
            }
        }
    }
}

/// A TAP device in a namespace, up. It goes when the file is closed.
fn tap(netns: &str, name: &str) -> File {
    let (netns, name) = (netns.to_owned(), name.to_owned());
    // The device belongs to the namespace of the thread that opens it.
    let made = std::thread::spawn(move || {
        let namespace = File::open(format!("/run/netns/{netns}")).expect("the namespace");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root moves there");
        let device = fs::File::options().read(true).write(true).open("/dev/net/tun").expect("the kernel has TAP");
        let mut request = Request { name: [0; 16], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which Request has the layout of.
        unsafe { ioctl(&device, SetInterface(&mut request)) }.expect("a TAP device");
        device
    });
    made.join().expect("a device")
}

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq` of <linux/if.h> with its flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

struct SetInterface<'a>(&'a mut Request);

// SAFETY: the opcode is TUNSETIFF, `_IOW('T', 202, int)`, whose argument is a pointer to a `struct ifreq`.
unsafe impl Ioctl for SetInterface<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::write::<i32>(b'T', 202)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}
