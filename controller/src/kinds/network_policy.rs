//! Pure: the row of NetworkPolicy.

use std::net::IpAddr;

use serde_json::Value;

use super::column::{age, age_of, name, selector_text};
use super::strategy::Strategy;
use super::{Column, Kind};
use crate::object::Object;
use crate::schema::field_error::{FieldError, Path};
use crate::schema::names;
use crate::schema::selector::validate_label_selector;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: vec!["netpol".into()],
        columns: vec![name(), Column::text("Pod-Selector"), age()],
        row: |object, now| {
            let pods = Some(selector_text(object.get(&["spec", "podSelector"]))).filter(|text| !text.is_empty());
            vec![object.name().into(), pods.unwrap_or_else(|| "<none>".into()).into(), age_of(object, now)]
        },
        strategy: Strategy { generation: true, validate, ..Strategy::default() },
        ..Kind::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
    }
}

const SPEC: Path<'static> = Path::Field(&Path::Root, "spec");

fn validate(policy: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(pods) = policy.get(&["spec", "podSelector"]) {
        errors.extend(validate_label_selector(pods, Path::Field(&SPEC, "podSelector")));
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let direction_path = Path::Field(&SPEC, direction);
        for (at, rule) in policy.items(&["spec", direction]).iter().enumerate() {
            let rule_path = Path::Index(&direction_path, at);
            let list = |field: &str| rule[field].as_array().into_iter().flatten().enumerate();
            let (ports_path, peers_path) = (Path::Field(&rule_path, "ports"), Path::Field(&rule_path, peers));
            list("ports").for_each(|(at, port)| validate_port(port, Path::Index(&ports_path, at), &mut errors));
            list(peers).for_each(|(at, peer)| validate_peer(peer, Path::Index(&peers_path, at), &mut errors));
        }
    }
    let types = policy.items(&["spec", "policyTypes"]);
    let types_path = Path::Field(&SPEC, "policyTypes");
    if types.len() > 2 {
        errors.push(FieldError::invalid(types_path, types.to_vec(), "may not specify more than two policyTypes"));
        return errors;
    }
    for (at, kind) in
        types.iter().enumerate().filter(|(_, kind)| !["Ingress", "Egress"].iter().any(|known| kind == known))
    {
        errors.push(FieldError::not_supported(Path::Index(&types_path, at), kind.clone(), &["Egress", "Ingress"]));
    }
    errors
}

fn validate_port(port: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(protocol) = port["protocol"].as_str().filter(|protocol| !["TCP", "UDP", "SCTP"].contains(protocol)) {
        errors.push(FieldError::not_supported(Path::Field(&path, "protocol"), protocol, &["SCTP", "TCP", "UDP"]));
    }
    let (field, end_field) = (Path::Field(&path, "port"), Path::Field(&path, "endPort"));
    let end = port["endPort"].as_i64();
    match &port["port"] {
        Value::Null => {
            let why = "may not be specified when `port` is not specified";
            errors.extend(end.map(|end| FieldError::invalid(end_field, end, why)));
        }
        Value::String(text) => {
            let why = "may not be specified when `port` is non-numeric";
            errors.extend(end.map(|end| FieldError::invalid(end_field, end, why)));
            let wrong = names::port_name_errors(text).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(field, text.as_str(), why)));
        }
        number => {
            let first = number.as_i64().unwrap_or_default();
            let wrong = names::port_number_errors(first).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(field, first, why)));
            let Some(end) = end else { return };
            if end < first {
                let why = "must be greater than or equal to `port`";
                errors.push(FieldError::invalid(end_field, first, why));
            }
            let wrong = names::port_number_errors(end).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid(end_field, end, why)));
        }
    }
}

fn validate_peer(peer: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    let mut kinds = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = peer.get(field).filter(|selector| !selector.is_null()) {
            kinds += 1;
            errors.extend(validate_label_selector(selector, Path::Field(&path, field)));
        }
    }
    let block = peer.get("ipBlock").filter(|block| !block.is_null());
    if let Some(block) = block {
        kinds += 1;
        validate_block(block, Path::Field(&path, "ipBlock"), errors);
    }
    if kinds == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    } else if kinds > 1 && block.is_some() {
        errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
    }
}

fn validate_block(block: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let text = block["cidr"].as_str().unwrap_or_default();
    let field = Path::Field(&path, "cidr");
    if text.is_empty() {
        errors.push(FieldError::required(field, ""));
        return;
    }
    let whole = cidr(text);
    if whole.is_none() {
        errors.push(FieldError::invalid(field, text, NO_CIDR));
    }
    let except_path = Path::Field(&path, "except");
    for (at, except) in block["except"].as_array().into_iter().flatten().enumerate() {
        let text = except.as_str().unwrap_or_default();
        let field = Path::Index(&except_path, at);
        match (cidr(text), whole) {
            (None, _) => errors.push(FieldError::invalid(field, text, NO_CIDR)),
            (Some(except), Some(whole)) if !is_within(except, whole) => {
                errors.push(FieldError::invalid(field, text, "must be a strict subset of `cidr`"));
            }
            _ => {}
        }
    }
}

/// The family, the bits of the address behind each other, and the length of the prefix.
fn cidr(text: &str) -> Option<(bool, u128, u32)> {
    let (ip, length) = text.split_once('/')?;
    let length: u32 = length.parse().ok().filter(|_| length.bytes().all(|byte| byte.is_ascii_digit()))?;
    match ip.parse().ok()? {
        IpAddr::V4(ip) => (length <= 32).then(|| (true, u128::from(u32::from(ip)) << 96, length)),
        IpAddr::V6(ip) => (length <= 128).then(|| (false, u128::from(ip), length)),
    }
}

fn is_within(
    (inner_family, inner, inner_length): (bool, u128, u32),
    (family, outer, length): (bool, u128, u32),
) -> bool {
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or_default();
    inner_family == family && inner_length > length && inner & mask == outer & mask
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(spec: Value) -> Vec<String> {
        let object = Object::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        validate(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_whole_policy_passes() {
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}],
                "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}]}],
            "egress": [{}]});
        assert_eq!(told(spec), [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        for (rule, words) in [
            (json!({"from": [{}]}), "spec.ingress[0].from[0]: Required value: must specify a peer"),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                json!({"ports": [{"port": "http", "endPort": 90}]}),
                "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
            ),
            (
                json!({"ports": [{"port": 0}]}),
                "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
        ] {
            assert_eq!(told(json!({"podSelector": {}, "ingress": [rule]})), [words]);
        }
        let types = told(json!({"podSelector": {}, "policyTypes": ["Both"]}));
        assert_eq!(types, [r#"spec.policyTypes[0]: Unsupported value: "Both": supported values: "Egress", "Ingress""#]);
    }
}
