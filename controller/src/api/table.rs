//! Pure: objects as the server-side printed Table of kubectl, and as their metadata only.

use serde_json::{Map, Value, json};

use crate::kinds::{Column, Kind};
use crate::object::Object;

/// How much of an object goes into a Table's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// From `includeObject`.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// The column definitions of a kind.
pub(crate) fn definitions(kind: &Kind) -> Value {
    kind.columns.iter().map(Column::definition).collect()
}

/// One row.
pub(crate) fn row(kind: &Kind, object: Object, include: Include, version: &str, now: i64) -> Value {
    let cells = (kind.row)(&object, now);
    match include {
        Include::None => json!({"cells": cells, "object": null}),
        Include::Metadata => json!({"cells": cells, "object": partial(object, version)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

/// A Table of one object, or of none.
pub(crate) fn table(kind: &Kind, rows: Vec<Value>, resource_version: &str, version: &str) -> Value {
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": {"resourceVersion": resource_version}, "columnDefinitions": definitions(kind), "rows": rows})
}

/// An object's metadata as PartialObjectMetadata.
pub(crate) fn partial(mut object: Object, version: &str) -> Value {
    let metadata = object.0.remove("metadata").unwrap_or_else(|| Value::Object(Map::new()));
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
}
