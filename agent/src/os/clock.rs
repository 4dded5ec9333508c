//! Shell: a board without a clock of its own starts no earlier than it ever was.
//!
//! What raises that moment is time that passed while the board ran, and what a controller said; never the clock itself,
//! which may have been ahead.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

use crate::link::kept_seconds;

/// When the image was made; Unix seconds, in the system.
const BUILT: &str = "/etc/bramble-built";
/// Its time of change is the last moment that this board is known to have lived in.
const MARK: &str = "clock";
/// What the agent was told last by its controller; Unix seconds.
const TOLD: &str = "bramble/agent/clock";

static START: OnceLock<Start> = OnceLock::new();

/// What was known when the board started.
#[derive(Debug, Clone, Copy)]
struct Start {
    known: Duration,
    told: Option<Duration>,
    at: Instant,
}

/// Sets the clock forward to the last known moment, if it stands before it.
///
/// # Errors
/// The kernel's.
pub fn set_floor(data: &Path) -> io::Result<()> {
    let marked = fs::metadata(data.join(MARK)).and_then(|file| file.modified()).ok();
    let marked = marked.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let told = seconds(&data.join(TOLD));
    let known = seconds(Path::new(BUILT)).max(marked).max(told).unwrap_or_default();
    let _ = START.set(Start { known, told, at: Instant::now() });
    if known <= SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() {
        return Ok(());
    }
    let seconds = i64::try_from(known.as_secs()).map_err(|_| io::ErrorKind::InvalidData)?;
    clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: 0 })?;
    Ok(())
}

/// Notes that it is now. One write to the card: at the end, and rarely.
///
/// # Errors
/// The kernel's.
pub fn mark(data: &Path) -> io::Result<()> {
    let Some(start) = START.get() else { return Ok(()) };
    let now = now(start, start.at.elapsed(), seconds(&data.join(TOLD)));
    File::create(data.join(MARK))?.set_modified(UNIX_EPOCH + now)
}

/// What the controller said in this run counts, be it earlier than what was known: that may have been wrong.
fn now(start: &Start, passed: Duration, told: Option<Duration>) -> Duration {
    told.filter(|_| told != start.told).unwrap_or(start.known + passed)
}

fn seconds(path: &Path) -> Option<Duration> {
    kept_seconds(path).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_that_passed_and_the_controllers_word_raise_what_is_known() {
        let at = Duration::from_secs;
        let start = Start { known: at(100), told: Some(at(90)), at: Instant::now() };
        assert_eq!(now(&start, at(5), Some(at(90))), at(105), "wherever the clock stood");
        assert_eq!(now(&start, at(5), Some(at(500))), at(500));
        assert_eq!(now(&start, at(5), Some(at(95))), at(95), "what was known was wrong");
        let start = Start { told: None, ..start };
        assert_eq!(now(&start, at(7), None), at(107));
    }
}
