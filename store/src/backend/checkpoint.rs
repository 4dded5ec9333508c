//! Shell: one checkpoint, aside: what the journal holds goes into redb while commits go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use super::journal::Held;
use super::journaled::Recent;
use super::redb::RedbBacking;
use super::{Backing, BackingError, Nudge, Snapshot};

/// redb's trees are a few levels deep.
const STACK_BYTES: usize = 512 << 10;
/// No commit is slowed down by more.
const DELAY_MAX: Duration = Duration::from_millis(15);
/// What a byte in memory takes to get into redb, until it is known.
const BYTE_NS: f64 = 100.0;

/// A checkpoint on its way, and redb with it.
pub(crate) struct Checkpoint {
    done: Receiver<Done>,
    begin: Instant,
    bytes: usize,
    /// Records that are in redb.
    progress: Arc<AtomicUsize>,
    /// All of them, once they are counted.
    records: Arc<AtomicUsize>,
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
        let (progress, records) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let shown = (progress.clone(), records.clone());
        let run = move || {
            let commit = recent.commit();
            drop(recent);
            shown.1.store(commit.records.len(), Ordering::Relaxed);
            let written = base.cut_off().and_then(|()| base.write_in_steps(commit, held, &shown.0));
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
        Ok(Checkpoint { done, begin, bytes, progress, records })
    }

    /// The part of it that is done, as far as it is known.
    fn part_done(&self) -> f64 {
        let records = self.records.load(Ordering::Relaxed);
        self.progress.load(Ordering::Relaxed) as f64 / records.max(1) as f64
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
    /// What is left of a checkpoint of so many bytes.
    fn left(self, bytes: usize, elapsed: Duration, part_done: f64) -> Duration {
        let expected = Duration::from_nanos((self.byte_ns * bytes as f64) as u64);
        let left = if part_done > 0.05 {
            elapsed.mul_f64((1.0 - part_done) / part_done)
        } else {
            // One that takes longer than expected takes some more.
            expected.saturating_sub(elapsed).max(elapsed / 4)
        };
        left.max(expected / 20)
    }

    /// What a commit waits, when so much of the room for commits is taken: a half is what the checkpoint holds.
    fn delay(left: Duration, fill: f64, commit_bytes: usize, room_bytes: usize) -> Duration {
        let free = (0.5 - fill).max(0.0) * room_bytes as f64;
        left.mul_f64(commit_bytes as f64 / (commit_bytes as f64 + free).max(1.0)).min(DELAY_MAX)
    }

    /// Waits so long.
    pub(crate) fn slow(self, checkpoint: &Checkpoint, fill: f64, commit_bytes: usize, room_bytes: usize) {
        let left = self.left(checkpoint.bytes, checkpoint.begin.elapsed(), checkpoint.part_done());
        std::thread::sleep(Pace::delay(left, fill, commit_bytes, room_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_room_and_the_more_work_is_left_the_longer_a_commit_waits() {
        let ms = Duration::from_millis;
        let delay = |left, fill| Pace::delay(ms(left), fill, 20_000, 3 << 20);
        assert!(delay(200, 0.0) < delay(200, 0.4));
        assert!(delay(200, 0.4) < delay(200, 0.49));
        assert!(delay(10, 0.4) < delay(90, 0.4));
        assert_eq!(delay(200, 0.5), DELAY_MAX);
        let left = |elapsed, part_done| Pace { byte_ns: 100.0 }.left(1 << 20, ms(elapsed), part_done);
        assert_eq!(left(10, 0.0).as_millis(), 94);
        assert_eq!(left(1000, 0.0), ms(250));
        assert_eq!(left(100, 0.5), ms(100));
        assert!(left(100, 1.0) > ms(0));
    }
}
