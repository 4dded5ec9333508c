//! Pure: the patches of the API as requests bring them: what they make of an object, and how they are refused.

use serde_json::{Map, Value, json};

use super::shape::writer;
use super::{Answer, ApiError, Call, FieldValidation, Part};
use crate::kinds::Kind;
use crate::object::Object;
use crate::schema::apply::ApplyError;
use crate::schema::conform::{cannot_be_handled, json_type};
use crate::schema::patch::{PatchError, json_patch, merge_patch, strategic_merge_patch};
use crate::schema::{self, DecodeError, FieldError};

/// A patch as it came.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' merge by list keys.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// What an apply needs to know besides the objects.
pub(crate) struct Applying<'a> {
    /// Who applies, and whether over others' fields.
    pub(crate) call: &'a Call,
    /// To which part.
    pub(crate) part: Part,
    /// When, RFC 3339.
    pub(crate) now: &'a str,
}

impl Patch {
    /// The object that the patch makes of the old one; only an apply makes one of none.
    pub(crate) fn apply(&self, kind: &Kind, old: Option<&Object>, applying: &Applying<'_>) -> Answer<Object> {
        let mut new = old.cloned().unwrap_or_default();
        let checked = applying.call.field_validation != FieldValidation::Ignore;
        match self {
            Self::Json(patch) => json_patch(&mut new.0, operations(patch, checked)?),
            Self::Merge(patch) => {
                merge_patch(&mut new.0, map(patch, "error decoding patch: ")?);
                Ok(())
            }
            Self::Strategic(patch) => match kind.schema {
                Some(id) => strategic_merge_patch(id, &mut new.0, map(patch, "")?),
                None => return Err(ApiError::unsupported_media_type(&UNTYPED)),
            },
            Self::Apply(patch) => return server_side_apply(kind, old, map(patch, "")?, applying),
        }
        .map_err(|error| refused(&error))?;
        Ok(new)
    }

    /// Why what the patch makes of the old object is none of its kind: as upstream, the patch is the field that is wrong.
    pub(crate) fn misfit(&self, kind: &Kind, old: &Object, applying: &Applying<'_>, error: &DecodeError) -> ApiError {
        let (value, why) = match self {
            Self::Apply(_) => {
                let why = cannot_be_handled(&kind.kind, &kind.version, &error.to_string());
                return ApiError::bad_request(why);
            }
            Self::Strategic(patch) => (gos(patch), error.of_conversion().to_owned()),
            // Made once more, because fitting has begun to change it.
            Self::Json(_) | Self::Merge(_) => match self.apply(kind, Some(old), applying) {
                Ok(made) => (Value::Object(made.0).to_string(), error.to_string()),
                Err(error) => return error,
            },
        };
        ApiError::invalid_request(&FieldError::invalid("patch", value, why))
    }
}

fn server_side_apply(
    kind: &Kind,
    old: Option<&Object>,
    patch: &Map<String, Value>,
    applying: &Applying<'_>,
) -> Answer<Object> {
    let mut patch = Object(patch.clone());
    if patch.api_version() != kind.api_version() || patch.kind() != kind.kind {
        let why = format!("invalid object type: {}, Kind={}", patch.api_version(), patch.kind());
        return Err(ApiError::bad_request(why));
    }
    if let Some(id) = kind.schema {
        // Quantities and times in canonical form, so that they equal the live ones.
        let unknown = schema::conform(id, &mut patch.0).map_err(|error| ApiError::bad_request(error.to_string()))?;
        if !unknown.is_empty() {
            return Err(undeclared(kind, old, &patch, &unknown));
        }
    }
    let api_version = kind.api_version();
    let writer = writer(applying.call, &api_version, applying.part, applying.now);
    let applied = schema::apply::apply(kind.schema, old.map(|old| &old.0), &patch.0, writer, applying.call.force);
    applied.map(Object).map_err(|error| match error {
        ApplyError::BadRequest(message) => ApiError::bad_request(message),
        ApplyError::Conflict(ref conflicts) => {
            let mut refused = ApiError::new(409, "Conflict", error.to_string());
            let causes = conflicts.iter().map(|conflict| {
                json!({"reason": "FieldManagerConflict", "message": conflict.message(), "field": conflict.field})
            });
            refused.details.insert("causes".to_owned(), causes.collect());
            refused
        }
    })
}

/// Unlike other writes, an apply cannot do with fields that nobody could own.
fn undeclared(kind: &Kind, old: Option<&Object>, patch: &Object, unknown: &[String]) -> ApiError {
    let field = |message: &String| {
        let path = message.trim_start_matches("unknown field ").trim_matches('"');
        format!(".{path}: field not declared in schema")
    };
    let fields: Vec<String> = unknown.iter().map(field).collect();
    let fields = match fields.as_slice() {
        [one] => one.clone(),
        all => format!("errors:\n  {}", all.join("\n  ")),
    };
    let place = old.unwrap_or(patch);
    let (namespace, name) = (place.namespace(), place.name());
    let of_kind = format!("{}, Kind={}", kind.api_version(), kind.kind);
    ApiError::new(500, "", format!("failed to create typed patch object ({namespace}/{name}; {of_kind}): {fields}"))
}

const UNTYPED: [&str; 2] = ["application/json-patch+json", "application/merge-patch+json"];

fn map<'a>(patch: &'a Value, doing: &str) -> Answer<&'a Map<String, Value>> {
    let refuse = || {
        let found = json_type(patch);
        let why = format!("{doing}json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
        ApiError::bad_request(why)
    };
    patch.as_object().ok_or_else(refuse)
}

/// Upstream reads the list twice where fields are looked at, at first into a type of its own.
fn operations(patch: &Value, checked: bool) -> Answer<&[Value]> {
    let refuse = || {
        let found = json_type(patch);
        let (doing, type_name) =
            if checked { ("error decoding patch: ", "[]handlers.jsonPatchOp") } else { ("", "jsonpatch.Patch") };
        ApiError::bad_request(format!("{doing}json: cannot unmarshal {found} into Go value of type {type_name}"))
    };
    patch.as_array().map(Vec::as_slice).ok_or_else(refuse)
}

/// A value as Go prints it (`%+v`): `map[spec:map[replicas:x]]`, keys in order.
fn gos(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(gos).collect::<Vec<_>>().join(" ")),
        Value::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            let entries: Vec<_> = entries.into_iter().map(|(key, value)| format!("{key}:{}", gos(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

fn refused(error: &PatchError) -> ApiError {
    let message = error.to_string();
    match error {
        PatchError::BadRequest(_) => ApiError::bad_request(message),
        PatchError::TooLarge(_) => ApiError::new(413, "RequestEntityTooLarge", message),
        PatchError::Unprocessable(_) => {
            // Upstream keeps the cause to itself here, and names no object.
            ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_form_of_a_patch() {
        let patch = json!({"spec": {"b": [1, "x", null], "a": {"t": true}}});
        assert_eq!(gos(&patch), "map[spec:map[a:map[t:true] b:[1 x <nil>]]]");
    }
}
