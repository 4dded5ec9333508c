//! Pure: the first phase: on which nodes could the pod run, and why not on the others. One function a plugin, in upstream's
//! order and wording.

use super::amounts::Amounts;
use super::ask::{Ask, HostPort, NodeTerm, Toleration};
use super::cluster::{Cluster, Node, Pod};
use super::placement::Placement;
use crate::controllers::text::Labels;
use crate::controllers::view::node::Taint;

/// Why a node was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) plugin: Plugin,
    pub(crate) reasons: Vec<String>,
    /// No removal of pods would help.
    pub(crate) unresolvable: bool,
}

/// The plugins by upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Plugin {
    NodeUnschedulable,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    PodTopologySpread,
    InterPodAffinity,
}

/// What a filter looks at: the pod, the node as it would be, and what the placement knows of the whole cluster.
pub(crate) struct Question<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) node: &'a Node,
    pub(crate) cluster: &'a Cluster,
    pub(crate) placement: &'a Placement,
    /// Pods that are counted as gone: preemption's victims.
    pub(crate) without: &'a [&'a Pod],
    /// Pods that are counted as there: nominated ones.
    pub(crate) with: &'a [&'a Pod],
}

type Filter = fn(&Question) -> Result<(), Refusal>;

/// Every filter, in the order in which they are asked; the first refusal counts. Upstream's NodeName is not among them: a pod
/// that names its node is bound already and never arrives here.
const FILTERS: &[Filter] =
    &[unschedulable, taints, node_affinity, host_ports, fit, super::spread::filter, super::affinity::filter];

/// May the pod run there?
pub(crate) fn filter(question: &Question) -> Result<(), Refusal> {
    FILTERS.iter().try_for_each(|filter| filter(question))
}

pub(super) fn refuse(plugin: Plugin, reason: impl Into<String>, unresolvable: bool) -> Result<(), Refusal> {
    Err(Refusal { plugin, reasons: vec![reason.into()], unresolvable })
}

fn unschedulable(question: &Question) -> Result<(), Refusal> {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: "".into(),
        effect: "NoSchedule".into(),
        time_added: None,
    };
    if question.node.unschedulable && !tolerated(&question.pod.ask.tolerations, &taint) {
        return refuse(Plugin::NodeUnschedulable, "node(s) were unschedulable", true);
    }
    Ok(())
}

/// Does some toleration cover the taint?
pub(crate) fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        toleration.effect.as_ref().is_none_or(|effect| *effect == taint.effect)
            && toleration.key.as_ref().map_or(toleration.value.is_none(), |key| *key == taint.key)
            && toleration.value.as_ref().is_none_or(|value| *value == taint.value)
    })
}

/// The first taint that keeps the pod away.
pub(crate) fn untolerated<'a>(ask: &Ask, node: &'a Node) -> Option<&'a Taint> {
    let hard = node.taints.iter().filter(|taint| &*taint.effect != "PreferNoSchedule");
    hard.into_iter().find(|taint| !tolerated(&ask.tolerations, taint))
}

fn taints(question: &Question) -> Result<(), Refusal> {
    match untolerated(&question.pod.ask, question.node) {
        Some(taint) => {
            let reason = format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value);
            refuse(Plugin::TaintToleration, reason, true)
        }
        None => Ok(()),
    }
}

/// Does the node satisfy the term?
pub(crate) fn term_holds(term: &NodeTerm, labels: &Labels, name: &str) -> bool {
    term.labels.iter().all(|requirement| requirement.holds(labels.get(&requirement.key)))
        && term.fields.iter().all(|field| &*field.key == "metadata.name" && field.holds(Some(name)))
}

/// Do `nodeSelector` and required node affinity allow the node?
pub(crate) fn affinity_allows(ask: &Ask, node: &Node) -> bool {
    ask.node_selector.as_ref().is_none_or(|selector| selector.matches(&node.labels))
        && ask
            .node_terms
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term_holds(term, &node.labels, &node.name.0)))
}

fn node_affinity(question: &Question) -> Result<(), Refusal> {
    if affinity_allows(&question.pod.ask, question.node) {
        return Ok(());
    }
    refuse(Plugin::NodeAffinity, "node(s) didn't match Pod's node affinity/selector", true)
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    let everywhere = |port: &HostPort| &*port.ip == "0.0.0.0" || &*port.ip == "::";
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || everywhere(a) || everywhere(b))
}

fn host_ports(question: &Question) -> Result<(), Refusal> {
    let wanted = &question.pod.ask.host_ports;
    if wanted.is_empty() {
        return Ok(());
    }
    let taken = question
        .others()
        .any(|pod| pod.ask.host_ports.iter().any(|taken| wanted.iter().any(|port| clash(taken, port))));
    if taken {
        return refuse(Plugin::NodePorts, "node(s) didn't have free ports for the requested pod ports", false);
    }
    Ok(())
}

impl Question<'_> {
    /// The pods that the node would have.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Pod> {
        let there = self.cluster.pods_of(self.node);
        there.filter(|pod| !self.without.iter().any(|gone| gone.uid == pod.uid)).chain(self.with.iter().copied())
    }

    fn requested(&self) -> Amounts {
        let mut requested = self.node.requested.clone();
        self.without.iter().for_each(|pod| requested.add(&pod.ask.requests, -1));
        self.with.iter().for_each(|pod| requested.add(&pod.ask.requests, 1));
        requested
    }
}

fn fit(question: &Question) -> Result<(), Refusal> {
    let (ask, offer) = (&question.pod.ask.requests, &question.node.allocatable);
    let requested = question.requested();
    let mut reasons = Vec::new();
    let mut unresolvable = false;
    if requested.pods + 1 > offer.pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, ask: i64, taken: i64, offer: i64| {
        if ask > 0 && ask > offer - taken {
            reasons.push(format!("Insufficient {name}"));
            unresolvable |= ask > offer;
        }
    };
    check("cpu", ask.cpu, requested.cpu, offer.cpu);
    check("memory", ask.memory, requested.memory, offer.memory);
    check("ephemeral-storage", ask.storage, requested.storage, offer.storage);
    for (name, amount) in &ask.others {
        check(name, *amount, requested.other(name), offer.other(name));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Refusal { plugin: Plugin::NodeResourcesFit, reasons, unresolvable })
}
