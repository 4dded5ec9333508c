//! Pure: a PodDisruptionBudget as the controllers see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Projected;
use super::meta::{Condition, Meta};
use super::workload::IntOrPercent;
use crate::controllers::selector::Selector;
use crate::controllers::text::{Interner, Str, at, int_at};
use crate::controllers::time;

/// The projection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budget {
    pub(crate) meta: Meta,
    pub(crate) min_available: Option<IntOrPercent>,
    pub(crate) max_unavailable: Option<IntOrPercent>,
    pub(crate) selector: Option<Selector>,
    pub(crate) observed_generation: i64,
    pub(crate) counts: Counts,
    /// Pods that were evicted and may not have gone yet: since when, in seconds since 1970.
    pub(crate) disrupted: BTreeMap<Str, i64>,
    pub(crate) conditions: Vec<Condition>,
}

/// What the status counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) allowed: i64,
    pub(crate) healthy: i64,
    pub(crate) desired: i64,
    pub(crate) expected: i64,
}

/// The row's projection.
pub(crate) fn project(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let bound = |field| {
        let value = at(object, &["spec", field]).filter(|value| !value.is_null())?;
        Some(IntOrPercent::parse(Some(value), IntOrPercent::Int(0)))
    };
    let count = |field| int_at(object, &["status", field]).unwrap_or_default();
    let disrupted = at(object, &["status", "disruptedPods"]).and_then(Value::as_object).into_iter().flatten();
    let disrupted =
        disrupted.map(|(pod, since)| (interner.text(pod), since.as_str().and_then(time::parse).unwrap_or_default()));
    let disrupted = disrupted.collect();
    Some(Projected::Budget(Arc::new(Budget {
        meta: Meta::project(object, interner),
        min_available: bound("minAvailable"),
        max_unavailable: bound("maxUnavailable"),
        selector: Selector::from_label_selector(at(object, &["spec", "selector"]), interner),
        observed_generation: count("observedGeneration"),
        counts: Counts {
            allowed: count("disruptionsAllowed"),
            healthy: count("currentHealthy"),
            desired: count("desiredHealthy"),
            expected: count("expectedPods"),
        },
        disrupted,
        conditions: Condition::project_all(object, interner),
    })))
}
