//! Pure: what the schema table does to an object on its way in: unknown fields, defaults, structure, managed fields.

use super::{Answer, ApiError, Call, FieldValidation, Part};
use crate::kinds::{Kind, Subresource};
use crate::object::Object;
use crate::schema::apply::Writer;
use crate::schema::conform::cannot_be_handled;
use crate::schema::{self, DecodeError, FieldError};

pub(super) fn writer<'a>(call: &'a Call, api_version: &'a str, part: Part, now: &'a str) -> Writer<'a> {
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

/// Makes the object of a request's body fit its kind's type and fills defaults in. Unknown and duplicate fields are met as the
/// call wants.
pub(super) fn complete(kind: &Kind, object: &mut Object, call: &mut Call) -> Answer<()> {
    fit(kind, object, call)
        .map_err(|error| ApiError::bad_request(cannot_be_handled(&kind.kind, &kind.version, &error.to_string())))
}

/// The same for an object that came about otherwise; the error is for the caller to word.
pub(super) fn fit(kind: &Kind, object: &mut Object, call: &mut Call) -> Result<(), DecodeError> {
    let Some(id) = kind.schema else { return Ok(()) };
    let unknown = schema::conform(id, &mut object.0)?;
    let found = schema::strict_errors(&call.body, std::mem::take(&mut call.duplicates), unknown);
    if !found.is_empty() {
        match call.field_validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => call.warnings.extend(found),
            FieldValidation::Strict => return Err(DecodeError::new(schema::strict_decoding_error(&found))),
        }
    }
    schema::default(id, &mut object.0);
    Ok(())
}

/// What the schema says is wrong.
pub(super) fn validate(kind: &Kind, object: &Object) -> Vec<FieldError> {
    kind.schema.map(|id| schema::validate(id, &object.0)).unwrap_or_default()
}
