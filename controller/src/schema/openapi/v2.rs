//! Pure: the OpenAPI v2 document in its protobuf form (`openapi.v2.Document` of gnostic), for kubectl before 1.28.
//!
//! Such clients read three things: the definitions with their patch strategies, which kinds they stand for, and which
//! query parameters a PATCH of a kind knows. Nothing else is written.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::table::{self, Element, Field, ListType, Scalar, Shape, TypeId, type_named};
use super::{Resource, definition_name, gv_path, has_type_meta};

/// The media type that asks for it.
pub const ACCEPT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The media type of the answer: clients reject the `@` of the other.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document of all groups and versions that are served: (group, version, resources).
pub fn v2_document<'a>(served: impl Iterator<Item = (&'a str, &'a str, &'a [Resource])>) -> Vec<u8> {
    let mut document = Message::default();
    document.text(1, "2.0");
    document.message(2, |info| {
        info.text(1, "Kubernetes");
        info.text(2, "v1.35.0");
    });
    let mut types: BTreeSet<TypeId> = type_named("meta.v1.DeleteOptions").into_iter().collect();
    document.message(8, |paths| {
        for (group, version, resources) in served {
            types.extend(table::types().filter(|kind| kind.kinds().any(|(g, v, _)| (g, v) == (group, version))));
            for resource in resources {
                path(paths, group, version, resource);
            }
        }
    });
    document.message(9, |definitions| {
        let mut done: BTreeSet<TypeId> = BTreeSet::new();
        while let Some(kind) = types.iter().copied().find(|kind| !done.contains(kind)) {
            done.insert(kind);
            definitions.message(1, |named| {
                named.text(1, &definition_name(kind));
                named.message(2, |schema| definition(schema, kind));
            });
            let fields = kind.json_fields().into_iter();
            types.extend(fields.filter_map(|field| match field.element() {
                Element::Object(inner) => Some(inner),
                Element::Scalar(_) => None,
            }));
        }
    });
    document.bytes
}

fn path(paths: &mut Message, group: &str, version: &str, resource: &Resource) {
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let base = format!("/{}{scope}/{}", gv_path(group, version), resource.plural);
    let kind = json!({"group": group, "version": version, "kind": resource.kind}).to_string();
    let operation = |operation: &mut Message| {
        for name in ["dryRun", "fieldManager", "fieldValidation"] {
            operation.message(8, |item| {
                item.message(1, |parameter| {
                    parameter.message(2, |parameter| {
                        parameter.message(3, |query| {
                            query.text(2, "query");
                            query.text(4, name);
                            query.text(6, "string");
                        });
                    });
                });
            });
        }
        extension(operation, 13, "x-kubernetes-group-version-kind", &kind);
    };
    for (verb, path, number) in [("create", base.clone(), 4), ("patch", format!("{base}/{{name}}"), 8)] {
        if resource.verbs.iter().any(|known| known == verb) {
            paths.message(2, |named| {
                named.text(1, &path);
                named.message(2, |item| item.message(number, operation));
            });
        }
    }
}

fn definition(schema: &mut Message, kind: TypeId) {
    let fields = kind.json_fields();
    for field in fields.iter().filter(|field| field.is_required()) {
        schema.text(19, field.name());
    }
    typed(schema, "object");
    schema.message(25, |properties| {
        if has_type_meta(kind) {
            for name in ["apiVersion", "kind"] {
                properties.message(1, |named| {
                    named.text(1, name);
                    named.message(2, |schema| typed(schema, "string"));
                });
            }
        }
        for field in &fields {
            properties.message(1, |named| {
                named.text(1, field.name());
                named.message(2, |schema| property(schema, *field));
            });
        }
    });
    let kinds: Vec<Value> =
        kind.kinds().map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind})).collect();
    if !kinds.is_empty() {
        extension(schema, 31, "x-kubernetes-group-version-kind", &Value::from(kinds).to_string());
    }
    if kind.is_atomic() {
        extension(schema, 31, "x-kubernetes-map-type", "atomic");
    }
}

fn property(schema: &mut Message, field: Field) {
    match field.shape() {
        Shape::List => {
            typed(schema, "array");
            schema.message(23, |items| items.message(1, |schema| element(schema, field)));
        }
        Shape::Map => {
            typed(schema, "object");
            schema.message(21, |additional| additional.message(1, |schema| element(schema, field)));
        }
        Shape::One | Shape::Inline => element(schema, field),
    }
    let strategy = field.patch_strategy();
    if !strategy.is_empty() {
        extension(schema, 31, "x-kubernetes-patch-strategy", &strategy);
    }
    if let Some(key) = field.merge_key() {
        extension(schema, 31, "x-kubernetes-patch-merge-key", key);
    }
    match field.list_type() {
        ListType::Unset => {}
        ListType::Atomic => extension(schema, 31, "x-kubernetes-list-type", "atomic"),
        ListType::Set => extension(schema, 31, "x-kubernetes-list-type", "set"),
        ListType::Map => {
            let keys: Vec<&str> = field.list_map_keys().collect();
            extension(schema, 31, "x-kubernetes-list-type", "map");
            extension(schema, 31, "x-kubernetes-list-map-keys", &json!(keys).to_string());
        }
    }
}

fn element(schema: &mut Message, field: Field) {
    let scalar = match field.element() {
        Element::Object(inner) => return schema.text(1, &format!("#/definitions/{}", definition_name(inner))),
        Element::Scalar(scalar) => scalar,
    };
    let (kind, format) = match scalar {
        Scalar::String | Scalar::Quantity | Scalar::Duration => ("string", ""),
        Scalar::Int32 => ("integer", "int32"),
        Scalar::Int64 => ("integer", "int64"),
        Scalar::Bool => ("boolean", ""),
        Scalar::Double => ("number", "double"),
        Scalar::Bytes => ("string", "byte"),
        Scalar::IntOrString => ("string", "int-or-string"),
        Scalar::Time | Scalar::MicroTime => ("string", "date-time"),
        Scalar::Strings => ("array", ""),
        Scalar::Raw | Scalar::Unknown | Scalar::Fields => ("object", ""),
        Scalar::Json | Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => return,
    };
    if !format.is_empty() {
        schema.text(2, format);
    }
    typed(schema, kind);
    if scalar == Scalar::Strings {
        schema.message(23, |items| items.message(1, |schema| typed(schema, "string")));
    }
}

fn typed(schema: &mut Message, kind: &str) {
    schema.message(22, |item| item.text(1, kind));
}

/// A vendor extension, its value as YAML.
fn extension(message: &mut Message, number: u32, name: &str, yaml: &str) {
    message.message(number, |named| {
        named.text(1, name);
        named.message(2, |any| any.text(2, yaml));
    });
}

/// Bytes of a protobuf message that are being written.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn text(&mut self, number: u32, text: &str) {
        self.delimited(number, text.as_bytes());
    }

    fn message(&mut self, number: u32, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.delimited(number, &inner.bytes);
    }

    fn delimited(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_small_and_names_what_it_serves() {
        let resource = Resource {
            plural: "deployments".into(),
            kind: "Deployment".into(),
            namespaced: true,
            verbs: vec!["create".into(), "patch".into()],
            subresources: Vec::new(),
        };
        let bytes = v2_document([("apps", "v1", std::slice::from_ref(&resource))].into_iter());
        assert_eq!(&bytes[..5], b"\x0a\x032.0");
        assert!(bytes.len() < 200_000, "{}", bytes.len());
        let text = String::from_utf8_lossy(&bytes);
        for wanted in [
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
            "fieldValidation",
            "#/definitions/io.k8s.api.core.v1.PodTemplateSpec",
            "x-kubernetes-patch-merge-key",
        ] {
            assert!(text.contains(wanted), "{wanted}");
        }
    }
}
