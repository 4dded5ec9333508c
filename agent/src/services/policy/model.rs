//! Pure: policies, pods and namespaces, kept compactly: what the rules need, no more.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::selector::{Labels, Selector, labels};
use crate::network::Cidr;
use crate::pods::{PodNetRequest, Protocol};

/// Of rules: whom they let in, or whom they let a pod reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    In,
    Out,
}

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) pods: Selector,
    /// The directions that it closes, each with what it lets through.
    pub(super) closes: BTreeMap<Direction, Vec<Opening>>,
}

/// What one rule lets through; no peers, or no ports: any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) peers: Vec<Peer>,
    pub(super) ports: Vec<Port>,
    /// It names peers, or ports, of which none may be understood: then it lets nothing through.
    pub(super) has_peers: bool,
    pub(super) has_ports: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Peer {
    Block {
        range: Cidr,
        except: Vec<Cidr>,
    },
    /// Pods of the namespaces that are selected, or of the policy's own.
    Pods {
        namespaces: Option<Selector>,
        pods: Selector,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) protocol: u8,
    pub(super) which: Which,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which {
    Any,
    Range(u16, u16),
    /// A port of the receiving pod.
    Named(Box<str>),
}

/// A pod with an address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: Box<str>,
    pub(super) labels: Labels,
    pub(super) ips: Vec<IpAddr>,
    /// Name, protocol, number.
    pub(super) ports: Vec<(Box<str>, u8, u16)>,
    /// Lives on this board.
    pub(super) local: bool,
}

impl Pod {
    pub(super) fn port(&self, name: &str, protocol: u8) -> Option<u16> {
        let found = self.ports.iter().find(|(known, of, _)| **known == *name && *of == protocol);
        found.map(|(_, _, number)| *number)
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn protocol(value: &Value) -> u8 {
    Protocol::named(value.as_str().unwrap_or_default()).number()
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok())
}

impl Policy {
    pub(super) fn parse(object: &Value) -> Option<Self> {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        let types: Vec<&str> = list(&spec["policyTypes"]).filter_map(Value::as_str).collect();
        let has_egress = list(&spec["egress"]).next().is_some();
        let mut closes = BTreeMap::new();
        // Upstream's default where no types are given.
        if types.contains(&"Ingress") || types.is_empty() {
            closes.insert(Direction::In, list(&spec["ingress"]).map(|rule| opening(rule, "from")).collect());
        }
        if types.contains(&"Egress") || (types.is_empty() && has_egress) {
            closes.insert(Direction::Out, list(&spec["egress"]).map(|rule| opening(rule, "to")).collect());
        }
        Some(Self {
            namespace: metadata["namespace"].as_str()?.into(),
            name: metadata["name"].as_str()?.into(),
            pods: Selector::parse(&spec["podSelector"]),
            closes,
        })
    }

    /// Whether it closes this pod in this direction.
    pub(super) fn closes(&self, pod: &Pod, direction: Direction) -> bool {
        self.closes.contains_key(&direction) && self.namespace == pod.namespace && self.pods.matches(&pod.labels)
    }
}

fn opening(rule: &Value, peers: &str) -> Opening {
    Opening {
        has_peers: list(&rule[peers]).next().is_some(),
        has_ports: list(&rule["ports"]).next().is_some(),
        peers: list(&rule[peers]).filter_map(peer).collect(),
        ports: list(&rule["ports"]).filter_map(port).collect(),
    }
}

fn peer(peer: &Value) -> Option<Peer> {
    if let Some(block) = peer.get("ipBlock").filter(|block| !block.is_null()) {
        let range = block["cidr"].as_str()?.parse().ok()?;
        let except = list(&block["except"]).filter_map(|one| one.as_str()?.parse().ok()).collect();
        return Some(Peer::Block { range, except });
    }
    let namespaces = peer.get("namespaceSelector").filter(|selector| !selector.is_null()).map(Selector::parse);
    Some(Peer::Pods { namespaces, pods: Selector::parse(&peer["podSelector"]) })
}

fn port(port: &Value) -> Option<Port> {
    let which = match &port["port"] {
        Value::Null => Which::Any,
        Value::String(name) => Which::Named(name.as_str().into()),
        first => {
            let first = number(first)?;
            Which::Range(first, number(&port["endPort"]).unwrap_or(first))
        }
    };
    Some(Port { protocol: protocol(&port["protocol"]), which })
}

impl Pod {
    /// None of one that has no address of its own, or none any more.
    pub(super) fn parse(object: &Value, node_name: &str) -> Option<Self> {
        let (spec, status) = (&object["spec"], &object["status"]);
        if spec["hostNetwork"] == true || status["phase"] == "Succeeded" || status["phase"] == "Failed" {
            return None;
        }
        let mut ips: Vec<IpAddr> = list(&status["podIPs"]).filter_map(|one| one["ip"].as_str()?.parse().ok()).collect();
        if ips.is_empty() {
            ips.push(status["podIP"].as_str()?.parse().ok()?);
        }
        // Restartable init containers have ports too.
        let containers = list(&spec["containers"]).chain(list(&spec["initContainers"]));
        let ports = containers.flat_map(|container| list(&container["ports"])).filter_map(|port| {
            Some((port["name"].as_str()?.into(), protocol(&port["protocol"]), number(&port["containerPort"])?))
        });
        Some(Self {
            namespace: object["metadata"]["namespace"].as_str()?.into(),
            labels: labels(object),
            ips,
            ports: ports.collect(),
            local: spec["nodeName"] == node_name,
        })
    }

    /// One of this board, before the API server knows its addresses.
    pub(super) fn local(pod: &PodNetRequest, ips: &[IpAddr]) -> Self {
        Self {
            namespace: pod.namespace.as_str().into(),
            labels: pod.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
            ips: ips.to_vec(),
            ports: pod
                .ports
                .iter()
                .map(|port| (port.name.as_str().into(), port.protocol.number(), port.port))
                .collect(),
            local: true,
        }
    }
}

/// What is kept of a policy on the board.
pub(super) fn kept_policy(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({"metadata": {"namespace": metadata["namespace"], "name": metadata["name"]}, "spec": object["spec"]})
}

/// The same of a namespace.
pub(super) fn kept_namespace(object: &Value) -> Value {
    json!({"metadata": {"name": object["metadata"]["name"], "labels": object["metadata"]["labels"]}})
}

/// The same of a pod: what [`Pod::parse`] reads.
pub(super) fn kept_pod(object: &Value) -> Value {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let ports = |containers: &Value| -> Value {
        list(containers).filter(|one| one["ports"].is_array()).map(|one| json!({"ports": one["ports"]})).collect()
    };
    json!({"metadata": {"namespace": metadata["namespace"], "name": metadata["name"], "labels": metadata["labels"]},
        "spec": {"nodeName": spec["nodeName"], "containers": ports(&spec["containers"]),
            "initContainers": ports(&spec["initContainers"])},
        "status": {"podIP": status["podIP"], "podIPs": status["podIPs"]}})
}

/// Everything that policies are about.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// By `namespace/name`.
    pub(super) policies: BTreeMap<String, Policy>,
    pub(super) namespaces: BTreeMap<String, Labels>,
    /// As the API server tells them.
    pub(super) pods: BTreeMap<String, Pod>,
    /// By sandbox, `namespace/name` and the pod: what this board connected itself, and so knows first.
    pub(super) locals: BTreeMap<String, (String, Pod)>,
}

/// The model as the rules need it: pods of this board have the addresses that it gave them.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) policies: &'a BTreeMap<String, Policy>,
    namespaces: &'a BTreeMap<String, Labels>,
    pub(super) pods: BTreeMap<&'a str, Cow<'a, Pod>>,
}

impl<'a> View<'a> {
    pub(super) fn of(model: &'a Model) -> Self {
        let mut pods: BTreeMap<&str, Cow<'_, Pod>> =
            model.pods.iter().map(|(name, pod)| (name.as_str(), Cow::Borrowed(pod))).collect();
        // Addresses are given anew when a pod is gone here; the API server may not know yet.
        let given: BTreeSet<IpAddr> = model.locals.values().flat_map(|(_, pod)| &pod.ips).copied().collect();
        pods.retain(|_, pod| !pod.ips.iter().any(|ip| given.contains(ip)));
        for (name, local) in model.locals.values() {
            let known = model.pods.get(name).map_or_else(
                || local.clone(),
                |known| {
                    // Its labels may have changed since.
                    Pod { ips: local.ips.clone(), local: true, ..known.clone() }
                },
            );
            pods.insert(name, Cow::Owned(known));
        }
        Self { policies: &model.policies, namespaces: &model.namespaces, pods }
    }

    /// The pods that a peer of a policy means.
    pub(super) fn peers(
        &self,
        policy: &Policy,
        namespaces: Option<&Selector>,
        pods: &Selector,
    ) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|pod| &**pod).filter(move |pod| {
            let in_namespace = match namespaces {
                None => pod.namespace == policy.namespace,
                Some(selector) => self.namespaces.get(&*pod.namespace).is_some_and(|labels| selector.matches(labels)),
            };
            in_namespace && pods.matches(&pod.labels)
        })
    }
}
