//! Pure: JSON and YAML bytes to values; a field that is given twice is noticed, depth and size are bounded.

use std::fmt;

use serde::de::{Deserialize as _, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Upstream's bound on a request body.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;
/// Duplicates beyond this are not listed, as upstream.
const MAX_ERRORS: usize = 100;

/// A value that was read, and what a strict reader objects to.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// The value; of a field given twice, the last one.
    pub value: Value,
    /// `duplicate field "spec.replicas"`, in order of appearance.
    pub duplicates: Vec<String>,
}

/// Bytes that are not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not JSON or YAML; a sentence that says where.
    #[error("{0}")]
    Syntax(String),
    /// Larger than [`MAX_BYTES`].
    #[error("the document is larger than {MAX_BYTES} bytes")]
    TooLarge,
}

/// Reads one JSON value that fills the whole input. Nesting deeper than 128 is an error.
pub fn read_json(bytes: &[u8]) -> Result<Document, ReadError> {
    let mut reader = serde_json::Deserializer::from_slice(bounded(bytes)?);
    let mut document = Document::default();
    let seed = Seed { path: &Trail::Root, duplicates: &mut document.duplicates, fields: None };
    let wrong = |error: serde_json::Error| {
        ReadError::Syntax(super::syntax::complaint(bytes).unwrap_or_else(|| error.to_string()))
    };
    document.value = seed.deserialize(&mut reader).map_err(wrong)?;
    reader.end().map_err(wrong)?;
    Ok(document)
}

/// Reads one YAML document.
pub fn read_yaml(bytes: &[u8]) -> Result<Document, ReadError> {
    let mut document = Document::default();
    let seed = Seed { path: &Trail::Root, duplicates: &mut document.duplicates, fields: None };
    let reader = serde_yaml_ng::Deserializer::from_slice(bounded(bytes)?);
    let read = seed.deserialize(reader);
    document.value =
        read.map_err(|error| ReadError::Syntax(format!("error converting YAML to JSON: yaml: {error}")))?;
    Ok(document)
}

/// What a strict decoder objects to, in the order in which a JSON document gives cause; below an unknown field it objects to
/// nothing more. Of documents in another form, the fields given twice come first.
pub fn strict_errors(bytes: &[u8], duplicates: Vec<String>, unknown: Vec<String>) -> Vec<String> {
    let path = |message: &str| message.split_once('"').map(|(_, path)| path.trim_end_matches('"').to_owned());
    let strange: Vec<String> = unknown.iter().filter_map(|message| path(message)).collect();
    let below = |path: &str| {
        strange
            .iter()
            .any(|top| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    };
    let mut found = duplicates;
    found.retain(|message| path(message).is_none_or(|path| !below(&path)));
    let twice = found.len();
    found.extend(unknown);
    let (mut fields, mut ignored) = (Vec::new(), Vec::new());
    let seed = Seed { path: &Trail::Root, duplicates: &mut ignored, fields: Some(&mut fields) };
    if found.len() < 2 || seed.deserialize(&mut serde_json::Deserializer::from_slice(bytes)).is_err() {
        return found;
    }
    let mut placed: Vec<(usize, String)> = Vec::new();
    for (index, message) in found.into_iter().enumerate() {
        let own = path(&message).unwrap_or_default();
        let mut places = fields.iter().enumerate().filter(|(_, field)| **field == own).map(|(at, _)| at);
        let place = places.nth(usize::from(index < twice)).unwrap_or(usize::MAX);
        placed.push((place, message));
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, message)| message).collect()
}

fn bounded(bytes: &[u8]) -> Result<&[u8], ReadError> {
    if bytes.len() > MAX_BYTES { Err(ReadError::TooLarge) } else { Ok(bytes) }
}

/// Where the reader stands, for messages.
enum Trail<'a> {
    Root,
    Field(&'a Trail<'a>, &'a str),
    Item(&'a Trail<'a>, usize),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trail::Root => Ok(()),
            Trail::Field(Trail::Root, name) => f.write_str(name),
            Trail::Field(parent, name) => write!(f, "{parent}.{name}"),
            Trail::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'a> {
    path: &'a Trail<'a>,
    duplicates: &'a mut Vec<String>,
    /// Every field as it comes, when somebody wants to know.
    fields: Option<&'a mut Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that JSON cannot hold"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = Trail::Item(self.path, list.len());
            let fields = self.fields.as_deref_mut();
            match items.next_element_seed(Seed { path: &path, duplicates: self.duplicates, fields })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            let path = Trail::Field(self.path, &key);
            if let Some(fields) = self.fields.as_deref_mut() {
                fields.push(path.to_string());
            }
            let fields = self.fields.as_deref_mut();
            let value = entries.next_value_seed(Seed { path: &path, duplicates: self.duplicates, fields })?;
            if map.contains_key(&key) && self.duplicates.len() < MAX_ERRORS {
                let message = format!("duplicate field {}", super::field_error::quote(&path.to_string()));
                if !self.duplicates.contains(&message) {
                    self.duplicates.push(message);
                }
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key: YAML also has numbers and booleans there, which become their text.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(key) => Ok(key),
            Value::Bool(key) => Ok(key.to_string()),
            Value::Number(key) => Ok(key.to_string()),
            _ => Err(D::Error::custom("a key that is not a string")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_noticed_and_the_last_wins() {
        let text = br#"{"a":1,"b":{"c":1,"c":2},"d":[{"e":1,"e":2,"e":3}],"a":2}"#;
        let document = read_json(text).unwrap();
        assert_eq!(document.value, json!({"a": 2, "b": {"c": 2}, "d": [{"e": 3}]}));
        assert_eq!(
            document.duplicates,
            [r#"duplicate field "b.c""#, r#"duplicate field "d[0].e""#, r#"duplicate field "a""#]
        );
    }

    #[test]
    fn strict_errors_come_in_the_order_of_the_document() {
        let text = br#"{"spec":{"z":1,"replicas":2,"replicas":3,"a":{"b":1,"b":2},"a":1}}"#;
        let duplicates = read_json(text).unwrap().duplicates;
        let unknown = ["a", "z"].map(|name| format!("unknown field \"spec.{name}\""));
        assert_eq!(
            strict_errors(text, duplicates, unknown.to_vec()),
            [r#"unknown field "spec.z""#, r#"duplicate field "spec.replicas""#, r#"unknown field "spec.a""#]
        );
    }

    #[test]
    fn bounds() {
        let deep = "[".repeat(100_000);
        assert!(matches!(read_json(deep.as_bytes()), Err(ReadError::Syntax(_))));
        assert!(matches!(read_yaml(&deep.as_bytes()[..1000]), Err(ReadError::Syntax(_))));
        assert_eq!(read_json(&vec![b' '; MAX_BYTES + 1]).unwrap_err(), ReadError::TooLarge);
        assert!(read_json(b"{} {}").is_err() && read_json(b"").is_err());
    }

    #[test]
    fn yaml() {
        let document = read_yaml(b"a: 1\nb:\n- x: '2'\n  1: true\nc: null\n").unwrap();
        assert_eq!(document.value, json!({"a": 1, "b": [{"x": "2", "1": true}], "c": null}));
    }
}
