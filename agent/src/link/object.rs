//! Pure: an object of the API as the text it came as.
//!
//! A parsed Pod takes ten times the room of its text, so it is parsed where something is decided, and dropped again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

/// A whole object in JSON; clones share the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Object(Arc<str>);

/// What tells one object from another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// Empty for objects without one.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The version that a watch goes on from.
    pub resource_version: String,
    /// When somebody asked to delete it.
    pub deletion_timestamp: Option<String>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<&RawValue> for Object {
    fn from(raw: &RawValue) -> Self {
        Self(raw.get().into())
    }
}

impl From<&Value> for Object {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl Object {
    /// Reads bytes that came from elsewhere.
    ///
    /// # Errors
    /// They are no JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<&RawValue>(bytes).map(Self::from)
    }

    /// The JSON text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// All of it, parsed; to be dropped soon.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }

    /// The fields that `T` names.
    ///
    /// # Errors
    /// A field has another type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// Who it is; empty where the object does not say.
    #[must_use]
    pub fn identity(&self) -> Identity {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Named {
            metadata: Identity,
        }
        self.read::<Named>().unwrap_or_default().metadata
    }

    /// The same with another field at its top.
    #[must_use]
    pub fn with(&self, field: &str, value: &Value) -> Self {
        let Ok(mut fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(&self.0) else { return self.clone() };
        let Ok(value) = serde_json::value::to_raw_value(value) else { return self.clone() };
        fields.insert(field.to_owned(), &value);
        serde_json::to_string(&fields).map_or_else(|_| self.clone(), |text| Self(text.into()))
    }

    /// The same without some of its fields, of the top and of `metadata`.
    #[must_use]
    pub fn without(&self, top: &[&str], metadata: &[&str]) -> Self {
        type Fields<'a> = BTreeMap<String, &'a RawValue>;
        let Ok(mut fields) = serde_json::from_str::<Fields<'_>>(&self.0) else { return self.clone() };
        let kept = fields.get("metadata").and_then(|meta| serde_json::from_str::<Fields<'_>>(meta.get()).ok());
        let kept = kept.map(|mut meta| {
            meta.retain(|name, _| !metadata.contains(&name.as_str()));
            meta
        });
        let kept = kept.and_then(|meta| serde_json::value::to_raw_value(&meta).ok());
        fields.retain(|name, _| !top.contains(&name.as_str()));
        if let Some(kept) = &kept {
            fields.insert("metadata".to_owned(), kept);
        }
        serde_json::to_string(&fields).map_or_else(|_| self.clone(), |text| Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_is_gone_and_the_rest_is_as_it_was() {
        let text =
            r#"{"metadata":{"name":"a","managedFields":[{"x":1}],"uid":"u"},"spec":{"b":1.50,"a":[]},"status":{}}"#;
        let object = Object::parse(text.as_bytes()).unwrap();
        let left = object.without(&["status"], &["managedFields"]);
        assert_eq!(left.text(), r#"{"metadata":{"name":"a","uid":"u"},"spec":{"b":1.50,"a":[]}}"#);
        assert_eq!(left.identity(), Identity { name: "a".into(), uid: "u".into(), ..Identity::default() });
        assert_eq!(Object::from(&json!(7)).without(&["status"], &[]).value(), 7);
        assert!(Object::parse(b"{").is_err());
    }
}
