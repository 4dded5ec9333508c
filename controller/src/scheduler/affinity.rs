//! Pure: InterPodAffinity.

use super::cluster::{Node, Pod};
use super::filter::{Plugin, Question, Refusal, refuse};
use super::placement::{Placement, domain, selects};

/// Refuses nodes outside of required affinity, inside required anti-affinity, or closed by others' anti-affinity.
pub(super) fn filter(question: &Question) -> Result<(), Refusal> {
    let (ask, placement, node) = (&question.pod.ask, question.placement, question.node);
    if !affinity_holds(question) {
        return refuse(Plugin::InterPodAffinity, "node(s) didn't match pod affinity rules", true);
    }
    let avoided = ask.anti_affinity.iter().zip(&placement.anti_affinity);
    for (term, domains) in avoided {
        if domain(node, &term.topology_key).is_some_and(|domain| domains.contains(&domain)) {
            return refuse(Plugin::InterPodAffinity, "node(s) didn't match pod anti-affinity rules", false);
        }
    }
    let closed = placement.closed.iter().any(|(key, value)| node.labels.get(key) == Some(value));
    if closed {
        let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
        return refuse(Plugin::InterPodAffinity, reason, false);
    }
    Ok(())
}

fn affinity_holds(question: &Question) -> bool {
    let (pod, placement, node) = (question.pod, question.placement, question.node);
    let terms = &pod.ask.affinity;
    let keys = terms.iter().all(|term| node.labels.get(&term.topology_key).is_some());
    let met = terms
        .iter()
        .zip(&placement.affinity)
        .all(|(term, domains)| domain(node, &term.topology_key).is_some_and(|domain| domains.contains(&domain)));
    // The first of a group that wants to be together has nobody to join: it may start anywhere, if it would join itself.
    let first = placement.affinity.iter().all(|domains| domains.is_empty())
        && terms.iter().all(|term| selects(question.cluster, term, pod));
    keys && (met || first)
}

/// The sum of preferences of the node's domains.
pub(super) fn score(_: &Pod, node: &Node, placement: &Placement) -> i64 {
    let here = placement.preference.iter().filter(|((key, value), _)| node.labels.get(key) == Some(value));
    here.map(|(_, weight)| weight).sum()
}
