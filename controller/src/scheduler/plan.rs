//! Pure: a whole batch of pods is placed in one pass; each placement counts for the next.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, Node, Pod};
use super::filter::{Plugin, Question, Refusal, filter};
use super::placement::Placement;
use super::preempt::{Preemption, preempt};
use super::score::scores;
use crate::controllers::text::Str;
use crate::controllers::view::meta::Uid;

/// What to do about one pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Bind it.
    Bind { pod: Uid, node: Str },
    /// Tell it why not, and perhaps make room.
    Wait { pod: Uid, message: String, plugins: BTreeSet<Plugin>, preemption: Option<Preemption> },
}

/// Places the pods in the order given. The cluster counts each placement at once (`assume`).
pub(crate) fn plan(cluster: &mut Cluster, batch: &[Uid]) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(batch.len());
    for &uid in batch {
        let Some(pod) = cluster.pods.get(&uid).filter(|pod| pod.node.is_none() && !pod.deleted && !pod.gated) else {
            continue;
        };
        match place(cluster, pod) {
            Ok(node) => {
                cluster.assume(uid, &node);
                decisions.push(Decision::Bind { pod: uid, node });
            }
            Err(decision) => {
                if let Decision::Wait { preemption: Some(preemption), .. } = &decision {
                    cluster.nominate(uid, Some(&preemption.node));
                }
                decisions.push(decision);
            }
        }
    }
    decisions
}

fn place(cluster: &Cluster, pod: &Pod) -> Result<Str, Decision> {
    let placement = Placement::new(cluster, pod, &[]);
    let mut possible: Vec<&Node> = Vec::new();
    let mut refusals: Vec<(Str, Refusal)> = Vec::new();
    for node in cluster.live_nodes() {
        match ask_node(cluster, pod, node, &placement) {
            Ok(()) => possible.push(node),
            Err(refusal) => refusals.push((node.name.0.clone(), refusal)),
        }
    }
    match best(pod, &possible, &placement) {
        Some(node) => Ok(node.name.0.clone()),
        None => Err(wait(cluster, pod, &refusals)),
    }
}

/// A node must have room with the pods that a preemption promised it to, and without them too.
fn ask_node(cluster: &Cluster, pod: &Pod, node: &Node, placement: &Placement) -> Result<(), Refusal> {
    let promised: Vec<&Pod> = cluster
        .nominated_to(&node.name.0)
        .filter(|other| other.uid != pod.uid && other.ask.priority >= pod.ask.priority)
        .collect();
    let question = Question { pod, node, cluster, placement, without: &[], with: &promised };
    filter(&question)?;
    if promised.is_empty() { Ok(()) } else { filter(&Question { with: &[], ..question }) }
}

/// The highest score; among equals the pod's uid draws lots, so that equal nodes fill evenly and a test can repeat it.
fn best<'a>(pod: &Pod, possible: &[&'a Node], placement: &Placement) -> Option<&'a Node> {
    if let Some(nominated) = possible.iter().find(|node| Some(&node.name.0) == pod.nominated.as_ref()) {
        return Some(nominated);
    }
    let scores = scores(pod, possible, placement);
    let high = scores.iter().max()?;
    let ties: Vec<&&Node> =
        possible.iter().zip(&scores).filter(|(_, score)| *score == high).map(|(node, _)| node).collect();
    let lot = pod.uid.lot() as usize % ties.len();
    ties.get(lot).map(|node| **node)
}

fn wait(cluster: &Cluster, pod: &Pod, refusals: &[(Str, Refusal)]) -> Decision {
    let total = refusals.len();
    let plugins = refusals.iter().map(|(_, refusal)| refusal.plugin).collect();
    if total == 0 {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Wait { pod: pod.uid, message, plugins, preemption: None };
    }
    let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in refusals.iter().flat_map(|(_, refusal)| &refusal.reasons) {
        *histogram.entry(reason).or_default() += 1;
    }
    let mut reasons: Vec<String> = histogram.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    let mut message = format!("0/{total} nodes are available: {}.", reasons.join(", "));
    let preemption = match preempt(cluster, pod, refusals, total) {
        Ok(preemption) => Some(preemption),
        Err(why) => {
            message = format!("{message} preemption: {why}");
            None
        }
    };
    Decision::Wait { pod: pod.uid, message, plugins, preemption }
}
