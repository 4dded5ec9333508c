//! Pure: an API object as whole JSON, with accessors for its metadata.

pub mod time;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One Kubernetes object, whole: unknown fields survive. Typed only inside decisions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    /// Group and version of the owner, such as `apps/v1`.
    pub api_version: &'a str,
    /// Kind of the owner.
    pub kind: &'a str,
    /// Name of the owner, in the dependent's namespace or cluster-wide.
    pub name: &'a str,
    /// Uid of the owner: a namesake with another uid is another object.
    pub uid: &'a str,
    /// At most one owner controls an object.
    pub controller: bool,
    /// A foreground deletion of the owner waits for this dependent.
    pub block_owner_deletion: bool,
}

impl Object {
    /// The object in a JSON value; `None` when the value is no JSON object.
    pub fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self(map)),
            _ => None,
        }
    }

    /// The object as a JSON value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// The value at a path of field names.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, field| value.get(*field))
    }

    /// The string at a path; empty when absent, as Go's zero value.
    pub fn text(&self, path: &[&str]) -> &str {
        self.get(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// The integer at a path.
    pub fn integer(&self, path: &[&str]) -> Option<i64> {
        self.get(path).and_then(Value::as_i64)
    }

    /// The boolean at a path; false when absent.
    pub fn flag(&self, path: &[&str]) -> bool {
        self.get(path).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The items of the list at a path; none when absent.
    pub fn items(&self, path: &[&str]) -> &[Value] {
        self.get(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// The map at a path.
    pub fn map(&self, path: &[&str]) -> Option<&Map<String, Value>> {
        self.get(path).and_then(Value::as_object)
    }

    /// Sets the value at a path, making the maps on the way (a value that is no map is replaced by one).
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, way)) = path.split_last() else { return };
        let mut map = &mut self.0;
        for field in way {
            let slot = map.entry(*field).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            map = slot.as_object_mut().expect("made a map just above");
        }
        map.insert((*last).to_owned(), value.into());
    }

    /// Removes and returns the value at a path.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, way) = path.split_last()?;
        let mut map = &mut self.0;
        for field in way {
            map = map.get_mut(*field)?.as_object_mut()?;
        }
        map.remove(*last)
    }

    /// `apiVersion`, such as `apps/v1`.
    pub fn api_version(&self) -> &str {
        self.text(&["apiVersion"])
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.text(&["kind"])
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.text(&["metadata", "name"])
    }

    /// `metadata.namespace`; empty for a cluster-scoped object.
    pub fn namespace(&self) -> &str {
        self.text(&["metadata", "namespace"])
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.text(&["metadata", "uid"])
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> &str {
        self.text(&["metadata", "resourceVersion"])
    }

    /// `metadata.generation`, 0 when absent.
    pub fn generation(&self) -> i64 {
        self.integer(&["metadata", "generation"]).unwrap_or_default()
    }

    /// `metadata.creationTimestamp`.
    pub fn creation_timestamp(&self) -> &str {
        self.text(&["metadata", "creationTimestamp"])
    }

    /// `metadata.deletionTimestamp`, when the object is being deleted.
    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.get(&["metadata", "deletionTimestamp"]).and_then(Value::as_str)
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.map(&["metadata", "labels"])
    }

    /// One label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key)?.as_str()
    }

    /// `metadata.annotations`.
    pub fn annotations(&self) -> Option<&Map<String, Value>> {
        self.map(&["metadata", "annotations"])
    }

    /// One annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations()?.get(key)?.as_str()
    }

    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.items(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
    }

    /// `metadata.ownerReferences`.
    pub fn owner_references(&self) -> impl Iterator<Item = OwnerReference<'_>> {
        self.items(&["metadata", "ownerReferences"]).iter().map(OwnerReference::read)
    }

    /// The owner that controls this object.
    pub fn controller(&self) -> Option<OwnerReference<'_>> {
        self.owner_references().find(|owner| owner.controller)
    }
}

impl<'a> OwnerReference<'a> {
    /// Reads one list entry; absent fields are empty.
    pub fn read(value: &'a Value) -> Self {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let flag = |field: &str| value.get(field).and_then(Value::as_bool).unwrap_or_default();
        Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller: flag("controller"),
            block_owner_deletion: flag("blockOwnerDeletion"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_and_writes_by_path() {
        let mut object = Object::from_value(json!({"metadata": {"name": "web", "labels": {"app": "web"}}})).unwrap();
        assert_eq!(object.name(), "web");
        assert_eq!(object.label("app"), Some("web"));
        assert_eq!(object.namespace(), "");
        object.set(&["spec", "nodeName"], "pi-1");
        assert_eq!(object.text(&["spec", "nodeName"]), "pi-1");
        assert_eq!(object.remove(&["spec", "nodeName"]), Some(json!("pi-1")));
        assert_eq!(object.get(&["spec", "nodeName"]), None);
    }

    #[test]
    fn finds_the_controller() {
        let object = Object::from_value(json!({"metadata": {"ownerReferences": [
            {"kind": "A", "name": "a", "uid": "1"}, {"kind": "B", "name": "b", "uid": "2", "controller": true}]}}))
        .unwrap();
        assert_eq!(object.controller().map(|owner| owner.uid), Some("2"));
    }
}
