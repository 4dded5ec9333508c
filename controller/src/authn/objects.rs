//! Shell: the few objects that credentials depend on, read straight from the store.

use bramble_store::{ReadError, Store};
use serde_json::Value;

use super::claims::Reference;
use crate::registry::record;

/// One stored object.
pub(crate) struct Object(pub(crate) Value);

impl Object {
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    pub(crate) fn deletion_timestamp(&self) -> Option<&str> {
        self.0.pointer("/metadata/deletionTimestamp").and_then(Value::as_str)
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        Reference { name: name.to_owned(), uid: self.uid().to_owned() }
    }
}

/// Reads objects by resource, namespace (empty for cluster-scoped ones) and name.
#[derive(Clone)]
pub(crate) struct Objects(pub(crate) Store);

impl Objects {
    pub(crate) async fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Option<Object>, ReadError> {
        if name.is_empty() || name.contains('/') || namespace.contains('/') {
            return Ok(None);
        }
        let key =
            if namespace.is_empty() { format!("{resource}/{name}") } else { format!("{resource}/{namespace}/{name}") };
        Ok(self.0.get(&key).await?.and_then(|record| parse(&record.value)).map(Object))
    }
}

/// A stored object; its resourceVersion is not in it.
pub(crate) fn parse(stored: &[u8]) -> Option<Value> {
    serde_json::from_slice(record::json(stored)).ok()
}
