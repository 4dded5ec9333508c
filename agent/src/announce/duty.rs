//! Pure: whose turn it is to announce an address.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::netlink::route::Mac;

/// Between two announcements.
const BEAT: Duration = Duration::from_millis(500);
/// After so much silence nobody announces: two announcements were lost, or their sender is.
const SILENCE: Duration = Duration::from_millis(1150);
/// How far apart boards take over, the best first: of many, one.
const SPREAD: Duration = Duration::from_millis(500);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    /// Announce it, as new.
    Took,
    /// Announce it once more.
    Again,
    /// Somebody better does.
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { until: Instant },
    Announcing { next: Instant },
}

/// The part of one board for one address.
#[derive(Debug)]
pub(super) struct Duty {
    ip: IpAddr,
    mac: Mac,
    state: State,
}

impl Duty {
    /// Somebody may announce it already: silence is waited for first.
    pub(super) fn new(ip: IpAddr, mac: Mac, now: Instant) -> Self {
        let mut duty = Self { ip, mac, state: State::Waiting { until: now } };
        // Announcements come more often than this.
        duty.wait(now - (SILENCE - BEAT - BEAT / 4));
        duty
    }

    fn wait(&mut self, since: Instant) {
        self.state = State::Waiting { until: since + SILENCE + SPREAD.mul_f64(rank(self.ip, self.mac)) };
    }

    /// When [`Self::tick`] has something to say.
    pub(super) fn due(&self) -> Instant {
        match self.state {
            State::Waiting { until } => until,
            State::Announcing { next } => next,
        }
    }

    pub(super) fn is_announcing(&self) -> bool {
        matches!(self.state, State::Announcing { .. })
    }

    pub(super) fn tick(&mut self, now: Instant) -> Option<Say> {
        if now < self.due() {
            return None;
        }
        let said = if self.is_announcing() { Say::Again } else { Say::Took };
        self.state = State::Announcing { next: now + BEAT };
        Some(said)
    }

    /// Another board announces. Of two that do, as after a link was whole again, both know which one is to go on.
    pub(super) fn heard(&mut self, other: Mac, now: Instant) -> Option<Say> {
        let was_announcing = self.is_announcing();
        if was_announcing && (rank(self.ip, self.mac), self.mac) < (rank(self.ip, other), other) {
            self.state = State::Announcing { next: now + BEAT };
            return Some(Say::Again);
        }
        self.wait(now);
        was_announcing.then_some(Say::Left)
    }
}

/// From 0 to 1, differently for each address, so that addresses are spread over the boards.
fn rank(ip: IpAddr, mac: Mac) -> f64 {
    let address = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let hash = address
        .iter()
        .chain(&mac)
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    // FNV's high bits change little with its last bytes.
    f64::from((hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    /// Boards on one link: every announcement is heard by all of them that are `there`.
    fn settle(boards: &mut [Duty], there: &[bool], from: Instant, span: Duration) -> Vec<usize> {
        let end = from + span;
        loop {
            let all = boards.iter().enumerate().filter(|(index, _)| there[*index]);
            let Some((index, at)) = all.map(|(index, duty)| (index, duty.due())).min_by_key(|(_, at)| *at) else {
                break;
            };
            if at > end {
                break;
            }
            let mut speaks = boards[index].tick(at).map(|_| index).into_iter().collect::<Vec<_>>();
            while let Some(speaker) = speaks.pop() {
                let mac = boards[speaker].mac;
                for (other, duty) in
                    boards.iter_mut().enumerate().filter(|(other, _)| *other != speaker && there[*other])
                {
                    if duty.heard(mac, at) == Some(Say::Again) {
                        speaks.push(other);
                    }
                }
            }
        }
        boards
            .iter()
            .enumerate()
            .filter(|(index, duty)| there[*index] && duty.is_announcing())
            .map(|(index, _)| index)
            .collect()
    }

    fn boards(count: u8, now: Instant) -> Vec<Duty> {
        (0..count).map(|last| Duty::new(IP, [2, 0, 0, 0, 0, last], now)).collect()
    }

    #[test]
    fn one_of_twenty_boards_announces_and_another_takes_over_within_two_seconds() {
        let now = Instant::now();
        let mut all = boards(20, now);
        let mut there = vec![true; 20];
        let first = settle(&mut all, &there, now, Duration::from_secs(2));
        assert_eq!(first.len(), 1, "{first:?}");
        there[first[0]] = false;
        let second = settle(&mut all, &there, now + Duration::from_secs(2), Duration::from_millis(1900));
        assert!(second.len() == 1 && second != first, "{second:?}");
        // Who comes back waits, or both know who goes on.
        there[first[0]] = true;
        let third = settle(&mut all, &there, now + Duration::from_secs(4), Duration::from_secs(2));
        assert_eq!(third.len(), 1, "{third:?}");
    }

    #[test]
    fn who_starts_anew_does_not_disturb() {
        let now = Instant::now();
        let mut all = boards(2, now);
        let first = settle(&mut all, &[true, false], now, Duration::from_secs(3));
        assert_eq!(first, [0]);
        all[1] = Duty::new(IP, all[1].mac, now + Duration::from_secs(3));
        assert_eq!(settle(&mut all, &[true, true], now + Duration::from_secs(3), Duration::from_secs(10)), [0]);
    }

    #[test]
    fn addresses_are_spread_over_boards() {
        let best = |last: u8| {
            (0..4_u8).min_by(|a, b| {
                let of = |board: u8| rank(IpAddr::from([10, 0, 0, last]), [2, 0, 0, 0, 0, board]);
                of(*a).total_cmp(&of(*b))
            })
        };
        let mut counts = [0; 4];
        (0..100).for_each(|last| counts[usize::from(best(last).unwrap())] += 1);
        assert!(counts.iter().all(|count| (10..=45).contains(count)), "{counts:?}");
    }
}
