//! Pure: from what the table holds to what it should hold, as one transaction.
//!
//! Order matters to the kernel: references go before what they refer to, and come after it.

use super::atom::{Atom, Element, Gives, Set, key_bytes};
use super::render::Facts;
use super::skeleton;
use super::statement;
use super::unit::{Peers, Unit};
use crate::netlink::nft::{self, Dynamic, SetSpec, Type};
use crate::netlink::wire::Batch;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

/// Sources that one endpoint remembers at most (KEP: kube-proxy's bound is the same).
pub(crate) const AFFINITY_SIZE: u32 = 65_536;

/// How many units name each address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hairpin(BTreeMap<IpAddr, u32>);

impl Hairpin {
    /// Counts the addresses of `new` and discounts those of `old`; the addresses that came and went.
    fn change(&mut self, old: &BTreeSet<IpAddr>, new: &BTreeSet<IpAddr>) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        for ip in new.difference(old) {
            let count = self.0.entry(*ip).or_insert(0);
            *count += 1;
            if *count == 1 {
                came.push(*ip);
            }
        }
        for ip in old.difference(new) {
            if let Some(count) = self.0.get_mut(ip) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(ip);
                    went.push(*ip);
                }
            }
        }
        (came, went)
    }
}

pub(crate) fn hairpin_element(ip: IpAddr) -> Element {
    let set = Set::of(ip.is_ipv4(), Set::Hairpin4, Set::Hairpin6);
    Element { set, key: vec![Atom::Ip(ip), Atom::Ip(ip)], gives: Gives::Nothing }
}

/// Replaces the table whole, whatever stands there, by the skeleton and these units, one after the other.
///
/// With `first_wins` an element whose key an earlier unit has is left out: two services may claim one external address,
/// and the kernel would refuse the whole table.
pub(crate) fn whole(
    table: &str,
    facts: &Facts,
    units: impl Iterator<Item = Unit>,
    first_wins: bool,
) -> (Batch, Hairpin) {
    let mut batch = Batch::default();
    // The sender writes the generation in when it knows it.
    nft::begin(&mut batch, 0);
    // Adding before deleting makes the deletion good whether the table is there or not.
    nft::add_table(&mut batch, table);
    nft::delete_table(&mut batch, table);
    nft::add_table(&mut batch, table);
    for set in Set::ALL {
        let (key, data) = set.types();
        nft::add_set(&mut batch, table, set.name(), &SetSpec { key, data, dynamic: None });
    }
    let chains = skeleton::chains(facts);
    for chain in &chains {
        nft::add_chain(&mut batch, table, chain.name, chain.base);
    }
    for chain in &chains {
        chain.rules.iter().for_each(|rule| statement::add(&mut batch, table, chain.name, rule));
    }
    let nothing = Unit::default();
    let mut hairpin = Hairpin::default();
    let mut claimed: BTreeSet<(Set, Vec<Atom>)> = BTreeSet::new();
    for mut unit in units {
        if first_wins {
            unit.elements.retain(|element| claimed.insert((element.set, element.key.clone())));
        }
        changes(&mut batch, table, &mut hairpin, std::iter::once((&nothing, &unit)));
    }
    nft::end(&mut batch);
    (batch, hairpin)
}

/// Turns old units into new ones.
pub(crate) fn step<'a>(
    table: &str,
    hairpin: &mut Hairpin,
    units: impl Iterator<Item = (&'a Unit, &'a Unit)> + Clone,
) -> Batch {
    let mut batch = Batch::default();
    nft::begin(&mut batch, 0);
    changes(&mut batch, table, hairpin, units);
    nft::end(&mut batch);
    batch
}

fn changes<'a>(
    batch: &mut Batch,
    table: &str,
    hairpin: &mut Hairpin,
    units: impl Iterator<Item = (&'a Unit, &'a Unit)> + Clone,
) {
    let (mut came, mut went): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    for (old, new) in units.clone() {
        let (more, fewer) = hairpin.change(&old.hairpin, &new.hairpin);
        came.extend(more);
        went.extend(fewer);
    }
    // An address may leave one unit and enter another in the same step.
    let moved: BTreeSet<_> = came.iter().filter(|ip| went.contains(ip)).copied().collect();
    let settled = |ips: Vec<IpAddr>| ips.into_iter().filter(|ip| !moved.contains(ip)).map(hairpin_element).collect();
    let (came, went): (Vec<Element>, Vec<Element>) = (settled(came), settled(went));

    let removed = units.clone().flat_map(|(old, new)| old.elements.difference(&new.elements));
    elements(batch, table, removed.chain(&went), nft::delete_elements);
    for (old, new) in units.clone() {
        new.affinity.iter().filter(|(name, spec)| old.affinity.get(*name) != Some(spec)).for_each(|(name, spec)| {
            add_affinity(batch, table, name, *spec);
        });
        new.peers.iter().for_each(|(name, peers)| change_peers(batch, table, name, old.peers.get(name), peers));
        new.chains.keys().filter(|name| !old.chains.contains_key(*name)).for_each(|name| {
            nft::add_chain(batch, table, name, None);
        });
    }
    for (old, new) in units.clone() {
        let stale = old.chains.iter().filter(|(name, rules)| new.chains.get(*name) != Some(rules));
        stale.for_each(|(name, _)| nft::delete_rules(batch, table, name));
    }
    for (old, new) in units.clone() {
        for (name, rules) in new.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules)) {
            rules.iter().for_each(|rule| statement::add(batch, table, name, rule));
        }
    }
    let added = units.clone().flat_map(|(old, new)| new.elements.difference(&old.elements));
    elements(batch, table, added.chain(&came), nft::add_elements);
    for (old, new) in units.clone() {
        let gone = old.chains.keys().filter(|name| !new.chains.contains_key(*name));
        gone.for_each(|name| nft::delete_chain(batch, table, name));
    }
    // Chains of other units may have looked into them.
    for (old, new) in units {
        let gone = old.peers.keys().filter(|name| !new.peers.contains_key(*name));
        gone.for_each(|name| nft::delete_set(batch, table, name));
        let gone = old.affinity.keys().filter(|name| !new.affinity.contains_key(*name));
        gone.for_each(|name| nft::delete_set(batch, table, name));
    }
}

/// Brings a set of peers to what it should hold; none stands there yet without `old`. What a set is keyed by never
/// changes under one name.
fn change_peers(batch: &mut Batch, table: &str, name: &str, old: Option<&Peers>, new: &Peers) {
    let nothing = BTreeSet::new();
    let before = old.map_or(&nothing, |old| &old.elements);
    if old.is_none() {
        nft::add_set(batch, table, name, &SetSpec { key: new.types(), data: &[], dynamic: None });
    }
    let wire = |keys: Vec<&Vec<Atom>>| -> Vec<nft::Element> {
        keys.into_iter().map(|key| nft::Element { key: key_bytes(key), data: nft::Data::None }).collect()
    };
    let (went, came) =
        (wire(before.difference(&new.elements).collect()), wire(new.elements.difference(before).collect()));
    if !went.is_empty() {
        nft::delete_elements(batch, table, name, &went);
    }
    if !came.is_empty() {
        nft::add_elements(batch, table, name, &came);
    }
}

fn add_affinity(batch: &mut Batch, table: &str, name: &str, (ipv4, timeout_s): (bool, u32)) {
    let key: &[Type] = if ipv4 { &[Type::Ipv4] } else { &[Type::Ipv6] };
    let dynamic = Some(Dynamic { timeout_s, size: AFFINITY_SIZE });
    nft::add_set(batch, table, name, &SetSpec { key, data: &[], dynamic });
}

/// The elements of one set go into few messages.
fn elements<'a>(
    batch: &mut Batch,
    table: &str,
    elements: impl Iterator<Item = &'a Element>,
    write: fn(&mut Batch, &str, &str, &[nft::Element]),
) {
    let mut by_set: BTreeMap<Set, Vec<nft::Element>> = BTreeMap::new();
    for element in elements {
        by_set.entry(element.set).or_default().push(element.wire());
    }
    by_set.iter().for_each(|(set, list)| write(batch, table, set.name(), list));
}
