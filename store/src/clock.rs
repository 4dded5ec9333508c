//! Shell: the clock by which history ages: this machine's, or a test's.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time since some moment; never goes back. Asked only when something is written.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// A clock of one's own.
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// What it shows.
    pub(crate) fn now(&self) -> Duration {
        (self.0)()
    }
}

impl Default for Clock {
    /// The machine's.
    fn default() -> Clock {
        let begin = Instant::now();
        Clock::new(move || begin.elapsed())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
