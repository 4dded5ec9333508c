use serde_json::json;

use super::*;

const ONE: &[&str] = &["IPv4"];
const BOTH: &[&str] = &["IPv4", "IPv6"];
const SIX_FIRST: &[&str] = &["IPv6", "IPv4"];

fn service(spec: Value) -> Object {
    let mut service = Object::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
    if service.text(&["spec", "type"]).is_empty() {
        service.set(&["spec", "type"], "ClusterIP");
    }
    service
}

/// Policy and families, or what is wrong.
fn settled(spec: Value, cluster: &[&'static str]) -> String {
    let mut new = service(spec);
    told(&settle(&mut new, None, cluster), &new)
}

fn told(errors: &[FieldError], new: &Object) -> String {
    if errors.is_empty() {
        return format!("{} {}", policy(new), list(new, FAMILIES).join(","));
    }
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_is_not_said_follows_from_the_cluster() {
    let selector = json!({"app": "web"});
    for (spec, cluster, wanted) in [
        (json!({}), ONE, "SingleStack IPv4"),
        (json!({}), BOTH, "SingleStack IPv4"),
        (json!({}), SIX_FIRST, "SingleStack IPv6"),
        (json!({"ipFamilies": ["IPv6"]}), BOTH, "SingleStack IPv6"),
        (json!({"ipFamilyPolicy": "PreferDualStack"}), ONE, "PreferDualStack IPv4"),
        (json!({"ipFamilyPolicy": "PreferDualStack"}), BOTH, "PreferDualStack IPv4,IPv6"),
        (json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}), BOTH, "PreferDualStack IPv6,IPv4"),
        (json!({"ipFamilyPolicy": "RequireDualStack"}), SIX_FIRST, "RequireDualStack IPv6,IPv4"),
        (
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
            SIX_FIRST,
            "RequireDualStack IPv4,IPv6",
        ),
        (json!({"clusterIP": "fd43::9", "clusterIPs": ["fd43::9"]}), BOTH, "SingleStack IPv6"),
        (
            json!({"clusterIP": "fd43::9", "clusterIPs": ["fd43::9", "10.43.0.9"], "ipFamilyPolicy": "PreferDualStack"}),
            BOTH,
            "PreferDualStack IPv6,IPv4",
        ),
        // Headless: with a selector as the others, without one of both families wherever it is.
        (json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": selector}), BOTH, "SingleStack IPv4"),
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), ONE, "RequireDualStack IPv4,IPv6"),
        (
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": "SingleStack"}),
            SIX_FIRST,
            "SingleStack IPv6",
        ),
        (json!({"type": "ExternalName", "externalName": "db"}), BOTH, " "),
    ] {
        assert_eq!(settled(spec.clone(), cluster), wanted, "{spec} {cluster:?}");
    }
}

#[test]
fn what_cannot_be_is_told_in_upstreams_words() {
    let two = json!(["10.43.0.9", "fd43::9"]);
    for (spec, cluster, words) in [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            ONE,
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            ONE,
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"clusterIP": "fd43::9", "clusterIPs": ["fd43::9"]}),
            ONE,
            "spec.clusterIPs[0]: Invalid value: [\"fd43::9\"]: IPv6 is not configured on this cluster",
        ),
        (
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            BOTH,
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        ),
        (
            json!({"clusterIP": "10.43.0.9", "clusterIPs": two}),
            BOTH,
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
        ),
        (
            json!({"ipFamilyPolicy": "Both"}),
            BOTH,
            "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
        ),
        (
            json!({"ipFamilies": ["IPv5"]}),
            BOTH,
            "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
        ),
        (json!({"ipFamilies": ["IPv4", "IPv4"]}), BOTH, "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
        (
            json!({"clusterIPs": ["10.43.0.9"]}),
            BOTH,
            "spec.clusterIPs: Invalid value: [\"10.43.0.9\"]: must be empty when `clusterIP` is not specified",
        ),
        (
            json!({"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.9"]}),
            BOTH,
            "spec.clusterIPs: Invalid value: [\"10.43.0.9\"]: first value must match `clusterIP`",
        ),
        (
            json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "ipFamilies": ["IPv6"]}),
            BOTH,
            "spec.clusterIPs[0]: Invalid value: \"10.43.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9", "10.43.0.8"], "ipFamilyPolicy": "PreferDualStack"}),
            BOTH,
            "spec.clusterIPs: Invalid value: [\"10.43.0.9\",\"10.43.0.8\"]: may specify no more than one IP for each IP family",
        ),
        (
            json!({"clusterIP": "None", "clusterIPs": ["None", "fd43::9"]}),
            BOTH,
            "spec.clusterIPs: Invalid value: [\"None\",\"fd43::9\"]: 'None' must be the first and only value",
        ),
        (
            json!({"clusterIP": "me", "clusterIPs": ["me"]}),
            BOTH,
            "spec.clusterIPs[0]: Invalid value: \"me\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
    ] {
        assert_eq!(settled(spec.clone(), cluster), words, "{spec}");
    }
    let alias = service(
        json!({"type": "ExternalName", "ipFamilies": ["IPv4"], "clusterIPs": [], "ipFamilyPolicy": "SingleStack"}),
    );
    assert_eq!(
        told(&validate_none(&alias), &alias),
        "spec.ipFamilies: Forbidden: may not be set for ExternalName services; \
         spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services"
    );
}

fn dual() -> Object {
    service(json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9", "fd43::9"],
        "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}))
}

/// What an update does to policy, families and addresses.
fn updated(old: &Object, spec: Value, cluster: &[&'static str]) -> String {
    let mut new = service(spec);
    keep_addresses(&mut new, old);
    let errors = settle(&mut new, Some(old), cluster);
    let addresses = list(&new, ADDRESSES).join(",");
    if errors.is_empty() { format!("{} {addresses}", told(&[], &new)) } else { told(&errors, &new) }
}

#[test]
fn a_second_family_comes_and_goes_with_the_policy() {
    let single = service(json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
        "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}));
    let added = updated(&single, json!({"ipFamilyPolicy": "RequireDualStack"}), BOTH);
    assert_eq!(added, "RequireDualStack IPv4,IPv6 10.43.0.9", "the allocator adds the address that is missing");
    assert_eq!(updated(&single, json!({}), BOTH), "SingleStack IPv4 10.43.0.9");
    let whole = dual();
    let kept = dual().get(&["spec"]).cloned().unwrap();
    let dropped = |policy: &str| {
        let mut spec = kept.clone();
        spec["ipFamilyPolicy"] = json!(policy);
        spec
    };
    assert_eq!(updated(&whole, dropped("SingleStack"), BOTH), "SingleStack IPv4 10.43.0.9");
    assert_eq!(updated(&whole, dropped("PreferDualStack"), ONE), "PreferDualStack IPv4,IPv6 10.43.0.9,fd43::9");
    assert_eq!(updated(&whole, json!({}), BOTH), "PreferDualStack IPv4,IPv6 10.43.0.9,fd43::9");
    let reduced = json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"]});
    assert_eq!(
        updated(&whole, reduced, BOTH),
        "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary cluster IP"
    );
    let reduced = json!({"ipFamilies": ["IPv4"]});
    assert_eq!(
        updated(&whole, reduced, BOTH),
        "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary IP family"
    );
}

#[test]
fn the_first_address_and_family_stay() {
    let changed = json!({"clusterIP": "10.43.0.8", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]});
    assert_eq!(
        updated(&dual(), changed, BOTH),
        "spec.clusterIPs[0]: Invalid value: [\"10.43.0.8\"]: may not change once set"
    );
    let swapped =
        json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIP": "fd43::9", "clusterIPs": ["fd43::9", "10.43.0.9"]});
    assert!(
        updated(&dual(), swapped, BOTH)
            .contains("spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change")
    );
    let headless = service(json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"},
        "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}));
    let other = json!({"clusterIP": "None", "selector": {"a": "b"}, "ipFamilies": ["IPv6"]});
    assert_eq!(updated(&headless, other, BOTH), "SingleStack IPv6 None", "who has no address may change");
    let gains = json!({"clusterIP": "10.43.0.9", "selector": {"a": "b"}});
    assert!(updated(&headless, gains, BOTH).contains("may not change once set"));
}
