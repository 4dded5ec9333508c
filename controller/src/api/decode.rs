//! Pure: request bodies to objects: JSON, YAML, protobuf.

use serde_json::Value;

use crate::kinds::Kind;
use crate::object::Object;
use crate::registry::status::{Answer, ApiError};
use crate::schema::conform::json_type;
use crate::schema::read::ReadError;
use crate::schema::{Document, protobuf, read_json, read_yaml};

/// What a body may be written in.
pub(crate) const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Upstream's decoder looks for these two first.
const TYPE_META: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
/// So much of a body that cannot be read is shown.
const SHOWN_BYTES: usize = 30;

/// Reads an object of a kind, and the fields that it gives twice. An absent content type is JSON.
pub(crate) fn object(content_type: &str, bytes: &[u8], kind: &Kind) -> Answer<(Object, Vec<String>)> {
    let of_kind = |error: ApiError| {
        let (why, shown) = (&error.message, summary(bytes));
        match error.code {
            400 => ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): {why} ({shown})",
                kind.kind
            )),
            _ => error,
        }
    };
    let read = value(content_type, bytes, Some((&kind.api_version(), &kind.kind))).map_err(of_kind)?;
    let found = json_type(&read.value);
    let object = Object::from_value(read.value).ok_or_else(|| {
        let why = format!("json: cannot unmarshal {found} into Go value of type {TYPE_META}");
        of_kind(ApiError::bad_request(format!("couldn't get version/kind; json parse error: {why}")))
    })?;
    Ok((object, read.duplicates))
}

/// The beginning of a body, as upstream shows it: text where it might be JSON, else its bytes.
fn summary(bytes: &[u8]) -> String {
    let (shown, more) = if bytes.len() > SHOWN_BYTES { (&bytes[..SHOWN_BYTES], " ...") } else { (bytes, "") };
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{more}", shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
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

/// Reads the JSON of a patch; `doing` stands before what is wrong with it.
pub(crate) fn json_patch(bytes: &[u8], doing: &str) -> Answer<Value> {
    read_json(bytes).map(|document| document.value).map_err(|error| in_patch(&error, doing))
}

/// Reads the YAML of an apply patch, or JSON, which is YAML too.
pub(crate) fn yaml_patch(bytes: &[u8]) -> Answer<Value> {
    read_yaml(bytes).map(|document| document.value).map_err(|error| in_patch(&error, "error decoding YAML: "))
}

fn in_patch(error: &ReadError, doing: &str) -> ApiError {
    match error {
        ReadError::TooLarge => unreadable(error),
        ReadError::Syntax(why) => ApiError::bad_request(format!("{doing}{why}")),
    }
}

fn unreadable(error: &ReadError) -> ApiError {
    match error {
        ReadError::TooLarge => ApiError::too_large(super::body::MAX_BODY_BYTES),
        ReadError::Syntax(why) => ApiError::bad_request(format!("couldn't get version/kind; json parse error: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_cannot_be_read_are_refused_as_upstream() {
        let kind = Kind::new("", "v1", "ConfigMap", "configmaps");
        for (body, expected) in [
            ("", "couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"),
            (
                "{x",
                "couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of object key string ({x)",
            ),
            (
                "no",
                "couldn't get version/kind; json parse error: invalid character 'o' in literal null (expecting 'u') (6e6f)",
            ),
        ] {
            let error = object("", body.as_bytes(), &kind).unwrap_err();
            let expected = format!("the object provided is unrecognized (must be of type ConfigMap): {expected}");
            assert_eq!((error.code, error.message), (400, expected));
        }
        let error = object("", b"[]", &kind).unwrap_err();
        assert!(error.message.contains("cannot unmarshal array into Go value of type struct { APIVersion string"));
        assert_eq!(summary(&[b'{'; 40]), format!("{} ...", "{".repeat(30)));
    }
}
