//! Services of two families over the real engine.

use super::*;
use crate::cidr::Cidr;

fn dual() -> ServiceRanges {
    ServiceRanges { addresses: Cidr::list("10.43.0.0/16,fd43::/112").unwrap(), ..ServiceRanges::default() }
}

fn service(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["ports"] = json!([{"port": 80}]);
    json!({"metadata": {"name": name}, "spec": spec})
}

fn addresses(service: &Value) -> Vec<String> {
    let all = service["spec"]["clusterIPs"].as_array().unwrap().iter();
    all.map(|ip| ip.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_service_has_an_address_of_each_of_its_families() {
    let (_, client) = cluster_with(dual()).await;
    let plain = client.create(&SERVICES, HERE, &service("plain", &json!({}))).await.unwrap();
    assert_eq!((addresses(&plain).len(), &plain["spec"]["ipFamilyPolicy"]), (1, &json!("SingleStack")));
    let prefers = json!({"ipFamilyPolicy": "PreferDualStack"});
    let both = client.create(&SERVICES, HERE, &service("both", &prefers)).await.unwrap();
    let given = addresses(&both);
    assert!(given[0].starts_with("10.43.") && given[1].starts_with("fd43::"), "{given:?}");
    assert_eq!((&both["spec"]["clusterIP"], &both["spec"]["ipFamilies"]), (&json!(given[0]), &json!(["IPv4", "IPv6"])));

    // However it is written, it is one address, and in its range.
    let upper = given[1].to_uppercase();
    let taken = json!({"clusterIP": upper, "clusterIPs": [upper], "ipFamilies": ["IPv6"]});
    let (_, message) = refusal(client.create(&SERVICES, HERE, &service("thief", &taken)).await);
    assert!(
        message.ends_with(&format!("failed to allocate IP {upper}: provided IP is already allocated")),
        "{message}"
    );
    let outside = json!({"clusterIP": "fd44::1", "clusterIPs": ["fd44::1"]});
    let (_, message) = refusal(client.create(&SERVICES, HERE, &service("far", &outside)).await);
    assert!(message.contains("The range of valid IPs is fd43::/112"), "{message}");

    let single = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    let less = client.patch(&SERVICES, HERE, "both", None, (PatchKind::Merge, &single)).await.unwrap();
    assert_eq!((addresses(&less), &less["spec"]["ipFamilies"]), (vec![given[0].clone()], &json!(["IPv4"])));
    let heir = json!({"clusterIP": given[1], "clusterIPs": [given[1]]});
    client.create(&SERVICES, HERE, &service("heir", &heir)).await.unwrap();
    let required = json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}});
    let more = client.patch(&SERVICES, HERE, "both", None, (PatchKind::Merge, &required)).await.unwrap();
    assert!(addresses(&more)[1].starts_with("fd43::") && addresses(&more)[1] != given[1], "{more}");
    let alias = json!({"spec": {"type": "ExternalName", "externalName": "db.example"}});
    let alias = client.patch(&SERVICES, HERE, "both", None, (PatchKind::Merge, &alias)).await.unwrap();
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(alias["spec"][field], Value::Null, "{field}");
    }
}

#[tokio::test]
async fn a_small_range_is_used_to_its_end() {
    let ranges = ServiceRanges { addresses: Cidr::list("fd43::/124").unwrap(), ..ServiceRanges::default() };
    let (_, client) = cluster_with(ranges).await;
    for n in 0..15 {
        client.create(&SERVICES, HERE, &service(&format!("s{n}"), &json!({}))).await.unwrap();
    }
    let (code, message) = refusal(client.create(&SERVICES, HERE, &service("late", &json!({}))).await);
    assert!(code == 500 && message.contains("range is full"), "{message}");
    client.delete(&SERVICES, HERE, "s7", &DeleteOptions::default()).await.unwrap();
    client.create(&SERVICES, HERE, &service("late", &json!({}))).await.unwrap();
}
