//! Pure: when a container is probed, and what a row of results means.

use crate::pods::spec::{Container, Probe};

mod grpc;
mod http;
mod run;

pub(crate) use run::{Outcome, Target, handle, watch};

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
    Startup,
    Liveness,
    Readiness,
}

impl Which {
    /// As at the beginning of messages.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// Counts results of one kind in a row against the thresholds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    last: Option<bool>,
    row: u32,
    verdict: Option<bool>,
}

impl Tally {
    /// Notes a result; answers the verdict when it changes.
    pub(crate) fn note(&mut self, probe: &Probe, success: bool) -> Option<bool> {
        self.row = if self.last == Some(success) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let enough = if success { probe.successes() } else { probe.failures() };
        if self.row < enough || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        Some(success)
    }
}

/// Milliseconds until the first probe of a container that started `since_ms` ago.
pub(crate) fn first_delay_ms(probe: &Probe, since_ms: i64) -> u64 {
    u64::try_from(i64::from(probe.initial_delay_seconds) * 1000 - since_ms).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_its_threshold_and_is_told_once() {
        let probe = Probe { failure_threshold: 2, success_threshold: 1, ..Probe::default() };
        let mut tally = Tally::default();
        let results = [true, true, false, true, false, false, false, true];
        let verdicts: Vec<_> = results.iter().map(|success| tally.note(&probe, *success)).collect();
        assert_eq!(verdicts, [Some(true), None, None, None, None, Some(false), None, Some(true)]);
    }

    #[test]
    fn the_delay_counts_from_the_start_of_the_container() {
        let probe = Probe { initial_delay_seconds: 5, ..Probe::default() };
        assert_eq!(first_delay_ms(&probe, 2000), 3000);
        assert_eq!(first_delay_ms(&probe, 9000), 0);
    }
}
