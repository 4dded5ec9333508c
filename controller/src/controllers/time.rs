//! Pure: time as an argument: the wall clock for what is written, a monotonic one for what is judged.

use std::time::Duration;

pub(crate) use crate::object::time::{format as stamp, parse};

/// One instant on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Now {
    /// Milliseconds since 1970 by the wall clock, which may be wrong on a board.
    pub(crate) wall_ms: i64,
    /// Since this process started; never jumps.
    pub(crate) monotonic: Duration,
}

impl Now {
    /// Whole seconds since 1970.
    pub(crate) fn wall(self) -> i64 {
        self.wall_ms.div_euclid(1000)
    }

    /// RFC 3339 in whole seconds, as `metav1.Time` is written.
    pub(crate) fn stamp(self) -> String {
        stamp(self.wall())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_metav1_times() {
        let now = Now { wall_ms: 1_042, ..Now::default() };
        assert_eq!(now.stamp(), "1970-01-01T00:00:01Z");
    }
}
