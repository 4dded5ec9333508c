//! Pure: what a controller is: a row that says which keys a change concerns, and a `plan` from the view to actions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::Options;
use super::kind::KindId;
use super::text::Str;
use super::time::Now;
use super::view::meta::Uid;
use super::view::{Change, Key, View};
use crate::client::PatchKind;

/// One controller: a row of the table in `controllers.rs`.
pub(crate) struct Controller {
    /// Its service account in kube-system, in upstream's words.
    pub(crate) account: &'static str,
    /// Its name as the source of Events.
    pub(crate) component: &'static str,
    /// The kinds whose changes concern it; empty for every kind there is.
    pub(crate) watches: &'static [KindId],
    /// Which keys must be planned anew after a change.
    pub(crate) keys: fn(&View, &Change, &mut Vec<Key>),
    /// Decides for one key.
    pub(crate) plan: fn(&View, &Key, &Context) -> Plan,
}

/// The key is the object that changed, as long as it is there.
pub(super) fn itself(_: &View, change: &Change, keys: &mut Vec<Key>) {
    keys.extend(change.new.iter().map(|_| change.key.clone()));
}

/// What a plan may know beyond the view.
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) options: &'a Options,
    /// What a former call of the plan asked for.
    pub(crate) reads: &'a Reads,
    /// Why the former plan of this key could not be carried out.
    pub(crate) failure: Option<&'a str>,
}

/// The decision for one key.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Objects that must be read before the decision; when any are named, the rest is ignored and the plan is asked again.
    pub(crate) needs: Vec<Need>,
    /// Carried out in order; the actions of one step at once. A failure ends the plan after its step.
    pub(crate) steps: Vec<Vec<Action>>,
    /// Plan again after this time even if nothing changes.
    pub(crate) requeue_after: Option<Duration>,
}

impl Plan {
    pub(crate) fn needs(needs: impl IntoIterator<Item = Need>) -> Plan {
        Plan { needs: needs.into_iter().collect(), ..Plan::default() }
    }

    /// One action alone.
    pub(crate) fn act(action: Action) -> Plan {
        Plan { steps: vec![vec![action]], ..Plan::default() }
    }

    /// One more step of one action.
    pub(crate) fn then(&mut self, action: Action) {
        self.steps.push(vec![action]);
    }

    /// The sooner of the two times.
    pub(crate) fn wake_in(&mut self, seconds: i64) {
        let wait = Duration::from_secs(seconds.max(1) as u64);
        self.requeue_after = Some(self.requeue_after.map_or(wait, |known| known.min(wait)));
    }

    /// Steps of 1, 2, 4, ... actions (upstream's slow start): a failure that would hit all of them is met once.
    pub(crate) fn slow_start(&mut self, actions: Vec<Action>) {
        let mut actions = actions.into_iter().peekable();
        let mut size = 1;
        while actions.peek().is_some() {
            self.steps.push(actions.by_ref().take(size).collect());
            size *= 2;
        }
    }
}

/// Something that a plan must read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// The whole object.
    Object(Key),
    /// All objects of a kind in a namespace.
    List(KindId, Str),
    /// May these credentials do that? A `SubjectAccessReview` spec as JSON text.
    Access(String),
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) objects: BTreeMap<Key, Option<Value>>,
    pub(crate) lists: BTreeMap<(KindId, Str), Vec<Value>>,
    pub(crate) access: BTreeMap<String, bool>,
}

impl Reads {
    /// `Err` is the plan that asks for it; `Ok(None)` means that the object does not exist.
    pub(crate) fn object(&self, key: &Key) -> Result<Option<&Value>, Plan> {
        self.objects.get(key).map(Option::as_ref).ok_or_else(|| Plan::needs([Need::Object(key.clone())]))
    }
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Creates an object (a POST); `exists_ok` takes a namesake for success.
    Create { kind: KindId, body: Value, exists_ok: bool, note: Option<Note> },
    /// Reads the object, merges (RFC 7396), puts it back. With `revision`, only if the object is still that one:
    /// upstream's update of a cached object.
    Edit { key: Key, subresource: Option<&'static str>, uid: Uid, revision: Option<u64>, merge: Value },
    /// Puts a whole object.
    Replace { key: Key, subresource: Option<&'static str>, body: Value },
    /// A patch.
    Patch { key: Key, subresource: Option<&'static str>, patch: PatchKind, body: Value },
    /// Deletes this very object; one that is gone already is success.
    Delete { key: Key, uid: Uid, propagation: &'static str, grace_seconds: Option<i64>, note: Option<Note> },
    /// Deletes every object of a kind in a namespace.
    DeleteCollection { kind: KindId, namespace: Str },
    /// Records an Event.
    Event(Report),
    /// Signs a certificate request and writes the answer into its status.
    Sign { key: Key, request: Value },
    /// Signs a token for an account and writes it into the Secret.
    Token { key: Key, uid: Uid, account: Str, account_uid: Uid },
}

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Regarding {
    pub(crate) key: Key,
    pub(crate) uid: Uid,
}

/// An Event to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) regarding: Regarding,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Events that tell how an action went: the name of the object, or the error, follows the text.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) regarding: Regarding,
    pub(crate) success: (&'static str, &'static str),
    pub(crate) failure: (&'static str, &'static str),
}

impl Note {
    pub(crate) fn succeeded(&self, name: &str) -> Report {
        let message = format!("{}{name}", self.success.1);
        Report { regarding: self.regarding.clone(), warning: false, reason: self.success.0, message }
    }

    pub(crate) fn failed(&self, error: &str) -> Report {
        let message = format!("{}{error}", self.failure.1);
        Report { regarding: self.regarding.clone(), warning: true, reason: self.failure.0, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_start_doubles() {
        let mut plan = Plan::default();
        let action = Action::DeleteCollection { kind: KindId::PODS, namespace: "a".into() };
        plan.slow_start(vec![action; 10]);
        assert_eq!(plan.steps.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 4, 3]);
    }
}
