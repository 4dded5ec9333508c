//! Pure: what a Service says of traffic from outside, and of where traffic goes: worded as upstream words what is wrong.

use std::net::IpAddr;

use serde_json::Value;

use crate::object::Object;
use crate::schema::field_error::FieldError;
use crate::schema::names;

const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
pub(super) const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BALANCED_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// A day.
const AFFINITY_S_MAX: i64 = 86_400;

/// Whether somebody outside the cluster may come in.
pub(crate) fn is_accessible(service: &Object) -> bool {
    match service.text(&["spec", "type"]) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !service.items(&["spec", "externalIPs"]).is_empty(),
        _ => false,
    }
}

/// Whether a load balancer asks each node for its health.
pub(crate) fn needs_health_port(service: &Object) -> bool {
    service.text(&["spec", "type"]) == "LoadBalancer" && service.text(&["spec", "externalTrafficPolicy"]) == "Local"
}

pub(super) fn validate(service: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    policies(service, &mut errors);
    affinity(service, &mut errors);
    for (at, ip) in service.items(&["spec", "externalIPs"]).iter().enumerate() {
        let text = ip.as_str().unwrap_or_default();
        let wrong = endpoint_ip_error(text);
        errors.extend(wrong.map(|why| FieldError::invalid(format!("spec.externalIPs[{at}]"), text, why)));
    }
    load_balancer(service, &mut errors);
    errors
}

fn policies(service: &Object, errors: &mut Vec<FieldError>) {
    let external = service.text(&["spec", "externalTrafficPolicy"]);
    if is_accessible(service) {
        if !["Cluster", "Local"].contains(&external) {
            errors.push(FieldError::not_supported("spec.externalTrafficPolicy", external, &["Cluster", "Local"]));
        }
    } else if !external.is_empty() {
        let why = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", external, why));
    }
    let health = service.integer(&["spec", "healthCheckNodePort"]).unwrap_or_default();
    if health != 0 {
        let wrong = if needs_health_port(service) {
            names::port_number_errors(health)
        } else {
            vec!["may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'".to_owned()]
        };
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid("spec.healthCheckNodePort", health, why)));
    }
    for (field, known) in [
        ("internalTrafficPolicy", &["Cluster", "Local"][..]),
        ("trafficDistribution", &["PreferClose", "PreferSameNode", "PreferSameZone"]),
    ] {
        let given = service.text(&["spec", field]);
        if !given.is_empty() && !known.contains(&given) {
            errors.push(FieldError::not_supported(format!("spec.{field}"), given, known));
        }
    }
}

fn affinity(service: &Object, errors: &mut Vec<FieldError>) {
    let config = service.get(&["spec", "sessionAffinityConfig"]).filter(|config| !config.is_null());
    match (service.text(&["spec", "sessionAffinity"]), config) {
        ("None", Some(_)) => {
            let why = "must not be set when session affinity is None";
            errors.push(FieldError::forbidden("spec.sessionAffinityConfig", why));
        }
        ("ClientIP", Some(config)) => {
            let seconds = config["clientIP"]["timeoutSeconds"].as_i64().unwrap_or_default();
            if !(1..=AFFINITY_S_MAX).contains(&seconds) {
                let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
                errors.push(FieldError::invalid(field, seconds, "must be greater than 0 and less than 86400"));
            }
        }
        _ => {}
    }
}

fn load_balancer(service: &Object, errors: &mut Vec<FieldError>) {
    let balanced = service.text(&["spec", "type"]) == "LoadBalancer";
    let ranges = service.items(&["spec", "loadBalancerSourceRanges"]);
    if !ranges.is_empty() && !balanced {
        errors.push(FieldError::forbidden("spec.LoadBalancerSourceRanges", BALANCED_ONLY));
    }
    for (at, range) in ranges.iter().enumerate() {
        let text = range.as_str().unwrap_or_default();
        if !is_cidr(text.trim()) {
            errors.push(FieldError::invalid(format!("spec.loadBalancerSourceRanges[{at}]"), text, NO_CIDR));
        }
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !balanced && service.get(&["spec", field]).is_some_and(|value| !value.is_null()) {
            errors.push(FieldError::forbidden(format!("spec.{field}"), BALANCED_ONLY));
        }
    }
}

pub(super) fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let balanced = |service: &Object| service.text(&["spec", "type"]) == "LoadBalancer";
    let class = |service: &Object| service.get(&["spec", "loadBalancerClass"]).cloned().unwrap_or(Value::Null);
    if balanced(new) && balanced(old) && class(new) != class(old) {
        errors.push(FieldError::invalid("spec.loadBalancerClass", class(new), "may not change once set"));
    }
    let health = |service: &Object| service.integer(&["spec", "healthCheckNodePort"]).unwrap_or_default();
    if needs_health_port(new) && needs_health_port(old) && health(new) != health(old) {
        errors.push(FieldError::invalid("spec.healthCheckNodePort", health(new), "field is immutable"));
    }
    errors
}

/// What only load balancers have goes with the type, unless somebody changed it meanwhile; the port of the health check
/// stays as long as it is of use.
pub(super) fn keep_or_drop(new: &mut Object, old: &Object) {
    let balanced = |service: &Object| service.text(&["spec", "type"]) == "LoadBalancer";
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if balanced(old) && !balanced(new) && new.get(&["spec", field]) == old.get(&["spec", field]) {
            new.remove(&["spec", field]);
        }
    }
    let Some(port) = old.integer(&["spec", "healthCheckNodePort"]).filter(|port| *port > 0) else { return };
    let given = new.integer(&["spec", "healthCheckNodePort"]).unwrap_or_default();
    if needs_health_port(new) && given == 0 {
        new.set(&["spec", "healthCheckNodePort"], port);
    } else if !needs_health_port(new) && given == port {
        new.remove(&["spec", "healthCheckNodePort"]);
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((ip, length)) = text.split_once('/') else { return false };
    let most = match ip.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}

/// Why an address may not be one that traffic is drawn to.
fn endpoint_ip_error(text: &str) -> Option<String> {
    let Ok(ip) = text.parse::<IpAddr>() else { return Some(NO_IP.to_owned()) };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] == 0xff02),
    };
    let why = if ip.is_unspecified() {
        format!("may not be unspecified ({ip})")
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if link_local_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return None;
    };
    Some(why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: &Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        for (spec, words) in [
            (
                json!({"type": "ClusterIP", "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
            (
                json!({"type": "NodePort", "externalTrafficPolicy": "Near"}),
                r#"spec.externalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local""#,
            ),
            (
                json!({"type": "NodePort", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000}),
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ),
            (
                json!({"type": "ClusterIP", "trafficDistribution": "Near"}),
                r#"spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameNode", "PreferSameZone""#,
            ),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ),
            (
                json!({"type": "ClusterIP", "externalTrafficPolicy": "Cluster", "externalIPs": ["127.0.0.1"]}),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"type": "ClusterIP", "loadBalancerClass": "x"}),
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
        ] {
            let told: Vec<String> = validate(&object(&spec)).iter().map(ToString::to_string).collect();
            assert_eq!(told, [words], "{spec}");
        }
    }

    #[test]
    fn a_port_for_health_checks_is_kept_while_it_is_of_use() {
        let balanced = |policy: &str, port: i64| {
            object(&json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "healthCheckNodePort": port}))
        };
        let old = balanced("Local", 30100);
        let mut new = balanced("Local", 0);
        keep_or_drop(&mut new, &old);
        assert_eq!(new.integer(&["spec", "healthCheckNodePort"]), Some(30100));
        assert_eq!(validate_update(&new, &old), []);
        assert_eq!(validate_update(&balanced("Local", 30101), &old).len(), 1);
        let mut new = balanced("Cluster", 30100);
        keep_or_drop(&mut new, &old);
        assert_eq!(new.get(&["spec", "healthCheckNodePort"]), None);
        let old = object(&json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true}));
        let mut new = object(&json!({"type": "ClusterIP", "allocateLoadBalancerNodePorts": true}));
        keep_or_drop(&mut new, &old);
        assert_eq!(validate(&new), []);
    }
}
