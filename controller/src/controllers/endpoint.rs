//! Pure: the pods behind a Service: which they are, on which ports; shared by Endpoints and EndpointSlices.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kind::KindId;
use super::text::Str;
use super::view::network::{Service, ServicePort, TargetPort};
use super::view::pod::Pod;
use super::view::{Change, Key, Projected, View};

/// A pod behind a Service.
pub(super) struct Backend<'a> {
    pub(super) key: Key,
    pub(super) pod: &'a Pod,
}

/// A port as it is on one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: Str,
    pub(super) protocol: Str,
    pub(super) number: u16,
    pub(super) app_protocol: Option<Str>,
}

impl Port {
    pub(super) fn to_value(&self) -> Value {
        let mut value = json!({ "name": &*self.name, "port": self.number, "protocol": &*self.protocol });
        if let Some(app_protocol) = &self.app_protocol {
            value["appProtocol"] = Value::from(&**app_protocol);
        }
        value
    }
}

/// The Service that changed, the one of that name, or every Service that selects the pod that changed.
pub(super) fn service_keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    let service =
        |name: &Str| Key { kind: KindId::SERVICES, namespace: change.key.namespace.clone(), name: name.clone() };
    match change.key.kind {
        KindId::PODS => {
            if !matters(change) {
                return;
            }
            for pod in change.sides().filter_map(Projected::as_pod) {
                let selecting = view.within(KindId::SERVICES, &change.key.namespace).filter(|(_, object)| {
                    let selector = object.as_service().and_then(|service| service.selector.as_ref());
                    selector.is_some_and(|selector| selector.matches(&pod.meta.labels))
                });
                keys.extend(selecting.map(|(key, _)| key));
            }
        }
        KindId::ENDPOINT_SLICES => {
            let slices = change.sides().filter_map(Projected::as_endpoint_slice);
            keys.extend(slices.filter_map(|slice| slice.service.as_ref()).map(service));
        }
        _ => keys.push(service(&change.key.name)),
    }
}

/// Did anything change that an endpoint shows?
fn matters(change: &Change) -> bool {
    let seen = |object: &Option<Projected>| {
        let pod = object.as_ref().and_then(Projected::as_pod)?.clone();
        Some((
            pod.ready,
            pod.terminal(),
            pod.meta.deleted.is_some(),
            pod.meta.labels.clone(),
            pod.ips.clone(),
            pod.node.clone(),
            (pod.hostname.clone(), pod.subdomain.clone()),
        ))
    };
    seen(&change.old) != seen(&change.new)
}

/// The pods that a Service selects and that have, or had, a place: unfinished and with an address.
pub(super) fn backends<'a>(view: &'a View, key: &Key, service: &Service) -> Vec<Backend<'a>> {
    let Some(selector) = &service.selector else { return Vec::new() };
    view.within(KindId::PODS, &key.namespace)
        .filter_map(|(key, object)| Some(Backend { key, pod: object.as_pod()? }))
        .filter(|backend| {
            selector.matches(&backend.pod.meta.labels) && !backend.pod.terminal() && !backend.pod.ips.is_empty()
        })
        .collect()
}

/// The Service's ports on this pod; one whose name the pod does not know is left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    service.ports.iter().filter_map(|port| on_pod(port, pod)).collect()
}

fn on_pod(port: &ServicePort, pod: &Pod) -> Option<Port> {
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => {
            let named = pod.ports.iter().find(|named| named.name == *name && named.protocol == port.protocol);
            named?.port
        }
    };
    Some(Port {
        name: port.name.clone(),
        protocol: port.protocol.clone(),
        number,
        app_protocol: port.app_protocol.clone(),
    })
}

/// The pod's address of a family.
pub(super) fn address<'a>(pod: &'a Pod, family: &str) -> Option<&'a Str> {
    pod.ips.iter().find(|ip| ip.contains(':') == (family == "IPv6"))
}

pub(super) fn target(backend: &Backend) -> Value {
    json!({
        "kind": "Pod", "namespace": &*backend.key.namespace, "name": &*backend.key.name,
        "uid": backend.pod.meta.uid.to_string(),
    })
}

/// The name by which DNS knows the pod under a headless Service.
pub(super) fn hostname<'a>(service: &Key, pod: &'a Pod) -> Option<&'a str> {
    pod.hostname.as_deref().filter(|_| pod.subdomain.as_deref() == Some(&service.name))
}

/// A Service's labels with ours on top.
pub(super) fn labels(service: &Service, own: &[(&str, &str)]) -> Value {
    let mut labels: BTreeMap<&str, &str> = service.meta.labels.iter().collect();
    labels.remove("service.kubernetes.io/headless");
    if service.headless {
        labels.insert("service.kubernetes.io/headless", "");
    }
    labels.extend(own.iter().copied());
    json!(labels)
}
