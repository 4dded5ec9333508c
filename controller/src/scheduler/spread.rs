//! Pure: PodTopologySpread.

use super::cluster::Node;
use super::cluster::Pod;
use super::filter::{Plugin, Question, Refusal, refuse};
use super::placement::Placement;

/// Refuses nodes on which the skew would grow beyond its bound.
pub(super) fn filter(question: &Question) -> Result<(), Refusal> {
    let ask = &question.pod.ask;
    for (constraint, domains) in ask.spread.iter().zip(&question.placement.spread).filter(|(c, _)| c.required) {
        let Some(value) = question.node.labels.get(&constraint.topology_key) else {
            let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
            return refuse(Plugin::PodTopologySpread, reason, true);
        };
        let fewest = match domains.len() as i64 {
            known if known < constraint.min_domains => 0,
            _ => domains.values().copied().min().unwrap_or_default(),
        };
        let own = i64::from(constraint.selector.as_ref().is_some_and(|selector| selector.matches(&ask.labels)));
        let here = domains.get(value).copied().unwrap_or_default();
        if here + own - fewest > constraint.max_skew {
            return refuse(Plugin::PodTopologySpread, "node(s) didn't match pod topology spread constraints", false);
        }
    }
    Ok(())
}

/// Fewer matching pods in the node's domains are better: what it would add, to be turned round by the normalisation.
pub(super) fn score(pod: &Pod, node: &Node, placement: &Placement) -> i64 {
    let soft = pod.ask.spread.iter().zip(&placement.spread).filter(|(constraint, _)| !constraint.required);
    let parts = soft.map(|(constraint, domains)| {
        let here = node.labels.get(&constraint.topology_key).and_then(|value| domains.get(value)).copied();
        // Upstream weighs a topology by the logarithm of its size.
        let weight = ((domains.len() + 2) as f64).ln();
        here.unwrap_or_default() as f64 * weight + (constraint.max_skew - 1) as f64
    });
    parts.sum::<f64>().round() as i64
}
