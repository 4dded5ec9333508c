//! Pure: stored bytes as a row shows them.

use crate::kinds::Kind;
use crate::object::Object;
use crate::registry::record;
use crate::registry::status::{Answer, ApiError};

/// Appends an object's JSON as that kind shows it; only an alias parses it.
pub fn emit(kind: &Kind, value: &[u8], revision: u64, out: &mut Vec<u8>) -> Answer<()> {
    if kind.alias.is_none() {
        record::emit(value, revision, out);
        return Ok(());
    }
    let object = object(kind, value, revision)?;
    serde_json::to_writer(out, &object).map_err(ApiError::internal)
}

/// The object as that kind shows it.
pub fn object(kind: &Kind, value: &[u8], revision: u64) -> Answer<Object> {
    let mut object = record::decode(value, revision).map_err(ApiError::internal)?;
    if let Some(alias) = kind.alias {
        (alias.show)(&mut object);
        object.set(&["apiVersion"], kind.api_version());
    }
    Ok(object)
}
