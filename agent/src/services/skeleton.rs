//! Pure: what the table consists of before any service is in it.

use super::atom::Set;
use super::render::Facts;
use super::statement::{Key, Rule, Statement};
use crate::netlink::nft::{Base, Hook};
use crate::network::Cidr;
use core::net::IpAddr;

/// The chain that refuses.
pub(crate) const REFUSED: &str = "refused";
const SERVICES: &str = "services";
const REFUSE: &str = "refuse";
const POLICIES: &str = "policies";

/// A chain of the skeleton.
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<Rule>,
}

/// Every chain, those that are jumped to first.
pub(crate) fn chains(facts: &Facts) -> Vec<Chain> {
    let base = |kind, hook, priority| Some(Base { kind, hook, priority });
    let jump = |to: &str| vec![vec![Statement::Jump(to.to_owned())]];
    let check = || vec![vec![Statement::NewConnection, Statement::Jump(REFUSE.to_owned())]];
    let forward = || [check(), vec![vec![Statement::NewConnection, Statement::Jump(POLICIES.to_owned())]]].concat();
    let (raw, destination_nat, filter, source_nat) = (-300, -100, 0, 100);
    let chain = |name, base, rules| Chain { name, base, rules };
    vec![
        chain(SERVICES, None, services(facts)),
        chain(REFUSED, None, vec![vec![Statement::Protocol(6), Statement::ResetTcp], vec![Statement::Reject]]),
        chain(REFUSE, None, refuse(facts)),
        chain(POLICIES, None, policies()),
        chain("guard", base("filter", Hook::Prerouting, raw), guard(facts)),
        chain("nat-prerouting", base("nat", Hook::Prerouting, destination_nat), jump(SERVICES)),
        chain("nat-output", base("nat", Hook::Output, destination_nat), jump(SERVICES)),
        chain("filter-input", base("filter", Hook::Input, filter), check()),
        chain("filter-forward", base("filter", Hook::Forward, filter), forward()),
        chain("filter-output", base("filter", Hook::Output, filter), check()),
        chain("nat-postrouting", base("nat", Hook::Postrouting, source_nat), postrouting(facts)),
    ]
}

const IP4: &[Key] = &[Key::Destination(true), Key::Protocol, Key::Port];
const IP6: &[Key] = &[Key::Destination(false), Key::Protocol, Key::Port];
const NODE: &[Key] = &[Key::Family, Key::Protocol, Key::Port];
const HOST: &[Key] = &[Key::Protocol, Key::Port];

fn source(range: Cidr) -> Statement {
    Statement::Address { source: true, inside: true, range }
}

fn destination(range: Cidr) -> Statement {
    Statement::Address { source: false, inside: true, range }
}

fn single(ip: IpAddr) -> Cidr {
    Cidr::new(ip, 128)
}

fn to_this_board() -> Statement {
    Statement::Local { source: false, is: true }
}

fn map(keys: &'static [Key], set: Set) -> Statement {
    Statement::VerdictMap { keys, map: set.name().to_owned() }
}

fn services(facts: &Facts) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        facts.dns_addresses.iter().map(|ip| vec![destination(single(*ip)), Statement::Return]).collect();
    // From elsewhere than a pod the answer must come back through this board.
    for service in &facts.service_ranges {
        let others = facts.cluster_ranges.iter().filter(|range| range.is_ipv4() == service.is_ipv4());
        let others: Rule =
            others.map(|range| Statement::Address { source: true, inside: false, range: *range }).collect();
        if !others.is_empty() {
            rules.push([others, vec![destination(*service), Statement::Mark]].concat());
        }
    }
    rules.push(vec![map(IP4, Set::ServiceIps4)]);
    rules.push(vec![map(IP6, Set::ServiceIps6)]);
    rules.push(vec![to_this_board(), map(NODE, Set::NodePorts)]);
    for (ipv4, keys, set) in [(true, IP4, Set::HostPortsIp4), (false, IP6, Set::HostPortsIp6)] {
        rules.push(vec![Statement::DnatMap { ipv4, keys, map: set.name().to_owned() }]);
    }
    for (ipv4, set) in [(true, Set::HostPorts4), (false, Set::HostPorts6)] {
        let dnat = Statement::DnatMap { ipv4, keys: HOST, map: set.name().to_owned() };
        rules.push(vec![to_this_board(), Statement::Family(ipv4), dnat]);
    }
    rules
}

fn refuse(facts: &Facts) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        facts.dns_addresses.iter().map(|ip| vec![destination(single(*ip)), Statement::Return]).collect();
    rules.push(vec![map(IP4, Set::RefusedIps4)]);
    rules.push(vec![map(IP6, Set::RefusedIps6)]);
    rules.push(vec![to_this_board(), map(NODE, Set::RefusedNodePorts)]);
    // What still has a service address here belongs to no service, or to a port that it does not have.
    for range in &facts.service_ranges {
        rules.push(vec![destination(*range), Statement::Goto(REFUSED.to_owned())]);
    }
    rules
}

/// What leaves a closed pod, and what comes to one. What passes the first is still looked at by the second.
fn policies() -> Vec<Rule> {
    const FROM: [(&[Key], Set); 2] =
        [(&[Key::Source(true)], Set::PolicyOut4), (&[Key::Source(false)], Set::PolicyOut6)];
    const TO: [(&[Key], Set); 2] =
        [(&[Key::Destination(true)], Set::PolicyIn4), (&[Key::Destination(false)], Set::PolicyIn6)];
    FROM.into_iter().chain(TO).map(|(keys, set)| vec![map(keys, set)]).collect()
}

/// Replies to 127.0.0.1 need `route_localnet` on the pods' interfaces; a pod's own packets to it are dropped.
fn guard(facts: &Facts) -> Vec<Rule> {
    let loopback = Cidr::new(IpAddr::from([127, 0, 0, 0]), 8);
    vec![vec![Statement::Input(facts.interface_prefix.clone()), destination(loopback), Statement::Drop]]
}

fn postrouting(facts: &Facts) -> Vec<Rule> {
    let hairpin = |keys, set: Set| vec![Statement::In { keys, set: set.name().to_owned() }, Statement::Masquerade];
    let loopback = Cidr::new(IpAddr::from([127, 0, 0, 0]), 8);
    let mut rules = vec![
        vec![Statement::Unmark, Statement::Masquerade],
        hairpin(&[Key::Source(true), Key::Destination(true)], Set::Hairpin4),
        hairpin(&[Key::Source(false), Key::Destination(false)], Set::Hairpin6),
        vec![Statement::NotOutput("lo"), source(loopback), Statement::Masquerade],
    ];
    for own in &facts.own_ranges {
        let cluster = facts.cluster_ranges.iter().filter(|range| range.is_ipv4() == own.is_ipv4());
        let outside = cluster.map(|range| Statement::Address { source: false, inside: false, range: *range });
        let mut rule = vec![source(*own)];
        rule.extend(outside);
        rule.extend([Statement::UnicastDestination, Statement::Masquerade]);
        rules.push(rule);
    }
    rules
}
