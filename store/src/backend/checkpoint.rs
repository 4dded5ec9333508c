//! Shell: one checkpoint, aside: what the journal holds goes into redb while commits go on.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use super::journal::Held;
use super::journaled::Recent;
use super::redb::RedbBacking;
use super::{Backing, BackingError, Nudge, Snapshot};

/// redb's trees are a few levels deep.
const STACK_BYTES: usize = 512 << 10;
/// No commit is slowed down by more.
const DELAY_MAX: Duration = Duration::from_millis(25);
/// What a byte in memory takes to get into redb, until it is known.
const BYTE_NS: f64 = 100.0;

/// A checkpoint on its way, and redb with it.
pub(crate) struct Checkpoint {
    done: Receiver<Done>,
    begin: Instant,
    bytes: usize,
}

/// What comes back from it.
pub(crate) struct Done {
    pub(crate) base: RedbBacking,
    /// Whether redb had to use the space for deletes, and the records then.
    pub(crate) result: Result<(bool, Arc<dyn Snapshot>), BackingError>,
    pub(crate) pace: Pace,
}

impl Checkpoint {
    /// Begins; calls `nudge` when it is done. Its thread ends then.
    pub(crate) fn start(
        mut base: RedbBacking,
        recent: Recent,
        held: Held,
        nudge: Nudge,
    ) -> Result<Checkpoint, BackingError> {
        let (send, done) = sync_channel(1);
        let (begin, bytes) = (Instant::now(), recent.layers.bytes());
        let run = move || {
            let commit = recent.commit();
            drop(recent);
            let written = base.cut_off().and_then(|()| base.write_in_steps(commit, held));
            let written = written.and_then(|crowded| base.move_down().map(|()| crowded));
            let result = written.and_then(|crowded| Ok((crowded, base.snapshot()?)));
            let pace = Pace { byte_ns: begin.elapsed().as_nanos() as f64 / bytes.max(1) as f64 };
            let _ = send.send(Done { base, result, pace });
            nudge();
        };
        std::thread::Builder::new()
            .name("store-checkpoint".into())
            .stack_size(STACK_BYTES)
            .spawn(run)
            .map_err(|error| BackingError::Failed(format!("checkpoint: {error}")))?;
        Ok(Checkpoint { done, begin, bytes })
    }

    /// What came of it, if it is done.
    pub(crate) fn done(&self, wait: bool) -> Result<Option<Done>, BackingError> {
        let lost = || BackingError::Failed("the checkpoint's thread ended".into());
        if wait {
            return self.done.recv().map(Some).map_err(|_| lost());
        }
        match self.done.try_recv() {
            Ok(done) => Ok(Some(done)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(lost()),
        }
    }
}

/// How long checkpoints take: commits are slowed down so much that the room for them lasts until the checkpoint's end.
/// Many of them wait a little then, instead of one for all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    byte_ns: f64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { byte_ns: BYTE_NS }
    }
}

impl Pace {
    /// What a commit of so many bytes waits, when so much of the room is taken.
    fn delay(self, bytes: usize, elapsed: Duration, fill: f64, commit_bytes: usize, room_bytes: usize) -> Duration {
        let expected = self.byte_ns * bytes as f64;
        // One that takes longer than expected takes some more.
        let left = (expected - elapsed.as_nanos() as f64).max(elapsed.as_nanos() as f64 / 4.0);
        let free = (0.5 - fill).max(0.0) * room_bytes as f64;
        let share = commit_bytes as f64 / (commit_bytes as f64 + free);
        Duration::from_nanos((left * share) as u64).min(DELAY_MAX)
    }

    /// Waits so long.
    pub(crate) fn slow(self, checkpoint: &Checkpoint, fill: f64, commit_bytes: usize, room_bytes: usize) {
        let delay = self.delay(checkpoint.bytes, checkpoint.begin.elapsed(), fill, commit_bytes, room_bytes);
        std::thread::sleep(delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_room_is_left_the_longer_a_commit_waits() {
        let pace = Pace { byte_ns: 100.0 };
        let delay = |elapsed_ms, fill| {
            pace.delay(1 << 20, Duration::from_millis(elapsed_ms), fill, 20_000, 3 << 20).as_micros()
        };
        assert!(delay(0, 0.0) < delay(0, 0.4));
        assert!(delay(0, 0.4) < delay(0, 0.49));
        assert!(delay(90, 0.4) < delay(10, 0.4));
        assert_eq!(delay(0, 0.5), DELAY_MAX.as_micros());
        assert!(delay(1000, 0.4) > delay(100, 0.4));
    }
}
