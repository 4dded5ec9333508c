//! Pure: Service and EndpointSlice objects to what the index keeps; what is missing or odd is left out.

use super::index::{Endpoint, Key, Service, ServicePort, Slice};
use core::net::IpAddr;
use serde_json::Value;

/// The type of the condition with which the controller says that an address is the boards' to announce.
const BALANCED: &str = "bramble.dev/LoadBalancerAddress";

/// `namespace/name`
pub(crate) fn key(object: &Value) -> Option<Key> {
    let metadata = object.get("metadata")?;
    let namespace = metadata.get("namespace")?.as_str()?;
    Some(format!("{namespace}/{}", metadata.get("name")?.as_str()?).into())
}

pub(crate) fn service(object: &Value) -> Service {
    let spec = &object["spec"];
    let cluster_ip = spec["clusterIP"].as_str().unwrap_or_default();
    let mut cluster_ips = addresses(&spec["clusterIPs"]);
    if cluster_ips.is_empty() {
        cluster_ips.extend(cluster_ip.parse::<IpAddr>());
    }
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    let external_name = (kind == "ExternalName")
        .then(|| spec["externalName"].as_str().unwrap_or_default().trim_end_matches('.').into());
    let affinity_s = (spec["sessionAffinity"] == "ClientIP").then(|| {
        let seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_u64();
        seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(10_800)
    });
    let ingress = list(&object["status"]["loadBalancer"]["ingress"]);
    let ingress_ips = ingress.filter(|entry| entry["ipMode"] != "Proxy").filter_map(|entry| address(&entry["ip"]));
    let source_ranges = list(&spec["loadBalancerSourceRanges"]).filter_map(|range| range.as_str()?.trim().parse().ok());
    let is_ours = |condition: &&Value| condition["type"] == BALANCED && condition["status"] == "True";
    let announced = list(&object["status"]["conditions"]).find(is_ours);
    Service {
        announced: announced.and_then(|_| object["metadata"]["uid"].as_str()).map(Into::into),
        headless: external_name.is_none() && cluster_ip == "None",
        cluster_ips: if external_name.is_some() { Vec::new() } else { cluster_ips },
        external_ips: addresses(&spec["externalIPs"]),
        ingress_ips: if kind == "LoadBalancer" { ingress_ips.collect() } else { Vec::new() },
        source_ranges: if kind == "LoadBalancer" { source_ranges.collect() } else { Vec::new() },
        ports: list(&spec["ports"]).filter_map(service_port).collect(),
        affinity_s,
        external_local: spec["externalTrafficPolicy"] == "Local",
        health_port: number(&spec["healthCheckNodePort"]).unwrap_or(0),
        internal_local: spec["internalTrafficPolicy"] == "Local",
        publish_not_ready: spec["publishNotReadyAddresses"] == true,
        external_name,
    }
}

fn service_port(port: &Value) -> Option<ServicePort> {
    Some(ServicePort {
        name: port["name"].as_str().unwrap_or_default().into(),
        protocol: protocol(&port["protocol"])?,
        port: number(&port["port"])?,
        node_port: number(&port["nodePort"]).unwrap_or(0),
    })
}

/// A slice of addresses that belongs to a service; slices of names (FQDN) route nowhere.
pub(crate) fn slice(object: &Value, node_name: &str) -> Option<Slice> {
    let metadata = &object["metadata"];
    let service = metadata["labels"]["kubernetes.io/service-name"].as_str()?;
    let namespace = metadata["namespace"].as_str()?;
    if object["addressType"] == "FQDN" {
        return None;
    }
    let port = |port: &Value| {
        Some((port["name"].as_str().unwrap_or_default().into(), protocol(&port["protocol"])?, number(&port["port"])?))
    };
    Some(Slice {
        service: Some(format!("{namespace}/{service}").into()),
        ports: list(&object["ports"]).filter_map(port).collect(),
        endpoints: list(&object["endpoints"]).flat_map(|entry| endpoints(entry, node_name)).collect(),
    })
}

/// All addresses of one entry are the same pod.
fn endpoints(entry: &Value, node_name: &str) -> Vec<Endpoint> {
    let conditions = &entry["conditions"];
    // Unknown counts as ready, and serving follows ready unless it is said (discovery/v1).
    let ready = conditions["ready"].as_bool().unwrap_or(true);
    let serving = conditions["serving"].as_bool().unwrap_or(ready);
    let terminating = conditions["terminating"].as_bool().unwrap_or(false);
    let hinted = |to: &str| list(&entry["hints"][to]).filter_map(|at| at["name"].as_str()).collect::<Vec<_>>();
    let (zones, nodes) = (hinted("forZones"), hinted("forNodes"));
    let for_our_node = (!nodes.is_empty()).then(|| nodes.contains(&node_name));
    let zones: Box<[Box<str>]> = zones.into_iter().map(Into::into).collect();
    let hostname: Option<Box<str>> = entry["hostname"].as_str().map(Into::into);
    let local = entry["nodeName"] == node_name;
    list(&entry["addresses"])
        .filter_map(address)
        .map(|ip| Endpoint {
            ip,
            hostname: hostname.clone(),
            ready,
            serving,
            terminating,
            local,
            zones: zones.clone(),
            for_our_node,
        })
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn addresses(value: &Value) -> Vec<IpAddr> {
    list(value).filter_map(address).collect()
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

fn number(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok().filter(|number| *number > 0)
}

fn protocol(value: &Value) -> Option<u8> {
    match value.as_str() {
        None | Some("TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("SCTP") => Some(132),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_upstreams() {
        let web = service(&json!({"spec": {"clusterIP": "10.43.0.7", "sessionAffinity": "ClientIP",
            "ports": [{"port": 80}, {"port": 70000}, {"port": 53, "protocol": "UDP", "name": "dns", "nodePort": 30053}]}}));
        assert_eq!(web.affinity_s, Some(10_800));
        assert_eq!(web.ports.len(), 2, "a port out of range is left out");
        assert_eq!((web.ports[1].protocol, web.ports[1].node_port), (17, 30053));
        let alias = service(&json!({"spec": {"type": "ExternalName", "externalName": "db.example."}}));
        assert_eq!(alias.external_name.as_deref(), Some("db.example"));
        assert!(service(&json!({"spec": {"clusterIP": "None"}})).headless);
    }

    #[test]
    fn conditions_default_as_discovery_says() {
        let entry = |conditions: Value| {
            endpoints(&json!({"addresses": ["10.42.0.1"], "conditions": conditions}), "n").remove(0)
        };
        assert!(entry(json!({})).ready && entry(json!({})).serving);
        let out = entry(json!({"ready": false, "serving": true, "terminating": true}));
        assert!(!out.ready && out.serving && out.terminating);
        assert!(!entry(json!({"ready": false})).serving);
    }
}
