//! Pure: an object at rest: JSON without `resourceVersion`, behind the offset where a read splices it in.
//!
//! ```text
//! | u32 little-endian: offset n | {"apiVersion":"v1","kind":"Pod","metadata":{ ... }} |
//!                                                                     ^ n bytes into the JSON
//! ```
//! So a get, a list and a watch emit stored bytes and parse nothing.

use std::io::Write;

use bytes::Bytes;
use serde_json::Value;

use crate::object::Object;

const HEADER_BYTES: usize = 4;

/// A record that is not what [`encode`] wrote.
#[derive(Debug, thiserror::Error)]
#[error("a stored object cannot be read: {0}")]
pub struct DecodeError(String);

/// The stored form of an object. `metadata.resourceVersion` is dropped: the store's revision is the truth.
pub fn encode(object: &Object) -> Bytes {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.push(b'{');
    let mut offset = 0;
    for (at, (key, value)) in object.0.iter().enumerate() {
        if at > 0 {
            bytes.push(b',');
        }
        write_json(&mut bytes, key);
        bytes.push(b':');
        match value {
            Value::Object(metadata) if key == "metadata" => {
                offset = bytes.len() - HEADER_BYTES + 1;
                write_metadata(&mut bytes, metadata);
            }
            other => write_json(&mut bytes, other),
        }
    }
    bytes.push(b'}');
    let offset = u32::try_from(offset).expect("bodies are bounded far below 4 GiB");
    bytes[..HEADER_BYTES].copy_from_slice(&offset.to_le_bytes());
    Bytes::from(bytes)
}

fn write_metadata(bytes: &mut Vec<u8>, metadata: &serde_json::Map<String, Value>) {
    bytes.push(b'{');
    let kept = metadata.iter().filter(|(key, _)| *key != "resourceVersion");
    for (at, (key, value)) in kept.enumerate() {
        if at > 0 {
            bytes.push(b',');
        }
        write_json(bytes, key);
        bytes.push(b':');
        write_json(bytes, value);
    }
    bytes.push(b'}');
}

fn write_json<T: serde::Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(bytes, value).expect("JSON values with string keys always serialise, into memory");
}

/// The JSON of a stored object, without its resourceVersion.
pub fn json(stored: &[u8]) -> &[u8] {
    stored.get(HEADER_BYTES..).unwrap_or_default()
}

/// Appends the object's JSON with its resourceVersion.
pub fn emit(stored: &[u8], revision: u64, out: &mut Vec<u8>) {
    let json = json(stored);
    let offset = stored.first_chunk().map_or(0, |header: &[u8; HEADER_BYTES]| u32::from_le_bytes(*header)) as usize;
    if offset == 0 || offset >= json.len() {
        out.extend_from_slice(json);
        return;
    }
    let (head, tail) = json.split_at(offset);
    out.extend_from_slice(head);
    let comma = if tail.first() == Some(&b'}') { "" } else { "," };
    write!(out, "\"resourceVersion\":\"{revision}\"{comma}").expect("memory takes every byte");
    out.extend_from_slice(tail);
}

/// The object with its resourceVersion.
pub fn decode(stored: &[u8], revision: u64) -> Result<Object, DecodeError> {
    let mut object: Object = serde_json::from_slice(json(stored)).map_err(|error| DecodeError(error.to_string()))?;
    object.set(&["metadata", "resourceVersion"], revision.to_string());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_read_splices_the_revision_in() {
        let value = json!({"apiVersion": "v1", "data": {"metadata": "{"}, "kind": "ConfigMap",
            "metadata": {"name": "a", "resourceVersion": "3"}});
        let stored = encode(&Object::from_value(value.clone()).unwrap());
        let mut out = Vec::new();
        emit(&stored, 12, &mut out);
        let mut expected = value;
        expected["metadata"]["resourceVersion"] = "12".into();
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        assert_eq!(decode(&stored, 12).unwrap().into_value(), expected);
    }

    #[test]
    fn empty_metadata_is_spliced_too() {
        let stored = encode(&Object::from_value(json!({"metadata": {}})).unwrap());
        let mut out = Vec::new();
        emit(&stored, 1, &mut out);
        assert_eq!(out, br#"{"metadata":{"resourceVersion":"1"}}"#);
    }
}
