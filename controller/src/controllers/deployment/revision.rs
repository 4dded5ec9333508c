//! Pure: revisions of a Deployment: the annotations by which `kubectl rollout history` and `undo` find their way, and the
//! removal of sets beyond the history limit.

use serde_json::{Map, Value, json};

use super::{Set, Situation};
use crate::controllers::plan::{Action, Plan};
use crate::controllers::view::workload::{LAST_APPLIED, Workload};

/// The revision of a set, and on the Deployment that of its newest set.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions that the set had before it was taken up again.
pub(super) const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the set was last scaled.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with surge.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const ROLLBACK: &str = "deprecated.deployment.rollback.to";
/// The longest revision-history annotation.
const HISTORY_LENGTH: usize = 2000;

/// An annotation that holds a number.
pub(super) fn number(set: &Workload, annotation: &str) -> Option<i64> {
    set.annotations.get(annotation)?.parse().ok()
}

fn revision(set: &Workload) -> i64 {
    number(set, REVISION).unwrap_or_default()
}

fn next_revision(situation: &Situation) -> i64 {
    situation.old.iter().map(|(_, set)| revision(set)).max().unwrap_or_default() + 1
}

/// The Deployment's annotations that its sets carry too.
fn inherited<'a>(situation: &'a Situation) -> impl Iterator<Item = (&'a str, &'a str)> {
    let own = [LAST_APPLIED, REVISION, HISTORY, DESIRED, MAX, ROLLBACK];
    situation.deployment.annotations.iter().filter(move |(key, _)| !own.contains(key))
}

/// The annotations of a set that is about to be made.
pub(super) fn annotations_of_new_set(situation: &Situation) -> Value {
    let mut map: Map<String, Value> =
        inherited(situation).map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
    let replicas = situation.deployment.replicas;
    map.insert(REVISION.into(), next_revision(situation).to_string().into());
    map.insert(DESIRED.into(), replicas.to_string().into());
    map.insert(MAX.into(), (replicas + situation.max_surge()).to_string().into());
    Value::Object(map)
}

/// Brings the newest set's annotations and the Deployment's revision up to date; `None` when they are.
pub(super) fn sync(situation: &Situation) -> Option<Plan> {
    let (key, set) = situation.new.as_ref()?;
    let mut changes = Map::new();
    for (name, value) in inherited(situation).filter(|(name, value)| set.annotations.get(name) != Some(value)) {
        changes.insert(name.to_owned(), value.into());
    }
    let (known, next) = (revision(set), next_revision(situation));
    if known < next {
        changes.insert(REVISION.into(), next.to_string().into());
        if let Some(history) = history(set, known) {
            changes.insert(HISTORY.into(), history.into());
        }
    }
    let mut merge = json!({});
    if !changes.is_empty() {
        merge["metadata"]["annotations"] = Value::Object(changes);
    }
    if set.min_ready_seconds != situation.deployment.min_ready_seconds {
        merge["spec"]["minReadySeconds"] = situation.deployment.min_ready_seconds.into();
    }
    if merge != json!({}) {
        let (uid, revision) = (set.meta.uid, Some(set.meta.revision));
        return Some(Plan::act(Action::Edit { key: key.clone(), subresource: None, uid, revision, merge }));
    }
    let shown = set.annotations.get(REVISION)?;
    if situation.deployment.annotations.get(REVISION) == Some(shown) {
        return None;
    }
    let mut plan = super::progress::found_set(situation, key, set);
    let merge = json!({ "metadata": { "annotations": { REVISION: shown } } });
    let uid = situation.deployment.meta.uid;
    plan.then(Action::Edit { key: situation.key.clone(), subresource: None, uid, revision: None, merge });
    Some(plan)
}

/// The history with the former revision appended; the oldest entries fall out when it grows too long.
fn history(set: &Workload, former: i64) -> Option<String> {
    if former == 0 {
        return None;
    }
    let text = match set.annotations.get(HISTORY) {
        None | Some("") => return Some(former.to_string()),
        Some(known) => format!("{known},{former}"),
    };
    let mut rest = text.as_str();
    while rest.len() > HISTORY_LENGTH {
        rest = rest.split_once(',')?.1;
    }
    Some(rest.to_owned())
}

/// Deletes the oldest finished sets beyond `revisionHistoryLimit`.
pub(super) fn clean_up(situation: &Situation) -> Option<Vec<Action>> {
    let limit = situation.deployment.revision_history_limit?;
    let mut alive: Vec<&Set> = situation.old.iter().filter(|(_, set)| set.meta.deleted.is_none()).collect();
    let surplus = alive.len().saturating_sub(limit.max(0) as usize);
    alive.sort_by_key(|(_, set)| (revision(set), set.meta.created));
    let finished = |set: &Workload| {
        set.status.replicas == 0 && set.replicas == 0 && set.meta.generation <= set.status.observed_generation
    };
    let actions: Vec<Action> = alive
        .into_iter()
        .take(surplus)
        .filter(|(_, set)| finished(set))
        .map(|(key, set)| Action::Delete {
            key: key.clone(),
            uid: set.meta.uid,
            propagation: "Background",
            grace_seconds: None,
            note: None,
        })
        .collect();
    if actions.is_empty() { None } else { Some(actions) }
}
