//! Pure: the Endpoints object of every Service that selects pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::endpoint::{Backend, Port, address, backends, hostname, labels, ports, service_keys, target};
use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan};
use super::text::digest;
use super::view::network::Service;
use super::view::{Key, View};

/// The row; a key is a Service.
pub(super) const CONTROLLER: Controller = Controller {
    account: "endpoint-controller",
    component: "endpoint-controller",
    watches: &[KindId::SERVICES, KindId::PODS, KindId::ENDPOINTS],
    keys: service_keys,
    plan,
};

/// An Endpoints object holds at most this many addresses (upstream's maxCapacity).
const CAPACITY: usize = 1000;
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

fn plan(view: &View, key: &Key, _: &Context) -> Plan {
    let endpoints = Key { kind: KindId::ENDPOINTS, ..key.clone() };
    let known = view.as_endpoints(&endpoints);
    let Some(service) = view.as_service(key) else {
        let ours = known.filter(|known| known.meta.labels.get(MANAGED_BY.0) == Some(MANAGED_BY.1));
        return ours.map_or_else(Plan::default, |known| {
            let uid = known.meta.uid;
            Plan::act(Action::Delete { key: endpoints, uid, propagation: "", grace_seconds: None, note: None })
        });
    };
    if service.selector.is_none() || service.external_name || service.meta.deleted.is_some() {
        return Plan::default();
    }
    let (subsets, truncated) = subsets(view, key, service);
    let wanted = labels(service, &[MANAGED_BY]);
    if known.is_some_and(|known| known.subsets == digest(&subsets) && known.meta.labels.to_value() == wanted) {
        return Plan::default();
    }
    let mut body = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "namespace": &*key.namespace, "name": &*key.name, "labels": wanted },
        "subsets": subsets,
    });
    if truncated {
        body["metadata"]["annotations"] = json!({ OVER_CAPACITY: "truncated" });
    }
    Plan::act(match known {
        Some(known) => {
            body["metadata"]["uid"] = known.meta.uid.to_string().into();
            body["metadata"]["resourceVersion"] = known.meta.revision.to_string().into();
            Action::Replace { key: endpoints, subresource: None, body }
        }
        None => Action::Create { kind: KindId::ENDPOINTS, body, exists_ok: false, note: None },
    })
}

/// Pods that share their ports share a subset.
fn subsets(view: &View, key: &Key, service: &Service) -> (Value, bool) {
    let family = service.families.first().map_or("IPv4", |family| family);
    let mut groups: BTreeMap<Vec<Port>, Vec<(bool, Value)>> = BTreeMap::new();
    let mut count = 0;
    let mut truncated = false;
    for backend in backends(view, key, service) {
        let pod = backend.pod;
        let Some(ip) = address(pod, family) else { continue };
        if pod.meta.deleted.is_some() && !service.publish_not_ready {
            continue;
        }
        let ports = ports(service, pod);
        if ports.is_empty() && !(service.headless && service.ports.is_empty()) {
            continue;
        }
        if count == CAPACITY {
            truncated = true;
            break;
        }
        count += 1;
        let ready = pod.ready || service.publish_not_ready;
        groups.entry(ports).or_default().push((ready, entry(key, &backend, ip)));
    }
    let subsets: Vec<Value> = groups.into_iter().map(|(ports, entries)| subset(&ports, entries)).collect();
    (Value::from(subsets), truncated)
}

fn subset(ports: &[Port], mut entries: Vec<(bool, Value)>) -> Value {
    entries.sort_by_key(|(_, entry)| entry["ip"].as_str().and_then(|ip| ip.parse::<core::net::IpAddr>().ok()));
    let (ready, waiting): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(ready, _)| *ready);
    let mut subset = json!({});
    for (field, entries) in [("addresses", ready), ("notReadyAddresses", waiting)] {
        if !entries.is_empty() {
            subset[field] = entries.into_iter().map(|(_, entry)| entry).collect();
        }
    }
    if !ports.is_empty() {
        subset["ports"] = ports.iter().map(port_value).collect();
    }
    subset
}

/// As the API server stores it: an empty name is left out.
fn port_value(port: &Port) -> Value {
    let mut value = port.to_value();
    if let (true, Some(map)) = (port.name.is_empty(), value.as_object_mut()) {
        map.remove("name");
    }
    value
}

fn entry(service: &Key, backend: &Backend, ip: &str) -> Value {
    let mut entry = json!({ "ip": ip, "targetRef": target(backend) });
    if let Some(node) = &backend.pod.node {
        entry["nodeName"] = Value::from(&**node);
    }
    if let Some(hostname) = hostname(service, backend.pod) {
        entry["hostname"] = Value::from(hostname);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::endpoint_slice::tests::{pod, service};
    use crate::controllers::world::World;

    #[test]
    fn ready_and_unready_pods_stand_apart() {
        let mut world = World::new(&[&CONTROLLER]);
        let service = world.put(service());
        world.put(pod("a", "10.42.0.2", true));
        world.put(pod("b", "10.42.0.10", false));
        world.put(pod("c", "10.42.0.1", true));
        world.settle();
        let key = Key { kind: KindId::ENDPOINTS, ..service.clone() };
        let subset = &world.objects[&key]["subsets"][0];
        let ips = |field: &str| -> Vec<&str> {
            subset[field].as_array().unwrap().iter().map(|entry| entry["ip"].as_str().unwrap()).collect()
        };
        assert_eq!((ips("addresses"), ips("notReadyAddresses")), (vec!["10.42.0.1", "10.42.0.2"], vec!["10.42.0.10"]));
        assert_eq!(subset["ports"], json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]));
        assert_eq!(subset["addresses"][0]["targetRef"]["name"], "c");
        assert_eq!(world.actions, 1);
        world.remove(&service);
        world.settle();
        assert!(!world.objects.contains_key(&key));
    }

    #[test]
    fn a_service_without_selector_is_left_alone() {
        let mut world = World::new(&[&CONTROLLER]);
        let mut foreign = service();
        foreign["spec"]["selector"] = Value::Null;
        world.put(foreign);
        world.settle();
        assert_eq!(world.actions, 0);
    }
}
