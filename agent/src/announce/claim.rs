//! Pure: whether an address of this board is its alone (RFC 5227).
//!
//! ```text
//!  asking, thrice --- nobody answered ---> ours alone, and said so; nothing is due
//!    |      ^  somebody has it too ------------+
//!    |      |                                  v
//!    |      +------- after a while -------- shared
//!    +-- somebody has it too ------------------^
//! ```
//! Who had it first defends it, so that others find that one; who came later tells that one alone, and its people.

use std::time::{Duration, Instant};

use crate::netlink::route::Mac;

/// Questions of one round: any of them may be lost.
const PROBES: u32 = 3;
/// Between two of them, and after the last one.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A shared address is asked for again when nothing was heard of the other one for so long.
const AGAIN: Duration = Duration::from_secs(20);
/// Two who both defend an address do not fill the link with it (RFC 5227's DEFEND_INTERVAL).
const DEFEND_EVERY: Duration = Duration::from_secs(10);

/// What is to be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    /// Who else has it?
    Probe,
    /// It is here.
    Announce,
    /// It is here too, for who has it as well.
    Tell(Mac),
}

/// One address.
#[derive(Debug)]
pub(super) struct Claim {
    /// Nobody else had it when it was asked for.
    was_alone: bool,
    rival: Option<Mac>,
    /// Questions of this round so far.
    probes: u32,
    due: Option<Instant>,
    /// When something was last said to the other one.
    answered: Option<Instant>,
}

impl Claim {
    /// Asked for at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { was_alone: false, rival: None, probes: 0, due: Some(now), answered: None }
    }

    /// When [`Self::tick`] has something to do; never, while nothing is wrong.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Who else has the address.
    pub(super) fn rival(&self) -> Option<Mac> {
        self.rival
    }

    /// Whether [`Self::rival`] says how things are; while it is asked for the first time, what others knew before holds.
    pub(super) fn is_known(&self) -> bool {
        self.rival.is_some() || self.due.is_none()
    }

    pub(super) fn tick(&mut self, now: Instant) -> Option<Say> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        if self.probes < PROBES {
            self.probes += 1;
            self.due = Some(now + PROBE_EVERY);
            return Some(Say::Probe);
        }
        *self = Self { was_alone: true, rival: None, probes: 0, due: None, answered: self.answered };
        Some(Say::Announce)
    }

    /// Somebody else has sent something from the address.
    pub(super) fn heard(&mut self, rival: Mac, now: Instant) -> Option<Say> {
        self.rival = Some(rival);
        self.probes = 0;
        self.due = Some(now + AGAIN);
        if self.answered.is_some_and(|last| now.duration_since(last) < DEFEND_EVERY) {
            return None;
        }
        self.answered = Some(now);
        Some(if self.was_alone { Say::Announce } else { Say::Tell(rival) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Mac = [2, 0, 0, 0, 0, 7];

    /// All that is said until nothing is due any more, or the time is over.
    fn says(claim: &mut Claim, span: Duration) -> (Vec<Say>, Instant) {
        let end = claim.due().unwrap() + span;
        let (mut said, mut last) = (Vec::new(), end);
        while let Some(due) = claim.due().filter(|due| *due <= end) {
            said.extend(claim.tick(due));
            last = due;
        }
        (said, last)
    }

    #[test]
    fn an_address_that_nobody_else_has_costs_nothing_after_a_few_seconds() {
        let now = Instant::now();
        let mut claim = Claim::new(now);
        let (said, last) = says(&mut claim, Duration::from_secs(3600));
        assert_eq!(said, [Say::Probe, Say::Probe, Say::Probe, Say::Announce]);
        assert_eq!((last, claim.due(), claim.rival()), (now + Duration::from_secs(3), None, None));
    }

    #[test]
    fn who_came_later_tells_and_does_not_fight() {
        let now = Instant::now();
        let mut claim = Claim::new(now);
        assert_eq!(claim.tick(now), Some(Say::Probe));
        assert!(!claim.is_known(), "an answer may be on its way");
        assert_eq!(claim.heard(OTHER, now), Some(Say::Tell(OTHER)));
        assert_eq!(claim.heard(OTHER, now), None, "its defence is not answered");
        assert_eq!(claim.rival(), Some(OTHER));
        assert_eq!(claim.tick(now + AGAIN / 2), None, "the other one is there: it is not asked all the time");
        let (said, _) = says(&mut claim, Duration::from_secs(3));
        assert_eq!(said, [Say::Probe, Say::Probe, Say::Probe, Say::Announce], "it has gone");
        assert_eq!(claim.rival(), None);
    }

    #[test]
    fn who_was_there_first_defends_but_not_without_end() {
        let mut now = Instant::now();
        let mut claim = Claim::new(now);
        let _ = says(&mut claim, Duration::from_secs(60));
        now += Duration::from_secs(3600);
        assert_eq!(claim.heard(OTHER, now), Some(Say::Announce));
        assert_eq!(claim.heard(OTHER, now + DEFEND_EVERY / 2), None);
        assert_eq!(claim.heard(OTHER, now + DEFEND_EVERY), Some(Say::Announce));
        assert_eq!(claim.tick(claim.due().unwrap()), Some(Say::Probe));
        assert_eq!(claim.rival(), Some(OTHER), "a first question without an answer means nothing yet");
    }
}
