//! Pure: what is known of the ways to a board, and which one a request takes.
//!
//! ```text
//!            direct dial fails                the board opens a tunnel
//!  Direct -----------------------> Tunnel wanted --------------------> Tunnel
//!    ^                                                                   |
//!    +---------- the board closed it, and the failure is old ------------+
//! ```

use std::time::{Duration, Instant};

/// A direct way that failed where the tunnel did not is not tried again for so long: a NAT stays where it is, and whoever asks twice would wait twice.
pub(super) const REMEMBERED: Duration = Duration::from_secs(600);

/// What of a board a request is for: the ways to them may differ, such as through an overlay that leads to pods alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Place {
    /// Its kubelet.
    Kubelet,
    /// One of its pods' addresses.
    Pods,
}

/// What is known of the ways to a board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Whether it holds a tunnel open.
    pub(super) open: bool,
    /// Requests that wait for one.
    pub(super) waiting: usize,
    /// When the direct way to its kubelet and to its pods last failed.
    pub(super) failed: [Option<Instant>; 2],
}

impl Ways {
    /// Whether a request dials the place itself first.
    pub(super) fn tries_direct(&self, place: Place, now: Instant) -> bool {
        let failed = self.failed[place as usize];
        !self.open && failed.is_none_or(|failed| now.duration_since(failed) >= REMEMBERED)
    }

    /// Whether the board may open a tunnel now; one that nobody asks for would only keep memory.
    pub(super) fn takes_tunnel(&self) -> bool {
        self.open || self.waiting > 0
    }

    /// Whether there is nothing left to know.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        !self.takes_tunnel() && [Place::Kubelet, Place::Pods].iter().all(|place| self.tries_direct(*place, now))
    }
}

/// What the API server's wish says: who wants a tunnel, and when it wanted it, so that each wish is a change.
pub(super) fn wish(controller: &str, stamp: &str) -> String {
    format!("{controller} {stamp}")
}

/// Whether the certificate that a board showed is another board's: behind two NATs two boards may have one address.
pub(in crate::api) fn is_anothers(common_name: &str, node: &str) -> bool {
    common_name.strip_prefix("system:node:").is_some_and(|name| name != node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_way_is_remembered_for_a_while_and_a_tunnel_is_preferred() {
        let (start, kubelet) = (Instant::now(), Place::Kubelet);
        let ways = Ways { failed: [Some(start), None], ..Ways::default() };
        assert!(Ways::default().tries_direct(kubelet, start) && !ways.tries_direct(kubelet, start + REMEMBERED / 2));
        assert!(ways.tries_direct(Place::Pods, start), "its pods may be reachable all the same");
        assert!(ways.tries_direct(kubelet, start + REMEMBERED));
        assert!(!Ways { open: true, ..ways }.tries_direct(kubelet, start + REMEMBERED * 2));
        assert!(!ways.is_forgotten(start) && ways.is_forgotten(start + REMEMBERED));
    }

    #[test]
    fn only_a_tunnel_that_somebody_waits_for_is_taken() {
        assert!(!Ways::default().takes_tunnel());
        assert!(Ways { waiting: 1, ..Ways::default() }.takes_tunnel());
        assert!(Ways { open: true, ..Ways::default() }.takes_tunnel(), "a new one takes the place of one that is dead");
    }

    #[test]
    fn a_namesake_of_the_address_is_not_the_board() {
        assert!(is_anothers("system:node:pi-2", "pi-1"));
        assert!(!is_anothers("system:node:pi-1", "pi-1"));
        assert!(!is_anothers("somebody's own", "pi-1"));
    }
}
