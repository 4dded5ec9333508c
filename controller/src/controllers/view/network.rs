//! Pure: Services, Endpoints and EndpointSlices as the controllers see them.

use core::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::Projected;
use super::meta::{Meta, Uid};
use crate::controllers::selector::Selector;
use crate::controllers::text::{Interner, Labels, Str, at, digest, flag_at, int_at, list_at, str_at};

/// `targetPort`: a number, or the name of a container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    Name(Str),
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: Str,
    pub(crate) protocol: Str,
    pub(crate) app_protocol: Option<Str>,
    pub(crate) target: TargetPort,
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) meta: Meta,
    /// `None` when its endpoints are somebody else's business.
    pub(crate) selector: Option<Selector>,
    pub(crate) ports: Box<[ServicePort]>,
    pub(crate) headless: bool,
    pub(crate) external_name: bool,
    pub(crate) publish_not_ready: bool,
    pub(crate) families: Box<[Str]>,
    /// `trafficDistribution`
    pub(crate) distribution: Option<Str>,
    /// Of one that has, or wants, an address of the site's load balancer.
    pub(crate) balancer: Option<Box<Balancer>>,
}

/// What a Service asks of the site's load balancer, and what it has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Balancer {
    /// It is of type LoadBalancer, and of no other class.
    pub(crate) wanted: bool,
    /// The addresses that it asks for, with commas between.
    pub(crate) asked: Option<Str>,
    /// The addresses of its status.
    pub(crate) held: Box<[IpAddr]>,
    /// The message of our condition.
    pub(crate) condition: Option<Str>,
}

/// The type of the condition by which boards know an address as theirs to announce.
pub(crate) const BALANCED: &str = "bramble.dev/LoadBalancerAddress";
/// Where a Service may ask for an address, since upstream's field is deprecated.
const ADDRESS: &str = "bramble.dev/load-balancer-ip";

fn balancer(object: &Value, interner: &mut Interner) -> Option<Box<Balancer>> {
    let ours = str_at(object, &["spec", "loadBalancerClass"]).is_empty();
    let wanted = str_at(object, &["spec", "type"]) == "LoadBalancer" && ours;
    let conditions = list_at(object, &["status", "conditions"]).iter();
    let condition =
        conditions.filter(|one| str_at(one, &["type"]) == BALANCED).find_map(|one| interner.text_at(one, &["message"]));
    if !wanted && condition.is_none() {
        return None;
    }
    let asked = interner.text_at(object, &["metadata", "annotations", ADDRESS]);
    let asked = asked.or_else(|| interner.text_at(object, &["spec", "loadBalancerIP"]));
    let ingress = list_at(object, &["status", "loadBalancer", "ingress"]);
    let held = ingress.iter().filter_map(|one| str_at(one, &["ip"]).parse().ok()).collect();
    Some(Box::new(Balancer { wanted, asked, held, condition }))
}

/// An Endpoints object: only whether it is what we would write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoints {
    pub(crate) meta: Meta,
    pub(crate) subsets: u64,
    pub(crate) last_change_trigger: Option<Str>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EndpointSlice {
    pub(crate) meta: Meta,
    pub(crate) service: Option<Str>,
    pub(crate) managed_by: Option<Str>,
    pub(crate) family: Str,
    pub(crate) ports: u64,
    /// Which pod, and what the slice says of it.
    pub(crate) entries: Box<[SliceEntry]>,
}

/// One endpoint of a slice: its target and a digest of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SliceEntry {
    pub(crate) target: Uid,
    pub(crate) digest: u64,
}

/// The label that ties a slice to its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names a slice's writer.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

fn port(value: &Value, interner: &mut Interner) -> ServicePort {
    let number = int_at(value, &["port"]).unwrap_or_default() as u16;
    let target = match value.get("targetPort") {
        Some(Value::String(name)) => match name.parse() {
            Ok(number) => TargetPort::Number(number),
            Err(_) => TargetPort::Name(interner.text(name)),
        },
        Some(Value::Number(target)) => match target.as_u64() {
            Some(0) | None => TargetPort::Number(number),
            Some(target) => TargetPort::Number(target as u16),
        },
        _ => TargetPort::Number(number),
    };
    ServicePort {
        name: interner.text(str_at(value, &["name"])),
        protocol: interner.text_at(value, &["protocol"]).unwrap_or_else(|| interner.text("TCP")),
        app_protocol: interner.text_at(value, &["appProtocol"]),
        target,
    }
}

/// The row's projection.
pub(crate) fn project_service(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let ports = list_at(object, &["spec", "ports"]).iter().map(|value| port(value, interner)).collect();
    let listed = list_at(object, &["spec", "ipFamilies"]).iter().filter_map(Value::as_str);
    let mut families: Vec<Str> = listed.map(|family| interner.text(family)).collect();
    if families.is_empty() {
        families.push(interner.text("IPv4"));
    }
    Some(Projected::Service(Arc::new(Service {
        meta: Meta::project(object, interner),
        selector: Selector::from_map(at(object, &["spec", "selector"]), interner),
        ports,
        headless: str_at(object, &["spec", "clusterIP"]) == "None",
        external_name: str_at(object, &["spec", "type"]) == "ExternalName",
        publish_not_ready: flag_at(object, &["spec", "publishNotReadyAddresses"]),
        families: families.into(),
        distribution: interner.text_at(object, &["spec", "trafficDistribution"]),
        balancer: balancer(object, interner),
    })))
}

/// The row's projection.
pub(crate) fn project_endpoints(object: &Value, interner: &mut Interner) -> Option<Projected> {
    Some(Projected::Endpoints(Arc::new(Endpoints {
        meta: Meta::project(object, interner),
        subsets: digest(object.get("subsets").filter(|value| !value.is_null()).unwrap_or(&Value::Array(Vec::new()))),
        last_change_trigger: interner
            .text_at(object, &["metadata", "annotations", "endpoints.kubernetes.io/last-change-trigger-time"]),
    })))
}

/// The target and digest of one endpoint, of ours and of the server's alike.
pub(crate) fn slice_entry(endpoint: &Value) -> SliceEntry {
    let target = match str_at(endpoint, &["targetRef", "uid"]) {
        "" => list_at(endpoint, &["addresses"]).first().and_then(Value::as_str).unwrap_or_default(),
        uid => uid,
    };
    SliceEntry { target: Uid::parse(target), digest: digest(endpoint) }
}

/// The row's projection.
pub(crate) fn project_endpoint_slice(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let meta = Meta::project(object, interner);
    let label = |labels: &Labels, key| labels.get(key).map(Str::from);
    Some(Projected::EndpointSlice(Arc::new(EndpointSlice {
        service: label(&meta.labels, SERVICE_NAME),
        managed_by: label(&meta.labels, MANAGED_BY),
        family: interner.text(str_at(object, &["addressType"])),
        ports: digest(object.get("ports").filter(|value| !value.is_null()).unwrap_or(&Value::Array(Vec::new()))),
        entries: list_at(object, &["endpoints"]).iter().map(slice_entry).collect(),
        meta,
    })))
}
