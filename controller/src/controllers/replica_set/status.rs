//! Pure: the status of a ReplicaSet or ReplicationController.

use serde_json::{Value, json};

use crate::controllers::plan::{Action, Context, Plan};
use crate::controllers::view::Key;
use crate::controllers::view::meta::{Condition, condition};
use crate::controllers::view::pod::Pod;
use crate::controllers::view::workload::{Workload, WorkloadStatus};

const FAILURE: &str = "ReplicaFailure";

fn observe(set: &Workload, active: &[(Key, &Pod)], missing: i64, context: &Context) -> WorkloadStatus {
    let now = context.now.wall();
    let count = |holds: &dyn Fn(&Pod) -> bool| active.iter().filter(|(_, pod)| holds(pod)).count() as i64;
    let mut conditions = set.status.conditions.clone();
    match context.failure {
        Some(message) if condition(&conditions, FAILURE).is_none() => {
            let reason = if missing > 0 { "FailedCreate" } else { "FailedDelete" };
            conditions.push(Condition::new(FAILURE, "True", reason, message.to_owned(), now));
        }
        Some(_) => {}
        None => conditions.retain(|condition| &*condition.kind != FAILURE),
    }
    WorkloadStatus {
        replicas: active.len() as i64,
        fully_labeled: count(&|pod| set.template_labels.within(&pod.meta.labels)),
        ready: count(&|pod| pod.ready),
        available: count(&|pod| pod.available(set.min_ready_seconds, now)),
        observed_generation: set.meta.generation,
        conditions,
    }
}

/// The write that brings the status up to date, if it is not.
pub(super) fn edit(
    key: &Key,
    set: &Workload,
    active: &[(Key, &Pod)],
    missing: i64,
    context: &Context,
) -> Option<Action> {
    let status = observe(set, active, missing, context);
    if status == set.status {
        return None;
    }
    let or_null = |number: i64| if number == 0 { Value::Null } else { Value::from(number) };
    let conditions: Vec<Value> = status.conditions.iter().map(Condition::to_value).collect();
    let merge = json!({ "status": {
        "replicas": status.replicas,
        "fullyLabeledReplicas": or_null(status.fully_labeled),
        "readyReplicas": or_null(status.ready),
        "availableReplicas": or_null(status.available),
        "observedGeneration": status.observed_generation,
        "conditions": if conditions.is_empty() { Value::Null } else { Value::from(conditions) },
    } });
    let (uid, revision) = (set.meta.uid, Some(set.meta.revision));
    Some(Action::Edit { key: key.clone(), subresource: Some("status"), uid, revision, merge })
}

/// A ready pod becomes available by time alone when `minReadySeconds` is set.
pub(super) fn wake(plan: &mut Plan, set: &Workload, active: &[(Key, &Pod)], now: i64) {
    let waiting = active.iter().filter(|(_, pod)| pod.ready && !pod.available(set.min_ready_seconds, now));
    if let Some(due) = waiting.map(|(_, pod)| pod.ready_since + set.min_ready_seconds).min() {
        plan.wake_in(due - now);
    }
}
