//! Pure: Endpoints that belong to a Service without selector are mirrored into slices, for those who read slices only.

use serde_json::{Value, json};

use super::{Frame, Group, arrange, slices};
use crate::controllers::kind::KindId;
use crate::controllers::plan::{Action, Context, Controller, Plan};
use crate::controllers::text::{list_at, str_at};
use crate::controllers::view::network::{MANAGED_BY, SERVICE_NAME};
use crate::controllers::view::{Key, View};

/// The row; a key is a Service (and its Endpoints of the same name).
pub(in crate::controllers) const CONTROLLER: Controller = Controller {
    account: "endpointslicemirroring-controller",
    component: "endpoint-slice-mirroring-controller",
    watches: &[KindId::SERVICES, KindId::ENDPOINTS, KindId::ENDPOINT_SLICES],
    keys: crate::controllers::endpoint::service_keys,
    plan,
};

const US: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let endpoints = Key { kind: KindId::ENDPOINTS, ..key.clone() };
    let known = view.as_endpoints(&endpoints);
    let service = view.as_service(key);
    let wanted = match (service, known) {
        (Some(service), Some(known)) => {
            service.selector.is_none() && !service.external_name && known.meta.labels.get(SKIP) != Some("true")
        }
        _ => false,
    };
    let mirrors = slices(view, key, US);
    let Some(known) = known.filter(|_| wanted) else {
        let delete = |(key, slice): (Key, &super::EndpointSlice)| Action::Delete {
            key,
            uid: slice.meta.uid,
            propagation: "",
            grace_seconds: None,
            note: None,
        };
        let deletes: Vec<Action> = mirrors.into_iter().map(delete).collect();
        return Plan { steps: vec![deletes], ..Plan::default() };
    };
    let whole = match context.reads.object(&endpoints) {
        Ok(Some(whole)) => whole,
        Ok(None) => return Plan::default(),
        Err(needs) => return needs,
    };
    let labels = json!({ SERVICE_NAME: &*key.name, MANAGED_BY: US });
    let frame = Frame { service: &endpoints, uid: known.meta.uid, labels };
    arrange(&frame, groups(whole), &mirrors)
}

fn groups(endpoints: &Value) -> Vec<Group> {
    let mut groups = Vec::new();
    for subset in list_at(endpoints, &["subsets"]) {
        for family in ["IPv4", "IPv6"] {
            let entries = |field: &str, ready: bool| -> Vec<Value> {
                let addresses = list_at(subset, &[field]).iter();
                let own = addresses.filter(|address| str_at(address, &["ip"]).contains(':') == (family == "IPv6"));
                own.map(|address| entry(address, ready)).collect()
            };
            let mut all = entries("addresses", true);
            all.extend(entries("notReadyAddresses", false));
            if !all.is_empty() {
                let ports = list_at(subset, &["ports"]).iter().map(port).collect();
                groups.push(Group { family: family.into(), ports, endpoints: all });
            }
        }
    }
    groups
}

fn port(value: &Value) -> Value {
    let mut port = json!({ "name": str_at(value, &["name"]), "port": value["port"], "protocol": "TCP" });
    for field in ["protocol", "appProtocol"] {
        if let Some(known) = value.get(field).filter(|known| !known.is_null()) {
            port[field] = known.clone();
        }
    }
    port
}

fn entry(address: &Value, ready: bool) -> Value {
    let mut entry = json!({ "addresses": [address["ip"]], "conditions": { "ready": ready } });
    for field in ["nodeName", "targetRef", "hostname"] {
        if let Some(known) = address.get(field).filter(|known| !known.is_null()) {
            entry[field] = known.clone();
        }
    }
    entry
}
