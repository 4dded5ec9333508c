//! Pure: a Deployment's status and conditions.

use serde_json::{Value, json};

use super::Situation;
use super::revision::HISTORY;
use crate::controllers::plan::{Action, Plan};
use crate::controllers::view::Key;
use crate::controllers::view::meta::{Condition, condition};
use crate::controllers::view::workload::{DeploymentStatus, Workload};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

fn counted(situation: &Situation) -> DeploymentStatus {
    let deployment = situation.deployment;
    let sum = |count: fn(&Workload) -> i64| situation.all().map(|(_, set)| count(set)).sum::<i64>();
    let available = sum(|set| set.status.available);
    let mut status = DeploymentStatus {
        observed_generation: deployment.meta.generation,
        replicas: sum(|set| set.status.replicas),
        updated: situation.new.as_ref().map_or(0, |(_, set)| set.status.replicas),
        ready: sum(|set| set.status.ready),
        available,
        unavailable: (sum(|set| set.replicas) - available).max(0),
        collision_count: deployment.status.collision_count,
        conditions: deployment.status.conditions.clone(),
    };
    let enough = available >= deployment.replicas - situation.max_unavailable();
    let (truth, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status.conditions, stamped(situation, AVAILABLE, truth, reason, message.to_owned()));
    status
}

fn stamped(situation: &Situation, kind: &str, status: &str, reason: &str, message: String) -> Condition {
    Condition { updated: Some(situation.now), ..Condition::new(kind, status, reason, message, situation.now) }
}

/// Upstream's rule: the same status and reason is no news; the same status keeps its transition time.
fn set(conditions: &mut Vec<Condition>, mut new: Condition) {
    if let Some(known) = condition(conditions, &new.kind) {
        if known.status == new.status && known.reason == new.reason {
            return;
        }
        if known.status == new.status {
            new.transitioned = known.transitioned;
        }
    }
    conditions.retain(|condition| condition.kind != new.kind);
    conditions.push(new);
}

fn write(situation: &Situation, status: &DeploymentStatus) -> Option<Action> {
    if *status == situation.deployment.status {
        return None;
    }
    let or_null = |number: i64| if number == 0 { Value::Null } else { Value::from(number) };
    let conditions: Vec<Value> = status.conditions.iter().map(Condition::to_value).collect();
    let merge = json!({ "status": {
        "observedGeneration": status.observed_generation,
        "replicas": or_null(status.replicas),
        "updatedReplicas": or_null(status.updated),
        "readyReplicas": or_null(status.ready),
        "availableReplicas": or_null(status.available),
        "unavailableReplicas": or_null(status.unavailable),
        "conditions": conditions,
    } });
    Some(situation.edit(Some("status"), merge))
}

/// Counts and availability only: while paused, resized, or being deleted.
pub(super) fn sync_counts(situation: &Situation) -> Plan {
    write(situation, &counted(situation)).map(Plan::act).unwrap_or_default()
}

/// Counts, availability and progress.
pub(super) fn sync(situation: &Situation) -> Plan {
    if situation.deployment.meta.deleted.is_some() {
        return sync_counts(situation);
    }
    let mut status = counted(situation);
    judge(situation, &mut status);
    let failed = situation.new.iter().chain(&situation.old);
    let failed = failed.filter_map(|(_, set)| condition(&set.status.conditions, FAILURE)).next().cloned();
    match failed {
        Some(Condition { status: truth, reason, message, .. }) => {
            set(&mut status.conditions, stamped(situation, FAILURE, &truth, &reason, message.to_string()));
        }
        None => status.conditions.retain(|condition| &*condition.kind != FAILURE),
    }
    let mut plan = write(situation, &status).map(Plan::act).unwrap_or_default();
    wake_at_deadline(situation, &status, &mut plan);
    plan
}

fn is_complete(situation: &Situation, status: &DeploymentStatus) -> bool {
    let replicas = situation.deployment.replicas;
    status.updated == replicas
        && status.replicas == replicas
        && status.available == replicas
        && status.observed_generation >= situation.deployment.meta.generation
}

/// Is the rollout over, by what the Deployment's own status says?
pub(super) fn complete(situation: &Situation) -> bool {
    is_complete(situation, &situation.deployment.status)
}

fn judge(situation: &Situation, status: &mut DeploymentStatus) {
    let deployment = situation.deployment;
    if deployment.progress_deadline_seconds.is_none() {
        status.conditions.retain(|condition| &*condition.kind != PROGRESSING);
        return;
    }
    let current = condition(&deployment.status.conditions, PROGRESSING);
    if status.replicas == status.updated && current.is_some_and(|current| &*current.reason == COMPLETE) {
        return;
    }
    let what = match &situation.new {
        Some((key, _)) => format!("ReplicaSet \"{}\"", key.name),
        None => format!("Deployment \"{}\"", situation.key.name),
    };
    if is_complete(situation, status) {
        let message = format!("{what} has successfully progressed.");
        set(&mut status.conditions, stamped(situation, PROGRESSING, "True", COMPLETE, message));
    } else if has_progressed(&deployment.status, status) || current.is_none() {
        let message = format!("{what} is progressing.");
        let mut news = stamped(situation, PROGRESSING, "True", "ReplicaSetUpdated", message);
        if let Some(current) = current.filter(|current| &*current.status == "True") {
            news.transitioned = current.transitioned;
        }
        status.conditions.retain(|condition| &*condition.kind != PROGRESSING);
        status.conditions.push(news);
    } else if timed_out(situation, current) {
        let message = format!("{what} has timed out progressing.");
        set(&mut status.conditions, stamped(situation, PROGRESSING, "False", TIMED_OUT, message));
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    new.updated > old.updated
        || new.replicas - new.updated < old.replicas - old.updated
        || new.ready > old.ready
        || new.available > old.available
}

fn deadline(situation: &Situation, current: Option<&Condition>) -> Option<i64> {
    let seconds = situation.deployment.progress_deadline_seconds?;
    Some(current?.updated.unwrap_or(situation.now) + seconds)
}

fn timed_out(situation: &Situation, current: Option<&Condition>) -> bool {
    match current {
        Some(current) if &*current.reason == COMPLETE => false,
        Some(current) if &*current.reason == TIMED_OUT => true,
        Some(current) if &*current.reason == "DeploymentPaused" => false,
        current => deadline(situation, current).is_some_and(|deadline| deadline < situation.now),
    }
}

/// A rollout that stands still is judged by time alone.
fn wake_at_deadline(situation: &Situation, status: &DeploymentStatus, plan: &mut Plan) {
    let current = condition(&status.conditions, PROGRESSING);
    let waits = current.is_some_and(|current| !matches!(&*current.reason, COMPLETE | TIMED_OUT));
    if let (true, Some(deadline)) = (waits && !is_complete(situation, status), deadline(situation, current)) {
        plan.wake_in(deadline - situation.now + 1);
    }
}

/// A paused rollout has no deadline; a resumed one starts anew.
pub(super) fn pause_condition(situation: &Situation) -> Option<Action> {
    let deployment = situation.deployment;
    deployment.progress_deadline_seconds?;
    let current = condition(&deployment.status.conditions, PROGRESSING);
    if current.is_some_and(|current| &*current.reason == TIMED_OUT) {
        return None;
    }
    let was_paused = current.is_some_and(|current| &*current.reason == "DeploymentPaused");
    let (reason, message) = match (deployment.paused, was_paused) {
        (true, false) => ("DeploymentPaused", "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return None,
    };
    let mut conditions = deployment.status.conditions.clone();
    set(&mut conditions, stamped(situation, PROGRESSING, "Unknown", reason, message.to_owned()));
    let conditions: Vec<Value> = conditions.iter().map(Condition::to_value).collect();
    Some(situation.edit(Some("status"), json!({ "status": { "conditions": conditions } })))
}

/// The former attempt to make the new set failed: the status says so before the next one.
pub(super) fn creation_failed(situation: &Situation, failure: Option<&str>) -> Plan {
    let Some(failure) = failure.filter(|_| situation.deployment.progress_deadline_seconds.is_some()) else {
        return Plan::default();
    };
    let mut status = situation.deployment.status.clone();
    let news = stamped(situation, PROGRESSING, "False", "ReplicaSetCreateError", failure.to_owned());
    set(&mut status.conditions, news);
    write(situation, &status).map(Plan::act).unwrap_or_default()
}

/// A set was made, or found again, for the template: progress starts anew.
pub(super) fn found_set(situation: &Situation, key: &Key, found: &Workload) -> Plan {
    if situation.deployment.progress_deadline_seconds.is_none() {
        return Plan::default();
    }
    let mut status = situation.deployment.status.clone();
    let (reason, message) = if found.annotations.get(HISTORY).is_some() {
        ("FoundNewReplicaSet", format!("Found new replica set \"{}\"", key.name))
    } else {
        ("NewReplicaSetCreated", format!("Created new replica set \"{}\"", key.name))
    };
    set(&mut status.conditions, stamped(situation, PROGRESSING, "True", reason, message));
    write(situation, &status).map(Plan::act).unwrap_or_default()
}
