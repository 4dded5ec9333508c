//! Pure: discovery, aggregated and legacy, straight from the kind table.

use serde_json::{Value, json};

use crate::kinds::{Kind, Kinds, Serving, Subresource, api_version};

/// Does the client ask for aggregated discovery, and in which version?
pub(crate) fn aggregated_version(accept: &str) -> Option<&'static str> {
    super::negotiate::clauses(accept).iter().find_map(|clause| {
        let wanted =
            clause.parameter("g") == "apidiscovery.k8s.io" && clause.parameter("as") == "APIGroupDiscoveryList";
        match clause.parameter("v") {
            "v2" if wanted => Some("v2"),
            "v2beta1" if wanted => Some("v2beta1"),
            _ => None,
        }
    })
}

/// The `Content-Type` of an aggregated answer.
pub(crate) fn aggregated_type(version: &str) -> String {
    format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
}

/// `APIGroupDiscoveryList` of the core group (`/api`) or of all others (`/apis`).
pub(crate) fn aggregated(kinds: &Kinds, core: bool, version: &str) -> Value {
    let items: Vec<Value> = groups(kinds, core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = rows(kinds, group, version).map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": items})
}

fn groups(kinds: &Kinds, core: bool) -> impl Iterator<Item = (&str, Vec<&str>)> {
    kinds.groups().into_iter().filter(move |(group, _)| group.is_empty() == core)
}

fn rows<'a>(kinds: &'a Kinds, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Kind> {
    kinds.rows().iter().map(AsRef::as_ref).filter(move |row| row.group == group && row.version == version)
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut resource = json!({"resource": kind.plural, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "singularResource": kind.singular, "verbs": kind.verbs()});
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            let (group, version, name) = kind_of(kind, *sub);
            json!({"subresource": sub.name(), "verbs": sub.verbs(),
                "responseKind": {"group": group, "version": version, "kind": name}})
        })
        .collect();
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}

fn kind_of(kind: &Kind, sub: Subresource) -> (&str, &str, &str) {
    sub.kind().unwrap_or((&kind.group, &kind.version, &kind.kind))
}

/// `APIVersions`: `/api`.
pub(crate) fn legacy_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `APIGroupList`: `/apis`.
pub(crate) fn group_list(kinds: &Kinds) -> Value {
    let groups: Vec<Value> = groups(kinds, false).map(|(group, versions)| group_of(group, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIGroup`: `/apis/<group>`; `None` when nobody knows it.
pub(crate) fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let (group, versions) = groups(kinds, false).find(|(group, _)| *group == name)?;
    let mut found = group_of(group, &versions);
    found["kind"] = "APIGroup".into();
    found["apiVersion"] = "v1".into();
    Some(found)
}

fn group_of(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": api_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions[0], "versions": versions})
}

/// `APIResourceList`: `/api/v1`, `/apis/<group>/<version>`; `None` when nobody knows it.
pub(crate) fn resource_list(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in rows(kinds, group, version) {
        let mut resource = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs()});
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        if kind.serving == Serving::Stored {
            resource["storageVersionHash"] = "".into();
        }
        resources.push(resource);
        resources.extend(kind.subresources.iter().map(|sub| {
            let mut resource = json!({"name": format!("{}/{}", kind.plural, sub.name()), "singularName": "",
                "namespaced": kind.namespaced, "kind": kind_of(kind, *sub).2, "verbs": sub.verbs()});
            if let Some((group, version, _)) = sub.kind().filter(|(group, _, _)| *group != kind.group) {
                resource["group"] = group.into();
                resource["version"] = version.into();
            }
            resource
        }));
    }
    let found = !resources.is_empty();
    found.then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version),
            "resources": resources})
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_is_understood() {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_version(accept), Some("v2"));
        assert_eq!(aggregated_version("application/json"), None);
    }

    #[test]
    fn the_core_group_stands_apart() {
        let kinds = Kinds::of(vec![
            Kind { subresources: vec![Subresource::Eviction], ..Kind::new("", "v1", "Pod", "pods") },
            Kind::new("apps", "v1", "Deployment", "deployments"),
        ]);
        assert_eq!(aggregated(&kinds, true, "v2")["items"][0]["versions"][0]["resources"][0]["resource"], "pods");
        assert_eq!(group_list(&kinds)["groups"][0]["name"], "apps");
        let list = resource_list(&kinds, "", "v1").unwrap();
        assert_eq!(list["resources"][1]["name"], "pods/eviction");
        assert_eq!(list["resources"][1]["group"], "policy");
        assert_eq!(resource_list(&kinds, "", "v2"), None);
    }
}
