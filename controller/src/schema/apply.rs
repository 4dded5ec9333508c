//! Pure: server-side apply, and the managed fields that every write keeps.
//!
//! ```text
//! applied object --collect--> set of fields   (what the manager wants to own)
//! live + applied --merge----> merged          (granular where the table says so)
//! live, merged   --compare--> changed fields  (those that others own are conflicts)
//! last - new     --prune----> result          (what the manager gave up and nobody else owns goes)
//! ```
//!
//! The rules are those of structured-merge-diff; nothing of it is copied.

pub mod fields;
pub mod managers;
pub mod walk;

use serde_json::{Map, Value};

use super::table::TypeId;
use fields::FieldSet;
use managers::{Entry, Managers, Operation};
use walk::{Kind, collect, compare, merge, prune};

/// Fields that the server owns and no manager does.
const SERVER_OWNED: [&[&str]; 10] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];
/// The manager of what an object held before anybody applied to it.
const BEFORE: &str = "before-first-apply";

/// Who writes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The version that the request speaks.
    pub api_version: &'a str,
    /// The subresource, empty for the object itself.
    pub subresource: &'a str,
    /// Now, RFC 3339.
    pub now: &'a str,
}

/// One field that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`.
    pub field: String,
}

impl Conflict {
    /// The message of its cause, whose reason is FieldManagerConflict.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.manager)
    }
}

/// An apply that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409 Conflict with one cause for each.
    #[error("{}", conflict_message(.0))]
    Conflict(Vec<Conflict>),
    /// 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: {}: {}", one.message(), one.field);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        let own = conflicts.iter().filter(|conflict| conflict.manager == manager);
        lines.extend(own.map(|conflict| format!("- {}", conflict.field)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Applies a configuration to the live object (none: it is created) and returns the result with its managed fields. An
/// object of a kind without a type (a custom resource) is granular by its maps.
pub fn apply(
    kind: Option<TypeId>,
    live: Option<&Map<String, Value>>,
    applied: &Map<String, Value>,
    writer: Writer<'_>,
    force: bool,
) -> Result<Map<String, Value>, ApplyError> {
    let kind = kind.map_or(Kind::Untyped, Kind::Object);
    let given = applied.get("metadata").and_then(|metadata| metadata.get("managedFields"));
    if given.is_some_and(|given| !given.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let empty = Map::new();
    let live_map = live.unwrap_or(&empty);
    let mut managers = Managers::of(live_map);
    if live.is_some() && managers.entries.is_empty() {
        let set = owned(kind, live_map);
        managers.entries.push(Entry::new(
            Operation::Update,
            Writer { manager: BEFORE, subresource: "", ..writer },
            set,
        ));
    }
    let wanted = owned(kind, applied);
    let live_value = Value::Object(live_map.clone());
    let applied_value = Value::Object(applied.clone());
    let mut merged = live_value.clone();
    merge(kind, &mut merged, &applied_value);
    let change = compare(kind, Some(&live_value), Some(&merged));
    let touched = change.added.union(&change.modified);
    let own = managers.position(Operation::Apply, writer);
    let mut conflicts = Vec::new();
    for (index, entry) in managers.entries.iter_mut().enumerate() {
        if Some(index) == own {
            continue;
        }
        let lost = entry.set.intersection(&touched);
        conflicts.extend(lost.paths().into_iter().map(|field| Conflict { manager: entry.describe(), field }));
        if force && !lost.is_empty() {
            entry.set = entry.set.difference(&lost);
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(ApplyError::Conflict(conflicts));
    }
    if let Some(own) = own {
        let last = managers.entries[own].set.clone();
        let mut others = FieldSet::default();
        for (_, entry) in managers.entries.iter().enumerate().filter(|(index, _)| *index != own) {
            others = others.union(&entry.set);
        }
        prune(kind, &mut merged, &last, Some(&wanted), Some(&others));
        let removed = compare(kind, Some(&live_value), Some(&merged)).removed;
        for entry in &mut managers.entries {
            entry.set = entry.set.difference(&removed);
        }
    }
    managers.set(Operation::Apply, writer, wanted);
    let Value::Object(mut result) = merged else { return Ok(Map::new()) };
    managers.write(&mut result);
    Ok(result)
}

/// Keeps the managed fields of a write that is not an apply: what it changed or added now belongs to its manager, and
/// no longer to others. `after` is the whole new object; `before` the live one, none at creation.
pub fn track_update(
    kind: Option<TypeId>,
    before: Option<&Map<String, Value>>,
    after: &mut Map<String, Value>,
    writer: Writer<'_>,
) {
    let kind = kind.map_or(Kind::Untyped, Kind::Object);
    let mut managers = Managers::of(after);
    if managers.entries.is_empty() && !forgets(after) {
        managers = before.map(Managers::of).unwrap_or_default();
    }
    let old = Value::Object(before.cloned().unwrap_or_default());
    let new = Value::Object(std::mem::take(after));
    let mut change = compare(kind, Some(&old), Some(&new));
    for set in [&mut change.added, &mut change.modified, &mut change.removed] {
        strip(set);
    }
    let touched = change.added.union(&change.modified);
    let gone = touched.union(&change.removed);
    let own = managers.position(Operation::Update, writer);
    let mine = own.map(|own| managers.entries[own].set.clone()).unwrap_or_default();
    for entry in &mut managers.entries {
        entry.set = entry.set.difference(&gone);
    }
    // Who took nothing has not written, so that an update without a change stays one.
    if !touched.is_empty() {
        managers.renew(Operation::Update, writer, mine.difference(&change.removed).union(&touched));
    }
    managers.cap();
    if let Value::Object(object) = new {
        *after = object;
    }
    managers.write(after);
}

/// `managedFields: [{}]` is how a client forgets all managers; without the field they stay.
fn forgets(object: &Map<String, Value>) -> bool {
    let given = object.get("metadata").and_then(|metadata| metadata.get("managedFields")).and_then(Value::as_array);
    matches!(given.map(Vec::as_slice), Some([Value::Object(entry)]) if entry.is_empty())
}

fn owned(kind: Kind, object: &Map<String, Value>) -> FieldSet {
    let mut set = collect(kind, &Value::Object(object.clone()));
    strip(&mut set);
    set
}

fn strip(set: &mut FieldSet) {
    for path in SERVER_OWNED {
        set.remove_fields(path);
    }
}

/// The managed fields of an object, removed from it: what `kubectl get` hides and comparisons leave out.
pub fn take_managed_fields(object: &mut Map<String, Value>) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

#[cfg(test)]
mod tests;
