//! Shell: the time that this board trusts.
//!
//! Authenticated time is what a verified API server says in its `Date` header, carried forward by the monotonic
//! clock. Boards without a real-time clock start in 1970: until authenticated time exists, certificates are checked
//! by chain and name, not by date. A local clock that runs ahead expires nothing, and neither does a moment that was
//! authenticated once and taken back later: the last word counts. Because nobody can take a word back whose certificate is
//! not believed, a server may still show one that was good by the time before the word.
//!
//! It is kept in a file, so that a board that starts without its controller tells people no earlier time than it ever
//! knew. On a flashed board, which has no other daemon for it, the system's clock is set by it too.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};
use tokio::sync::watch;

/// The file is written when so much has passed since: a card shall not wear out for it.
const KEEP_EVERY_S: u64 = 24 * 3600;
/// A word that leads further from what was known is remembered with what was known: it may be taken back.
const JUMP_S: u64 = 24 * 3600;
/// Of a smaller difference nobody is told.
const NOTED_MS: u64 = 60_000;
/// No board is older, 2026-01-01.
const FLOOR_S: u64 = 1_767_225_600;
/// A system's clock that is further off is set. A `Date` header has whole seconds, and some way behind it.
const STEP_S: u64 = 5;

/// The board's clocks; one per agent.
#[derive(Debug, Default)]
pub struct Clock {
    authenticated: Mutex<Option<(u64, Instant)>>,
    /// What it was by what was known before a word that led far ahead.
    before_jump: Mutex<Option<(u64, Instant)>>,
    /// The last authenticated moment of earlier runs, in Unix seconds.
    floor_s: u64,
    keeper: Option<Keeper>,
    /// Counts words that made it another time than it was taken for.
    jumps: watch::Sender<u64>,
}

#[derive(Debug)]
struct Keeper {
    path: PathBuf,
    kept_s: AtomicU64,
    steps: bool,
}

impl Clock {
    /// A clock that keeps the last authenticated moment in a file, and sets the system's clock by it where `steps`.
    #[must_use]
    pub fn kept(path: PathBuf, steps: bool) -> Self {
        let floor_s = kept_seconds(&path).unwrap_or_default();
        Self { floor_s, keeper: Some(Keeper { path, kept_s: floor_s.into(), steps }), ..Self::default() }
    }

    /// Notes what a verified server said.
    pub fn authenticate(&self, unix_s: u64) {
        let before_ms = self.now_ms();
        let known_s = self.trusted_s().unwrap_or(self.floor_s.max(FLOOR_S));
        if unix_s > known_s + JUMP_S {
            *self.before_jump.lock().unwrap_or_else(PoisonError::into_inner) = Some((known_s, Instant::now()));
        }
        *self.authenticated.lock().unwrap_or_else(PoisonError::into_inner) = Some((unix_s, Instant::now()));
        if let Some(keeper) = &self.keeper {
            keeper.take(unix_s);
        }
        if self.now_ms().abs_diff(before_ms) > NOTED_MS {
            self.jumps.send_modify(|count| *count += 1);
        }
    }

    /// Changes whenever it is another time than it was taken for: who sleeps until a moment looks again.
    #[must_use]
    pub fn jumps(&self) -> watch::Receiver<u64> {
        self.jumps.subscribe()
    }

    /// Authenticated time in Unix seconds, if there is any.
    #[must_use]
    pub fn trusted_s(&self) -> Option<u64> {
        let known = *self.authenticated.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|(unix_s, at)| unix_s + at.elapsed().as_secs())
    }

    /// What it would be if the last word that led far ahead had not been said.
    #[must_use]
    pub fn before_jump_s(&self) -> Option<u64> {
        let known = *self.before_jump.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|(unix_s, at)| unix_s + at.elapsed().as_secs())
    }

    /// The time for people, in Unix milliseconds: the local clock unless trusted time says that it is behind.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        let local = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let trusted = u128::from(self.trusted_s().unwrap_or(self.floor_s)) * 1000;
        // A `Date` header has whole seconds, so a clock within two seconds of it is a good clock.
        let best = if local + 2000 >= trusted { local } else { trusted };
        i64::try_from(best).unwrap_or(i64::MAX)
    }
}

/// The Unix seconds that a file of ours holds; whatever else it may hold is no time.
pub(crate) fn kept_seconds(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Keeper {
    fn take(&self, unix_s: u64) {
        if unix_s.abs_diff(self.kept_s.load(Ordering::Relaxed)) >= KEEP_EVERY_S {
            self.kept_s.store(unix_s, Ordering::Relaxed);
            let new = self.path.with_extension("new");
            let kept = fs::write(&new, unix_s.to_string()).and_then(|()| fs::rename(&new, &self.path));
            if let Err(error) = kept {
                tracing::warn!(path = %self.path.display(), %error, "the time is not kept");
            }
        }
        let local_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.steps && unix_s.abs_diff(local_s) > STEP_S {
            let now = Timespec { tv_sec: i64::try_from(unix_s).unwrap_or(i64::MAX), tv_nsec: 0 };
            match clock_settime(ClockId::Realtime, now) {
                Ok(()) => tracing::info!(before = local_s, now = unix_s, "the clock is set by the controller's"),
                Err(error) => tracing::warn!(%error, "the clock is not set"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_authentication_there_is_no_trusted_time() {
        let clock = Clock::default();
        assert_eq!(clock.trusted_s(), None);
        let mut jumps = clock.jumps();
        clock.authenticate(4_000_000_000);
        assert!(jumps.has_changed().unwrap(), "who sleeps is told");
        jumps.mark_unchanged();
        clock.authenticate(4_000_000_001);
        assert!(!jumps.has_changed().unwrap());
        assert!(clock.trusted_s().unwrap() >= 4_000_000_000);
        assert!(clock.now_ms() >= 4_000_000_000_000);
        assert!((FLOOR_S..FLOOR_S + 60).contains(&clock.before_jump_s().unwrap()), "the word may be taken back");
    }

    #[test]
    fn the_next_run_begins_no_earlier_and_a_visit_to_2040_is_taken_back() {
        let dir = std::env::temp_dir().join(format!("bramble-clock-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("clock");
        let at_2040 = 2_208_988_800;
        let clock = Clock::kept(path.clone(), false);
        clock.authenticate(at_2040);
        let next = Clock::kept(path.clone(), false);
        assert_eq!(next.trusted_s(), None, "nobody has said so in this run");
        assert!(next.now_ms() >= at_2040 as i64 * 1000, "people are told no earlier time");
        let at_2026 = 1_767_225_600;
        next.authenticate(at_2026);
        assert!(next.trusted_s().unwrap() < at_2040);
        assert_eq!(fs::read_to_string(&path).unwrap(), at_2026.to_string());
        next.authenticate(at_2026 + 60);
        assert_eq!(fs::read_to_string(&path).unwrap(), at_2026.to_string(), "rarely");
        fs::write(&path, "yesterday").unwrap();
        assert_eq!(Clock::kept(path, false).floor_s, 0);
        fs::remove_dir_all(dir).unwrap();
    }
}
