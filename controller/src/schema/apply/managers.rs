//! Pure: `metadata.managedFields`, who owns which fields.

use serde_json::{Map, Value, json};

use super::Writer;
use super::fields::FieldSet;

/// Upstream keeps the entries of this many updating managers and folds older ones into one.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else.
    Update,
}

/// One entry of the list.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The manager's name.
    pub manager: String,
    /// How it writes.
    pub operation: Operation,
    /// The version that it speaks.
    pub api_version: String,
    /// The subresource, empty for the object itself.
    pub subresource: String,
    /// When the entry last changed.
    pub time: Option<String>,
    /// The fields.
    pub set: FieldSet,
}

impl Entry {
    /// A new entry of a writer.
    pub fn new(operation: Operation, writer: Writer<'_>, set: FieldSet) -> Entry {
        Entry {
            manager: writer.manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: Some(writer.now.to_owned()),
            set,
        }
    }

    /// `"kubectl" using apps/v1 at 2024-...`, as conflicts show it.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
            if let Some(time) = &self.time {
                text.push_str(&format!(" at {time}"));
            }
        }
        text
    }
}

/// All entries of an object.
#[derive(Debug, Clone, Default)]
pub struct Managers {
    /// In no order; [`Managers::write`] sorts.
    pub entries: Vec<Entry>,
}

impl Managers {
    /// Reads them from an object; entries of another form than FieldsV1 are left out.
    pub fn of(object: &Map<String, Value>) -> Managers {
        let list = object.get("metadata").and_then(|metadata| metadata.get("managedFields"));
        let mut entries = Vec::new();
        for entry in list.and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => continue,
            };
            entries.push(Entry {
                manager: text("manager"),
                operation,
                api_version: text("apiVersion"),
                subresource: text("subresource"),
                time: Some(text("time")).filter(|time| !time.is_empty()),
                set: FieldSet::from_value(entry.get("fieldsV1").unwrap_or(&Value::Null)),
            });
        }
        Managers { entries }
    }

    /// The entry of a writer. An applier is the same in all versions.
    pub fn position(&self, operation: Operation, writer: Writer<'_>) -> Option<usize> {
        self.entries.iter().position(|entry| {
            entry.operation == operation
                && entry.manager == writer.manager
                && entry.subresource == writer.subresource
                && (operation == Operation::Apply || entry.api_version == writer.api_version)
        })
    }

    /// Sets what a writer owns; the time moves only if that changed.
    pub fn set(&mut self, operation: Operation, writer: Writer<'_>, set: FieldSet) {
        match self.position(operation, writer) {
            Some(at) => {
                let entry = &mut self.entries[at];
                if entry.set != set || entry.api_version != writer.api_version {
                    *entry = Entry::new(operation, writer, set);
                }
            }
            None => self.entries.push(Entry::new(operation, writer, set)),
        }
    }

    /// Sets what a writer owns, as of now.
    pub fn renew(&mut self, operation: Operation, writer: Writer<'_>, set: FieldSet) {
        let entry = Entry::new(operation, writer, set);
        match self.position(operation, writer) {
            Some(at) => self.entries[at] = entry,
            None => self.entries.push(entry),
        }
    }

    /// Folds the oldest updaters of each version into one, so that the list stays small.
    pub fn cap(&mut self) {
        self.entries.retain(|entry| !entry.set.is_empty());
        self.sort();
        while self.entries.iter().filter(|entry| entry.operation == Operation::Update).count() > MAX_UPDATERS {
            let Some(oldest) =
                self.entries.iter().position(|entry| entry.operation == Operation::Update && entry.manager != ANCIENT)
            else {
                return;
            };
            let mut old = self.entries.remove(oldest);
            let same = |entry: &&mut Entry| entry.manager == ANCIENT && entry.api_version == old.api_version;
            match self.entries.iter_mut().find(same) {
                Some(ancient) => {
                    ancient.set = ancient.set.union(&old.set);
                    ancient.time = old.time;
                }
                None => {
                    ANCIENT.clone_into(&mut old.manager);
                    old.subresource.clear();
                    self.entries.insert(oldest, old);
                    if self.entries.iter().filter(|entry| entry.manager == ANCIENT).count() > MAX_UPDATERS {
                        return;
                    }
                }
            }
        }
    }

    fn sort(&mut self) {
        self.entries.sort_by(|a, b| {
            let key =
                |entry: &Entry| (entry.operation, entry.time.clone(), entry.manager.clone(), entry.subresource.clone());
            key(a).cmp(&key(b))
        });
    }

    /// Writes them to an object: appliers first, then updaters by time.
    pub fn write(mut self, object: &mut Map<String, Value>) {
        self.entries.retain(|entry| !entry.set.is_empty());
        self.sort();
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        let Some(metadata) = metadata.as_object_mut() else { return };
        let list: Vec<Value> = self.entries.iter().map(entry_value).collect();
        if list.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(list));
        }
    }
}

fn entry_value(entry: &Entry) -> Value {
    let operation = match entry.operation {
        Operation::Apply => "Apply",
        Operation::Update => "Update",
    };
    let mut value = json!({
        "manager": entry.manager,
        "operation": operation,
        "apiVersion": entry.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": entry.set.to_value(),
    });
    if let Some(time) = &entry.time {
        value["time"] = Value::from(time.as_str());
    }
    if !entry.subresource.is_empty() {
        value["subresource"] = Value::from(entry.subresource.as_str());
    }
    value
}
