//! Pure: request bodies to objects: JSON, YAML, protobuf.

use serde_json::Value;

use crate::object::Object;
use crate::registry::status::{Answer, ApiError};

/// What a body may be written in.
pub(crate) const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Reads an object. An absent content type is JSON.
pub(crate) fn object(content_type: &str, bytes: &[u8]) -> Answer<Object> {
    let value = value(content_type, bytes)?;
    Object::from_value(value).ok_or_else(|| ApiError::bad_request("the body is no object"))
}

/// Reads any JSON value.
pub(crate) fn value(content_type: &str, bytes: &[u8]) -> Answer<Value> {
    match media(content_type) {
        "" | "application/json" | "*/*" => json(bytes),
        "application/yaml" => yaml(bytes),
        "application/vnd.kubernetes.protobuf" => protobuf(bytes),
        _ => Err(ApiError::unsupported_media_type(&ACCEPTED)),
    }
}

/// The media type without parameters.
pub(crate) fn media(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

pub(crate) fn json(bytes: &[u8]) -> Answer<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}")))
}

pub(crate) fn yaml(bytes: &[u8]) -> Answer<Value> {
    serde_yaml_ng::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: {error}")))
}

fn protobuf(_bytes: &[u8]) -> Answer<Value> {
    Err(ApiError::unsupported_media_type(&ACCEPTED[..2]))
}
