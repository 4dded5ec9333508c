//! Pure: the EndpointSlices of every Service that selects pods, changed as little as possible; and the mirrors of Endpoints
//! that people keep themselves.

mod mirror;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

pub(super) use self::mirror::CONTROLLER as MIRRORING;
use super::endpoint::{Backend, Port, address, backends, hostname, labels, ports, service_keys, target};
use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan};
use super::text::{Str, digest};
use super::view::meta::Uid;
use super::view::network::{EndpointSlice, MANAGED_BY, SERVICE_NAME, Service, slice_entry};
use super::view::{Key, View};

/// The row; a key is a Service.
pub(super) const CONTROLLER: Controller = Controller {
    account: "endpointslice-controller",
    component: "endpoint-slice-controller",
    watches: &[KindId::SERVICES, KindId::PODS, KindId::ENDPOINT_SLICES],
    keys: service_keys,
    plan,
};

/// Endpoints in one slice (upstream's max-endpoints-per-slice).
const PER_SLICE: usize = 100;
const US: &str = "endpointslice-controller.k8s.io";

/// Endpoints of one family that share their ports.
struct Group {
    family: Str,
    ports: Value,
    endpoints: Vec<Value>,
}

/// What all slices of a Service have in common.
struct Frame<'a> {
    service: &'a Key,
    uid: Uid,
    labels: Value,
}

fn plan(view: &View, key: &Key, _: &Context) -> Plan {
    // The slices of a Service that is gone go with it, by their owner reference.
    let Some(service) = view.as_service(key) else { return Plan::default() };
    if service.selector.is_none() || service.external_name || service.meta.deleted.is_some() {
        return Plan::default();
    }
    let own = [(SERVICE_NAME, &*key.name), (MANAGED_BY, US)];
    let frame = Frame { service: key, uid: service.meta.uid, labels: labels(service, &own) };
    arrange(&frame, groups(view, key, service), &slices(view, key, US))
}

/// The slices of a Service that `manager` wrote.
fn slices<'a>(view: &'a View, service: &Key, manager: &str) -> Vec<(Key, &'a EndpointSlice)> {
    view.within(KindId::ENDPOINT_SLICES, &service.namespace)
        .filter_map(|(key, object)| Some((key, object.as_endpoint_slice()?.as_ref())))
        .filter(|(_, slice)| {
            slice.service.as_ref() == Some(&service.name)
                && slice.managed_by.as_deref() == Some(manager)
                && slice.meta.deleted.is_none()
        })
        .collect()
}

fn groups(view: &View, key: &Key, service: &Service) -> Vec<Group> {
    let mut groups: BTreeMap<(Str, Vec<Port>), Vec<Value>> = BTreeMap::new();
    let backends = backends(view, key, service);
    for family in &service.families {
        for backend in &backends {
            let Some(ip) = address(backend.pod, family) else { continue };
            let ports = ports(service, backend.pod);
            let entry = endpoint(view, key, service, backend, ip);
            groups.entry((family.clone(), ports)).or_default().push(entry);
        }
        if !groups.keys().any(|(known, _)| known == family) {
            // A Service without pods still has a slice, which says so.
            groups.insert((family.clone(), Vec::new()), Vec::new());
        }
    }
    let group = |((family, ports), endpoints): ((Str, Vec<Port>), Vec<Value>)| Group {
        family,
        ports: ports.iter().map(Port::to_value).collect(),
        endpoints,
    };
    groups.into_iter().map(group).collect()
}

fn endpoint(view: &View, key: &Key, service: &Service, backend: &Backend, ip: &str) -> Value {
    let pod = backend.pod;
    let terminating = pod.meta.deleted.is_some();
    let ready = service.publish_not_ready || (pod.ready && !terminating);
    let mut endpoint = json!({
        "addresses": [ip],
        "conditions": { "ready": ready, "serving": pod.ready, "terminating": terminating },
        "targetRef": target(backend),
    });
    if let Some(name) = &pod.node {
        endpoint["nodeName"] = Value::from(&**name);
        let node = view.as_node(&Key { kind: KindId::NODES, namespace: "".into(), name: name.clone() });
        if let Some(zone) = node.and_then(|node| node.meta.labels.get("topology.kubernetes.io/zone")) {
            endpoint["zone"] = Value::from(zone);
        }
    }
    if ready && let Some(hints) = hints(service, &endpoint) {
        endpoint["hints"] = hints;
    }
    if let Some(hostname) = hostname(key, pod) {
        endpoint["hostname"] = Value::from(hostname);
    }
    endpoint
}

/// For whom an endpoint is, where its Service prefers what is near: its own zone, or its own node and else its zone.
fn hints(service: &Service, endpoint: &Value) -> Option<Value> {
    let named = |field: &str| endpoint[field].as_str().map(|name| json!([{ "name": name }]));
    let (zone, node) = (named("zone"), named("nodeName"));
    let mut hints = serde_json::Map::new();
    match service.distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => hints.extend([("forZones".to_owned(), zone?)]),
        "PreferSameNode" => {
            hints.extend([("forNodes".to_owned(), node?)]);
            hints.extend(zone.map(|zone| ("forZones".to_owned(), zone)));
        }
        _ => return None,
    }
    Some(Value::Object(hints))
}

/// From the slices that are there to the groups that are wanted.
fn arrange(frame: &Frame, groups: Vec<Group>, slices: &[(Key, &EndpointSlice)]) -> Plan {
    let mut writes = Vec::new();
    let mut used: BTreeSet<&Key> = BTreeSet::new();
    for group in groups {
        let ports = digest(&group.ports);
        let matching: Vec<&(Key, &EndpointSlice)> =
            slices.iter().filter(|(_, slice)| slice.family == group.family && slice.ports == ports).collect();
        used.extend(fill(frame, &group, &matching, &mut writes));
    }
    for (key, slice) in slices.iter().filter(|(key, _)| !used.contains(key)) {
        let (key, uid) = (key.clone(), slice.meta.uid);
        writes.push(Action::Delete { key, uid, propagation: "", grace_seconds: None, note: None });
    }
    if writes.is_empty() { Plan::default() } else { Plan { steps: vec![writes], ..Plan::default() } }
}

/// Endpoints stay in their slice; new ones fill slices that must be written anyway, then any with room, then new slices.
fn fill<'a>(
    frame: &Frame,
    group: &Group,
    slices: &[&'a (Key, &EndpointSlice)],
    writes: &mut Vec<Action>,
) -> Vec<&'a Key> {
    let mut wanted: BTreeMap<Uid, (u64, &Value)> = BTreeMap::new();
    for endpoint in &group.endpoints {
        let entry = slice_entry(endpoint);
        wanted.insert(entry.target, (entry.digest, endpoint));
    }
    let mut kept: Vec<(bool, Vec<Value>)> = Vec::new();
    for (_, slice) in slices {
        let mut changed = slice.meta.labels.to_value() != frame.labels;
        let mut endpoints = Vec::new();
        for entry in &slice.entries {
            match wanted.remove(&entry.target) {
                Some((digest, endpoint)) => {
                    changed |= digest != entry.digest;
                    endpoints.push(endpoint.clone());
                }
                None => changed = true,
            }
        }
        kept.push((changed, endpoints));
    }
    let mut fresh: Vec<Value> = wanted.into_values().map(|(_, endpoint)| endpoint.clone()).collect();
    for only_changed in [true, false] {
        for (changed, endpoints) in kept.iter_mut().filter(|(changed, _)| *changed || !only_changed) {
            let room = PER_SLICE.saturating_sub(endpoints.len()).min(fresh.len());
            if room > 0 {
                endpoints.extend(fresh.drain(..room));
                *changed = true;
            }
        }
    }
    let mut used = Vec::new();
    let none_left = kept.iter().all(|(_, endpoints)| endpoints.is_empty()) && fresh.is_empty();
    for (place, ((key, slice), (changed, endpoints))) in slices.iter().zip(kept).enumerate() {
        // An empty slice goes, unless the group itself is empty and one must say so.
        if endpoints.is_empty() && !(none_left && group.endpoints.is_empty() && place == 0) {
            continue;
        }
        used.push(key);
        if changed {
            let mut body = body(frame, group, endpoints);
            body["metadata"]["name"] = Value::from(&*key.name);
            body["metadata"]["uid"] = slice.meta.uid.to_string().into();
            body["metadata"]["resourceVersion"] = slice.meta.revision.to_string().into();
            writes.push(Action::Replace { key: key.clone(), subresource: None, body });
        }
    }
    while !fresh.is_empty() || (none_left && group.endpoints.is_empty() && used.is_empty() && slices.is_empty()) {
        let rest = fresh.split_off(fresh.len().min(PER_SLICE));
        let mut body = body(frame, group, std::mem::replace(&mut fresh, rest));
        body["metadata"]["generateName"] = format!("{}-", frame.service.name).into();
        writes.push(Action::Create { kind: KindId::ENDPOINT_SLICES, body, exists_ok: false, note: None });
        if fresh.is_empty() {
            break;
        }
    }
    used
}

fn body(frame: &Frame, group: &Group, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": &*frame.service.namespace, "labels": frame.labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": if frame.service.kind == KindId::ENDPOINTS { "Endpoints" } else { "Service" },
                "name": &*frame.service.name, "uid": frame.uid.to_string(),
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": &*group.family,
        "ports": group.ports,
        "endpoints": endpoints,
    })
}

#[cfg(test)]
pub(super) mod tests;
