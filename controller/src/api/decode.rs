//! Pure: request bodies to objects: JSON, YAML, protobuf.

use serde_json::Value;

use crate::kinds::Kind;
use crate::object::Object;
use crate::registry::status::{Answer, ApiError};
use crate::schema::read::ReadError;
use crate::schema::{Document, protobuf, read_json, read_yaml};

/// What a body may be written in.
pub(crate) const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Reads an object of a kind, and the fields that it gives twice. An absent content type is JSON.
pub(crate) fn object(content_type: &str, bytes: &[u8], kind: &Kind) -> Answer<(Object, Vec<String>)> {
    let read = value(content_type, bytes, Some((&kind.api_version(), &kind.kind)))?;
    let object = Object::from_value(read.value).ok_or_else(|| {
        ApiError::bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct",
        )
    })?;
    Ok((object, read.duplicates))
}

/// Reads any value; `expected` is the apiVersion and kind of a protobuf body that does not say.
pub(crate) fn value(content_type: &str, bytes: &[u8], expected: Option<(&str, &str)>) -> Answer<Document> {
    match media(content_type) {
        "" | "application/json" | "*/*" => read_json(bytes).map_err(|error| unreadable(&error)),
        "application/yaml" => read_yaml(bytes).map_err(|error| unreadable(&error)),
        "application/vnd.kubernetes.protobuf" => {
            let map = protobuf::decode(bytes, expected).map_err(|error| ApiError::bad_request(error.to_string()))?;
            Ok(Document { value: Value::Object(map), duplicates: Vec::new() })
        }
        _ => Err(ApiError::unsupported_media_type(&ACCEPTED)),
    }
}

/// The media type without parameters.
pub(crate) fn media(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Reads JSON.
pub(crate) fn json(bytes: &[u8]) -> Answer<Value> {
    read_json(bytes).map(|document| document.value).map_err(|error| unreadable(&error))
}

/// Reads YAML, or JSON, which is YAML too.
pub(crate) fn yaml(bytes: &[u8]) -> Answer<Value> {
    read_yaml(bytes).map(|document| document.value).map_err(|error| unreadable(&error))
}

fn unreadable(error: &ReadError) -> ApiError {
    match error {
        ReadError::TooLarge => ApiError::too_large(super::body::MAX_BODY_BYTES),
        ReadError::Syntax(why) => ApiError::bad_request(format!("couldn't get version/kind; json parse error: {why}")),
    }
}
