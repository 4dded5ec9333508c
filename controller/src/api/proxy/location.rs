//! Pure: where a proxied request goes: `[scheme:]name[:port]` of a pod, a service or a node.

use std::net::IpAddr;

use serde_json::Value;

use crate::object::Object;
use crate::registry::status::{Answer, ApiError};

/// What a path names: a scheme, an object, a port, as far as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) tls: bool,
    pub(crate) name: &'a str,
    pub(crate) port: &'a str,
}

/// Where the request goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The node of the pod that has this address; empty for an address that is no pod's.
    pub(crate) node: String,
}

/// Reads `[scheme:]name[:port]`; `kind` is for the refusal.
pub(crate) fn named<'a>(kind: &str, text: &'a str) -> Answer<Named<'a>> {
    let refused = || ApiError::bad_request(format!("invalid {kind} request {text:?}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match *parts.as_slice() {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme @ ("" | "http" | "https"), name, port] => (scheme, name, port),
        _ => return Err(refused()),
    };
    if name.is_empty() { Err(refused()) } else { Ok(Named { tls: scheme == "https", name, port }) }
}

/// A pod: its address, and the port asked for or its first.
pub(crate) fn of_pod(asked: &Named<'_>, pod: &Object) -> Answer<Location> {
    let first =
        pod.items(&["spec", "containers"]).iter().find_map(|container| container["ports"][0]["containerPort"].as_u64());
    let port = match asked.port {
        "" => first.and_then(|port| u16::try_from(port).ok()).unwrap_or(default_port(asked.tls)),
        given => number(given)?,
    };
    let host = address(pod.text(&["status", "podIP"]))?;
    Ok(Location { tls: asked.tls, host, port, node: pod.text(&["spec", "nodeName"]).to_owned() })
}

/// A service: what its port is called in the endpoints.
pub(crate) fn port_of_service(asked: &Named<'_>, service: &Object) -> Answer<String> {
    let Ok(wanted) = asked.port.parse::<u64>() else { return Ok(asked.port.to_owned()) };
    let ports = service.items(&["spec", "ports"]);
    let found = ports.iter().find(|port| port["port"].as_u64() == Some(wanted));
    found
        .map(|port| port["name"].as_str().unwrap_or_default().to_owned())
        .ok_or_else(|| ApiError::unavailable(format!("no service port {wanted} found for service {:?}", asked.name)))
}

/// Every address behind a port of a service, ready ones only, with the pod that has it.
pub(crate) fn of_endpoints(asked: &Named<'_>, port: &str, endpoints: &Object) -> Vec<(Location, Value)> {
    let mut found = Vec::new();
    for subset in endpoints.items(&["subsets"]) {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let number =
            ports.filter(|own| own["name"].as_str().unwrap_or_default() == port).find_map(|own| own["port"].as_u64());
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else { continue };
        for address in subset["addresses"].as_array().into_iter().flatten() {
            let host = address["ip"].as_str().unwrap_or_default().to_owned();
            let location = Location { tls: asked.tls, host, port: number, node: String::new() };
            found.push((location, address["targetRef"].clone()));
        }
    }
    found
}

/// Is that pod the one that the endpoint means? Only pods are proxied to: an address that somebody wrote down may be any.
pub(crate) fn is_of(location: &Location, reference: &Value, pod: &Object) -> bool {
    reference["uid"].as_str().is_none_or(|uid| uid == pod.uid())
        && pod.items(&["status", "podIPs"]).iter().any(|own| own["ip"] == location.host.as_str())
}

/// A port of a node that is not its kubelet's.
pub(crate) fn of_node(asked: &Named<'_>, host: String) -> Answer<Location> {
    Ok(Location { tls: asked.tls, host: address(&host)?, port: number(asked.port)?, node: String::new() })
}

fn number(text: &str) -> Answer<u16> {
    text.parse().map_err(|_| ApiError::bad_request(format!("invalid port {text:?}")))
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// Addresses of the API server itself are not proxied to.
fn address(text: &str) -> Answer<String> {
    let refused = || ApiError::bad_request("address not allowed");
    let address: IpAddr = text.parse().map_err(|_| refused())?;
    let own = match address {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_link_local() || address.is_multicast() || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || address.is_unspecified()
        }
    };
    if own { Err(refused()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn names_are_taken_apart() {
        let of = |text| named("pod", text).map(|found| (found.tls, found.name, found.port));
        assert_eq!(of("web"), Ok((false, "web", "")));
        assert_eq!(of("web:80"), Ok((false, "web", "80")));
        assert_eq!(of("https:web:443"), Ok((true, "web", "443")));
        assert_eq!(of("ftp:web:21").unwrap_err().message, "invalid pod request \"ftp:web:21\"");
        assert!(of(":80").is_err());
    }

    #[test]
    fn a_pod_is_reached_at_its_first_port() {
        let pod =
            object(json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]},
            "status": {"podIP": "10.1.0.2"}}));
        let location = of_pod(&named("pod", "web").unwrap(), &pod).unwrap();
        assert_eq!((location.host.as_str(), location.port), ("10.1.0.2", 8080));
        let looped = object(json!({"status": {"podIP": "127.0.0.1"}}));
        assert_eq!(of_pod(&named("pod", "web").unwrap(), &looped).unwrap_err().message, "address not allowed");
    }

    #[test]
    fn a_service_is_reached_by_name_or_number_of_its_port() {
        let service = object(json!({"spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]}}));
        assert_eq!(port_of_service(&named("service", "web:81").unwrap(), &service), Ok("admin".to_owned()));
        let missing = port_of_service(&named("service", "web:82").unwrap(), &service).unwrap_err();
        assert_eq!((missing.code, missing.message.as_str()), (503, "no service port 82 found for service \"web\""));
        let endpoints = object(json!({"subsets": [{"addresses": [{"ip": "10.1.0.2", "targetRef": {"uid": "1"}}],
            "notReadyAddresses": [{"ip": "10.1.0.3"}], "ports": [{"name": "http", "port": 8080}]}]}));
        let found = of_endpoints(&named("service", "web:http").unwrap(), "http", &endpoints);
        assert_eq!(found.len(), 1);
        let pod = object(json!({"metadata": {"uid": "1"}, "status": {"podIPs": [{"ip": "10.1.0.2"}]}}));
        assert!(is_of(&found[0].0, &found[0].1, &pod));
        assert!(of_endpoints(&named("service", "web").unwrap(), "", &endpoints).is_empty());
    }
}
