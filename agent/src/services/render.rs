//! Pure: one service, or one pod's host ports, to its unit of the table.

use super::atom::{Atom, Element, Gives, Set, protocol_name};
use super::index::{ServicePort, Snapshot};
use super::select::{Chosen, choose};
use super::statement::{Key, Rule, Statement};
use super::unit::Unit;
use crate::network::Cidr;
use crate::pods::HostPort;
use core::net::{IpAddr, SocketAddr};

/// What the table depends on beside services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Pod ranges of the whole cluster.
    pub(crate) cluster_ranges: Vec<Cidr>,
    /// Pod ranges of this board.
    pub(crate) own_ranges: Vec<Cidr>,
    pub(crate) service_ranges: Vec<Cidr>,
    /// Answered on the board itself, never rewritten.
    pub(crate) dns_addresses: Vec<IpAddr>,
    /// `topology.kubernetes.io/zone` of this board, or empty.
    pub(crate) zone: String,
    /// What the names of our interfaces begin with.
    pub(crate) interface_prefix: String,
}

const UDP: u8 = 17;

pub(crate) fn service(facts: &Facts, key: &str, snapshot: &Snapshot) -> Unit {
    let mut unit = Unit::default();
    if !snapshot.service.headless && snapshot.service.external_name.is_none() {
        for port in &snapshot.service.ports {
            ServicePortRender { facts, key, snapshot, port, unit: &mut unit }.run();
        }
    }
    unit
}

struct ServicePortRender<'a> {
    facts: &'a Facts,
    key: &'a str,
    snapshot: &'a Snapshot,
    port: &'a ServicePort,
    unit: &'a mut Unit,
}

impl ServicePortRender<'_> {
    fn run(&mut self) {
        let chosen = [true, false].map(|ipv4| choose(self.snapshot, self.port, ipv4, &self.facts.zone));
        for (chosen, ipv4) in chosen.iter().zip([true, false]) {
            self.entrances(chosen, ipv4);
            self.unit.hairpin.extend(chosen.own.iter().map(SocketAddr::ip));
            if self.port.protocol == UDP {
                self.unit.udp_targets.extend(chosen.cluster.iter().chain(&chosen.local));
            }
        }
        let service = &self.snapshot.service;
        let any = |of: fn(&Chosen) -> &Vec<SocketAddr>| chosen.iter().any(|chosen| !of(chosen).is_empty());
        let outside = service.ports.iter().any(|port| port.node_port != 0)
            || !service.external_ips.is_empty()
            || !service.ingress_ips.is_empty();
        let (cluster, local) = (any(|chosen| &chosen.cluster), any(|chosen| &chosen.local));
        let local_wanted = service.internal_local || (outside && service.external_local);
        if cluster && (!service.internal_local || outside) {
            self.destination("svc", chosen.each_ref().map(|chosen| chosen.cluster.as_slice()));
        }
        if local && local_wanted {
            self.destination("svl", chosen.each_ref().map(|chosen| chosen.local.as_slice()));
        }
        if outside && cluster {
            self.outside_chain(local);
        }
    }

    fn name(&self, kind: &str) -> String {
        format!("{kind}/{}/{}/{}", self.key, protocol_name(self.port.protocol), self.port.port)
    }

    /// The keys under which the service is found, and where they lead.
    fn entrances(&mut self, chosen: &Chosen, ipv4: bool) {
        let service = &self.snapshot.service;
        let inside = if service.internal_local { &chosen.local } else { &chosen.cluster };
        let inside_chain = self.name(if service.internal_local { "svl" } else { "svc" });
        let refused = || Gives::Goto(super::skeleton::REFUSED.to_owned());
        let (ips, refused_ips) =
            (Set::of(ipv4, Set::ServiceIps4, Set::ServiceIps6), Set::of(ipv4, Set::RefusedIps4, Set::RefusedIps6));
        for ip in service.cluster_ips.iter().filter(|ip| ip.is_ipv4() == ipv4) {
            if !inside.is_empty() {
                self.element(ips, Atom::Ip(*ip), self.port.port, Gives::Goto(inside_chain.clone()));
            } else if chosen.cluster.is_empty() {
                self.element(refused_ips, Atom::Ip(*ip), self.port.port, refused());
            } else {
                self.element(refused_ips, Atom::Ip(*ip), self.port.port, Gives::Drop);
            }
        }
        let outside = service.external_ips.iter().map(|ip| (*ip, false));
        let outside: Vec<_> = outside
            .chain(service.ingress_ips.iter().map(|ip| (*ip, !service.source_ranges.is_empty())))
            .filter(|(ip, _)| ip.is_ipv4() == ipv4)
            .collect();
        let elsewhere = service.external_local && chosen.local.is_empty();
        for (ip, guarded) in outside {
            if chosen.cluster.is_empty() {
                self.element(refused_ips, Atom::Ip(ip), self.port.port, refused());
                continue;
            }
            let chain = self.name(if guarded { "lb" } else { "ext" });
            self.element(ips, Atom::Ip(ip), self.port.port, Gives::Goto(chain));
            if elsewhere {
                self.element(refused_ips, Atom::Ip(ip), self.port.port, Gives::Drop);
            }
        }
        if self.port.node_port == 0 || !self.has_family(ipv4) {
            return;
        }
        if chosen.cluster.is_empty() {
            self.element(Set::RefusedNodePorts, Atom::Family(ipv4), self.port.node_port, refused());
            return;
        }
        self.element(Set::NodePorts, Atom::Family(ipv4), self.port.node_port, Gives::Goto(self.name("ext")));
        if elsewhere {
            self.element(Set::RefusedNodePorts, Atom::Family(ipv4), self.port.node_port, Gives::Drop);
        }
    }

    fn has_family(&self, ipv4: bool) -> bool {
        self.snapshot.service.cluster_ips.iter().any(|ip| ip.is_ipv4() == ipv4)
    }

    fn element(&mut self, set: Set, first: Atom, port: u16, gives: Gives) {
        let key = vec![first, Atom::Protocol(self.port.protocol), Atom::Port(port)];
        self.unit.elements.insert(Element { set, key, gives });
    }

    /// The chain that chooses an endpoint: one rule a family, or with affinity a chain and a set for each endpoint.
    fn destination(&mut self, kind: &str, families: [&[SocketAddr]; 2]) {
        let mut rules = Vec::new();
        for (targets, ipv4) in families.into_iter().zip([true, false]).filter(|(targets, _)| !targets.is_empty()) {
            match self.snapshot.service.affinity_s {
                None => {
                    let dnat = Statement::Dnat { ipv4, targets: targets.to_vec() };
                    rules.push(vec![Statement::Protocol(self.port.protocol), dnat]);
                }
                Some(seconds) => rules.extend(self.affinity(targets, ipv4, seconds)),
            }
        }
        self.unit.chains.insert(self.name(kind), rules);
    }

    /// A known source goes where it went before, another one somewhere at random; both are remembered there.
    fn affinity(&mut self, targets: &[SocketAddr], ipv4: bool, seconds: u32) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut chains = Vec::new();
        for target in targets {
            // nft's names know no colon.
            let at = format!("{}/{}", target.ip().to_string().replace(':', "."), target.port());
            let (set, chain) = (format!("{}/{at}/{seconds}", self.name("aff")), format!("{}/{at}", self.name("ep")));
            let keys: &[Key] = if ipv4 { &[Key::Source(true)] } else { &[Key::Source(false)] };
            rules.push(vec![Statement::In { keys, set: set.clone() }, Statement::Goto(chain.clone())]);
            let dnat = Statement::Dnat { ipv4, targets: vec![*target] };
            let remember = vec![Statement::Remember { ipv4, set: set.clone() }];
            let endpoint = vec![remember, vec![Statement::Protocol(self.port.protocol), dnat]];
            self.unit.chains.insert(chain.clone(), endpoint);
            self.unit.affinity.insert(set, (ipv4, seconds));
            chains.push(chain);
        }
        rules.push(vec![Statement::Family(ipv4), Statement::Spread(chains)]);
        rules
    }

    /// Traffic from outside: masqueraded so that the answer comes back through this board, unless it stays here.
    fn outside_chain(&mut self, has_local: bool) {
        let service = &self.snapshot.service;
        let inside = self.name("svc");
        let rules = if service.external_local {
            let own = |range: &Cidr| {
                vec![Statement::Address { source: true, inside: true, range: *range }, Statement::Goto(inside.clone())]
            };
            let mut rules: Vec<Rule> = self.facts.cluster_ranges.iter().map(own).collect();
            rules.push(vec![
                Statement::Local { source: true, is: true },
                Statement::Mark,
                Statement::Goto(inside.clone()),
            ]);
            if has_local {
                rules.push(vec![Statement::Goto(self.name("svl"))]);
            }
            rules
        } else {
            vec![vec![Statement::Mark, Statement::Goto(inside)]]
        };
        self.unit.chains.insert(self.name("ext"), rules);
        if !service.ingress_ips.is_empty() && !service.source_ranges.is_empty() {
            let goto = || Statement::Goto(self.name("ext"));
            let allowed = |range: &Cidr| vec![Statement::Address { source: true, inside: true, range: *range }, goto()];
            let mut rules: Vec<Rule> = service.source_ranges.iter().map(allowed).collect();
            rules.push(vec![Statement::Local { source: true, is: true }, goto()]);
            rules.push(vec![Statement::Drop]);
            self.unit.chains.insert(self.name("lb"), rules);
        }
    }
}

/// The host ports of one pod.
pub(crate) fn host_ports(ips: &[IpAddr], ports: &[HostPort]) -> Unit {
    let mut unit = Unit::default();
    for port in ports {
        let protocol = port.protocol.number();
        // 0.0.0.0 and :: mean every address of the board.
        let host_ip = port.host_ip.filter(|ip| !ip.is_unspecified());
        for ip in ips.iter().filter(|ip| host_ip.is_none_or(|host| host.is_ipv4() == ip.is_ipv4())) {
            let ipv4 = ip.is_ipv4();
            let target = SocketAddr::new(*ip, port.container_port);
            let ends = [Atom::Protocol(protocol), Atom::Port(port.host_port)];
            let (set, key) = match host_ip {
                None => (Set::of(ipv4, Set::HostPorts4, Set::HostPorts6), ends.to_vec()),
                Some(host) => {
                    let set = Set::of(ipv4, Set::HostPortsIp4, Set::HostPortsIp6);
                    (set, [&[Atom::Ip(host)], ends.as_slice()].concat())
                }
            };
            unit.elements.insert(Element { set, key, gives: Gives::Target(target) });
            unit.hairpin.insert(*ip);
            if protocol == UDP {
                unit.udp_targets.insert(target);
            }
        }
    }
    unit
}
