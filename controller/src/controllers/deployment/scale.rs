//! Pure: scaling a Deployment's sets to a new size, in proportion when several are alive.

use serde_json::json;

use super::revision::{DESIRED, MAX, number};
use super::{Set, Situation};
use crate::controllers::plan::Action;
use crate::controllers::view::Key;

/// One set to a new size.
pub(super) struct Scaling {
    key: Key,
    uid: crate::controllers::view::meta::Uid,
    revision: u64,
    from: i64,
    to: i64,
}

impl Scaling {
    /// `None` when the set has that size and knows the Deployment's sizes already.
    pub(super) fn new(situation: &Situation, (key, set): &Set, to: i64) -> Option<Scaling> {
        let known = number(set, DESIRED) == Some(situation.deployment.replicas)
            && number(set, MAX) == Some(situation.deployment.replicas + situation.max_surge());
        if set.replicas == to && known {
            return None;
        }
        Some(Scaling { key: key.clone(), uid: set.meta.uid, revision: set.meta.revision, from: set.replicas, to })
    }

    /// The write, and the Event if the size differs.
    pub(super) fn actions(self, situation: &Situation) -> (Action, Option<Action>) {
        let desired = situation.deployment.replicas;
        let merge = json!({
            "metadata": { "annotations": {
                DESIRED: desired.to_string(), MAX: (desired + situation.max_surge()).to_string(),
            } },
            "spec": { "replicas": self.to },
        });
        let direction = if self.to > self.from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {} to {}", self.key.name, self.from, self.to);
        let report = (self.from != self.to).then(|| situation.report(false, "ScalingReplicaSet", message));
        (Action::Edit { key: self.key, subresource: None, uid: self.uid, revision: Some(self.revision), merge }, report)
    }
}

/// After a change of `spec.replicas`, or while paused.
pub(super) fn sync(situation: &Situation) -> Vec<Scaling> {
    let replicas = situation.deployment.replicas;
    let active: Vec<&Set> = situation.all().filter(|(_, set)| set.replicas > 0).collect();
    if active.len() <= 1 {
        let latest = active.first().copied().or(situation.new.as_ref()).or(situation.old.last());
        return latest.and_then(|set| Scaling::new(situation, set, replicas)).into_iter().collect();
    }
    if situation.new.as_ref().is_some_and(|(_, set)| saturated(situation, set)) {
        let old = situation.old.iter().filter(|(_, set)| set.replicas > 0);
        return old.filter_map(|set| Scaling::new(situation, set, 0)).collect();
    }
    if situation.deployment.recreate {
        return Vec::new();
    }
    proportional(situation, active)
}

fn saturated(situation: &Situation, set: &crate::controllers::view::workload::Workload) -> bool {
    let replicas = situation.deployment.replicas;
    set.replicas == replicas && number(set, DESIRED) == Some(replicas) && set.status.available == replicas
}

fn proportional(situation: &Situation, mut active: Vec<&Set>) -> Vec<Scaling> {
    let replicas = situation.deployment.replicas;
    let allowed = if replicas > 0 { replicas + situation.max_surge() } else { 0 };
    let to_add = allowed - active.iter().map(|(_, set)| set.replicas).sum::<i64>();
    // The largest first; of equal ones the newer when growing, the older when shrinking.
    active.sort_by(|(_, a), (_, b)| {
        let age = a.meta.created.cmp(&b.meta.created);
        b.replicas.cmp(&a.replicas).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut sizes: Vec<i64> = Vec::with_capacity(active.len());
    for (_, set) in &active {
        let proportion = if to_add == 0 { 0 } else { proportion(situation, set, to_add, added) };
        added += proportion;
        sizes.push(set.replicas + proportion);
    }
    if let (Some(first), true) = (sizes.first_mut(), to_add != 0) {
        *first = (*first + to_add - added).max(0);
    }
    active.into_iter().zip(sizes).filter_map(|(set, size)| Scaling::new(situation, set, size)).collect()
}

/// This set's share of what is to be added (or removed), bounded by what is left of it.
fn proportion(
    situation: &Situation,
    set: &crate::controllers::view::workload::Workload,
    to_add: i64,
    added: i64,
) -> i64 {
    if set.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(situation, set);
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(situation: &Situation, set: &crate::controllers::view::workload::Workload) -> i64 {
    let replicas = situation.deployment.replicas;
    if replicas == 0 {
        return -set.replicas;
    }
    let most = replicas + situation.max_surge();
    let before = match number(set, MAX) {
        Some(before) if before > 0 => before,
        _ => situation.deployment.status.replicas.max(1),
    };
    let scaled = (set.replicas * most) as f64 / before as f64;
    scaled.round() as i64 - set.replicas
}
