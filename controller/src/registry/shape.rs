//! Pure: what the schema table does to an object on its way in: unknown fields, defaults, structure, patches.

use serde_json::{Map, Value};

use super::{Answer, ApiError, Call, FieldValidation};
use crate::kinds::Kind;
use crate::object::Object;
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

impl Patch {
    /// The object that the patch makes of the old one.
    pub(crate) fn apply(&self, kind: &Kind, old: &Object, _call: &Call) -> Answer<Object> {
        let mut new = old.clone();
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
            Self::Apply(_) => return Err(ApiError::unsupported_media_type(&TYPED)),
        }
        .map_err(|error| refused(kind, old, &error))?;
        Ok(new)
    }
}

const UNTYPED: [&str; 2] = ["application/json-patch+json", "application/merge-patch+json"];
fn map(patch: &Value) -> Answer<&Map<String, Value>> {
    let why = "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}";
    patch.as_object().ok_or_else(|| ApiError::bad_request(why))
}

fn refused(kind: &Kind, old: &Object, error: &PatchError) -> ApiError {
    let message = error.to_string();
    match error {
        PatchError::BadRequest(_) => ApiError::bad_request(message),
        PatchError::TooLarge(_) => ApiError::new(413, "RequestEntityTooLarge", message),
        PatchError::Unprocessable(_) => {
            let mut invalid = ApiError::invalid(kind, old.name(), &[]);
            invalid.message = format!("the server rejected our request due to an error in our request: {message}");
            invalid
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
    let found: Vec<String> = std::mem::take(&mut call.duplicates).into_iter().chain(unknown).collect();
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
