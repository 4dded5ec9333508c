//! Pure: the columns that `kubectl get` prints, and cells that many kinds share.

use serde_json::{Value, json};

use crate::kinds::Name;
use crate::object::{Object, time};

/// One column of a Table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its head.
    pub name: Name,
    /// `string`, `integer`, `date`, `boolean` or `number`.
    pub kind: Name,
    /// `name` marks the object's name.
    pub format: Name,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i32,
    /// A sentence for people.
    pub description: Name,
}

impl Column {
    /// A column of text.
    pub const fn text(name: &'static str) -> Self {
        Self::of(name, "string")
    }

    /// A column of any type.
    pub const fn of(name: &'static str, kind: &'static str) -> Self {
        use std::borrow::Cow::Borrowed;
        Self {
            name: Borrowed(name),
            kind: Borrowed(kind),
            format: Borrowed(""),
            priority: 0,
            description: Borrowed(""),
        }
    }

    /// The same, shown only by `-o wide`.
    pub fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// The definition in a Table.
    pub fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format, "description": self.description,
            "priority": self.priority})
    }
}

/// The column of names.
pub fn name() -> Column {
    Column { format: "name".into(), ..Column::text("Name") }
}

/// The column of ages.
pub fn age() -> Column {
    Column::text("Age")
}

/// Name and age: what a kind without a printer shows.
pub fn name_and_age() -> Vec<Column> {
    vec![name(), Column::of("Created At", "date")]
}

/// The cells of [`name_and_age`].
pub fn name_and_age_row(object: &Object, _now: i64) -> Vec<Value> {
    vec![object.name().into(), object.creation_timestamp().into()]
}

/// The age of an object.
pub fn age_of(object: &Object, now: i64) -> Value {
    since(object.creation_timestamp(), now).into()
}

/// How long ago a timestamp is; `<unknown>` when it is absent.
pub fn since(timestamp: &str, now: i64) -> String {
    time::parse(timestamp).map_or_else(|| "<unknown>".to_owned(), |then| time::human_duration(now - then))
}

/// `a=1,b=2`, or `<none>`: labels and selectors.
pub fn pairs(map: Option<&serde_json::Map<String, Value>>) -> String {
    let pairs: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// The text, or `<none>` when it is empty.
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// The first three, and how many more there are, as upstream lists addresses and ports.
pub(crate) fn first_three(all: &[String]) -> String {
    let shown = all.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(",");
    if all.len() > 3 { format!("{shown} + {} more...", all.len() - 3) } else { shown }
}

/// A LabelSelector, or a plain map of labels, as text.
pub(crate) fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector.and_then(Value::as_object) else { return String::new() };
    let labels = match (selector.get("matchLabels"), selector.get("matchExpressions")) {
        (None, None) => Some(selector),
        (labels, _) => labels.and_then(Value::as_object),
    };
    let equal =
        labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().map(|one| {
        let key = one["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = one["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match one["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        }
    });
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}
