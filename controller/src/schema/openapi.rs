//! Pure: the OpenAPI v3 documents, written from the table and the kinds that are served, on demand.
//!
//! A document is text from the start: as a tree of values the core group would take megabytes.

pub mod v2;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::table::{self, Element, Field, ListType, Scalar, Shape, TypeId, lookup, type_named};

/// A resource that the API serves.
#[derive(Debug, Clone)]
pub struct Resource {
    /// The plural name, such as `deployments`.
    pub plural: String,
    /// The kind.
    pub kind: String,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// `get`, `list`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: Vec<String>,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
}

/// A subresource such as `scale`.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// The name in the path.
    pub name: String,
    /// Group, version and kind of its body.
    pub kind: (String, String, String),
    /// `get`, `create`, `update`, `patch`, `delete`.
    pub verbs: Vec<String>,
}

/// The index at `/openapi/v3`, of groups and versions with the hash of their documents.
pub fn v3_index<'a>(documents: impl Iterator<Item = (&'a str, &'a str, u64)>) -> Value {
    let paths: Map<String, Value> = documents
        .map(|(group, version, hash)| {
            let path = gv_path(group, version);
            let url = format!("/openapi/v3/{path}?hash={hash:016X}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `api/v1` or `apis/apps/v1`.
pub fn gv_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// What changes when the document does: the table and the resources (FNV-1a).
pub fn v3_hash(group: &str, version: &str, resources: &[Resource]) -> u64 {
    let text = format!("{group}/{version} {resources:?}");
    text.bytes().fold(table::source_hash(), |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The document of one group and version as JSON text.
pub fn v3_document(group: &str, version: &str, resources: &[Resource]) -> String {
    let mut writer = Writer { out: String::new(), types: BTreeSet::new() };
    writer.out.push_str(r#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"v1.35.0"},"paths":{"#);
    writer.paths(group, version, resources);
    writer.out.push_str(r#"},"components":{"schemas":{"#);
    writer.schemas(group, version);
    writer
        .out
        .push_str(r#"},"securitySchemes":{"BearerToken":{"type":"apiKey","name":"authorization","in":"header"}}}}"#);
    writer.out
}

/// A type's name in the published documents.
pub fn definition_name(kind: TypeId) -> String {
    let name = kind.name();
    match name.split('.').next() {
        Some("meta") => format!("io.k8s.apimachinery.pkg.apis.{name}"),
        Some("apiextensions") => format!("io.k8s.apiextensions-apiserver.pkg.apis.{name}"),
        Some("apiregistration") => format!("io.k8s.kube-aggregator.pkg.apis.{name}"),
        _ => format!("io.k8s.api.{name}"),
    }
}

struct Writer {
    out: String,
    /// The types that are referred to.
    types: BTreeSet<TypeId>,
}

const BODY_TYPES: [&str; 2] = ["application/json", "application/yaml"];
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const PATCH_DEFINITION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

impl Writer {
    fn comma(&mut self) {
        if !self.out.ends_with(['{', '[', ':', ',']) {
            self.out.push(',');
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a String takes all text");
    }

    fn paths(&mut self, group: &str, version: &str, resources: &[Resource]) {
        let base = format!("/{}", gv_path(group, version));
        for resource in resources {
            let Resource { plural, kind, namespaced, verbs, subresources } = resource;
            let scope = if *namespaced { "/namespaces/{namespace}" } else { "" };
            let gvk = (group, version, kind.as_str());
            let has = |verb: &str| verbs.iter().any(|known| known == verb);
            let pick = |wanted: &[&'static str]| wanted.iter().copied().filter(|verb| has(verb)).collect::<Vec<_>>();
            self.path(&format!("{base}{scope}/{plural}"), &[], gvk, &pick(&["list", "create", "deletecollection"]));
            self.path(
                &format!("{base}{scope}/{plural}/{{name}}"),
                &["name"],
                gvk,
                &pick(&["get", "update", "patch", "delete"]),
            );
            if *namespaced {
                self.path(&format!("{base}/{plural}"), &[], gvk, &pick(&["list"]));
            }
            for Subresource { name, kind: (group, version, kind), verbs } in subresources {
                let known = ["get", "create", "update", "patch", "delete"];
                let verbs: Vec<_> = known.into_iter().filter(|verb| verbs.iter().any(|known| known == verb)).collect();
                let path = format!("{base}{scope}/{plural}/{{name}}/{name}");
                self.path(&path, &["name"], (group, version, kind), &verbs);
            }
        }
    }

    fn path(&mut self, path: &str, names: &[&str], gvk: (&str, &str, &str), verbs: &[&str]) {
        if verbs.is_empty() {
            return;
        }
        self.comma();
        self.put(format_args!("{}:{{", json!(path)));
        for verb in verbs {
            self.operation(verb, gvk);
        }
        self.comma();
        self.out.push_str(r#""parameters":["#);
        let namespace = path.contains("{namespace}").then_some(&"namespace");
        for name in names.iter().chain(namespace) {
            self.comma();
            self.put(format_args!(
                r#"{{"name":"{name}","in":"path","required":true,"schema":{{"type":"string","uniqueItems":true}}}}"#
            ));
        }
        self.comma();
        self.out.push_str(&query("pretty", "string"));
        self.out.push_str("]}");
    }

    fn operation(&mut self, verb: &str, (group, version, kind): (&str, &str, &str)) {
        let (method, action) = match verb {
            "list" => ("get", "list"),
            "create" => ("post", "post"),
            "update" => ("put", "put"),
            "deletecollection" => ("delete", "deletecollection"),
            other => (other, other),
        };
        self.comma();
        self.put(format_args!(r#""{method}":{{"x-kubernetes-action":"{action}","#));
        self.put(format_args!(
            r#""x-kubernetes-group-version-kind":{{"group":"{group}","version":"{version}","kind":"{kind}"}},"#
        ));
        self.out.push_str(r#""parameters":["#);
        let parameters: &[(&str, &str)] = match verb {
            "list" | "deletecollection" => &[
                ("allowWatchBookmarks", "boolean"),
                ("continue", "string"),
                ("fieldSelector", "string"),
                ("labelSelector", "string"),
                ("limit", "integer"),
                ("resourceVersion", "string"),
                ("resourceVersionMatch", "string"),
                ("sendInitialEvents", "boolean"),
                ("timeoutSeconds", "integer"),
                ("watch", "boolean"),
            ],
            "create" | "update" => &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")],
            "patch" => {
                &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")]
            }
            "delete" => &[
                ("dryRun", "string"),
                ("gracePeriodSeconds", "integer"),
                ("orphanDependents", "boolean"),
                ("propagationPolicy", "string"),
            ],
            _ => &[],
        };
        for (name, kind) in parameters {
            self.comma();
            self.out.push_str(&query(name, kind));
        }
        self.out.push_str("],");
        let own = lookup(group, version, kind);
        match verb {
            "create" | "update" => self.body(own, &["*/*"]),
            "patch" => {
                self.out.push_str(r#""requestBody":{"required":true,"content":{"#);
                for media in PATCH_TYPES {
                    self.comma();
                    self.put(format_args!(
                        r##""{media}":{{"schema":{{"$ref":"#/components/schemas/{PATCH_DEFINITION}"}}}}"##
                    ));
                }
                self.out.push_str("}},");
            }
            "delete" | "deletecollection" => self.body(type_named("meta.v1.DeleteOptions"), &["*/*"]),
            _ => {}
        }
        let answer = match verb {
            "list" => lookup(group, version, &format!("{kind}List")).or(own),
            "delete" | "deletecollection" => type_named("meta.v1.Status"),
            _ => own,
        };
        self.out.push_str(r#""responses":{"200":{"description":"OK","content":{"#);
        for media in BODY_TYPES {
            self.comma();
            self.put(format_args!(r#""{media}":{{"schema":"#));
            self.reference(answer);
            self.out.push('}');
        }
        self.out.push_str(r#"}},"401":{"description":"Unauthorized"}}}"#);
    }

    fn body(&mut self, kind: Option<TypeId>, media: &[&str]) {
        self.out.push_str(r#""requestBody":{"content":{"#);
        for media in media {
            self.comma();
            self.put(format_args!(r#""{media}":{{"schema":"#));
            self.reference(kind);
            self.out.push('}');
        }
        self.out.push_str("}},");
    }

    fn reference(&mut self, kind: Option<TypeId>) {
        match kind {
            Some(kind) => {
                self.types.insert(kind);
                let name = definition_name(kind);
                self.put(format_args!(r##"{{"$ref":"#/components/schemas/{name}"}}"##));
            }
            None => self.out.push_str(r#"{"type":"object"}"#),
        }
    }

    fn schemas(&mut self, group: &str, version: &str) {
        let mut done: BTreeSet<TypeId> = BTreeSet::new();
        let prefix = table::types().filter(|kind| kind.kinds().any(|(g, v, _)| (g, v) == (group, version)));
        self.types.extend(prefix);
        while let Some(kind) = self.types.iter().copied().find(|kind| !done.contains(kind)) {
            done.insert(kind);
            self.comma();
            self.put(format_args!(r#""{}":"#, definition_name(kind)));
            self.schema(kind);
        }
        for (name, text) in SPECIAL {
            self.comma();
            self.put(format_args!(r#""{name}":{text}"#));
        }
    }

    fn schema(&mut self, kind: TypeId) {
        self.out.push_str(r#"{"type":"object","properties":{"#);
        if has_type_meta(kind) {
            self.out.push_str(r#""apiVersion":{"type":"string"},"kind":{"type":"string"}"#);
        }
        let fields = kind.json_fields();
        for field in &fields {
            self.comma();
            self.put(format_args!(r#""{}":"#, field.name()));
            self.property(*field);
        }
        self.out.push('}');
        let required: Vec<&str> = fields.iter().filter(|field| field.is_required()).map(|field| field.name()).collect();
        if !required.is_empty() {
            self.put(format_args!(r#","required":{}"#, json!(required)));
        }
        let kinds: Vec<Value> = kind
            .kinds()
            .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}))
            .collect();
        if !kinds.is_empty() {
            self.put(format_args!(r#","x-kubernetes-group-version-kind":{}"#, json!(kinds)));
        }
        if kind.is_atomic() {
            self.out.push_str(r#","x-kubernetes-map-type":"atomic""#);
        }
        self.out.push('}');
    }

    fn property(&mut self, field: Field) {
        match field.shape() {
            Shape::List => {
                self.out.push_str(r#"{"type":"array","items":"#);
                self.element(field);
            }
            Shape::Map => {
                self.out.push_str(r#"{"type":"object","additionalProperties":"#);
                self.element(field);
            }
            Shape::One | Shape::Inline => {
                self.element(field);
                self.out.pop();
            }
        }
        if let Some(default) = field.default() {
            self.put(format_args!(r#","default":{default}"#));
        }
        let strategy = field.patch_strategy();
        if !strategy.is_empty() {
            self.put(format_args!(r#","x-kubernetes-patch-strategy":"{strategy}""#));
        }
        if let Some(key) = field.merge_key() {
            self.put(format_args!(r#","x-kubernetes-patch-merge-key":"{key}""#));
        }
        let list = match field.list_type() {
            ListType::Unset => None,
            ListType::Atomic => Some("atomic"),
            ListType::Set => Some("set"),
            ListType::Map => Some("map"),
        };
        if let Some(list) = list {
            self.put(format_args!(r#","x-kubernetes-list-type":"{list}""#));
        }
        if field.list_map_keys().len() > 0 {
            let keys: Vec<&str> = field.list_map_keys().collect();
            self.put(format_args!(r#","x-kubernetes-list-map-keys":{}"#, json!(keys)));
        }
        self.out.push('}');
    }

    /// The schema of what the field holds, an object of its own; references stand in `allOf`, as upstream's.
    fn element(&mut self, field: Field) {
        match field.element() {
            Element::Object(inner) => {
                self.out.push_str(r#"{"allOf":["#);
                self.reference(Some(inner));
                self.out.push_str("]}");
            }
            Element::Scalar(Scalar::String) if field.enum_values().len() > 0 => {
                let values: Vec<&str> = field.enum_values().collect();
                self.put(format_args!(r#"{{"type":"string","enum":{}}}"#, json!(values)));
            }
            Element::Scalar(scalar) => self.out.push_str(scalar_schema(scalar)),
        }
    }
}

fn has_type_meta(kind: TypeId) -> bool {
    let options = ["meta.v1.DeleteOptions", "meta.v1.Status", "meta.v1.APIResourceList"];
    kind.kinds().next().is_some() || options.contains(&kind.name())
}

fn query(name: &str, kind: &str) -> String {
    format!(r#"{{"name":"{name}","in":"query","schema":{{"type":"{kind}","uniqueItems":true}}}}"#)
}

fn scalar_schema(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String => r#"{"type":"string"}"#,
        Scalar::Int32 => r#"{"type":"integer","format":"int32"}"#,
        Scalar::Int64 => r#"{"type":"integer","format":"int64"}"#,
        Scalar::Bool => r#"{"type":"boolean"}"#,
        Scalar::Double => r#"{"type":"number","format":"double"}"#,
        Scalar::Bytes => r#"{"type":"string","format":"byte"}"#,
        Scalar::Strings => r#"{"type":"array","items":{"type":"string"}}"#,
        Scalar::Quantity => {
            r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.api.resource.Quantity"}]}"##
        }
        Scalar::IntOrString => {
            r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.util.intstr.IntOrString"}]}"##
        }
        Scalar::Time => r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Time"}]}"##,
        Scalar::MicroTime => {
            r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"}]}"##
        }
        Scalar::Duration => r#"{"type":"string"}"#,
        Scalar::Raw | Scalar::Unknown => {
            r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.runtime.RawExtension"}]}"##
        }
        Scalar::Fields => {
            r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"}]}"##
        }
        Scalar::Json | Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => {
            r#"{"x-kubernetes-preserve-unknown-fields":true}"#
        }
    }
}

/// Schemas that the table has as scalars.
const SPECIAL: [(&str, &str); 7] = [
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", r#"{"oneOf":[{"type":"string"},{"type":"number"}]}"#),
    (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        r#"{"format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]}"#,
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", r#"{"type":"string","format":"date-time"}"#),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", r#"{"type":"string","format":"date-time"}"#),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", r#"{"type":"object"}"#),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", r#"{"type":"object"}"#),
    (PATCH_DEFINITION, r#"{"type":"object"}"#),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Vec<Resource> {
        let verbs = |verbs: &str| verbs.split(' ').map(str::to_owned).collect::<Vec<_>>();
        vec![Resource {
            plural: "deployments".into(),
            kind: "Deployment".into(),
            namespaced: true,
            verbs: verbs("get list create update patch delete deletecollection"),
            subresources: vec![Subresource {
                name: "scale".into(),
                kind: ("autoscaling".into(), "v1".into(), "Scale".into()),
                verbs: verbs("get update patch"),
            }],
        }]
    }

    #[test]
    fn the_document_is_whole() {
        let text = v3_document("apps", "v1", &resources());
        let document: Value = serde_json::from_str(&text).unwrap();
        let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        let patch = &path["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
        let names: Vec<&Value> = patch["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
        assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")));
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let container = &schemas["io.k8s.api.core.v1.Container"]["properties"];
        assert_eq!(container["ports"]["x-kubernetes-patch-merge-key"], "containerPort");
        assert_eq!(container["imagePullPolicy"]["enum"], json!(["Always", "IfNotPresent", "Never"]));
        assert_eq!(
            container["resources"],
            json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ResourceRequirements"}]})
        );
        let mut at = 0;
        while let Some(found) = text[at..].find("#/components/schemas/") {
            let start = at + found + "#/components/schemas/".len();
            let end = start + text[start..].find('"').unwrap();
            assert!(schemas.contains_key(&text[start..end]), "{}", &text[start..end]);
            at = end;
        }
        assert!(text.len() < 400_000, "{} bytes", text.len());
    }

    #[test]
    fn the_index_follows_the_resources() {
        let hash = v3_hash("apps", "v1", &resources());
        assert_ne!(hash, v3_hash("apps", "v1", &[]));
        let index = v3_index([("apps", "v1", hash), ("", "v1", 1)].into_iter());
        assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=0000000000000001");
        assert!(index["paths"]["apis/apps/v1"].is_object());
    }
}
