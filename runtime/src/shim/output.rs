//! Shell: a container's output on its way to its log and to attached callers.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::{
    Ready, Shim,
    log::{PIECE_MAX, Stream},
};

/// With an attached caller no more is read at once than its pipe takes when poll calls it writable (PIPE_BUF).
const SHARED_READ: usize = 4096;
/// After a burst, the pages of a line buffer that hold nothing are given back.
const PAGE: usize = 4096;

/// Whether a write of up to PIPE_BUF bytes goes through at once.
pub(super) fn writable(sink: BorrowedFd<'_>) -> bool {
    let mut polls = [PollFd::from_borrowed_fd(sink, PollFlags::OUT)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polls, Some(&now)).is_ok_and(|n| n > 0)
}

impl Shim {
    /// Whether some attached caller of this container is too slow just now.
    pub(super) fn blocked(&self, lane: usize) -> bool {
        let mine = self.state.clients.iter().filter(|c| c.lane == lane);
        mine.flat_map(|c| [&c.stdout, &c.stderr]).flatten().any(|sink| !writable(sink.as_fd()))
    }

    pub(super) fn serve_slot(&mut self, index: usize, ready: &Ready) {
        let slot = &self.state.slots[index];
        let wants = [
            slot.stdout.as_ref().or(slot.master.as_ref()).is_some_and(|fd| ready.readable(fd)),
            slot.stderr.as_ref().is_some_and(|fd| ready.readable(fd)),
        ];
        let gone = slot.pidfd.as_ref().is_some_and(|fd| ready.readable(fd));
        if wants[0] {
            self.pump(index, Stream::Out);
        }
        if wants[1] {
            self.pump(index, Stream::Err);
        }
        if gone {
            self.adopted_ended(index);
        }
        self.finish_if_drained(index);
    }

    /// Reads once and passes it on; closes the source at its end.
    pub(super) fn pump(&mut self, index: usize, stream: Stream) {
        let state = &mut *self.state;
        let slot = &mut state.slots[index];
        let lane = slot.lane;
        let which = usize::from(stream == Stream::Err);
        let source = match stream {
            Stream::Out => slot.stdout.as_ref().or(slot.master.as_ref()),
            Stream::Err => slot.stderr.as_ref(),
        };
        let Some(source) = source else { return };
        let line = &mut state.lines[lane][which].0;
        let held = slot.held[which];
        let shared = state.clients.iter().any(|c| c.lane == lane);
        let room = if shared { SHARED_READ.min(PIECE_MAX - held) } else { PIECE_MAX - held };
        let count = match rustix::io::read(source, &mut line[held..held + room]) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            // A terminal without a slave reads EIO.
            Err(_) => 0,
        };
        let fresh = &line[held..held + count];
        for client in state.clients.iter_mut().filter(|c| c.lane == lane) {
            let sink = if which == 0 { &mut client.stdout } else { &mut client.stderr };
            if let Some(fd) = sink
                && rustix::io::write(&*fd, fresh).is_err_and(|e| e != Errno::AGAIN)
            {
                *sink = None;
            }
        }
        let full = held + count;
        let taken = slot.log.write(stream, &line[..full], count == 0);
        line.copy_within(taken..full, 0);
        slot.held[which] = full - taken;
        if full > PAGE && count < room {
            give_back(&mut line[slot.held[which]..]);
        }
        if count == 0 {
            match stream {
                Stream::Out => {
                    slot.stdout = None;
                    slot.master = None;
                }
                Stream::Err => slot.stderr = None,
            }
        }
    }

    pub(super) fn drop_gone_clients(&mut self, ready: &Ready) {
        for index in (0..self.state.clients.len()).rev() {
            let client = &mut self.state.clients[index];
            for sink in [&mut client.stdout, &mut client.stderr] {
                if sink.as_ref().is_some_and(|fd| ready.of(fd).intersects(PollFlags::ERR | PollFlags::HUP)) {
                    *sink = None;
                }
            }
            if ready.of(&client.exit).intersects(PollFlags::ERR | PollFlags::HUP) {
                self.state.clients.swap_remove(index);
            }
        }
    }
}

/// Gives the whole pages of an unused buffer back to the kernel.
fn give_back(buffer: &mut [u8]) {
    let start = (buffer.as_ptr() as usize).next_multiple_of(PAGE);
    let end = (buffer.as_ptr() as usize + buffer.len()) & !(PAGE - 1);
    if end > start {
        // SAFETY: the range lies within `buffer`, which is mutably borrowed and whose content is not needed any more;
        // after MADV_DONTNEED it reads as zeros, a valid value of its bytes.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}
