//! Pure: policies to units of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::model::{Direction, Opening, Peer, Pod, Policy, Port, View, Which};
use crate::network::Cidr;
use crate::services::atom::{Atom, Element, Gives, Set};
use crate::services::statement::{Key, Rule, Statement};
use crate::services::unit::{Peers, Unit};

/// The units of all policies that concern a pod of this board: one for each such pod, one for each policy.
pub(super) fn units(model: &View<'_>) -> BTreeMap<String, Unit> {
    let mut units = BTreeMap::new();
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for (name, pod) in model.pods.iter().filter(|(_, pod)| pod.local) {
        let mut unit = Unit::default();
        for direction in [Direction::In, Direction::Out] {
            let closing: Vec<(&String, &Policy)> =
                model.policies.iter().filter(|(_, policy)| policy.closes(pod, direction)).collect();
            if closing.is_empty() {
                continue;
            }
            needed.extend(closing.iter().map(|(name, _)| name.as_str()));
            let chain = format!("{}/{name}", if direction == Direction::In { "pol-in" } else { "pol-out" });
            unit.chains.insert(chain.clone(), chain_of(pod, direction, &closing));
            for ip in &pod.ips {
                let set = match direction {
                    Direction::In => Set::of(ip.is_ipv4(), Set::PolicyIn4, Set::PolicyIn6),
                    Direction::Out => Set::of(ip.is_ipv4(), Set::PolicyOut4, Set::PolicyOut6),
                };
                unit.elements.insert(Element { set, key: vec![Atom::Ip(*ip)], gives: Gives::Jump(chain.clone()) });
            }
        }
        if !unit.chains.is_empty() {
            units.insert(format!("pod {name}"), unit);
        }
    }
    for name in needed {
        units.insert(format!("policy {name}"), Unit { peers: sets(model, &model.policies[name]), ..Unit::default() });
    }
    units
}

/// The name of the set of one rule's peers.
fn set_name(policy: &Policy, direction: Direction, rule: usize, ipv4: bool) -> String {
    let side = if direction == Direction::In { "from" } else { "to" };
    format!("{side}/{}/{}/{rule}/{}", policy.namespace, policy.name, if ipv4 { 4 } else { 6 })
}

/// The same with the numbers that those peers have for a port's name.
fn named_set(policy: &Policy, rule: usize, port: usize, ipv4: bool) -> String {
    format!("{}/{port}", set_name(policy, Direction::Out, rule, ipv4))
}

fn has_pods(opening: &Opening) -> bool {
    opening.peers.iter().any(|peer| matches!(peer, Peer::Pods { .. }))
}

/// Every set that the chains of a policy look into.
fn sets(model: &View<'_>, policy: &Policy) -> BTreeMap<String, Peers> {
    let mut sets = BTreeMap::new();
    for (direction, openings) in &policy.closes {
        for (rule, opening) in openings.iter().enumerate() {
            let pods: Vec<&Pod> = opening.peers.iter().flat_map(|peer| pods_of(model, policy, peer)).collect();
            for ipv4 in [true, false] {
                let ips =
                    |pod: &Pod| pod.ips.iter().copied().filter(|ip| ip.is_ipv4() == ipv4).collect::<Vec<IpAddr>>();
                if has_pods(opening) {
                    let elements = pods.iter().flat_map(|pod| ips(pod)).map(|ip| vec![Atom::Ip(ip)]).collect();
                    sets.insert(set_name(policy, *direction, rule, ipv4), Peers { ipv4, with_port: false, elements });
                }
                for (at, port, name) in named(opening).filter(|_| *direction == Direction::Out) {
                    // Without peers the name is looked for in every pod.
                    let receivers: Vec<&Pod> =
                        if opening.has_peers { pods.clone() } else { model.pods.values().map(|pod| &**pod).collect() };
                    let elements = receivers.iter().filter_map(|pod| Some((pod, pod.port(name, port.protocol)?)));
                    let elements = elements.flat_map(|(pod, number)| ips(pod).into_iter().map(move |ip| (ip, number)));
                    let key = |(ip, number)| vec![Atom::Ip(ip), Atom::Protocol(port.protocol), Atom::Port(number)];
                    let elements = elements.map(key).collect();
                    sets.insert(named_set(policy, rule, at, ipv4), Peers { ipv4, with_port: true, elements });
                }
            }
        }
    }
    sets
}

fn named(opening: &Opening) -> impl Iterator<Item = (usize, &Port, &str)> {
    opening.ports.iter().enumerate().filter_map(|(at, port)| match &port.which {
        Which::Named(name) => Some((at, port, &**name)),
        _ => None,
    })
}

fn pods_of<'a>(model: &'a View<'_>, policy: &'a Policy, peer: &'a Peer) -> Vec<&'a Pod> {
    match peer {
        Peer::Block { .. } => Vec::new(),
        Peer::Pods { namespaces, pods } => model.peers(policy, namespaces.as_ref(), pods).collect(),
    }
}

/// What passes returns; the rest is dropped.
fn chain_of(pod: &Pod, direction: Direction, closing: &[(&String, &Policy)]) -> Vec<Rule> {
    let source = direction == Direction::In;
    // A pod always reaches itself.
    let itself = pod
        .ips
        .iter()
        .map(|ip| vec![Statement::Address { source, inside: true, range: Cidr::new(*ip, 128) }, Statement::Return]);
    let mut rules: Vec<Rule> = itself.collect();
    for (_, policy) in closing {
        let openings = policy.closes.get(&direction).into_iter().flatten();
        for (rule, opening) in openings.enumerate() {
            Openings { pod, policy, direction, rule, opening, rules: &mut rules }.run();
        }
    }
    rules.push(vec![Statement::Drop]);
    rules
}

struct Openings<'a> {
    pod: &'a Pod,
    policy: &'a Policy,
    direction: Direction,
    rule: usize,
    opening: &'a Opening,
    rules: &'a mut Vec<Rule>,
}

impl Openings<'_> {
    fn run(&mut self) {
        for peer in self.peers() {
            if !self.opening.has_ports {
                self.rules.push([peer, vec![Statement::Return]].concat());
                continue;
            }
            for port in &self.opening.ports {
                let ports = match &port.which {
                    Which::Any => Statement::Protocol(port.protocol),
                    Which::Range(first, last) => {
                        Statement::Ports { protocol: port.protocol, first: *first, last: *last }
                    }
                    Which::Named(name) => match self.pod.port(name, port.protocol) {
                        // The receiver's: known where it is this pod, else by the sets below.
                        Some(number) if self.direction == Direction::In => {
                            Statement::Ports { protocol: port.protocol, first: number, last: number }
                        }
                        _ => continue,
                    },
                };
                self.rules.push([peer.clone(), vec![ports, Statement::Return]].concat());
            }
        }
        if self.direction == Direction::Out {
            for (at, ..) in named(self.opening) {
                for ipv4 in [true, false] {
                    let keys: &[Key] = if ipv4 { PORT4 } else { PORT6 };
                    let set = named_set(self.policy, self.rule, at, ipv4);
                    self.rules.push(vec![Statement::In { keys, set }, Statement::Return]);
                }
            }
        }
    }

    /// How each kind of peer is recognised.
    fn peers(&self) -> Vec<Rule> {
        if !self.opening.has_peers {
            return vec![Rule::new()];
        }
        let source = self.direction == Direction::In;
        let mut all = Vec::new();
        if has_pods(self.opening) {
            for ipv4 in [true, false] {
                let keys: &[Key] = match (source, ipv4) {
                    (true, true) => &[Key::Source(true)],
                    (true, false) => &[Key::Source(false)],
                    (false, true) => &[Key::Destination(true)],
                    (false, false) => &[Key::Destination(false)],
                };
                let set = set_name(self.policy, self.direction, self.rule, ipv4);
                all.push(vec![Statement::In { keys, set }]);
            }
        }
        for peer in &self.opening.peers {
            if let Peer::Block { range, except } = peer {
                let inside = Statement::Address { source, inside: true, range: *range };
                let outside = except.iter().map(|range| Statement::Address { source, inside: false, range: *range });
                all.push(std::iter::once(inside).chain(outside).collect());
            }
        }
        all
    }
}

const PORT4: &[Key] = &[Key::Destination(true), Key::Protocol, Key::Port];
const PORT6: &[Key] = &[Key::Destination(false), Key::Protocol, Key::Port];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::services::policy::model::Model;
    use crate::services::policy::selector::labels;
    use crate::services::statement::text;

    fn pod(name: &str, last: u8, node: &str) -> (String, Pod) {
        let object = json!({"metadata": {"namespace": "a", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"ports": [{"name": "http", "containerPort": 8000 + u16::from(last)}]}]},
            "status": {"podIP": format!("10.42.0.{last}")}});
        (format!("a/{name}"), Pod::parse(&object, "here").unwrap())
    }

    fn rendered(spec: Value) -> String {
        let policy = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec});
        let namespace = json!({"metadata": {"labels": {"team": "x"}}});
        let model = Model {
            policies: BTreeMap::from([("a/p".to_owned(), Policy::parse(&policy).unwrap())]),
            namespaces: BTreeMap::from([("a".to_owned(), labels(&namespace))]),
            pods: BTreeMap::from([pod("web", 1, "here"), pod("db", 2, "there"), pod("job", 3, "there")]),
            locals: BTreeMap::new(),
        };
        let mut lines = Vec::new();
        for (_, unit) in units(&View::of(&model)) {
            lines.extend(unit.elements.iter().map(|element| format!("{} {{ {element} }}", element.set.name())));
            for (name, peers) in unit.peers.iter().filter(|(_, peers)| peers.ipv4) {
                let all: Vec<String> = peers
                    .elements
                    .iter()
                    .map(|key| key.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . "))
                    .collect();
                lines.push(format!("{name} {{ {} }}", all.join(", ")));
            }
            for (name, rules) in &unit.chains {
                lines.extend(
                    rules.iter().map(text).filter(|rule| !rule.contains("ip6 ")).map(|rule| format!("{name}: {rule}")),
                );
            }
        }
        lines.join("\n")
    }

    const WEB: &str = r#"{"matchLabels": {"app": "web"}}"#;

    fn web() -> Value {
        serde_json::from_str(WEB).unwrap()
    }

    #[test]
    fn a_closed_pod_hears_only_itself() {
        let golden = "policy-in-4 { 10.42.0.1 : jump pol-in/a/web }\n\
            pol-in/a/web: ip saddr 10.42.0.1 return\n\
            pol-in/a/web: drop";
        assert_eq!(rendered(json!({"podSelector": web()})), golden);
        assert_eq!(rendered(json!({"podSelector": {"matchLabels": {"app": "db"}}})), "", "another board's");
    }

    #[test]
    fn peers_and_ports_are_let_in() {
        let spec = json!({"podSelector": web(), "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {"matchLabels": {"app": "db"}}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
             "ports": [{"port": "http"}, {"protocol": "UDP", "port": 53, "endPort": 54}]},
            {"ports": [{"port": 443}]},
        ]});
        let golden = "policy-in-4 { 10.42.0.1 : jump pol-in/a/web }\n\
            pol-in/a/web: ip saddr 10.42.0.1 return\n\
            pol-in/a/web: ip saddr @from/a/p/0/4 tcp dport 8001 return\n\
            pol-in/a/web: ip saddr @from/a/p/0/4 udp dport 53-54 return\n\
            pol-in/a/web: ip saddr 10.0.0.0/8 ip saddr != 10.1.0.0/16 tcp dport 8001 return\n\
            pol-in/a/web: ip saddr 10.0.0.0/8 ip saddr != 10.1.0.0/16 udp dport 53-54 return\n\
            pol-in/a/web: tcp dport 443 return\n\
            pol-in/a/web: drop\n\
            from/a/p/0/4 { 10.42.0.2 }";
        assert_eq!(rendered(spec), golden);
    }

    #[test]
    fn what_a_pod_may_reach_is_by_the_receivers_names() {
        let spec = json!({"podSelector": web(), "policyTypes": ["Egress"], "egress": [
            {"to": [{"podSelector": {}}], "ports": [{"port": "http"}]},
        ]});
        let golden = "policy-out-4 { 10.42.0.1 : jump pol-out/a/web }\n\
            pol-out/a/web: ip daddr 10.42.0.1 return\n\
            pol-out/a/web: ip daddr . meta l4proto . th dport @to/a/p/0/4/0 return\n\
            pol-out/a/web: drop\n\
            to/a/p/0/4 { 10.42.0.1, 10.42.0.2, 10.42.0.3 }\n\
            to/a/p/0/4/0 { 10.42.0.1 . tcp . 8001, 10.42.0.2 . tcp . 8002, 10.42.0.3 . tcp . 8003 }";
        assert_eq!(rendered(spec), golden);
    }

    #[test]
    fn types_default_as_upstream_says() {
        let both = rendered(json!({"podSelector": web(), "egress": [{}]}));
        assert!(both.contains("policy-in-4") && both.contains("policy-out-4"), "{both}");
        assert!(both.contains("pol-out/a/web: return"), "{both}");
        let out = rendered(json!({"podSelector": web(), "policyTypes": ["Egress"]}));
        assert!(!out.contains("policy-in-4") && out.contains("pol-out/a/web: drop"), "{out}");
    }
}
