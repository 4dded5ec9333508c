//! Pure: the rows of what the cluster's parts tell each other: Lease, EndpointSlice, Event.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::column::{age, age_of, first_three, name, since};
use super::strategy::Strategy;
use super::{Alias, Column, Field, Kind, Persistence};
use crate::object::Object;
use crate::schema::field_error::FieldError;
use crate::schema::names;

pub(super) fn lease() -> Kind {
    Kind {
        columns: vec![name(), Column::text("Holder"), age()],
        row: |object, now| {
            vec![object.name().into(), object.text(&["spec", "holderIdentity"]).into(), age_of(object, now)]
        },
        strategy: Strategy {
            create_on_update: true,
            unconditional_update: false,
            validate: validate_lease,
            ..Strategy::default()
        },
        persistence: Persistence::Heartbeat(is_renewal),
        ..Kind::new("coordination.k8s.io", "v1", "Lease", "leases")
    }
}

/// Only `renewTime` differs, and when its manager wrote.
fn is_renewal(old: &Object, new: &Object) -> bool {
    let still = |lease: &Object| {
        let mut lease = lease.clone();
        lease.remove(&["spec", "renewTime"]);
        lease.remove(&["metadata", "resourceVersion"]);
        lease.remove(&["metadata", "managedFields"]);
        lease
    };
    still(old) == still(new)
}

fn validate_lease(lease: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, least, why) in [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ] {
        if let Some(number) = lease.integer(&["spec", field]).filter(|number| *number < least) {
            errors.push(FieldError::invalid(format!("spec.{field}"), number, why));
        }
    }
    if !lease.text(&["spec", "preferredHolder"]).is_empty() && lease.text(&["spec", "strategy"]).is_empty() {
        let why = "may only be specified if `strategy` is defined";
        errors.push(FieldError::forbidden("spec.preferredHolder", why));
    }
    errors
}

pub(super) fn endpoint_slice() -> Kind {
    Kind {
        columns: vec![name(), Column::text("AddressType"), Column::text("Ports"), Column::text("Endpoints"), age()],
        row: slice_row,
        strategy: Strategy {
            generation: true,
            validate_update: |new, old| super::strategy::immutable(new, old, &["addressType"]).into_iter().collect(),
            validate: validate_slice,
            ..Strategy::default()
        },
        ..Kind::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
    }
}

/// Upstream's bounds of a slice.
const SLICE_ENDPOINTS_MAX: usize = 1000;
const SLICE_ADDRESSES_MAX: usize = 100;

fn validate_slice(slice: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let family = slice.text(&["addressType"]);
    match family {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => errors.push(FieldError::required("addressType", "")),
        other => errors.push(FieldError::not_supported("addressType", other, &["FQDN", "IPv4", "IPv6"])),
    }
    let mut seen = BTreeSet::new();
    for (at, port) in slice.items(&["ports"]).iter().enumerate() {
        let (field, name) = (format!("ports[{at}].name"), port["name"].as_str().unwrap_or_default());
        if !name.is_empty() {
            let wrong = names::dns1123_label_errors(name).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(&field, name, why)));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&field, name));
        }
    }
    let endpoints = slice.items(&["endpoints"]);
    if endpoints.len() > SLICE_ENDPOINTS_MAX {
        errors.push(FieldError::too_many("endpoints", endpoints.len(), SLICE_ENDPOINTS_MAX));
        return errors;
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{at}].addresses");
        let addresses: Vec<&str> =
            endpoint["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if addresses.is_empty() {
            errors.push(FieldError::required(&field, "must contain at least 1 address"));
        } else if addresses.len() > SLICE_ADDRESSES_MAX {
            errors.push(FieldError::too_many(&field, addresses.len(), SLICE_ADDRESSES_MAX));
        }
        for (at, address) in addresses.into_iter().enumerate() {
            errors.extend(validate_address(family, address, &format!("{field}[{at}]"), &field));
        }
    }
    errors
}

fn validate_address(family: &str, address: &str, field: &str, list: &str) -> Vec<FieldError> {
    let invalid = |field: &str, why: &str| vec![FieldError::invalid(field, address, why)];
    if family == "FQDN" {
        let wrong = names::dns1123_subdomain_errors(address.trim_end_matches('.')).into_iter();
        return wrong.map(|why| FieldError::invalid(field, address, why)).collect();
    }
    match (family, address.parse::<IpAddr>()) {
        ("IPv4" | "IPv6", Err(_)) => invalid(field, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ("IPv4", Ok(IpAddr::V6(_))) => invalid(list, "must be an IPv4 address"),
        ("IPv6", Ok(IpAddr::V4(_))) => invalid(list, "must be an IPv6 address"),
        ("IPv4" | "IPv6", Ok(address)) => not_an_endpoint(address).map(|why| invalid(field, why)).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Addresses that no endpoint has.
fn not_an_endpoint(address: IpAddr) -> Option<&'static str> {
    let (link_local, link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    match () {
        () if address.is_unspecified() => Some("may not be unspecified (0.0.0.0 or ::)"),
        () if address.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        () if link_local => Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        () if link_multicast => Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
        () => None,
    }
}

fn slice_row(object: &Object, now: i64) -> Vec<Value> {
    let ports: Vec<String> = object
        .items(&["ports"])
        .iter()
        .map(|port| port["port"].as_i64().map_or_else(|| "*".to_owned(), |number| number.to_string()))
        .collect();
    let addresses: Vec<String> = object
        .items(&["endpoints"])
        .iter()
        .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let or_unset = |list: &[String]| if list.is_empty() { "<unset>".to_owned() } else { first_three(list) };
    vec![
        object.name().into(),
        object.text(&["addressType"]).into(),
        or_unset(&ports).into(),
        or_unset(&addresses).into(),
        age_of(object, now),
    ]
}

fn event_columns() -> Vec<Column> {
    vec![
        Column::text("Last Seen"),
        Column::text("Type"),
        Column::text("Reason"),
        Column::text("Object"),
        Column::text("Subobject").wide(),
        Column::text("Source").wide(),
        Column::text("Message"),
        Column::text("First Seen").wide(),
        Column::text("Count").wide(),
        Column { priority: 1, ..name() },
    ]
}

pub(super) fn event() -> Kind {
    Kind {
        short_names: vec!["ev".into()],
        columns: event_columns(),
        row: event_row,
        fields: vec![
            Field::new("involvedObject.kind", &["involvedObject", "kind"]),
            Field::new("involvedObject.namespace", &["involvedObject", "namespace"]),
            Field::new("involvedObject.name", &["involvedObject", "name"]),
            Field::new("involvedObject.uid", &["involvedObject", "uid"]),
            Field::new("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
            Field::new("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
            Field::new("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
            Field::new("reason", &["reason"]),
            Field::new("reportingComponent", &["reportingComponent"]),
            // Whoever writes events.k8s.io names only the controller.
            Field { instead: &["reportingComponent"], ..Field::new("source", &["source", "component"]) },
            Field::new("type", &["type"]),
        ],
        strategy: Strategy { create_on_update: true, validate: validate_event, ..Strategy::default() },
        persistence: Persistence::Volatile,
        ..Kind::new("", "v1", "Event", "events")
    }
}

/// An event with an `eventTime` is of the new sort and says who reports what; either is beside what it is about.
fn validate_event(event: &Object) -> Vec<FieldError> {
    let (own, about) = (event.namespace(), event.text(&["involvedObject", "namespace"]));
    let new = !event.text(&["eventTime"]).is_empty();
    let beside = match (new, about) {
        (false, "") => own == "default",
        (true, "") => own == "default" || own == "kube-system",
        (false, about) => own == about,
        (true, _) => true,
    };
    let mut errors = Vec::new();
    if !beside {
        errors.push(FieldError::invalid("involvedObject.namespace", about, "does not match event.namespace"));
    }
    if new {
        let wanted = [
            ("reportingController", "reportingComponent"),
            ("reportingInstance", "reportingInstance"),
            ("action", "action"),
            ("reason", "reason"),
        ];
        let missing = wanted.into_iter().filter(|(_, field)| event.text(&[field]).is_empty());
        errors.extend(missing.map(|(name, _)| FieldError::required(name, "")));
    }
    errors
}

/// The same events in the words of events.k8s.io.
pub(super) fn event_in_group() -> Kind {
    Kind {
        row: |object, now| {
            let mut core = object.clone();
            to_core(&mut core);
            event_row(&core, now)
        },
        fields: vec![
            Field::new("regarding.kind", &["involvedObject", "kind"]),
            Field::new("regarding.namespace", &["involvedObject", "namespace"]),
            Field::new("regarding.name", &["involvedObject", "name"]),
            Field::new("regarding.uid", &["involvedObject", "uid"]),
            Field::new("reason", &["reason"]),
            Field::new("reportingController", &["reportingComponent"]),
            Field::new("type", &["type"]),
        ],
        alias: Some(Alias { group: "", version: "v1", store: to_core, show: from_core }),
        ..Kind {
            group: "events.k8s.io".into(),
            schema: crate::schema::lookup("events.k8s.io", "v1", "Event"),
            ..event()
        }
    }
}

/// Names of one field: in events.k8s.io, in core.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn to_core(event: &mut Object) {
    for (here, core) in RENAMED {
        if let Some(value) = event.0.remove(here) {
            event.0.insert(core.to_owned(), value);
        }
    }
}

fn from_core(event: &mut Object) {
    for (here, core) in RENAMED {
        if let Some(value) = event.0.remove(core) {
            event.0.insert(here.to_owned(), value);
        }
    }
}

fn event_row(event: &Object, now: i64) -> Vec<Value> {
    let time = |path: &[&str]| Some(event.text(path)).filter(|text| !text.is_empty()).map(|text| since(text, now));
    let unknown = || "<unknown>".to_owned();
    let first = time(&["firstTimestamp"]).or_else(|| time(&["eventTime"])).unwrap_or_else(unknown);
    let series = event.get(&["series"]).is_some_and(|series| !series.is_null());
    let (last, count) = if series {
        let last = time(&["series", "lastObservedTime"]).unwrap_or_else(unknown);
        (last, event.integer(&["series", "count"]).unwrap_or_default())
    } else {
        let count = event.integer(&["count"]).unwrap_or_default().max(1);
        (time(&["lastTimestamp"]).unwrap_or_else(|| first.clone()), count)
    };
    let kind = event.text(&["involvedObject", "kind"]).to_lowercase();
    let object = match event.text(&["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        event.text(&["type"]).into(),
        event.text(&["reason"]).into(),
        object.into(),
        event.text(&["involvedObject", "fieldPath"]).into(),
        source(event).into(),
        event.text(&["message"]).trim().into(),
        first.into(),
        count.into(),
        event.name().into(),
    ]
}

fn source(event: &Object) -> String {
    let (component, host) = match event.text(&["source", "component"]) {
        "" => (event.text(&["reportingComponent"]), event.text(&["reportingInstance"])),
        component => (component, event.text(&["source", "host"])),
    };
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_reads_the_same_in_both_groups() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "web"}, "message": "hi",
            "count": 2, "source": {"component": "kubelet", "host": "pi"}, "lastTimestamp": "1970-01-01T00:00:10Z",
            "firstTimestamp": "1970-01-01T00:00:00Z", "type": "Normal", "reason": "Started"});
        let stored = Object::from_value(core).unwrap();
        let mut shown = stored.clone();
        from_core(&mut shown);
        assert_eq!(shown.text(&["note"]), "hi");
        let row = event_in_group().row;
        assert_eq!(row(&shown, 20), event_row(&stored, 20));
        let cells = event_row(&stored, 20);
        assert_eq!(cells[0], "10s");
        assert_eq!(cells[3], "pod/web");
        assert_eq!(cells[5], "kubelet, pi");
    }

    #[test]
    fn a_renewal_changes_nothing_else() {
        let lease = |renew: &str, holder: &str| {
            Object::from_value(json!({"spec": {"renewTime": renew, "holderIdentity": holder}})).unwrap()
        };
        assert!(is_renewal(&lease("1", "a"), &lease("2", "a")));
        assert!(!is_renewal(&lease("1", "a"), &lease("2", "b")));
    }

    #[test]
    fn an_event_is_beside_its_object_and_says_who_reports() {
        let event = |about: &str, time: &str| {
            Object::from_value(json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": about},
                "eventTime": time, "reason": "R", "reportingComponent": "c"}))
            .unwrap()
        };
        assert_eq!(validate_event(&event("a", "")), []);
        let why = "does not match event.namespace";
        assert_eq!(validate_event(&event("b", "")), [FieldError::invalid("involvedObject.namespace", "b", why)]);
        let missing = ["reportingInstance", "action"].map(|field| FieldError::required(field, ""));
        assert_eq!(validate_event(&event("a", "2026-01-01T00:00:00.000000Z")), missing);
    }
}
