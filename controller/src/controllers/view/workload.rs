//! Pure: ReplicaSets, ReplicationControllers and Deployments as the controllers see them.

use std::sync::Arc;

use serde_json::Value;

use super::Projected;
use super::meta::{Condition, Meta};
use crate::controllers::selector::Selector;
use crate::controllers::text::{Interner, Labels, at, flag_at, int_at, str_at, typed_digest};

/// What `kubectl apply` keeps of the former manifest: large, and never copied to a ReplicaSet.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The label that tells a Deployment's ReplicaSets apart.
pub(crate) const TEMPLATE_HASH: &str = "pod-template-hash";

/// A ReplicaSet or a ReplicationController.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    pub(crate) meta: Meta,
    pub(crate) annotations: Labels,
    pub(crate) replicas: i64,
    pub(crate) min_ready_seconds: i64,
    pub(crate) selector: Option<Selector>,
    pub(crate) template_labels: Labels,
    /// Of the template without its hash label.
    pub(crate) template: u64,
    pub(crate) status: WorkloadStatus,
}

/// `status` of a ReplicaSet or a ReplicationController.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WorkloadStatus {
    pub(crate) replicas: i64,
    pub(crate) fully_labeled: i64,
    pub(crate) ready: i64,
    pub(crate) available: i64,
    pub(crate) observed_generation: i64,
    pub(crate) conditions: Vec<Condition>,
}

/// A Deployment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Deployment {
    pub(crate) meta: Meta,
    pub(crate) annotations: Labels,
    pub(crate) replicas: i64,
    pub(crate) min_ready_seconds: i64,
    pub(crate) selector: Option<Selector>,
    pub(crate) template: u64,
    pub(crate) recreate: bool,
    pub(crate) max_surge: IntOrPercent,
    pub(crate) max_unavailable: IntOrPercent,
    pub(crate) paused: bool,
    pub(crate) progress_deadline_seconds: Option<i64>,
    pub(crate) revision_history_limit: Option<i64>,
    pub(crate) status: DeploymentStatus,
}

/// `status` of a Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DeploymentStatus {
    pub(crate) observed_generation: i64,
    pub(crate) replicas: i64,
    pub(crate) updated: i64,
    pub(crate) ready: i64,
    pub(crate) available: i64,
    pub(crate) unavailable: i64,
    pub(crate) collision_count: Option<i64>,
    pub(crate) conditions: Vec<Condition>,
}

/// `3` or `25%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntOrPercent {
    Int(i64),
    Percent(i64),
}

impl IntOrPercent {
    pub(crate) fn parse(value: Option<&Value>, absent: IntOrPercent) -> IntOrPercent {
        match value {
            Some(Value::Number(number)) => IntOrPercent::Int(number.as_i64().unwrap_or_default()),
            Some(Value::String(text)) => match text.strip_suffix('%').map(str::parse) {
                Some(Ok(percent)) => IntOrPercent::Percent(percent),
                _ => IntOrPercent::Int(text.parse().unwrap_or_default()),
            },
            _ => absent,
        }
    }

    /// Of `total`, rounded up or down.
    pub(crate) fn of(self, total: i64, up: bool) -> i64 {
        match self {
            IntOrPercent::Int(number) => number,
            IntOrPercent::Percent(percent) if up => (percent * total + 99).div_euclid(100),
            IntOrPercent::Percent(percent) => (percent * total).div_euclid(100),
        }
    }
}

/// The digest of a pod template without its hash label: equal digests mean equal pods.
pub(crate) fn template_digest(template: &Value) -> u64 {
    if at(template, &["metadata", "labels", TEMPLATE_HASH]).is_none() {
        return typed_digest(template);
    }
    let mut template = template.clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(TEMPLATE_HASH);
    }
    typed_digest(&template)
}

fn annotations(object: &Value, interner: &mut Interner) -> Labels {
    interner.labels_where(at(object, &["metadata", "annotations"]), |key| key != LAST_APPLIED)
}

fn project_workload(object: &Value, selector: Option<Selector>, interner: &mut Interner) -> Option<Projected> {
    let template = object["spec"].get("template").unwrap_or(&Value::Null);
    let status = |field| int_at(object, &["status", field]).unwrap_or_default();
    Some(Projected::Workload(Arc::new(Workload {
        meta: Meta::project(object, interner),
        annotations: annotations(object, interner),
        replicas: int_at(object, &["spec", "replicas"]).unwrap_or(1),
        min_ready_seconds: int_at(object, &["spec", "minReadySeconds"]).unwrap_or_default(),
        selector,
        template_labels: interner.labels(at(template, &["metadata", "labels"])),
        template: template_digest(template),
        status: WorkloadStatus {
            replicas: status("replicas"),
            fully_labeled: status("fullyLabeledReplicas"),
            ready: status("readyReplicas"),
            available: status("availableReplicas"),
            observed_generation: status("observedGeneration"),
            conditions: Condition::project_all(object, interner),
        },
    })))
}

/// The row's projection.
pub(crate) fn project_replica_set(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let selector = Selector::from_label_selector(at(object, &["spec", "selector"]), interner);
    project_workload(object, selector, interner)
}

/// The row's projection.
pub(crate) fn project_replication_controller(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let selector = Selector::from_map(at(object, &["spec", "selector"]), interner);
    project_workload(object, selector, interner)
}

/// The row's projection.
pub(crate) fn project_deployment(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let status = |field| int_at(object, &["status", field]).unwrap_or_default();
    let rolling = at(object, &["spec", "strategy", "rollingUpdate"]);
    let quarter = IntOrPercent::Percent(25);
    Some(Projected::Deployment(Arc::new(Deployment {
        meta: Meta::project(object, interner),
        annotations: annotations(object, interner),
        replicas: int_at(object, &["spec", "replicas"]).unwrap_or(1),
        min_ready_seconds: int_at(object, &["spec", "minReadySeconds"]).unwrap_or_default(),
        selector: Selector::from_label_selector(at(object, &["spec", "selector"]), interner),
        template: template_digest(object["spec"].get("template").unwrap_or(&Value::Null)),
        recreate: str_at(object, &["spec", "strategy", "type"]) == "Recreate",
        max_surge: IntOrPercent::parse(rolling.and_then(|rolling| rolling.get("maxSurge")), quarter),
        max_unavailable: IntOrPercent::parse(rolling.and_then(|rolling| rolling.get("maxUnavailable")), quarter),
        paused: flag_at(object, &["spec", "paused"]),
        progress_deadline_seconds: int_at(object, &["spec", "progressDeadlineSeconds"])
            .filter(|&seconds| seconds != i64::from(i32::MAX)),
        revision_history_limit: int_at(object, &["spec", "revisionHistoryLimit"])
            .filter(|&limit| limit != i64::from(i32::MAX)),
        status: DeploymentStatus {
            observed_generation: status("observedGeneration"),
            replicas: status("replicas"),
            updated: status("updatedReplicas"),
            ready: status("readyReplicas"),
            available: status("availableReplicas"),
            unavailable: status("unavailableReplicas"),
            collision_count: int_at(object, &["status", "collisionCount"]),
            conditions: Condition::project_all(object, interner),
        },
    })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        assert_eq!(IntOrPercent::Percent(25).of(3, true), 1);
        assert_eq!(IntOrPercent::Percent(25).of(3, false), 0);
        assert_eq!(IntOrPercent::parse(Some(&json!("50%")), IntOrPercent::Int(0)).of(5, true), 3);
        assert_eq!(IntOrPercent::parse(Some(&json!(2)), IntOrPercent::Int(0)).of(5, true), 2);
    }

    #[test]
    fn the_hash_label_does_not_count() {
        let bare = json!({"metadata": {"labels": {"app": "a"}}, "spec": {}});
        let hashed = json!({"metadata": {"labels": {"app": "a", "pod-template-hash": "x"}}, "spec": {}});
        assert_eq!(template_digest(&bare), template_digest(&hashed));
    }
}
