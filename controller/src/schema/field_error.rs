//! Pure: one wrong field of an object, worded as upstream words it, and the path that names it.

use std::fmt;

use serde_json::Value;

/// What is wrong with a field; `Display` is upstream's message, [`Reason::cause`] the `reason` of a Status cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A referenced value does not exist.
    NotFound,
    /// A value must be given.
    Required,
    /// A value that must be unique occurs twice.
    Duplicate,
    /// A malformed value.
    Invalid,
    /// A value outside the enumeration.
    NotSupported,
    /// A value that is not permitted here.
    Forbidden,
    /// A string that is too long; the value is not repeated.
    TooLong,
    /// A list with too many items.
    TooMany,
    /// A failure that is not the user's.
    Internal,
    /// A value of another type than the schema's.
    TypeInvalid,
}

impl Reason {
    /// The machine-readable reason of a cause in `metav1.Status`.
    pub fn cause(self) -> &'static str {
        match self {
            Reason::NotFound => "FieldValueNotFound",
            Reason::Required => "FieldValueRequired",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::Internal => "InternalError",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Reason::NotFound => "Not found",
            Reason::Required => "Required value",
            Reason::Duplicate => "Duplicate value",
            Reason::Invalid | Reason::TypeInvalid => "Invalid value",
            Reason::NotSupported => "Unsupported value",
            Reason::Forbidden => "Forbidden",
            Reason::TooLong => "Too long",
            Reason::TooMany => "Too many",
            Reason::Internal => "Internal error",
        }
    }
}

/// One wrong field. `Display` is `<field>: <body>`; [`FieldError::body`] is the message of its Status cause.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// The path, such as `spec.containers[0].image`.
    pub field: String,
    /// What is wrong.
    pub reason: Reason,
    /// The value that is wrong; not shown for required, forbidden, too long and internal.
    pub bad_value: Value,
    /// A sentence more, possibly empty.
    pub detail: String,
}

impl FieldError {
    fn new(field: impl fmt::Display, reason: Reason, bad_value: Value, detail: impl Into<String>) -> FieldError {
        FieldError { field: field.to_string(), reason, bad_value, detail: detail.into() }
    }

    /// `field: Required value[: detail]`.
    pub fn required(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError::new(field, Reason::Required, Value::String(String::new()), detail)
    }

    /// `field: Invalid value: <value>: <detail>`.
    pub fn invalid(field: impl fmt::Display, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(field, Reason::Invalid, value.into(), detail)
    }

    /// `field: Invalid value: <value>: <detail>` with the reason FieldValueTypeInvalid.
    pub fn type_invalid(field: impl fmt::Display, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(field, Reason::TypeInvalid, value.into(), detail)
    }

    /// `field: Unsupported value: <value>: supported values: "A", "B"`.
    pub fn not_supported(field: impl fmt::Display, value: impl Into<Value>, supported: &[&str]) -> FieldError {
        let quoted: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        FieldError::new(field, Reason::NotSupported, value.into(), detail)
    }

    /// `field: Duplicate value: <value>`.
    pub fn duplicate(field: impl fmt::Display, value: impl Into<Value>) -> FieldError {
        FieldError::new(field, Reason::Duplicate, value.into(), "")
    }

    /// `field: Forbidden: <detail>`.
    pub fn forbidden(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError::new(field, Reason::Forbidden, Value::String(String::new()), detail)
    }

    /// `field: Not found: <value>`.
    pub fn not_found(field: impl fmt::Display, value: impl Into<Value>) -> FieldError {
        FieldError::new(field, Reason::NotFound, value.into(), "")
    }

    /// `field: Too long: may not be more than N bytes`.
    pub fn too_long(field: impl fmt::Display, max: usize) -> FieldError {
        let unit = if max == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max} {unit}");
        FieldError::new(field, Reason::TooLong, Value::String("<value omitted>".into()), detail)
    }

    /// `field: Too many: <actual>: must have at most N items`.
    pub fn too_many(field: impl fmt::Display, actual: usize, max: usize) -> FieldError {
        let unit = if max == 1 { "item" } else { "items" };
        FieldError::new(field, Reason::TooMany, Value::from(actual), format!("must have at most {max} {unit}"))
    }

    /// `field: Internal error: <detail>`.
    pub fn internal(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError::new(field, Reason::Internal, Value::Null, detail)
    }

    /// The message without the field's name: what a Status cause carries.
    pub fn body(&self) -> String {
        let mut body = String::from(self.reason.text());
        let shows_value =
            !matches!(self.reason, Reason::Required | Reason::Forbidden | Reason::TooLong | Reason::Internal);
        if shows_value {
            body.push_str(": ");
            match &self.bad_value {
                Value::String(text) => body.push_str(&quote(text)),
                other => body.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// The message of several errors as upstream aggregates them: one stands alone, more stand in brackets; repeated ones once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut messages: Vec<String> = Vec::new();
    for error in errors {
        let message = error.to_string();
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    match messages.len() {
        1 => messages.remove(0),
        _ => format!("[{}]", messages.join(", ")),
    }
}

/// Go's `%q` of a string: double quotes, backslash escapes, printable Unicode as it is.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A field's path, built on the way down; cheap to borrow, written only when there is an error.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    /// The object itself; prints as nothing.
    Root,
    /// A named field of the parent.
    Field(&'a Path<'a>, &'a str),
    /// An item of the parent list.
    Index(&'a Path<'a>, usize),
    /// A key of the parent map: `labels[app]`.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// A path of one field at the root.
    pub const fn new(name: &'a str) -> Path<'a> {
        Path::Field(&Path::Root, name)
    }

    /// A field below this path.
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// An item below this path.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    /// A map key below this path.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording_is_upstreams() {
        let spec = Path::new("spec");
        let replicas = spec.child("replicas");
        let error = FieldError::invalid(replicas, -1, "must be greater than or equal to 0");
        assert_eq!(error.to_string(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        let error = FieldError::not_supported("spec.type", "x", &["A", "B"]);
        assert_eq!(error.to_string(), r#"spec.type: Unsupported value: "x": supported values: "A", "B""#);
        let containers = spec.child("containers");
        let item = containers.index(0);
        let error = FieldError::required(item.child("image"), "");
        assert_eq!(error.to_string(), "spec.containers[0].image: Required value");
        assert_eq!(error.reason.cause(), "FieldValueRequired");
        assert_eq!(FieldError::too_long("a", 63).to_string(), "a: Too long: may not be more than 63 bytes");
        assert_eq!(FieldError::too_many("a", 9, 8).to_string(), "a: Too many: 9: must have at most 8 items");
        assert_eq!(aggregate(&[error.clone(), error.clone()]), "spec.containers[0].image: Required value");
    }
}
