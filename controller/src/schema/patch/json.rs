//! Pure: JSON Patch (RFC 6902) with the messages of the library that upstream uses.

use serde_json::{Map, Value};

use super::PatchError;

/// Upstream's bound on the operations of one patch.
const MAX_OPERATIONS: usize = 10_000;
/// Upstream's bound on the bytes that `copy` adds: copies of copies grow exponentially.
const MAX_COPIED: usize = crate::schema::read::MAX_BYTES;

/// Applies the operations in order; the first that fails fails the patch.
pub fn json_patch(target: &mut Map<String, Value>, operations: &[Value]) -> Result<(), PatchError> {
    if operations.len() > MAX_OPERATIONS {
        let (max, count) = (MAX_OPERATIONS, operations.len());
        let message = format!("The allowed maximum operations in a JSON patch is {max}, got {count}");
        return Err(PatchError::TooLarge(message));
    }
    let mut document = Value::Object(std::mem::take(target));
    let mut copied = 0;
    for operation in operations {
        apply(&mut document, operation, &mut copied)?;
    }
    match document {
        Value::Object(object) => {
            *target = object;
            Ok(())
        }
        _ => Err(PatchError::Unprocessable("the patched document is not an object".to_owned())),
    }
}

fn apply(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = text("op").unwrap_or("unknown");
    let missing =
        |field: &str| PatchError::Unprocessable(format!("{kind} operation failed to decode {field}: missing value"));
    let path = text("path").ok_or_else(|| missing("path"))?;
    let value = || {
        let absent = || PatchError::Unprocessable("operation, missing value field: missing value".to_owned());
        operation.get("value").cloned().ok_or_else(absent)
    };
    let from = || text("from").ok_or_else(|| missing("from"));
    match kind {
        "add" => add(document, path, value()?, |error| match error {
            Fault::NoParent => format!("add operation does not apply: doc is missing path: \"{path}\": missing value"),
            Fault::Entry(error) => format!("error in add for path: '{path}': {error}"),
        }),
        "remove" => remove(document, path).map(drop).or_else(|error| match error {
            Fault::NoParent => {
                fail(format!("remove operation does not apply: doc is missing path: \"{path}\": missing value"))
            }
            Fault::Entry(error) => fail(format!("error in remove for path: '{path}': {error}")),
        }),
        "replace" => replace(document, path, value()?),
        "move" => move_there(document, from()?, path),
        "copy" => copy(document, from()?, path, copied),
        "test" => test(document, path, operation.get("value").unwrap_or(&Value::Null)),
        other => fail(format!("Unexpected kind: {other}")),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    match find(document, path) {
        Ok(slot) => {
            *slot = value;
            Ok(())
        }
        Err(Fault::NoParent) => {
            fail(format!("replace operation does not apply: doc is missing path: {path}: missing value"))
        }
        Err(Fault::Entry(_)) => {
            fail(format!("replace operation does not apply: doc is missing key: {path}: missing value"))
        }
    }
}

fn move_there(document: &mut Value, from: &str, path: &str) -> Result<(), PatchError> {
    let value = remove(document, from).or_else(|error| match error {
        Fault::NoParent => {
            fail(format!("move operation does not apply: doc is missing from path: {from}: missing value"))
        }
        Fault::Entry(error) => fail(format!("error in move for path: '{from}': {error}")),
    })?;
    add(document, path, value, |error| match error {
        Fault::NoParent => {
            format!("move operation does not apply: doc is missing destination path: {path}: missing value")
        }
        Fault::Entry(error) => format!("error in move for path: '{path}': {error}"),
    })
}

fn copy(document: &mut Value, from: &str, path: &str, copied: &mut usize) -> Result<(), PatchError> {
    let value = find(document, from).map(|value| value.clone()).or_else(|error| match error {
        Fault::NoParent => {
            fail(format!("copy operation does not apply: doc is missing from path: {from}: missing value"))
        }
        Fault::Entry(error) => fail(format!("error in copy for from: '{from}': {error}")),
    })?;
    *copied += value.to_string().len();
    if *copied > MAX_COPIED {
        let why = "the accumulated size increase of copy is";
        return fail(format!("Unable to complete the copy, {why} {copied}, exceeding the limit {MAX_COPIED}"));
    }
    add(document, path, value, |error| match error {
        Fault::NoParent => {
            format!("copy operation does not apply: doc is missing destination path: {path}: missing value")
        }
        Fault::Entry(error) => format!("error while adding value during copy: {error}"),
    })
}

fn test(document: &mut Value, path: &str, expected: &Value) -> Result<(), PatchError> {
    match find(document, path) {
        Ok(found) if found == expected => Ok(()),
        Err(Fault::Entry(_)) if expected.is_null() => Ok(()),
        Err(Fault::NoParent) => fail(format!("test operation does not apply: is missing path: {path}: missing value")),
        _ => fail(format!("testing value {path} failed: test failed")),
    }
}

fn fail<T>(message: String) -> Result<T, PatchError> {
    Err(PatchError::Unprocessable(message))
}

enum Fault {
    /// What should hold the place does not exist.
    NoParent,
    /// The place itself is missing or wrong.
    Entry(String),
}

/// The parent of a place and the last token of its pointer; none for the document itself.
fn parent<'a>(document: &'a mut Value, path: &str) -> Result<Option<(&'a mut Value, String)>, Fault> {
    if path.is_empty() {
        return Ok(None);
    }
    let mut tokens: Vec<String> = path
        .strip_prefix('/')
        .ok_or(Fault::NoParent)?
        .split('/')
        .map(|token| token.replace("~1", "/").replace("~0", "~"))
        .collect();
    let last = tokens.pop().unwrap_or_default();
    let mut at = document;
    for token in tokens {
        at = match at {
            Value::Object(object) => object.get_mut(&token).ok_or(Fault::NoParent)?,
            Value::Array(items) => {
                let index = index(&token, items.len()).map_err(|_| Fault::NoParent)?;
                items.get_mut(index).ok_or(Fault::NoParent)?
            }
            _ => return Err(Fault::NoParent),
        };
    }
    if at.is_object() || at.is_array() { Ok(Some((at, last))) } else { Err(Fault::NoParent) }
}

/// An array index; negative ones count from the end, as in upstream's library.
fn index(token: &str, length: usize) -> Result<usize, String> {
    let number: i64 = token.parse().map_err(|_| {
        format!("value was not a proper array index: '{token}': strconv.Atoi: parsing \"{token}\": invalid syntax")
    })?;
    let counted = if number < 0 { number + length as i64 } else { number };
    usize::try_from(counted).map_err(|_| format!("Unable to access invalid index: {number}: invalid index referenced"))
}

fn invalid_index(index: usize) -> Fault {
    Fault::Entry(format!("Unable to access invalid index: {index}: invalid index referenced"))
}

fn find<'a>(document: &'a mut Value, path: &str) -> Result<&'a mut Value, Fault> {
    if path.is_empty() {
        return Ok(document);
    }
    let Some((holder, last)) = parent(document, path)? else { return Err(Fault::NoParent) };
    match holder {
        Value::Object(object) => object
            .get_mut(&last)
            .ok_or_else(|| Fault::Entry(format!("unable to get nonexistent key: {last}: missing value"))),
        Value::Array(items) => {
            let index = index(&last, items.len()).map_err(Fault::Entry)?;
            items.get_mut(index).ok_or_else(|| invalid_index(index))
        }
        _ => Err(Fault::NoParent),
    }
}

fn add(document: &mut Value, path: &str, value: Value, message: impl Fn(Fault) -> String) -> Result<(), PatchError> {
    let added = match parent(document, path) {
        Ok(None) => {
            *document = value;
            return Ok(());
        }
        Ok(Some((Value::Object(object), last))) => {
            object.insert(last, value);
            Ok(())
        }
        Ok(Some((Value::Array(items), last))) => {
            let at = if last == "-" { Ok(items.len()) } else { index(&last, items.len() + 1) };
            match at {
                Ok(at) if at <= items.len() => {
                    items.insert(at, value);
                    Ok(())
                }
                Ok(at) => Err(invalid_index(at)),
                Err(error) => Err(Fault::Entry(error)),
            }
        }
        Ok(Some(_)) => Err(Fault::NoParent),
        Err(fault) => Err(fault),
    };
    added.map_err(|fault| PatchError::Unprocessable(message(fault)))
}

fn remove(document: &mut Value, path: &str) -> Result<Value, Fault> {
    match parent(document, path)? {
        Some((Value::Object(object), last)) => object
            .remove(&last)
            .ok_or_else(|| Fault::Entry(format!("Unable to remove nonexistent key: {last}: missing value"))),
        Some((Value::Array(items), last)) => {
            let at = index(&last, items.len()).map_err(Fault::Entry)?;
            if at < items.len() { Ok(items.remove(at)) } else { Err(invalid_index(at)) }
        }
        _ => Err(Fault::NoParent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(target: Value, patch: Value) -> Result<Value, String> {
        let mut target = target.as_object().unwrap().clone();
        json_patch(&mut target, patch.as_array().unwrap()).map_err(|error| error.to_string())?;
        Ok(Value::Object(target))
    }

    #[test]
    fn operations() {
        let target = json!({"a": {"b~/c": [1, 2]}, "d": 1});
        let patch = json!([
            {"op": "test", "path": "/d", "value": 1},
            {"op": "add", "path": "/a/b~0~1c/1", "value": 9},
            {"op": "add", "path": "/a/b~0~1c/-", "value": 3},
            {"op": "remove", "path": "/a/b~0~1c/0"},
            {"op": "replace", "path": "/d", "value": null},
            {"op": "copy", "from": "/a", "path": "/e"},
            {"op": "move", "from": "/d", "path": "/f"}
        ]);
        let list = json!([9, 2, 3]);
        assert_eq!(run(target, patch).unwrap(), json!({"a": {"b~/c": list}, "e": {"b~/c": list}, "f": null}));
    }

    #[test]
    fn errors_are_upstreams() {
        let error = |patch| run(json!({"a": [1], "b": {}}), json!([patch])).unwrap_err();
        assert_eq!(
            error(json!({"op": "remove", "path": "/x"})),
            "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value"
        );
        assert_eq!(
            error(json!({"op": "replace", "path": "/x", "value": 1})),
            "replace operation does not apply: doc is missing key: /x: missing value"
        );
        assert_eq!(
            error(json!({"op": "add", "path": "/x/y", "value": 1})),
            "add operation does not apply: doc is missing path: \"/x/y\": missing value"
        );
        assert_eq!(error(json!({"op": "test", "path": "/a", "value": 1})), "testing value /a failed: test failed");
        assert_eq!(error(json!({"op": "nope", "path": "/a"})), "Unexpected kind: nope");
        assert_eq!(
            error(json!({"op": "add", "path": "/a/5", "value": 1})),
            "error in add for path: '/a/5': Unable to access invalid index: 5: invalid index referenced"
        );
    }
}
