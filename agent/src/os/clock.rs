//! Shell: a board without a clock of its own starts no earlier than it ever was.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};

/// When the image was made; Unix seconds, in the system.
const BUILT: &str = "/etc/bramble-built";
/// Its time of change is the last moment that this board is known to have lived in.
const MARK: &str = "clock";

/// Sets the clock forward to the last known moment, if it stands before it.
///
/// # Errors
/// The kernel's.
pub fn set_floor(data: &Path) -> io::Result<()> {
    let built = fs::read_to_string(BUILT).ok().and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let marked = fs::metadata(data.join(MARK)).and_then(|file| file.modified()).ok();
    let marked = marked.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let Some(floor) = floor(built, marked, now) else { return Ok(()) };
    let seconds = i64::try_from(floor.as_secs()).map_err(|_| io::ErrorKind::InvalidData)?;
    clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: 0 })?;
    Ok(())
}

/// What the clock is set to; none where it stands right.
fn floor(built: Option<Duration>, marked: Option<Duration>, now: Duration) -> Option<Duration> {
    built.max(marked).filter(|floor| *floor > now)
}

/// Notes that it is now. One write to the card: at the end, and rarely.
///
/// # Errors
/// The kernel's.
pub fn mark(data: &Path) -> io::Result<()> {
    File::create(data.join(MARK))?.set_modified(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_never_set_back() {
        let at = |seconds| Duration::from_secs(seconds);
        assert_eq!(floor(Some(at(10)), None, at(5)), Some(at(10)));
        assert_eq!(floor(Some(at(10)), Some(at(20)), at(5)), Some(at(20)));
        assert_eq!(floor(Some(at(10)), Some(at(20)), at(25)), None);
        assert_eq!(floor(None, None, at(0)), None);
    }
}
