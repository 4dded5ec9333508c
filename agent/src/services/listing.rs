//! Pure: the whole table as `nft list table` prints it, elements sorted; what golden files and tests compare.

use super::atom::{Element, Set};
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
