//! Shell: service addresses and node ports: unique keys, claimed in the batch that writes the Service.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use bramble_store::{Precondition, Write};
use serde_json::Value;

use super::create::random;
use super::{Answer, ApiError, Registry, read_error};
use crate::kinds::{Kind, needs_health_port};
use crate::object::Object;
use crate::schema::field_error::FieldError;

/// The ranges that services get addresses and ports from.
#[derive(Clone, Debug)]
pub struct ServiceRanges {
    /// The first address of the service range (the network address).
    pub network: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
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
        Self { network: Ipv4Addr::new(10, 43, 0, 0), prefix: 16, ports: 30_000..=32_767 }
    }
}

impl ServiceRanges {
    /// How many addresses the range has, the network address and the last one included.
    fn size(&self) -> u32 {
        1 << (32 - u32::from(self.prefix.clamp(8, 30)))
    }

    /// The address at an offset.
    pub fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + offset)
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        offset > 0 && offset < self.size() - 1
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

fn address_key(address: &str) -> String {
    format!("serviceips/{address}")
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
        let before = old.map(held).unwrap_or_default();
        let explicit = self.explicit(kind, object, &before)?;
        let service_type = object.text(&["spec", "type"]).to_owned();
        if service_type != "ExternalName" {
            if object.text(&["spec", "clusterIP"]).is_empty() {
                let address = self.free_address(kind, object).await?;
                object.set(&["spec", "clusterIP"], address);
            }
            let address = object.text(&["spec", "clusterIP"]).to_owned();
            if object.items(&["spec", "clusterIPs"]).is_empty() {
                object.set(&["spec", "clusterIPs"], vec![address]);
            }
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
        let address = object.text(&["spec", "clusterIP"]);
        let key = address_key(address);
        if !address.is_empty() && address != "None" && !before.contains(&key) {
            let value = Value::from(vec![address]);
            let refuse = |why: &str| {
                invalid("spec.clusterIPs", value.clone(), format!("failed to allocate IP {address}: {why}"))
            };
            if !address.parse().is_ok_and(|address| self.ranges.contains(address)) {
                let (range, prefix) = (self.ranges.network, self.ranges.prefix);
                return Err(refuse(&format!(
                    "the provided network does not match the current range: provided IP is not in the valid range. The range of valid IPs is {range}/{prefix}"
                )));
            }
            explicit.push((key, refuse("provided IP is already allocated")));
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

    /// A free address: above the band that upstream keeps for addresses chosen by hand, from a random place on.
    async fn free_address(&self, kind: &Kind, object: &Object) -> Answer<String> {
        let size = self.ranges.size();
        let band = (size / 16).clamp(16, 256).min(size / 2);
        let start = u32::from_le_bytes(random::<4>()) % (size - 1 - band);
        for step in 0..size - 2 {
            let upper = size - 1 - band;
            let offset = if step < upper { band + (start + step) % upper } else { 1 + step - upper };
            let address = self.ranges.address(offset).to_string();
            if self.is_free(&address_key(&address)).await? {
                return Ok(address);
            }
        }
        let why = format!("failed to allocate a serviceIP: range is full ({})", object.name());
        let _ = kind;
        Err(ApiError::internal(why))
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
