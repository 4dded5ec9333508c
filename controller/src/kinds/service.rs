//! Pure: the rows of Services and Endpoints.

mod families;
mod outside;

pub(crate) use families::settle as settle_families;
pub(crate) use outside::needs_health_port;

use serde_json::{Value, json};

use super::column::{age, age_of, name, or_none, pairs};
use super::strategy::{Strategy, keep_status};
use super::{Column, Field, Kind, Subresource};
use crate::object::Object;
use crate::schema::field_error::FieldError;
use crate::schema::names;

pub(super) fn service() -> Kind {
    Kind {
        short_names: vec!["svc".into()],
        categories: vec!["all".into()],
        columns: vec![
            name(),
            Column::text("Type"),
            Column::text("Cluster-IP"),
            Column::text("External-IP"),
            Column::text("Port(s)"),
            age(),
            Column::text("Selector").wide(),
        ],
        row: service_row,
        fields: vec![Field::new("spec.clusterIP", &["spec", "clusterIP"]), Field::new("spec.type", &["spec", "type"])],
        subresources: vec![Subresource::Proxy, Subresource::Status],
        strategy: Strategy {
            prepare_create: |service| {
                complete(service);
                service.set(&["status"], json!({"loadBalancer": {}}));
            },
            prepare_update,
            validate,
            validate_update: outside::validate_update,
            name_errors: names::dns1035_label_errors,
            create_on_update: true,
            ..Strategy::default()
        },
        ..Kind::new("", "v1", "Service", "services")
    }
}

pub(super) fn endpoints() -> Kind {
    Kind {
        singular: "endpoints".into(),
        short_names: vec!["ep".into()],
        columns: vec![name(), Column::text("Endpoints"), age()],
        row: |object, now| vec![object.name().into(), addresses(object).into(), age_of(object, now)],
        strategy: Strategy { create_on_update: true, ..Strategy::default() },
        deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into(),
        ..Kind::new("", "v1", "Endpoints", "endpoints")
    }
}

/// The defaults that depend on other fields.
fn complete(service: &mut Object) {
    let kind = match service.text(&["spec", "type"]) {
        "" => "ClusterIP".to_owned(),
        given => given.to_owned(),
    };
    let mut or = |path: &[&str], value: Value| {
        if service.get(path).is_none_or(|old| old.is_null() || old == "") {
            service.set(path, value);
        }
    };
    or(&["spec", "type"], kind.as_str().into());
    or(&["spec", "sessionAffinity"], "None".into());
    if kind != "ExternalName" {
        or(&["spec", "internalTrafficPolicy"], "Cluster".into());
    }
    if outside::is_accessible(service) && service.text(&["spec", "externalTrafficPolicy"]).is_empty() {
        service.set(&["spec", "externalTrafficPolicy"], "Cluster");
    }
    let mut or = |path: &[&str], value: Value| {
        if service.get(path).is_none_or(|old| old.is_null() || old == "") {
            service.set(path, value);
        }
    };
    if kind == "LoadBalancer" {
        or(&["spec", "allocateLoadBalancerNodePorts"], true.into());
    }
    if service.text(&["spec", "sessionAffinity"]) == "ClientIP"
        && service.integer(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none()
    {
        service.set(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"], 10_800);
    }
    let mut ports = service.items(&["spec", "ports"]).to_vec();
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        if port.get("protocol").is_none_or(|protocol| protocol == "") {
            port.insert("protocol".to_owned(), "TCP".into());
        }
        let unset = port.get("targetPort").is_none_or(|target| target == 0 || target == "");
        if let Some(number) = port.get("port").filter(|_| unset).cloned() {
            port.insert("targetPort".to_owned(), number);
        }
    }
    if !ports.is_empty() {
        service.set(&["spec", "ports"], ports);
    }
    if service.items(&["spec", "clusterIPs"]).is_empty() && !service.text(&["spec", "clusterIP"]).is_empty() {
        let address = service.text(&["spec", "clusterIP"]).to_owned();
        service.set(&["spec", "clusterIPs"], vec![address]);
    }
}

/// Keeps what was allocated unless the new type has no use for it.
fn prepare_update(new: &mut Object, old: &Object) {
    keep_status(new, old);
    let external = |service: &Object| service.text(&["spec", "type"]) == "ExternalName";
    if external(new) && !external(old) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if new.get(&["spec", field]) == old.get(&["spec", field]) {
                new.remove(&["spec", field]);
            }
        }
    } else if !external(new) && !external(old) {
        families::keep_addresses(new, old);
    }
    keep_node_ports(new, old);
    outside::keep_or_drop(new, old);
    complete(new);
}

fn keep_node_ports(new: &mut Object, old: &Object) {
    let needs = matches!(new.text(&["spec", "type"]), "NodePort" | "LoadBalancer");
    let needed = matches!(old.text(&["spec", "type"]), "NodePort" | "LoadBalancer");
    let mut ports = new.items(&["spec", "ports"]).to_vec();
    for port in &mut ports {
        let before = old.items(&["spec", "ports"]).iter().find(|other| {
            other["port"] == port["port"] && other["protocol"] == *port.get("protocol").unwrap_or(&json!("TCP"))
        });
        let before = before.and_then(|other| other.get("nodePort")).cloned();
        let unset = port.get("nodePort").is_none_or(|number| number == 0);
        if needs && unset {
            if let Some(number) = before {
                port["nodePort"] = number;
            }
        } else if !needs && needed && port.get("nodePort") == before.as_ref() {
            port.as_object_mut().and_then(|port| port.remove("nodePort"));
        }
    }
    if !ports.is_empty() {
        new.set(&["spec", "ports"], ports);
    }
    if !needs && needed && new.get(&["spec", "externalTrafficPolicy"]) == old.get(&["spec", "externalTrafficPolicy"]) {
        new.remove(&["spec", "externalTrafficPolicy"]);
    }
}

fn validate(service: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = service.text(&["spec", "type"]);
    if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&kind) {
        let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        errors.push(FieldError::not_supported("spec.type", kind, &known));
    }
    let headless = service.text(&["spec", "clusterIP"]) == "None";
    let ports = service.items(&["spec", "ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if kind == "ExternalName" {
        let external = service.text(&["spec", "externalName"]);
        if external.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else {
            let wrong = names::dns1123_subdomain_errors(external.trim_end_matches('.')).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid("spec.externalName", external, why)));
        }
        errors.extend(families::validate_none(service));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", why));
    }
    let affinity = service.text(&["spec", "sessionAffinity"]);
    if !["None", "ClientIP"].contains(&affinity) {
        errors.push(FieldError::not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]));
    }
    for (at, port) in ports.iter().enumerate() {
        validate_port(port, &format!("spec.ports[{at}]"), ports.len() > 1, &ports[..at], &mut errors);
    }
    errors.extend(outside::validate(service));
    errors
}

fn validate_port(port: &Value, field: &str, several: bool, before: &[Value], errors: &mut Vec<FieldError>) {
    let name = port["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        if several {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        }
    } else {
        let wrong = names::dns1123_label_errors(name).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(format!("{field}.name"), name, why)));
        if before.iter().any(|other| other["name"] == name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        }
    }
    let number = port["port"].as_i64().unwrap_or_default();
    let wrong = names::port_number_errors(number).into_iter();
    errors.extend(wrong.map(|why| FieldError::invalid(format!("{field}.port"), number, why)));
    let protocol = port["protocol"].as_str().unwrap_or_default();
    if !["TCP", "UDP", "SCTP"].contains(&protocol) {
        errors.push(FieldError::not_supported(format!("{field}.protocol"), protocol, &["SCTP", "TCP", "UDP"]));
    }
    match &port["targetPort"] {
        Value::String(target) => {
            let wrong = names::port_name_errors(target).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(format!("{field}.targetPort"), target.as_str(), why)));
        }
        target => {
            let number = target.as_i64().unwrap_or_default();
            let wrong = names::port_number_errors(number).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(format!("{field}.targetPort"), number, why)));
        }
    }
    if before.iter().any(|other| other["port"] == port["port"] && other["protocol"] == port["protocol"]) {
        let value = json!({"protocol": port["protocol"], "port": port["port"]});
        errors.push(FieldError::duplicate(field, value));
    }
}

fn service_row(service: &Object, now: i64) -> Vec<Value> {
    let kind = service.text(&["spec", "type"]);
    vec![
        service.name().into(),
        kind.into(),
        or_none(service.text(&["spec", "clusterIP"])).into(),
        external(service, kind).into(),
        ports(service).into(),
        age_of(service, now),
        pairs(service.map(&["spec", "selector"])).into(),
    ]
}

fn external(service: &Object, kind: &str) -> String {
    let listed: Vec<&str> = service.items(&["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match kind {
        "ExternalName" => service.text(&["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let ingress = service.items(&["status", "loadBalancer", "ingress"]).iter();
            let given = ingress.filter_map(|one| one["ip"].as_str().or_else(|| one["hostname"].as_str()));
            let all: Vec<&str> = given.chain(listed).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => or_none(&listed.join(",")).to_owned(),
    }
}

fn ports(service: &Object) -> String {
    let ports = service.items(&["spec", "ports"]).iter().map(|port| {
        let (number, protocol) = (&port["port"], port["protocol"].as_str().unwrap_or("TCP"));
        match port["nodePort"].as_i64().filter(|node_port| *node_port > 0) {
            Some(node_port) => format!("{number}:{node_port}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    });
    or_none(&ports.collect::<Vec<_>>().join(",")).to_owned()
}

fn addresses(endpoints: &Object) -> String {
    let mut all = Vec::new();
    for subset in endpoints.items(&["subsets"]) {
        let list = |field: &str| subset[field].as_array().cloned().unwrap_or_default();
        let addresses = list("addresses");
        let of = |address: &Value| address["ip"].as_str().unwrap_or_default().to_owned();
        if list("ports").is_empty() {
            all.extend(addresses.iter().map(of));
        }
        for port in list("ports") {
            all.extend(addresses.iter().map(|address| format!("{}:{}", of(address), port["port"])));
        }
    }
    let text = super::column::first_three(&all);
    or_none(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
    }

    #[test]
    fn prints_ports_and_addresses() {
        let mut web =
            service(json!({"type": "NodePort", "clusterIP": "10.43.0.9", "ports": [{"port": 80, "nodePort": 30080}]}));
        complete(&mut web);
        let cells = service_row(&web, 0);
        assert_eq!(cells[4], "80:30080/TCP");
        assert_eq!(cells[3], "<none>");
        assert_eq!(web.items(&["spec", "ports"])[0]["targetPort"], 80);
        assert!(validate(&web).is_empty());
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let mut old =
            service(json!({"type": "NodePort", "clusterIP": "10.43.0.9", "ports": [{"port": 80, "nodePort": 30080}]}));
        complete(&mut old);
        let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        prepare_update(&mut new, &old);
        assert_eq!(new.text(&["spec", "clusterIP"]), "10.43.0.9");
        assert_eq!(new.items(&["spec", "ports"])[0]["nodePort"], 30080);
        let mut plain = old.clone();
        plain.set(&["spec", "type"], "ClusterIP");
        prepare_update(&mut plain, &old);
        assert_eq!(plain.items(&["spec", "ports"])[0].get("nodePort"), None);
    }
}
