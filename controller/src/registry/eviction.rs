//! Shell: eviction: a deletion that asks the pod's disruption budget, in upstream's order and words.

use bramble_store::ListQuery;
use serde_json::{Value, json};

use super::admission::{Attributes, Operation};
use super::{Answer, ApiError, Call, DeleteRequest, Deleted, Part, Registry, Target, read_error, record};
use crate::kinds::Kind;
use crate::object::{Object, time};
use crate::schema::selector::LabelSelector;

/// How often a pod that no budget counts is judged anew when it changes meanwhile.
const ATTEMPTS: usize = 5;
/// Evictions that no controller has confirmed; a budget with more of them takes no further one.
const DISRUPTED_MAX: usize = 2000;
/// Budgets that are looked at at once.
const PAGE: usize = 64;
const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const MANY: &str = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// What a pod and its budget say about an eviction.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// No budget counts it.
    Free,
    /// No budget counts it as long as it is this very revision: it may become ready meanwhile.
    FreeAsItIs,
    /// The budget must be asked.
    Counts,
}

impl Registry {
    /// Deletes a pod as its eviction asks, if its budget allows.
    pub async fn evict(&self, call: &mut Call, target: &Target, request: &DeleteRequest) -> Answer<Deleted> {
        let mut refusal = ApiError::modified(&target.kind, &target.name);
        for _ in 0..ATTEMPTS {
            let pod = self.current(target).await?.object;
            let attributes =
                Attributes { identity: &call.identity, target, part: Part::Whole, operation: Operation::Create };
            self.restrict(&attributes, "eviction", None, None, Some(&pod)).await?;
            let verdict = self.judge(call, target, &pod).await?;
            if verdict != Verdict::FreeAsItIs || !request.resource_version.is_empty() {
                return self.delete(call, target, request).await;
            }
            let exact = DeleteRequest { resource_version: pod.resource_version().to_owned(), ..request.clone() };
            match self.delete(call, target, &exact).await {
                // It has become another one meanwhile, and is judged anew.
                Err(error) if error.code == 409 => refusal = error,
                done => return done,
            }
        }
        Err(refusal)
    }

    /// What is to be thought of the pod; where its budget counts it, the eviction is counted when this returns.
    async fn judge(&self, call: &mut Call, target: &Target, pod: &Object) -> Answer<Verdict> {
        let verdict = without_budget(pod);
        if verdict != Verdict::Counts {
            return Ok(verdict);
        }
        let budgets = self.budgets(pod).await?;
        let budget = match budgets.as_slice() {
            [] => return Ok(Verdict::Free),
            [budget] => budget,
            _ => return Err(ApiError::new(500, "", MANY)),
        };
        let verdict = by_health(pod, budget);
        if verdict == Verdict::Counts {
            self.take_of(call, target, budget).await?;
        }
        Ok(verdict)
    }

    /// The budgets of the pod's namespace that select it.
    async fn budgets(&self, pod: &Object) -> Answer<Vec<Object>> {
        let kinds = self.kinds();
        let Some(kind) = kinds.find("policy", "v1", "poddisruptionbudgets") else { return Ok(Vec::new()) };
        let all = Target { kind: kind.clone(), namespace: pod.namespace().to_owned(), name: String::new() };
        let (prefix, none) = (all.key(), serde_json::Map::new());
        let labels = pod.map(&["metadata", "labels"]).unwrap_or(&none);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let query = ListQuery { prefix: &prefix, after: after.as_deref(), limit: PAGE, at: None };
            let page = self.store.list(query).await.map_err(read_error)?;
            after = page.records.last().map(|record| record.key.clone());
            for record in &page.records {
                let budget = record::decode(&record.value, record.revision.0).map_err(ApiError::internal)?;
                let selector = budget.get(&["spec", "selector"]).unwrap_or(&Value::Null);
                if LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches(labels)) {
                    found.push(budget);
                }
            }
            if !page.more {
                return Ok(found);
            }
        }
    }

    /// Counts the eviction against the budget, or says why it must wait.
    async fn take_of(&self, call: &mut Call, target: &Target, budget: &Object) -> Answer<()> {
        let kinds = self.kinds();
        let kind = kinds.of_kind("policy/v1", "PodDisruptionBudget").ok_or_else(ApiError::no_such_path)?;
        let of = Target { kind: kind.clone(), namespace: target.namespace.clone(), name: budget.name().to_owned() };
        let now = time::format(self.now());
        self.mutate(call, &of, Part::Status, |budget, call| {
            decrement(kind, budget, (!call.dry_run).then_some((&target.name, &now)))
        })
        .await
        .map(drop)
    }
}

/// What the pod says by itself.
fn without_budget(pod: &Object) -> Verdict {
    match pod.text(&["status", "phase"]) {
        "Succeeded" | "Failed" => Verdict::Free,
        _ if pod.deletion_timestamp().is_some() => Verdict::Free,
        "Pending" => Verdict::FreeAsItIs,
        _ => Verdict::Counts,
    }
}

/// A pod that is not ready counts for nothing in its budget, and may go where nothing is lost by it.
fn by_health(pod: &Object, budget: &Object) -> Verdict {
    let mut conditions = pod.items(&["status", "conditions"]).iter();
    if conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
        return Verdict::Counts;
    }
    let count = |field| budget.integer(&["status", field]).unwrap_or_default();
    let healthy = count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy");
    if healthy || budget.text(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow" {
        return Verdict::FreeAsItIs;
    }
    Verdict::Counts
}

/// The budget with one disruption less; with a pod and a time, also with what its controller is to look for.
fn decrement(kind: &Kind, budget: &Object, pod: Option<(&String, &String)>) -> Answer<Object> {
    let name = budget.name();
    let forbidden = |why: &str| Err(ApiError::forbidden(kind, name, why));
    let count = |field| budget.integer(&["status", field]).unwrap_or_default();
    if count("observedGeneration") < budget.generation() {
        return Err(too_many(10, format!("The disruption budget {name} is still being processed by the server.")));
    }
    let allowed = count("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if budget.map(&["status", "disruptedPods"]).is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(too_many(0, why_none(budget)));
    }
    let mut new = budget.clone();
    new.set(&["status", "disruptionsAllowed"], allowed - 1);
    if let Some((pod, now)) = pod {
        new.set(&["status", "disruptedPods", pod], now.as_str());
    }
    Ok(new)
}

fn why_none(budget: &Object) -> String {
    let name = budget.name();
    let count = |field| budget.integer(&["status", field]).unwrap_or_default();
    let failed = |condition: &&Value| condition["type"] == "DisruptionAllowed" && condition["reason"] == "SyncFailed";
    match budget.items(&["status", "conditions"]).iter().find(failed) {
        Some(condition) => {
            let why = condition["message"].as_str().unwrap_or_default();
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}")
        }
        None => {
            let (needs, has) = (count("desiredHealthy"), count("currentHealthy"));
            format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently")
        }
    }
}

fn too_many(retry_after_s: u64, cause: String) -> ApiError {
    let mut error = ApiError::too_many_requests(VIOLATES, retry_after_s);
    if retry_after_s == 0 {
        error.details.remove("retryAfterSeconds");
    }
    error.details.insert("causes".to_owned(), json!([{"reason": "DisruptionBudget", "message": cause}]));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn budget(generation: i64, status: Value) -> Object {
        object(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": "default", "generation": generation}, "spec": {}, "status": status}))
    }

    fn row() -> Kind {
        Kind::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
    }

    #[test]
    fn a_budget_is_counted_down_and_says_why_not() {
        let (pod, now) = ("web-1".to_owned(), "2026-01-01T00:00:00Z".to_owned());
        let open = budget(1, json!({"observedGeneration": 1, "disruptionsAllowed": 2}));
        let taken = decrement(&row(), &open, Some((&pod, &now))).unwrap();
        assert_eq!(taken.integer(&["status", "disruptionsAllowed"]), Some(1));
        assert_eq!(taken.text(&["status", "disruptedPods", "web-1"]), now);
        let dry = decrement(&row(), &open, None).unwrap();
        assert_eq!(dry.get(&["status", "disruptedPods"]), None);
        let cause = |error: ApiError| {
            assert_eq!((error.code, error.message.as_str()), (429, VIOLATES));
            (
                error.details["causes"][0]["message"].as_str().unwrap().to_owned(),
                error.details.get("retryAfterSeconds").cloned(),
            )
        };
        let stale = decrement(&row(), &budget(2, json!({"observedGeneration": 1, "disruptionsAllowed": 2})), None);
        let (words, after) = cause(stale.unwrap_err());
        assert_eq!(
            (words.as_str(), after),
            ("The disruption budget web is still being processed by the server.", Some(json!(10)))
        );
        let closed =
            json!({"observedGeneration": 1, "disruptionsAllowed": 0, "desiredHealthy": 3, "currentHealthy": 3});
        let (words, after) = cause(decrement(&row(), &budget(1, closed), None).unwrap_err());
        assert_eq!(
            (words.as_str(), after),
            ("The disruption budget web needs 3 healthy pods and has 3 currently", None)
        );
        let failed = json!({"observedGeneration": 1, "disruptionsAllowed": 0,
            "conditions": [{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "lost"}]});
        let (words, _) = cause(decrement(&row(), &budget(1, failed), None).unwrap_err());
        assert!(words.ends_with("because it failed sync: lost"), "{words}");
        let wrong = decrement(&row(), &budget(1, json!({"observedGeneration": 1, "disruptionsAllowed": -1})), None);
        assert_eq!(wrong.unwrap_err().code, 403);
    }

    #[test]
    fn pods_that_no_budget_counts_go_without_asking() {
        let pod = |phase: &str, ready: &str| {
            object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}}))
        };
        let phases = ["Succeeded", "Failed", "Pending", "Running"].map(|phase| without_budget(&pod(phase, "True")));
        assert_eq!(phases, [Verdict::Free, Verdict::Free, Verdict::FreeAsItIs, Verdict::Counts]);
        let enough = budget(1, json!({"desiredHealthy": 1, "currentHealthy": 1}));
        let short = budget(1, json!({"desiredHealthy": 2, "currentHealthy": 1}));
        let mut lenient = short.clone();
        lenient.set(&["spec", "unhealthyPodEvictionPolicy"], "AlwaysAllow");
        let (ready, sick) = (pod("Running", "True"), pod("Running", "False"));
        assert_eq!([&enough, &short, &lenient].map(|budget| by_health(&ready, budget)), [const { Verdict::Counts }; 3]);
        assert_eq!(
            [&enough, &short, &lenient].map(|budget| by_health(&sick, budget)),
            [Verdict::FreeAsItIs, Verdict::Counts, Verdict::FreeAsItIs]
        );
    }
}
