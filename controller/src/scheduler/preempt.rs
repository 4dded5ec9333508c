//! Pure: preemption: where would removing pods of lower priority make room, at the least cost?

use super::cluster::{Cluster, Node, Pod};
use super::filter::{Question, Refusal, filter};
use super::placement::Placement;
use crate::controllers::text::Str;
use crate::controllers::view::meta::Uid;

/// Room that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preemption {
    pub(crate) node: Str,
    pub(crate) victims: Vec<Uid>,
}

/// The best preemption, or the sentence that says why there is none.
pub(crate) fn preempt(
    cluster: &Cluster,
    pod: &Pod,
    refusals: &[(Str, Refusal)],
    total: usize,
) -> Result<Preemption, String> {
    if pod.ask.never_preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(cluster, pod) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let mut best: Option<(Cost, Preemption)> = None;
    let mut hopeless = 0;
    for (name, refusal) in refusals {
        if refusal.unresolvable {
            hopeless += 1;
            continue;
        }
        let Some(node) = cluster.nodes.get(name) else { continue };
        let Some(victims) = victims(cluster, pod, node) else { continue };
        let cost = cost(&victims);
        if best.as_ref().is_none_or(|(known, _)| cost < *known) {
            let victims = victims.iter().map(|victim| victim.uid).collect();
            best = Some((cost, Preemption { node: name.clone(), victims }));
        }
    }
    match best {
        Some((_, preemption)) => Ok(preemption),
        None => Err(sentence(total, hopeless, refusals.len() - hopeless)),
    }
}

fn sentence(total: usize, hopeless: usize, others: usize) -> String {
    let mut parts = Vec::new();
    if others > 0 {
        parts.push(format!("{others} No preemption victims found for incoming pod"));
    }
    if hopeless > 0 {
        parts.push(format!("{hopeless} Preemption is not helpful for scheduling"));
    }
    parts.sort();
    format!("0/{total} nodes are available: {}.", parts.join(", "))
}

/// Room was made for the pod already, and those who must go are on their way.
fn waits_for_victims(cluster: &Cluster, pod: &Pod) -> bool {
    let node = pod.nominated.as_ref().and_then(|name| cluster.nodes.get(name));
    node.is_some_and(|node| cluster.pods_of(node).any(|other| other.deleted && other.ask.priority < pod.ask.priority))
}

/// The fewest pods of lower priority whose removal makes room: first all go, then the most important come back.
fn victims<'a>(cluster: &'a Cluster, pod: &Pod, node: &'a Node) -> Option<Vec<&'a Pod>> {
    let mut lower: Vec<&Pod> = cluster.pods_of(node).filter(|other| other.ask.priority < pod.ask.priority).collect();
    if lower.is_empty() || !fits(cluster, pod, node, &lower) {
        return None;
    }
    lower.sort_by_key(|other| (std::cmp::Reverse(other.ask.priority), other.started));
    let mut gone = lower.clone();
    for candidate in lower {
        let without: Vec<&Pod> = gone.iter().copied().filter(|other| other.uid != candidate.uid).collect();
        if fits(cluster, pod, node, &without) {
            gone = without;
        }
    }
    if gone.is_empty() { None } else { Some(gone) }
}

fn fits(cluster: &Cluster, pod: &Pod, node: &Node, without: &[&Pod]) -> bool {
    let placement = Placement::new(cluster, pod, without);
    filter(&Question { pod, node, cluster, placement: &placement, without, with: &[] }).is_ok()
}

/// Less is better, as upstream: the lowest highest victim, the least sum, the fewest, the youngest of the highest.
type Cost = (i64, i64, usize, std::cmp::Reverse<i64>);

fn cost(victims: &[&Pod]) -> Cost {
    let highest = victims.iter().map(|victim| victim.ask.priority).max().unwrap_or(i64::MIN);
    // Shifted so that more victims never cost less.
    let sum = victims.iter().map(|victim| victim.ask.priority + i64::from(i32::MAX) + 1).sum();
    let earliest = victims.iter().filter(|victim| victim.ask.priority == highest).map(|victim| victim.started).min();
    (highest, sum, victims.len(), std::cmp::Reverse(earliest.unwrap_or_default()))
}
