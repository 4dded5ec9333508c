//! Pure: Deployments: a ReplicaSet for each template, and the way from one to the next.
//!
//! ```text
//! claim sets -> find the set of the template -> paused or resized? scale
//!                                            -> recreate | rolling update (one scaling at a time, then the status)
//!                                            -> complete? clean up old sets
//! ```

mod progress;
mod revision;
mod rolling;
mod scale;

use serde_json::{Value, json};

use self::scale::Scaling;
use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan, Regarding, Report};
use super::replica_set::{adopt_for, controller_reference, release_from};
use super::text::{Str, safe_encode, str_at};
use super::view::meta::Uid;
use super::view::workload::{Deployment, TEMPLATE_HASH, Workload};
use super::view::{Change, Key, Projected, View};

/// The row.
pub(super) const CONTROLLER: Controller = Controller {
    account: "deployment-controller",
    component: "deployment-controller",
    watches: &[KindId::DEPLOYMENTS, KindId::REPLICA_SETS, KindId::PODS],
    keys,
    plan,
};

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    let deployment =
        |name: &Str| Key { kind: KindId::DEPLOYMENTS, namespace: change.key.namespace.clone(), name: name.clone() };
    match change.key.kind {
        KindId::DEPLOYMENTS => keys.push(change.key.clone()),
        KindId::REPLICA_SETS => {
            for set in change.sides() {
                match &set.meta().controller {
                    Some(owner) if &*owner.kind == "Deployment" => keys.push(deployment(&owner.name)),
                    Some(_) => {}
                    None => keys.extend(
                        view.within(KindId::DEPLOYMENTS, &change.key.namespace)
                            .filter(|(_, object)| object.as_deployment().is_some_and(|d| selects(d, set)))
                            .map(|(key, _)| key),
                    ),
                }
            }
        }
        // Recreate waits until the last old pod is gone; nothing else depends on single pods.
        _ => {
            let gone = change
                .old
                .as_ref()
                .filter(|_| change.new.as_ref().and_then(Projected::as_pod).is_none_or(|pod| !pod.active()));
            let Some(owner) = gone.and_then(|pod| pod.meta().controller.as_ref()) else { return };
            let set =
                Key { kind: KindId::REPLICA_SETS, namespace: change.key.namespace.clone(), name: owner.name.clone() };
            let owner = view.object(&set).and_then(|set| set.meta().controller.as_ref());
            keys.extend(owner.filter(|owner| &*owner.kind == "Deployment").map(|owner| deployment(&owner.name)));
        }
    }
}

fn selects(deployment: &Deployment, set: &Projected) -> bool {
    let selector = deployment.selector.as_ref().filter(|selector| !selector.is_everything());
    selector.is_some_and(|selector| selector.matches(&set.meta().labels))
}

/// One of the Deployment's sets.
pub(super) type Set<'a> = (Key, &'a Workload);

/// A Deployment and its sets, oldest first.
pub(super) struct Situation<'a> {
    pub(super) key: &'a Key,
    pub(super) deployment: &'a Deployment,
    pub(super) new: Option<Set<'a>>,
    pub(super) old: Vec<Set<'a>>,
    pub(super) now: i64,
}

impl<'a> Situation<'a> {
    fn all(&self) -> impl Iterator<Item = &Set<'a>> + Clone {
        self.old.iter().chain(self.new.iter())
    }

    fn max_surge(&self) -> i64 {
        if self.deployment.recreate { 0 } else { self.fenceposts().0 }
    }

    fn max_unavailable(&self) -> i64 {
        if self.deployment.recreate || self.deployment.replicas == 0 {
            return 0;
        }
        self.fenceposts().1.min(self.deployment.replicas)
    }

    /// Surge rounded up, unavailability rounded down; both zero would mean no way forward, so then one may be missing.
    fn fenceposts(&self) -> (i64, i64) {
        let total = self.deployment.replicas;
        let (surge, unavailable) =
            (self.deployment.max_surge.of(total, true), self.deployment.max_unavailable.of(total, false));
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    fn regarding(&self) -> Regarding {
        Regarding { key: self.key.clone(), uid: self.deployment.meta.uid }
    }

    fn report(&self, warning: bool, reason: &'static str, message: String) -> Action {
        Action::Event(Report { regarding: self.regarding(), warning, reason, message })
    }

    /// An edit of the Deployment as the view knows it.
    fn edit(&self, subresource: Option<&'static str>, merge: Value) -> Action {
        let meta = &self.deployment.meta;
        Action::Edit { key: self.key.clone(), subresource, uid: meta.uid, revision: Some(meta.revision), merge }
    }
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(deployment) = view.as_deployment(key) else { return Plan::default() };
    let Some(selector) = &deployment.selector else { return Plan::default() };
    let mut situation = Situation { key, deployment, new: None, old: Vec::new(), now: context.now.wall() };
    if selector.is_everything() {
        let message = "This deployment is selecting all pods. A non-empty selector is required.".to_owned();
        let mut plan = Plan::act(situation.report(true, "SelectingAll", message));
        if deployment.status.observed_generation < deployment.meta.generation {
            let status = json!({ "status": { "observedGeneration": deployment.meta.generation } });
            plan.then(situation.edit(Some("status"), status));
        }
        return plan;
    }
    let claims = claim(view, key, deployment);
    if !claims.actions.is_empty() {
        return Plan { steps: vec![claims.actions], ..Plan::default() };
    }
    let mut sets = claims.sets;
    sets.sort_by(|(a_key, a), (b_key, b)| (a.meta.created, &a_key.name).cmp(&(b.meta.created, &b_key.name)));
    let new = sets.iter().position(|(_, set)| set.template == deployment.template);
    situation.new = new.map(|place| sets.remove(place));
    situation.old = sets;
    decide(view, &situation, context)
}

fn decide(view: &View, situation: &Situation, context: &Context) -> Plan {
    let deployment = situation.deployment;
    if deployment.meta.deleted.is_some() {
        return progress::sync(situation);
    }
    if let Some(edit) = progress::pause_condition(situation) {
        return Plan::act(edit);
    }
    if deployment.paused || is_resized(situation) {
        if let Some(edits) = revision::sync(situation) {
            return edits;
        }
        let scalings = scale::sync(situation);
        let mut plan =
            if scalings.is_empty() { progress::sync_counts(situation) } else { perform(situation, scalings) };
        if plan.steps.is_empty() && deployment.paused {
            plan.steps.extend(revision::clean_up(situation));
        }
        return plan;
    }
    if deployment.recreate {
        let down = rolling::all_down(situation);
        if !down.is_empty() {
            return perform(situation, down);
        }
        if old_pods_run(view, situation) {
            return progress::sync(situation);
        }
    }
    if situation.new.is_none() {
        return create_set(view, situation, context);
    }
    if let Some(edits) = revision::sync(situation) {
        return edits;
    }
    let scalings = if deployment.recreate { rolling::all_up(situation) } else { rolling::next(situation) };
    if !scalings.is_empty() {
        return perform(situation, scalings);
    }
    let mut plan = progress::sync(situation);
    if plan.steps.is_empty() && progress::complete(situation) {
        plan.steps.extend(revision::clean_up(situation));
    }
    plan
}

/// Has `spec.replicas` changed since the sets were last scaled?
fn is_resized(situation: &Situation) -> bool {
    situation.all().filter(|(_, set)| set.replicas > 0).any(|(_, set)| {
        revision::number(set, revision::DESIRED).is_some_and(|desired| desired != situation.deployment.replicas)
    })
}

fn old_pods_run(view: &View, situation: &Situation) -> bool {
    let pods = situation.old.iter().flat_map(|(_, set)| view.owned_by(set.meta.uid));
    pods.filter_map(|(_, object)| object.as_pod()).any(|pod| !pod.terminal())
}

struct Claims<'a> {
    sets: Vec<Set<'a>>,
    actions: Vec<Action>,
}

fn claim<'a>(view: &'a View, key: &Key, deployment: &Deployment) -> Claims<'a> {
    let mut claims = Claims { sets: Vec::new(), actions: Vec::new() };
    let alive = deployment.meta.deleted.is_none();
    for (set_key, object) in view.claimable(KindId::REPLICA_SETS, deployment.meta.uid, &key.namespace) {
        let Some(set) = object.as_workload() else { continue };
        let matches = selects(deployment, object);
        match &set.meta.controller {
            Some(owner) if owner.uid == deployment.meta.uid && matches => claims.sets.push((set_key, set)),
            Some(owner) if owner.uid == deployment.meta.uid && alive => {
                claims.actions.push(release_from(owner.uid, &set_key, set.meta.uid));
            }
            None if matches && alive && set.meta.deleted.is_none() => {
                let reference = controller_reference(view, key, deployment.meta.uid);
                claims.actions.push(adopt_for(reference, &set_key, set.meta.uid));
            }
            _ => {}
        }
    }
    claims
}

fn perform(situation: &Situation, scalings: Vec<Scaling>) -> Plan {
    let mut plan = Plan::default();
    for scaling in scalings {
        let (edit, report) = scaling.actions(situation);
        plan.then(edit);
        plan.steps.extend(report.map(|report| vec![report]));
    }
    plan
}

/// The name of the new set: a hash of the template and of how often such a name was taken already.
fn set_name(situation: &Situation) -> (String, String) {
    let collisions = situation.deployment.status.collision_count.unwrap_or_default() as u64;
    let mixed = situation.deployment.template ^ collisions.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = safe_encode((mixed ^ (mixed >> 32)) as u32);
    (format!("{}-{hash}", situation.key.name), hash)
}

fn create_set(view: &View, situation: &Situation, context: &Context) -> Plan {
    let deployment = situation.deployment;
    let (name, hash) = set_name(situation);
    let set_key =
        Key { kind: KindId::REPLICA_SETS, namespace: situation.key.namespace.clone(), name: name.as_str().into() };
    if view.object(&set_key).is_some() {
        // The name is taken by a set of another template, or of another owner: take another name.
        let count = deployment.status.collision_count.unwrap_or_default() + 1;
        return Plan::act(situation.edit(Some("status"), json!({ "status": { "collisionCount": count } })));
    }
    let whole = match context.reads.object(situation.key) {
        Ok(Some(whole)) if Uid::parse(str_at(whole, &["metadata", "uid"])) == deployment.meta.uid => whole,
        Ok(_) => return Plan::default(),
        Err(needs) => return needs,
    };
    if super::view::workload::template_digest(&whole["spec"]["template"]) != deployment.template {
        // The view is behind: the event that is on its way plans again.
        return Plan::default();
    }
    let replicas = rolling::new_set_size(situation);
    let mut plan = progress::creation_failed(situation, context.failure);
    plan.then(Action::Create {
        kind: KindId::REPLICA_SETS,
        body: set_body(view, situation, whole, (&name, &hash), replicas),
        exists_ok: false,
        note: None,
    });
    if replicas > 0 {
        let message = format!("Scaled up replica set {name} from 0 to {replicas}");
        plan.then(situation.report(false, "ScalingReplicaSet", message));
    }
    plan
}

fn set_body(view: &View, situation: &Situation, whole: &Value, (name, hash): (&str, &str), replicas: i64) -> Value {
    let mut template = whole["spec"]["template"].clone();
    template["metadata"]["labels"][TEMPLATE_HASH] = Value::from(hash);
    let mut selector = whole["spec"]["selector"].clone();
    selector["matchLabels"][TEMPLATE_HASH] = Value::from(hash);
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": &*situation.key.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": revision::annotations_of_new_set(situation),
            "ownerReferences": [controller_reference(view, situation.key, situation.deployment.meta.uid)],
        },
        "spec": {
            "replicas": replicas, "minReadySeconds": situation.deployment.min_ready_seconds,
            "selector": selector, "template": template,
        },
    })
}

#[cfg(test)]
mod tests;
