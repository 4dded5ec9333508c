//! Pure: what one pod's placement must know of the whole cluster, counted once before nodes are asked one by one.

use std::collections::{BTreeMap, BTreeSet};

use super::ask::{PodTerm, Spread};
use super::cluster::{Cluster, Node, Pod};
use super::filter::{affinity_allows, untolerated};
use crate::controllers::text::Str;

/// A topology: key and value of a node label.
pub(crate) type Domain = (Str, Str);

/// Counts by domain.
#[derive(Default)]
pub(crate) struct Placement {
    /// For each spread constraint: matching pods by domain, over the nodes that count.
    pub(crate) spread: Vec<BTreeMap<Str, i64>>,
    /// For each required affinity term: the domains in which matching pods run.
    pub(crate) affinity: Vec<BTreeSet<Domain>>,
    /// For each required anti-affinity term: the domains in which matching pods run.
    pub(crate) anti_affinity: Vec<BTreeSet<Domain>>,
    /// Domains that the anti-affinity of pods that run already closes to this pod.
    pub(crate) closed: BTreeSet<Domain>,
    /// What running pods' and the pod's own preferences add up to by domain.
    pub(crate) preference: BTreeMap<Domain, i64>,
}

/// The weight of a running pod's required affinity when nodes are ranked (upstream's hardPodAffinityWeight).
const HARD_AFFINITY_WEIGHT: i64 = 1;

impl Placement {
    /// Counts for `pod`, as if `without` were gone.
    pub(crate) fn new(cluster: &Cluster, pod: &Pod, without: &[&Pod]) -> Placement {
        let ask = &pod.ask;
        let mut placement = Placement {
            spread: ask.spread.iter().map(|constraint| spread(cluster, pod, constraint, without)).collect(),
            affinity: vec![BTreeSet::new(); ask.affinity.len()],
            anti_affinity: vec![BTreeSet::new(); ask.anti_affinity.len()],
            ..Placement::default()
        };
        if !cluster.is_sociable(pod) {
            return placement;
        }
        for node in cluster.live_nodes() {
            for other in cluster.pods_of(node).filter(|other| !without.iter().any(|gone| gone.uid == other.uid)) {
                placement.meet(cluster, pod, other, node);
            }
        }
        placement
    }

    fn meet(&mut self, cluster: &Cluster, pod: &Pod, other: &Pod, node: &Node) {
        let required = [(&pod.ask.affinity, &mut self.affinity), (&pod.ask.anti_affinity, &mut self.anti_affinity)];
        for (terms, sets) in required {
            for (term, domains) in terms.iter().zip(sets) {
                if let (true, Some(domain)) = (selects(cluster, term, other), domain(node, &term.topology_key)) {
                    domains.insert(domain);
                }
            }
        }
        for term in other.ask.anti_affinity.iter().filter(|term| selects(cluster, term, pod)) {
            self.closed.extend(domain(node, &term.topology_key));
        }
        self.prefer(cluster, &pod.ask.preferred_affinity, other, node, 1);
        self.prefer(cluster, &pod.ask.preferred_anti_affinity, other, node, -1);
        self.prefer(cluster, &other.ask.preferred_affinity, pod, node, 1);
        self.prefer(cluster, &other.ask.preferred_anti_affinity, pod, node, -1);
        self.prefer(cluster, &other.ask.affinity, pod, node, HARD_AFFINITY_WEIGHT);
    }

    fn prefer(&mut self, cluster: &Cluster, terms: &[PodTerm], whom: &Pod, node: &Node, sign: i64) {
        for term in terms.iter().filter(|term| selects(cluster, term, whom)) {
            if let Some(domain) = domain(node, &term.topology_key) {
                *self.preference.entry(domain).or_default() += sign * term.weight;
            }
        }
    }
}

/// The node's domain under a topology key.
pub(crate) fn domain(node: &Node, key: &Str) -> Option<Domain> {
    node.labels.get(key).map(|value| (key.clone(), value.into()))
}

/// Does the term mean this pod?
pub(crate) fn selects(cluster: &Cluster, term: &PodTerm, pod: &Pod) -> bool {
    let by_labels = || {
        let labels = cluster.namespaces.get(&pod.namespace).cloned().unwrap_or_default();
        term.namespace_selector.as_ref().is_some_and(|selector| selector.matches(&labels))
    };
    term.selector.as_ref().is_some_and(|selector| selector.matches(&pod.ask.labels))
        && (term.namespaces.contains(&pod.namespace) || by_labels())
}

/// Does a node count for the constraint?
pub(crate) fn counts(constraint: &Spread, pod: &Pod, node: &Node) -> bool {
    (!constraint.honor_affinity || affinity_allows(&pod.ask, node))
        && (!constraint.honor_taints || untolerated(&pod.ask, node).is_none())
        // Nodes without every key of the pod's constraints are left out altogether.
        && pod.ask.spread.iter().filter(|other| other.required == constraint.required).all(|other| node.labels.get(&other.topology_key).is_some())
}

fn spread(cluster: &Cluster, pod: &Pod, constraint: &Spread, without: &[&Pod]) -> BTreeMap<Str, i64> {
    let mut domains = BTreeMap::new();
    for node in cluster.live_nodes().filter(|node| counts(constraint, pod, node)) {
        let Some(value) = node.labels.get(&constraint.topology_key) else { continue };
        let matching = cluster.pods_of(node).filter(|other| {
            !other.deleted
                && other.namespace == pod.namespace
                && constraint.selector.as_ref().is_some_and(|selector| selector.matches(&other.ask.labels))
                && !without.iter().any(|gone| gone.uid == other.uid)
        });
        *domains.entry(Str::from(value)).or_default() += matching.count() as i64;
    }
    domains
}
