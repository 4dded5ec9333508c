//! Pure: the whole table as `nft list table` prints it, elements sorted; what golden files and tests compare.

use super::atom::{Atom, Element, Set};
use super::difference::{AFFINITY_SIZE, hairpin_element};
use super::render::Facts;
use super::unit::Unit;
use super::{skeleton, statement};
use crate::netlink::nft::{self, Type};
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

/// The whole table as `nft list table` prints it, elements sorted.
pub(crate) fn text<'a>(table: &str, facts: &Facts, units: impl Iterator<Item = &'a Unit> + Clone) -> String {
    let mut lines = vec![format!("table inet {table} {{")];
    let mut all: BTreeMap<Set, BTreeSet<String>> = BTreeMap::new();
    let hairpin: BTreeSet<IpAddr> = units.clone().flat_map(|unit| unit.hairpin.iter().copied()).collect();
    let hairpin: Vec<Element> = hairpin.into_iter().map(hairpin_element).collect();
    for element in units.clone().flat_map(|unit| &unit.elements).chain(&hairpin) {
        all.entry(element.set).or_default().insert(element.to_string());
    }
    for set in Set::ALL {
        let (key, data) = set.types();
        let names = |types: &[Type]| types.iter().map(|at| at.name()).collect::<Vec<_>>().join(" . ");
        let data = if data.is_empty() { String::new() } else { format!(" : {}", names(data)) };
        lines.push(format!("\t{} {} {{", if data.is_empty() { "set" } else { "map" }, set.name()));
        lines.push(format!("\t\ttype {}{data}", names(key)));
        if let Some(elements) = all.get(&set) {
            let list: Vec<_> = elements.iter().map(String::as_str).collect();
            lines.push(format!("\t\telements = {{ {} }}", list.join(", ")));
        }
        lines.push("\t}".to_owned());
    }
    for (name, (ipv4, seconds)) in units.clone().flat_map(|unit| &unit.affinity) {
        let key = if *ipv4 { "ipv4_addr" } else { "ipv6_addr" };
        lines.push(format!("\tset {name} {{\n\t\ttype {key}\n\t\tsize {AFFINITY_SIZE}\n\t\tflags dynamic,timeout"));
        lines.push(format!("\t\ttimeout {}\n\t}}", duration(*seconds)));
    }
    for (name, peers) in units.clone().flat_map(|unit| &unit.peers) {
        let types = peers.types().iter().map(|at| at.name()).collect::<Vec<_>>().join(" . ");
        lines.push(format!("\tset {name} {{\n\t\ttype {types}"));
        let key = |key: &Vec<Atom>| key.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ");
        let list: Vec<String> = peers.elements.iter().map(key).collect();
        if !list.is_empty() {
            lines.push(format!("\t\telements = {{ {} }}", list.join(", ")));
        }
        lines.push("\t}".to_owned());
    }
    for chain in skeleton::chains(facts) {
        lines.push(format!("\tchain {} {{", chain.name));
        if let Some(base) = chain.base {
            lines.push(format!("\t\t{}; policy accept;", base_text(&base)));
        }
        lines.extend(chain.rules.iter().map(|rule| format!("\t\t{}", statement::text(rule))));
        lines.push("\t}".to_owned());
    }
    for (name, rules) in units.flat_map(|unit| &unit.chains) {
        lines.push(format!("\tchain {name} {{"));
        lines.extend(rules.iter().map(|rule| format!("\t\t{}", statement::text(rule))));
        lines.push("\t}".to_owned());
    }
    lines.push("}".to_owned());
    lines.join("\n") + "\n"
}

fn base_text(base: &nft::Base) -> String {
    use nft::Hook::{Forward, Input, Output, Postrouting, Prerouting};
    let hook = match base.hook {
        Prerouting => "prerouting",
        Input => "input",
        Forward => "forward",
        Output => "output",
        Postrouting => "postrouting",
    };
    let priority = match (base.priority, base.hook) {
        (-300, _) => "raw".to_owned(),
        (-100, Prerouting) => "dstnat".to_owned(),
        (0, _) => "filter".to_owned(),
        (100, Postrouting) => "srcnat".to_owned(),
        (other, _) => other.to_string(),
    };
    format!("type {} hook {hook} priority {priority}", base.kind)
}

/// Seconds as nft writes them: `3h`, `1m30s`.
fn duration(seconds: u32) -> String {
    let parts = [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

mod tests {
    use super::*;
    use crate::services::index::{Endpoint, Service, ServicePort, Slice, Snapshot};
    use crate::services::render;
    use std::sync::Arc;

    fn unit_text(unit: &Unit) -> String {
        let mut lines: Vec<String> =
            unit.elements.iter().map(|element| format!("{} {{ {element} }}", element.set.name())).collect();
        for (name, rules) in &unit.chains {
            lines.extend(rules.iter().map(|rule| format!("{name}: {}", statement::text(rule))));
        }
        lines.join("\n")
    }

    /// `d/web` on 10.43.0.7:80 and these endpoints; an endpoint with `true` is local.
    fn rendered(service: Service, endpoints: &[(u8, bool)]) -> String {
        let endpoint = |(last, local): &(u8, bool)| Endpoint {
            ip: [10, 42, 0, *last].into(),
            hostname: None,
            ready: true,
            serving: true,
            terminating: false,
            local: *local,
            zones: [].into(),
            for_our_node: None,
        };
        let endpoints = endpoints.iter().map(endpoint).collect();
        let slices = vec![Arc::new(Slice { service: None, ports: vec![("".into(), 6, 8080)], endpoints })];
        let facts = Facts { cluster_ranges: vec!["10.42.0.0/16".parse().unwrap()], ..Facts::default() };
        unit_text(&render::service(&facts, "d/web", &Snapshot { service: Arc::new(service), slices }))
    }

    fn web(node_port: u16) -> Service {
        let port = ServicePort { name: "".into(), protocol: 6, port: 80, node_port };
        Service { cluster_ips: vec![[10, 43, 0, 7].into()], ports: vec![port], ..Service::default() }
    }

    #[test]
    fn a_cluster_address() {
        let golden = "service-ips-4 { 10.43.0.7 . tcp . 80 : goto svc/d/web/tcp/80 }\n\
            svc/d/web/tcp/80: meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.42.0.5 . 8080, 1 : 10.42.0.6 . 8080 }";
        assert_eq!(rendered(web(0), &[(6, false), (5, true)]), golden);
        assert_eq!(rendered(web(0), &[]), "refused-ips-4 { 10.43.0.7 . tcp . 80 : goto refused }");
        assert_eq!(rendered(Service { headless: true, ..web(0) }, &[(5, true)]), "");
    }

    #[test]
    fn a_node_port_that_stays_on_the_board() {
        let service = || Service { external_local: true, ..web(30080) };
        let golden = "service-ips-4 { 10.43.0.7 . tcp . 80 : goto svc/d/web/tcp/80 }\n\
            node-ports { ipv4 . tcp . 30080 : goto ext/d/web/tcp/80 }\n\
            ext/d/web/tcp/80: ip saddr 10.42.0.0/16 goto svc/d/web/tcp/80\n\
            ext/d/web/tcp/80: fib saddr type local meta mark set meta mark | 0x00004000 goto svc/d/web/tcp/80\n\
            ext/d/web/tcp/80: goto svl/d/web/tcp/80\n\
            svc/d/web/tcp/80: meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.42.0.5 . 8080, 1 : 10.42.0.6 . 8080 }\n\
            svl/d/web/tcp/80: meta l4proto tcp dnat ip to 10.42.0.5:8080";
        assert_eq!(rendered(service(), &[(5, true), (6, false)]), golden);
        let elsewhere = rendered(service(), &[(6, false)]);
        assert!(elsewhere.contains("refused-node-ports { ipv4 . tcp . 30080 : drop }"), "{elsewhere}");
        assert!(!elsewhere.contains("svl/"), "{elsewhere}");
    }

    #[test]
    fn affinity_remembers_at_each_endpoint() {
        let golden = "service-ips-4 { 10.43.0.7 . tcp . 80 : goto svc/d/web/tcp/80 }\n\
            ep/d/web/tcp/80/10.42.0.5/8080: update @aff/d/web/tcp/80/10.42.0.5/8080/60 { ip saddr }\n\
            ep/d/web/tcp/80/10.42.0.5/8080: meta l4proto tcp dnat ip to 10.42.0.5:8080\n\
            svc/d/web/tcp/80: ip saddr @aff/d/web/tcp/80/10.42.0.5/8080/60 goto ep/d/web/tcp/80/10.42.0.5/8080\n\
            svc/d/web/tcp/80: meta nfproto ipv4 goto ep/d/web/tcp/80/10.42.0.5/8080";
        assert_eq!(rendered(Service { affinity_s: Some(60), ..web(0) }, &[(5, true)]), golden);
    }

    #[test]
    fn internal_traffic_that_stays_on_the_board() {
        let service = || Service { internal_local: true, ..web(0) };
        let golden = "service-ips-4 { 10.43.0.7 . tcp . 80 : goto svl/d/web/tcp/80 }\n\
            svl/d/web/tcp/80: meta l4proto tcp dnat ip to 10.42.0.5:8080";
        assert_eq!(rendered(service(), &[(5, true), (6, false)]), golden);
        assert_eq!(rendered(service(), &[(6, false)]), "refused-ips-4 { 10.43.0.7 . tcp . 80 : drop }");
    }

    #[test]
    fn seconds_are_written_as_nft_writes_them() {
        assert_eq!([90, 10_800, 86_401].map(duration), ["1m30s", "3h", "1d1s"]);
    }
}
