//! Pure: what a pod asks of a node. Pods of one template share one ask, so ten thousand replicas cost one.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::amounts::{Amounts, pod_amounts};
use crate::controllers::selector::{Requirement, Selector, requirement};
use crate::controllers::text::{Interner, Labels, Str, at, flag_at, int_at, list_at, str_at};

/// A toleration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Toleration {
    pub(crate) key: Option<Str>,
    /// `None` is the operator Exists.
    pub(crate) value: Option<Str>,
    /// `None` tolerates every effect.
    pub(crate) effect: Option<Str>,
}

/// A port on the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub(crate) ip: Str,
    pub(crate) protocol: Str,
    pub(crate) port: i64,
}

/// One term of a node selector: all must hold; a term without any matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeTerm {
    pub(crate) labels: Box<[Requirement]>,
    /// On `metadata.name`.
    pub(crate) fields: Box<[Requirement]>,
}

/// One term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodTerm {
    pub(crate) selector: Option<Selector>,
    pub(crate) namespaces: Box<[Str]>,
    /// Selects namespaces by their labels; `None` selects none.
    pub(crate) namespace_selector: Option<Selector>,
    pub(crate) topology_key: Str,
    pub(crate) weight: i64,
}

/// One topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spread {
    pub(crate) max_skew: i64,
    pub(crate) topology_key: Str,
    pub(crate) required: bool,
    pub(crate) selector: Option<Selector>,
    pub(crate) min_domains: i64,
    /// Only nodes that the pod's node affinity allows count.
    pub(crate) honor_affinity: bool,
    /// Only nodes whose taints the pod tolerates count.
    pub(crate) honor_taints: bool,
}

/// Everything in a pod's spec (and labels) on which its place depends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    pub(crate) requests: Amounts,
    /// Requests with upstream's defaults for pods that name none: what scores look at.
    pub(crate) estimate: (i64, i64),
    pub(crate) node_selector: Option<Selector>,
    pub(crate) node_terms: Option<Box<[NodeTerm]>>,
    pub(crate) preferred_nodes: Box<[(i64, NodeTerm)]>,
    pub(crate) tolerations: Box<[Toleration]>,
    pub(crate) host_ports: Box<[HostPort]>,
    pub(crate) affinity: Box<[PodTerm]>,
    pub(crate) anti_affinity: Box<[PodTerm]>,
    pub(crate) preferred_affinity: Box<[PodTerm]>,
    pub(crate) preferred_anti_affinity: Box<[PodTerm]>,
    pub(crate) spread: Box<[Spread]>,
    pub(crate) priority: i64,
    pub(crate) never_preempts: bool,
    pub(crate) labels: Labels,
    pub(crate) images: Box<[Str]>,
}

impl Ask {
    /// Has it an opinion about other pods?
    pub(crate) fn is_affine(&self) -> bool {
        [&self.affinity, &self.anti_affinity, &self.preferred_affinity, &self.preferred_anti_affinity]
            .iter()
            .any(|terms| !terms.is_empty())
    }
}

/// Keeps each ask once.
#[derive(Default)]
pub(crate) struct Asks(HashSet<Arc<Ask>>);

/// Asks that no pod has any more are swept at this size and at every doubling.
const SWEEP_FLOOR: usize = 256;

impl Asks {
    pub(crate) fn share(&mut self, ask: Ask) -> Arc<Ask> {
        if let Some(known) = self.0.get(&ask) {
            return known.clone();
        }
        if self.0.len() >= SWEEP_FLOOR && self.0.len().is_power_of_two() {
            self.0.retain(|ask| Arc::strong_count(ask) > 1);
        }
        let ask = Arc::new(ask);
        self.0.insert(ask.clone());
        ask
    }
}

/// Reads the ask of a whole Pod.
pub(crate) fn read(pod: &Value, interner: &mut Interner) -> Ask {
    let spec = &pod["spec"];
    let labels = interner.labels(at(pod, &["metadata", "labels"]));
    let (requests, estimate) = pod_amounts(pod, interner);
    let node = at(spec, &["affinity", "nodeAffinity"]);
    let required = node.and_then(|node| at(node, &["requiredDuringSchedulingIgnoredDuringExecution"]));
    let terms = required.map(|required| {
        list_at(required, &["nodeSelectorTerms"]).iter().filter_map(|term| node_term(term, interner)).collect()
    });
    let preferred = node.map_or(&[][..], |node| list_at(node, &["preferredDuringSchedulingIgnoredDuringExecution"]));
    Ask {
        requests,
        estimate,
        node_selector: Selector::from_map(at(spec, &["nodeSelector"]), interner),
        node_terms: terms,
        preferred_nodes: preferred
            .iter()
            .filter_map(|entry| Some((int_at(entry, &["weight"])?, node_term(&entry["preference"], interner)?)))
            .collect(),
        tolerations: list_at(spec, &["tolerations"]).iter().map(|value| toleration(value, interner)).collect(),
        host_ports: host_ports(spec, interner),
        affinity: pod_terms(pod, "podAffinity", true, interner),
        anti_affinity: pod_terms(pod, "podAntiAffinity", true, interner),
        preferred_affinity: pod_terms(pod, "podAffinity", false, interner),
        preferred_anti_affinity: pod_terms(pod, "podAntiAffinity", false, interner),
        spread: list_at(spec, &["topologySpreadConstraints"])
            .iter()
            .map(|value| spread(value, &labels, interner))
            .collect(),
        priority: int_at(spec, &["priority"]).unwrap_or_default(),
        never_preempts: str_at(spec, &["preemptionPolicy"]) == "Never",
        images: list_at(spec, &["containers"])
            .iter()
            .filter_map(|container| interner.text_at(container, &["image"]))
            .collect(),
        labels,
    }
}

fn node_term(term: &Value, interner: &mut Interner) -> Option<NodeTerm> {
    let mut read = |field| -> Option<Box<[Requirement]>> {
        list_at(term, &[field]).iter().map(|value| requirement(value, interner)).collect()
    };
    let term = NodeTerm { labels: read("matchExpressions")?, fields: read("matchFields")? };
    if term.labels.is_empty() && term.fields.is_empty() { None } else { Some(term) }
}

fn toleration(value: &Value, interner: &mut Interner) -> Toleration {
    Toleration {
        key: interner.text_at(value, &["key"]),
        value: match str_at(value, &["operator"]) {
            "Exists" => None,
            _ => Some(interner.text(str_at(value, &["value"]))),
        },
        effect: interner.text_at(value, &["effect"]),
    }
}

fn host_ports(spec: &Value, interner: &mut Interner) -> Box<[HostPort]> {
    let host_network = flag_at(spec, &["hostNetwork"]);
    let restartable =
        list_at(spec, &["initContainers"]).iter().filter(|init| str_at(init, &["restartPolicy"]) == "Always");
    let mut ports = Vec::new();
    for port in list_at(spec, &["containers"]).iter().chain(restartable).flat_map(|c| list_at(c, &["ports"])) {
        let number = match int_at(port, &["hostPort"]) {
            Some(number) if number > 0 => number,
            _ if host_network => int_at(port, &["containerPort"]).unwrap_or_default(),
            _ => continue,
        };
        let ip = interner.text_at(port, &["hostIP"]).unwrap_or_else(|| interner.text("0.0.0.0"));
        let protocol = interner.text_at(port, &["protocol"]).unwrap_or_else(|| interner.text("TCP"));
        ports.push(HostPort { ip, protocol, port: number });
    }
    ports.into()
}

fn pod_terms(pod: &Value, kind: &str, required: bool, interner: &mut Interner) -> Box<[PodTerm]> {
    let list = if required {
        "requiredDuringSchedulingIgnoredDuringExecution"
    } else {
        "preferredDuringSchedulingIgnoredDuringExecution"
    };
    let own = str_at(pod, &["metadata", "namespace"]);
    let read = |value: &Value| {
        let (weight, term) = match required {
            true => (1, value),
            false => (int_at(value, &["weight"]).unwrap_or(1), &value["podAffinityTerm"]),
        };
        let listed = list_at(term, &["namespaces"]).iter().filter_map(Value::as_str);
        let mut namespaces: Vec<Str> = listed.map(|name| interner.text(name)).collect();
        let namespace_selector = Selector::from_label_selector(at(term, &["namespaceSelector"]), interner);
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(interner.text(own));
        }
        PodTerm {
            selector: Selector::from_label_selector(at(term, &["labelSelector"]), interner),
            namespaces: namespaces.into(),
            namespace_selector,
            topology_key: interner.text(str_at(term, &["topologyKey"])),
            weight,
        }
    };
    list_at(pod, &["spec", "affinity", kind, list]).iter().map(read).collect()
}

fn spread(value: &Value, labels: &Labels, interner: &mut Interner) -> Spread {
    let mut selector = value.get("labelSelector").cloned().unwrap_or(Value::Null);
    // matchLabelKeys: the pod's own value of each key is selected too.
    for key in list_at(value, &["matchLabelKeys"]).iter().filter_map(Value::as_str) {
        if let Some(own) = labels.get(key) {
            selector["matchLabels"][key] = own.into();
        }
    }
    Spread {
        max_skew: int_at(value, &["maxSkew"]).unwrap_or(1),
        topology_key: interner.text(str_at(value, &["topologyKey"])),
        required: str_at(value, &["whenUnsatisfiable"]) != "ScheduleAnyway",
        selector: Selector::from_label_selector(Some(&selector), interner),
        min_domains: int_at(value, &["minDomains"]).unwrap_or(1),
        honor_affinity: str_at(value, &["nodeAffinityPolicy"]) != "Ignore",
        honor_taints: str_at(value, &["nodeTaintsPolicy"]) == "Honor",
    }
}
