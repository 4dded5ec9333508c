//! Pure: the OpenAPI v3 documents of what the kind table serves.

use serde_json::{Value, json};

use crate::kinds::{Kind, Kinds};
use crate::registry::status::{Answer, ApiError};
use crate::schema::openapi::v2::v2_document;
use crate::schema::openapi::{self, Resource, Subresource};

/// `/openapi/v3`.
pub(crate) fn index(kinds: &Kinds) -> Value {
    let versions =
        kinds.groups().into_iter().flat_map(|(group, versions)| versions.into_iter().map(move |v| (group, v)));
    openapi::v3_index(versions.map(|(group, version)| {
        let hash = openapi::v3_hash(group, version, &resources(kinds, group, version));
        (group, version, hash)
    }))
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/apps/v1`.
pub(crate) fn document(kinds: &Kinds, path: &str) -> Answer<String> {
    let groups = kinds.groups();
    let mut versions = groups.iter().flat_map(|(group, versions)| versions.iter().map(move |v| (*group, *v)));
    let (group, version) = versions
        .find(|(group, version)| openapi::gv_path(group, version) == path)
        .ok_or_else(ApiError::no_such_path)?;
    Ok(openapi::v3_document(group, version, &resources(kinds, group, version)))
}

/// `/openapi/v2` in protobuf.
pub(crate) fn v2_protobuf(kinds: &Kinds) -> Vec<u8> {
    let groups = kinds.groups();
    let versions = groups.iter().flat_map(|(group, versions)| versions.iter().map(move |v| (*group, *v)));
    let served: Vec<_> = versions.map(|(group, version)| (group, version, resources(kinds, group, version))).collect();
    v2_document(served.iter().map(|(group, version, resources)| (*group, *version, resources.as_slice())))
}

/// `/openapi/v2` in JSON, which no client of today reads: the v3 documents say everything.
pub(crate) fn v2_json() -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.35.0"}, "paths": {}, "definitions": {}})
}

fn resources(kinds: &Kinds, group: &str, version: &str) -> Vec<Resource> {
    let rows = kinds.rows().iter().filter(|row| row.group == group && row.version == version);
    rows.map(|row| resource(row)).collect()
}

fn resource(kind: &Kind) -> Resource {
    let texts = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect();
    let subresources = kind.subresources.iter().map(|sub| {
        let (group, version, name) = sub.kind().unwrap_or((&kind.group, &kind.version, &kind.kind));
        let kind = (group.to_owned(), version.to_owned(), name.to_owned());
        Subresource { name: sub.name().to_owned(), kind, verbs: texts(sub.verbs()) }
    });
    Resource {
        plural: kind.plural.to_string(),
        kind: kind.kind.to_string(),
        namespaced: kind.namespaced,
        verbs: texts(kind.verbs()),
        subresources: subresources.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_its_document() {
        let kinds = Kinds::builtin();
        let index = index(&kinds);
        for path in index["paths"].as_object().unwrap().keys() {
            let document: Value = serde_json::from_str(&document(&kinds, path).unwrap()).unwrap();
            assert!(document["paths"].as_object().is_some_and(|paths| !paths.is_empty()), "{path}");
        }
    }
}
