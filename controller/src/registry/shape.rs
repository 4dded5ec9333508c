//! Pure: what the schema table does to an object on its way in: unknown fields, defaults, structure, patches.

use serde_json::{Map, Value, json};

use super::{Answer, ApiError, Call, FieldValidation, Part};
use crate::kinds::{Kind, Subresource};
use crate::object::Object;
use crate::schema::apply::{ApplyError, Writer};
use crate::schema::patch::{PatchError, json_patch, merge_patch, strategic_merge_patch};
use crate::schema::{self, FieldError};

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
        match self {
            Self::Json(patch) => json_patch(&mut new.0, patch),
            Self::Merge(patch) => {
                merge_patch(&mut new.0, map(patch)?);
                Ok(())
            }
            Self::Strategic(patch) => match kind.schema {
                Some(id) => strategic_merge_patch(id, &mut new.0, map(patch)?),
                None => return Err(ApiError::unsupported_media_type(&UNTYPED)),
            },
            Self::Apply(patch) => return server_side_apply(kind, old, map(patch)?, applying),
        }
        .map_err(|error| refused(&error))?;
        Ok(new)
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

fn writer<'a>(call: &'a Call, api_version: &'a str, part: Part, now: &'a str) -> Writer<'a> {
    Writer { manager: &call.field_manager, api_version, subresource: part.name(), now }
}

/// The managed fields of a new object: its creator owns what the body and the defaults say. What admission and allocation
/// add later is nobody's.
pub(super) fn track_creation(kind: &Kind, object: &mut Object, call: &Call, now: &str) {
    object.remove(&["metadata", "managedFields"]);
    // The status is not the creator's to set where it has a door of its own.
    let status = kind.subresources.contains(&Subresource::Status).then(|| object.remove(&["status"])).flatten();
    let api_version = kind.api_version();
    schema::apply::track_update(kind.schema, None, &mut object.0, writer(call, &api_version, Part::Whole, now));
    if let Some(status) = status {
        object.set(&["status"], status);
    }
}

/// Keeps the managed fields of an update; an apply has kept them itself. A binding has no manager.
pub(super) fn track(kind: &Kind, new: &mut Object, old: &Object, call: &Call, part: Part, now: &str) {
    if !call.applies && part != Part::Binding {
        let api_version = kind.api_version();
        schema::apply::track_update(kind.schema, Some(&old.0), &mut new.0, writer(call, &api_version, part, now));
    }
}

const UNTYPED: [&str; 2] = ["application/json-patch+json", "application/merge-patch+json"];
fn map(patch: &Value) -> Answer<&Map<String, Value>> {
    let why = "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}";
    patch.as_object().ok_or_else(|| ApiError::bad_request(why))
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

/// Makes an object fit its kind's type and fills defaults in. Unknown and duplicate fields are met as the call wants.
pub(super) fn complete(kind: &Kind, object: &mut Object, call: &mut Call) -> Answer<()> {
    let Some(id) = kind.schema else { return Ok(()) };
    let refuse =
        |error: &str| Err(ApiError::bad_request(schema::conform::cannot_be_handled(&kind.kind, &kind.version, error)));
    let unknown = match schema::conform(id, &mut object.0) {
        Ok(unknown) => unknown,
        Err(error) => return refuse(&error.to_string()),
    };
    let found = schema::strict_errors(&call.body, std::mem::take(&mut call.duplicates), unknown);
    if !found.is_empty() {
        match call.field_validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => call.warnings.extend(found),
            FieldValidation::Strict => return refuse(&schema::strict_decoding_error(&found)),
        }
    }
    schema::default(id, &mut object.0);
    Ok(())
}

/// What the schema says is wrong.
pub(super) fn validate(kind: &Kind, object: &Object) -> Vec<FieldError> {
    kind.schema.map(|id| schema::validate(id, &object.0)).unwrap_or_default()
}
