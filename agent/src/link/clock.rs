//! Shell: the time that this board trusts.
//!
//! Authenticated time is what a verified API server says in its `Date` header, carried forward by the monotonic
//! clock. Boards without a real-time clock start in 1970: until authenticated time exists, certificates are checked
//! by chain and name, not by date. A local clock that runs ahead expires nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The board's clocks; one per agent.
#[derive(Debug, Default)]
pub struct Clock {
    authenticated: Mutex<Option<(u64, Instant)>>,
    floor_s: u64,
}

impl Clock {
    /// A clock that knows a lower bound in Unix seconds (from an earlier run), but no authenticated time yet.
    #[must_use]
    pub fn with_floor(floor_s: u64) -> Self {
        Self { authenticated: Mutex::new(None), floor_s }
    }

    /// Notes what a verified server said.
    pub fn authenticate(&self, unix_s: u64) {
        *self.authenticated.lock().unwrap_or_else(PoisonError::into_inner) = Some((unix_s, Instant::now()));
    }

    /// Authenticated time in Unix seconds, if there is any.
    #[must_use]
    pub fn trusted_s(&self) -> Option<u64> {
        let known = *self.authenticated.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|(unix_s, at)| (unix_s + at.elapsed().as_secs()).max(self.floor_s))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_authentication_there_is_no_trusted_time() {
        let clock = Clock::default();
        assert_eq!(clock.trusted_s(), None);
        clock.authenticate(4_000_000_000);
        assert!(clock.trusted_s().unwrap() >= 4_000_000_000);
        assert!(clock.now_ms() >= 4_000_000_000_000);
    }
}
