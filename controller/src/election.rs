//! Pure: who leads, by a Lease (coordination.k8s.io), as client-go's `leaderelection` decides it.
//!
//! ```text
//! none -> create it -----------------------.
//! held by another, changed lately -> wait   |--> lead, renew it
//! held by another, silent for its duration -> take it
//! held by us -> renew it
//! held by us, stopping -> give it back, so that the next one need not wait
//! ```
//! How long another holder has been silent is judged by when this process last saw the Lease change, on its own monotonic
//! clock: clocks of boards need not agree.

mod run;

use std::time::Duration;

use serde_json::{Value, json};

pub use self::run::{Candidate, lead};

/// How long a silent holder keeps the Lease.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that cannot renew for this long stops, well before anybody may take the Lease.
pub(crate) const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is tried.
pub(crate) const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// A Lease as it was seen last, and when it was seen to have changed (monotonic).
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    spec: Value,
    since: Duration,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Create(Value),
    Update(Value),
    /// Another one leads.
    Wait,
}

impl Observed {
    /// Takes in what the server says now.
    pub(crate) fn see(&mut self, spec: &Value, now: Duration) {
        if self.spec != *spec {
            *self = Observed { spec: spec.clone(), since: now };
        }
    }

    /// Whether this one holds it, as far as is known.
    pub(crate) fn holder(&self) -> &str {
        self.spec["holderIdentity"].as_str().unwrap_or_default()
    }

    fn expired(&self, now: Duration) -> bool {
        let seconds = self.spec["leaseDurationSeconds"].as_u64();
        let duration = seconds.map_or(LEASE_DURATION, Duration::from_secs);
        self.holder().is_empty() || now >= self.since + duration
    }
}

/// The next step of one candidate. `lease` is the object as the server has it; `stamp` is the time to write into it, which
/// nobody judges by.
pub(crate) fn plan(lease: Option<&Value>, observed: &Observed, me: &str, now: Duration, stamp: &str) -> Action {
    let fresh = |transitions: u64, acquired: &str| {
        json!({"holderIdentity": me, "leaseDurationSeconds": LEASE_DURATION.as_secs(), "acquireTime": acquired,
            "renewTime": stamp, "leaseTransitions": transitions})
    };
    let Some(lease) = lease else { return Action::Create(fresh(0, stamp)) };
    let transitions = observed.spec["leaseTransitions"].as_u64().unwrap_or_default();
    let spec = if observed.holder() == me {
        fresh(transitions, observed.spec["acquireTime"].as_str().unwrap_or(stamp))
    } else if observed.expired(now) {
        fresh(transitions + 1, stamp)
    } else {
        return Action::Wait;
    };
    let mut lease = lease.clone();
    lease["spec"] = spec;
    Action::Update(lease)
}

/// The Lease given back; none where another one holds it.
pub(crate) fn given_back(lease: &Value, me: &str, stamp: &str) -> Option<Value> {
    if lease["spec"]["holderIdentity"] != me {
        return None;
    }
    let mut lease = lease.clone();
    let transitions = lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default();
    lease["spec"] = json!({"holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": stamp, "renewTime": stamp,
        "leaseTransitions": transitions});
    Some(lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: &str) -> Value {
        json!({"metadata": {"name": "x", "resourceVersion": "5"}, "spec": {"holderIdentity": holder,
            "leaseDurationSeconds": 15, "acquireTime": "a", "renewTime": renewed, "leaseTransitions": 3}})
    }

    fn next(observed: &mut Observed, lease: &Value, now_s: u64) -> Action {
        let now = Duration::from_secs(now_s);
        observed.see(&lease["spec"], now);
        plan(Some(lease), observed, "me", now, "stamp")
    }

    #[test]
    fn a_lease_of_nobody_is_made_or_taken() {
        let Action::Create(spec) = plan(None, &Observed::default(), "me", Duration::ZERO, "stamp") else { panic!() };
        assert_eq!((spec["holderIdentity"].as_str(), spec["leaseTransitions"].as_u64()), (Some("me"), Some(0)));
        let Action::Update(taken) = next(&mut Observed::default(), &lease("", "r"), 0) else { panic!() };
        assert_eq!(
            (&taken["spec"]["leaseTransitions"], &taken["metadata"]["resourceVersion"]),
            (&json!(4), &json!("5"))
        );
    }

    #[test]
    fn silence_counts_from_when_the_lease_was_last_seen_to_change() {
        let mut observed = Observed::default();
        assert_eq!(next(&mut observed, &lease("other", "1"), 100), Action::Wait);
        assert_eq!(next(&mut observed, &lease("other", "1"), 114), Action::Wait);
        assert_eq!(next(&mut observed, &lease("other", "2"), 114), Action::Wait, "it was renewed");
        assert_eq!(next(&mut observed, &lease("other", "2"), 128), Action::Wait);
        let Action::Update(taken) = next(&mut observed, &lease("other", "2"), 129) else { panic!() };
        assert_eq!(taken["spec"]["acquireTime"], "stamp");
    }

    #[test]
    fn the_holder_renews_and_stays_the_one_that_acquired_it() {
        let Action::Update(renewed) = next(&mut Observed::default(), &lease("me", "1"), 0) else { panic!() };
        let spec = &renewed["spec"];
        assert_eq!(
            (&spec["acquireTime"], &spec["renewTime"], &spec["leaseTransitions"]),
            (&json!("a"), &json!("stamp"), &json!(3))
        );
    }
    #[test]
    fn who_stops_gives_back_only_what_is_its_own() {
        assert_eq!(given_back(&lease("other", "1"), "me", "stamp"), None);
        let free = given_back(&lease("me", "1"), "me", "stamp").unwrap();
        assert_eq!((&free["metadata"]["resourceVersion"], &free["spec"]["leaseTransitions"]), (&json!("5"), &json!(3)));
        let Action::Update(taken) = next(&mut Observed::default(), &free, 0) else { panic!("nobody need wait") };
        assert_eq!(taken["spec"]["holderIdentity"], "me");
    }
}
