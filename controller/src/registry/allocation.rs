//! Shell: service addresses and node ports: unique keys, claimed in the batch that writes the Service.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use bramble_store::{Precondition, Write};
use serde_json::Value;

use super::create::random;
use super::{Answer, ApiError, Registry, read_error};
use crate::cidr::{Cidr, family_of};
use crate::kinds::{Kind, needs_health_port, settle_families};
use crate::object::Object;
use crate::schema::field_error::FieldError;

/// Of a larger range than this only the beginning is given without being asked for.
const PLACES_MAX: u128 = 1 << 24;

/// The ranges that services get addresses and ports from.
#[derive(Clone, Debug)]
pub struct ServiceRanges {
    /// Addresses: one range, or one of each family, the primary one first.
    pub addresses: Vec<Cidr>,
    /// Node ports.
    pub ports: RangeInclusive<u16>,
}

/// What a write claims besides its own key.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Puts of claimed keys, deletes of released ones.
    pub(super) writes: Vec<Write>,
    /// The keys that the client named itself, and what it is told when one is taken.
    pub(super) explicit: Vec<(String, ApiError)>,
}

impl Default for ServiceRanges {
    fn default() -> Self {
        Self { addresses: vec![Cidr::new(IpAddr::from([10, 43, 0, 0]), 16)], ports: 30_000..=32_767 }
    }
}

impl ServiceRanges {
    fn families(&self) -> Vec<&'static str> {
        self.addresses.iter().map(Cidr::family).collect()
    }

    fn of(&self, family: &str) -> Option<Cidr> {
        self.addresses.iter().find(|range| range.family() == family).copied()
    }
}

/// How many places from the range's start on may be given: the first one is the network's, and IPv4's last one is for
/// broadcasts.
fn places(range: Cidr) -> u128 {
    if range.is_ipv4() { range.size().saturating_sub(1) } else { range.size() }
}

/// Whether a Service may have this address of the range.
fn is_given(range: Cidr, address: IpAddr) -> bool {
    range.contains(address) && address != range.base() && range.nth(places(range)) != Some(address)
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

/// An address has one key, however it is written.
fn address_key(address: &str) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) => format!("serviceips/{ip}"),
        Err(_) => format!("serviceips/{address}"),
    }
}

fn port_key(port: i64) -> String {
    format!("nodeports/{port}")
}

/// The unique keys that a Service holds.
fn held(service: &Object) -> BTreeSet<String> {
    let addresses = service.items(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    let single = [service.text(&["spec", "clusterIP"])];
    let addresses = addresses.chain(single).filter(|address| !address.is_empty() && *address != "None");
    let ports = service.items(&["spec", "ports"]).iter().filter_map(|port| port["nodePort"].as_i64());
    let ports = ports.chain(service.integer(&["spec", "healthCheckNodePort"]));
    addresses.map(address_key).chain(ports.filter(|port| *port > 0).map(port_key)).collect()
}

impl Registry {
    /// Gives a Service the addresses and ports that it lacks, and says which keys its write must claim or release.
    pub(super) async fn claim(&self, kind: &Kind, object: &mut Object, old: Option<&Object>) -> Answer<Claims> {
        if !is_service(kind) {
            return Ok(Claims::default());
        }
        let errors = settle_families(object, old, &self.ranges.families());
        if !errors.is_empty() {
            return Err(ApiError::invalid(kind, object.name(), &errors));
        }
        let before = old.map(held).unwrap_or_default();
        let explicit = self.explicit(kind, object, &before)?;
        let service_type = object.text(&["spec", "type"]).to_owned();
        if service_type != "ExternalName" && object.text(&["spec", "clusterIP"]) != "None" {
            self.fill_addresses(object).await?;
        }
        let balanced = service_type == "LoadBalancer";
        let wants_none = object.get(&["spec", "allocateLoadBalancerNodePorts"]).is_some_and(|wanted| *wanted == false);
        if service_type == "NodePort" || (balanced && !wants_none) {
            self.fill_ports(kind, object).await?;
        }
        if needs_health_port(object) && object.integer(&["spec", "healthCheckNodePort"]).unwrap_or_default() == 0 {
            let taken = object
                .items(&["spec", "ports"])
                .iter()
                .filter_map(|port| port["nodePort"].as_i64())
                .collect::<Vec<_>>();
            let port = self.free_port(kind, object.name(), &taken).await?;
            object.set(&["spec", "healthCheckNodePort"], port);
        }
        let owner = format!("{}/{}", object.namespace(), object.name());
        let after = held(object);
        let claimed = after.difference(&before).map(|key| Write::put(key, Precondition::Absent, owner.clone()));
        let released = before.difference(&after).map(|key| Write::delete(key, Precondition::Any));
        Ok(Claims { writes: claimed.chain(released).collect(), explicit })
    }

    /// Deletes of the keys that a Service holds.
    pub(super) fn release(&self, kind: &Kind, object: &Object) -> Vec<Write> {
        if !is_service(kind) {
            return Vec::new();
        }
        held(object).into_iter().map(|key| Write::delete(key, Precondition::Any)).collect()
    }

    /// The keys that the client chose, checked against the ranges.
    fn explicit(&self, kind: &Kind, object: &Object, before: &BTreeSet<String>) -> Answer<Vec<(String, ApiError)>> {
        let invalid = |field: &str, value: Value, why: String| {
            ApiError::invalid(kind, object.name(), &[FieldError::invalid(field, value, why)])
        };
        let mut explicit = Vec::new();
        let addresses = object.items(&["spec", "clusterIPs"]);
        for address in addresses.iter().filter_map(Value::as_str).filter(|address| *address != "None") {
            let key = address_key(address);
            if before.contains(&key) {
                continue;
            }
            let refuse = |why: &str| {
                invalid("spec.clusterIPs", addresses.into(), format!("failed to allocate IP {address}: {why}"))
            };
            let parsed = address.parse().ok();
            let range = parsed.and_then(|ip: IpAddr| self.ranges.of(family_of(ip)));
            match (parsed, range) {
                (Some(ip), Some(range)) if !is_given(range, ip) => {
                    return Err(refuse(&format!(
                        "the provided network does not match the current range: provided IP is not in the valid range. The range of valid IPs is {range}"
                    )));
                }
                _ => explicit.push((key, refuse("provided IP is already allocated"))),
            }
        }
        let ports = object.items(&["spec", "ports"]).iter().enumerate();
        let ports = ports.map(|(at, port)| (format!("spec.ports[{at}].nodePort"), port["nodePort"].as_i64()));
        let health = ("spec.healthCheckNodePort".to_owned(), object.integer(&["spec", "healthCheckNodePort"]));
        for (field, number) in ports.chain([health]) {
            let Some(number) = number.filter(|number| *number > 0) else { continue };
            let key = port_key(number);
            if before.contains(&key) {
                continue;
            }
            if !u16::try_from(number).is_ok_and(|number| self.ranges.ports.contains(&number)) {
                let (first, last) = (self.ranges.ports.start(), self.ranges.ports.end());
                let why =
                    format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
                return Err(invalid(&field, number.into(), why));
            }
            explicit.push((key, invalid(&field, number.into(), "provided port is already allocated".to_owned())));
        }
        Ok(explicit)
    }

    async fn is_free(&self, key: &str) -> Answer<bool> {
        Ok(self.store.get(key).await.map_err(read_error)?.is_none())
    }

    /// An address of each of the Service's families.
    async fn fill_addresses(&self, object: &mut Object) -> Answer<()> {
        let mut addresses = object.items(&["spec", "clusterIPs"]).to_vec();
        for family in object.items(&["spec", "ipFamilies"]).iter().skip(addresses.len()).filter_map(Value::as_str) {
            let full = || ApiError::internal("failed to allocate a serviceIP: range is full");
            let range = self.ranges.of(family).ok_or_else(full)?;
            addresses.push(self.free_address(range).await?.ok_or_else(full)?.into());
        }
        if let Some(first) = addresses.first() {
            object.set(&["spec", "clusterIP"], first.clone());
        }
        object.set(&["spec", "clusterIPs"], addresses);
        Ok(())
    }

    /// A free address: above the band that upstream keeps for addresses chosen by hand, from a random place on.
    async fn free_address(&self, range: Cidr) -> Answer<Option<String>> {
        let end = places(range).min(PLACES_MAX);
        let band = (range.size().min(PLACES_MAX) / 16).clamp(16, 256).min(end / 2).max(1);
        let upper = end.saturating_sub(band).max(1);
        let start = u128::from(u32::from_le_bytes(random::<4>())) % upper;
        let above = (0..upper).map(|step| band + (start + step) % upper);
        for address in above.chain(1..band).filter_map(|place| range.nth(place)) {
            if is_given(range, address) && self.is_free(&address_key(&address.to_string())).await? {
                return Ok(Some(address.to_string()));
            }
        }
        Ok(None)
    }

    async fn fill_ports(&self, kind: &Kind, object: &mut Object) -> Answer<()> {
        let mut ports = object.items(&["spec", "ports"]).to_vec();
        let mut chosen: Vec<(Value, String, i64)> = Vec::new();
        for at in 0..ports.len() {
            let (port, protocol) = (ports[at]["port"].clone(), ports[at]["protocol"].to_string());
            let mut number = ports[at]["nodePort"].as_i64().unwrap_or_default();
            if number == 0 {
                // TCP and UDP of one port share a node port, as upstream has it.
                let shared = chosen.iter().find(|(same, other, _)| *same == port && *other != protocol);
                number = match shared {
                    Some((_, _, number)) => *number,
                    None => {
                        let taken: Vec<i64> = ports.iter().filter_map(|port| port["nodePort"].as_i64()).collect();
                        self.free_port(kind, object.name(), &taken).await?
                    }
                };
                ports[at]["nodePort"] = number.into();
            }
            chosen.push((port, protocol, number));
        }
        object.set(&["spec", "ports"], ports);
        Ok(())
    }

    async fn free_port(&self, _kind: &Kind, name: &str, taken: &[i64]) -> Answer<i64> {
        let (first, last) = (i64::from(*self.ranges.ports.start()), i64::from(*self.ranges.ports.end()));
        let size = last - first + 1;
        let band = (size / 32).clamp(16, 128).min(size / 2);
        let upper = size - band;
        let start = i64::from(u32::from_le_bytes(random::<4>())) % upper;
        for step in 0..size {
            let port = first + if step < upper { band + (start + step) % upper } else { step - upper };
            if !taken.contains(&port) && self.is_free(&port_key(port)).await? {
                return Ok(port);
            }
        }
        Err(ApiError::internal(format!("failed to allocate a nodePort: range is full ({name})")))
    }
}
