//! Pure: shared strings. Label sets, node names and addresses repeat across thousands of objects and are kept once.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

/// A string kept once.
pub(crate) type Str = Arc<str>;

/// Strings that nothing else holds are swept when the set has grown by this factor since the last sweep.
const SWEEP_FACTOR: usize = 2;
/// Below this size a sweep saves less than it costs.
const SWEEP_FLOOR: usize = 1024;

/// A set of labels (or annotations), sorted by key, shared between objects that carry the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Labels(Arc<[(Str, Str)]>);

impl Default for Labels {
    fn default() -> Labels {
        Labels(Arc::from([]))
    }
}

impl Labels {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok().map(|place| self.0[place].1.as_ref())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Does every label of this set stand in `other` too?
    pub(crate) fn within(&self, other: &Labels) -> bool {
        self.iter().all(|(key, value)| other.get(key) == Some(value))
    }

    /// As a JSON object.
    pub(crate) fn to_value(&self) -> Value {
        Value::Object(self.iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect())
    }
}

/// Keeps each string and each label set once.
#[derive(Default)]
pub(crate) struct Interner {
    strings: HashSet<Str>,
    sets: HashSet<Labels>,
    swept: usize,
}

impl Interner {
    pub(crate) fn text(&mut self, text: &str) -> Str {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        self.sweep();
        let text: Str = text.into();
        self.strings.insert(text.clone());
        text
    }

    /// A string of the object at `path`, if it is there and not empty.
    pub(crate) fn text_at(&mut self, object: &Value, path: &[&str]) -> Option<Str> {
        at(object, path).and_then(Value::as_str).filter(|text| !text.is_empty()).map(|text| self.text(text))
    }

    /// A map of strings as a label set, leaving out keys that `keep` refuses.
    pub(crate) fn labels_where(&mut self, map: Option<&Value>, keep: impl Fn(&str) -> bool) -> Labels {
        let Some(map) = map.and_then(Value::as_object) else { return Labels::default() };
        let mut pairs: Vec<(Str, Str)> = map
            .iter()
            .filter(|(key, _)| keep(key))
            .map(|(key, value)| (self.text(key), self.text(value.as_str().unwrap_or_default())))
            .collect();
        pairs.sort();
        let set = Labels(pairs.into());
        if let Some(known) = self.sets.get(&set) {
            return known.clone();
        }
        self.sets.insert(set.clone());
        set
    }

    pub(crate) fn labels(&mut self, map: Option<&Value>) -> Labels {
        self.labels_where(map, |_| true)
    }

    fn sweep(&mut self) {
        if self.strings.len() < SWEEP_FLOOR.max(self.swept * SWEEP_FACTOR) {
            return;
        }
        self.sets.retain(|set| Arc::strong_count(&set.0) > 1);
        self.strings.retain(|text| Arc::strong_count(text) > 1);
        self.swept = self.strings.len();
    }

    /// Bytes held: the strings, and the sets' pairs.
    pub(crate) fn bytes(&self) -> usize {
        let strings: usize = self.strings.iter().map(|text| text.len() + 32).sum();
        let sets: usize = self.sets.iter().map(|set| set.0.len() * 32 + 32).sum();
        strings + sets
    }
}

/// The value at `path`; a null counts as absent.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| value.get(step)).filter(|value| !value.is_null())
}

/// The string at `path`, or "".
pub(crate) fn str_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at `path`.
pub(crate) fn int_at(object: &Value, path: &[&str]) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// The flag at `path`; absent is false.
pub(crate) fn flag_at(object: &Value, path: &[&str]) -> bool {
    at(object, path).and_then(Value::as_bool).unwrap_or_default()
}

/// The list at `path`, or an empty one.
pub(crate) fn list_at<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A digest of a JSON value that depends neither on the order of keys nor on nulls.
pub(crate) fn digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    digest_into(value, &|_, value| value.is_null(), &mut hasher);
    hasher.finish()
}

/// A digest of a pod template: what upstream's types cannot tell apart is the same, because clients written in Go send back
/// `resources: {}` for what was absent, and nothing for `hostNetwork: false`.
pub(crate) fn typed_digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    digest_into(value, &is_zero, &mut hasher);
    hasher.finish()
}

/// Fields that are values, not pointers, in upstream's types: false and 0 are the same as absent.
const PLAIN_FIELDS: &[&str] =
    &["hostIPC", "hostNetwork", "hostPID", "hostPort", "initialDelaySeconds", "readOnly", "stdin", "stdinOnce", "tty"];
/// Maps of people's own keys: an empty value is a value.
const OPEN_MAPS: &[&str] = &["annotations", "labels", "limits", "matchLabels", "nodeSelector", "requests"];
/// Strings that are pointers: empty is not the same as absent.
const POINTER_TEXTS: &[&str] = &["storageClassName", "volumeAttributesClassName"];

fn is_zero(field: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag && PLAIN_FIELDS.contains(&field),
        Value::Number(number) => number.as_i64() == Some(0) && PLAIN_FIELDS.contains(&field),
        Value::String(text) => text.is_empty() && !POINTER_TEXTS.contains(&field),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) if OPEN_MAPS.contains(&field) => map.is_empty(),
        Value::Object(map) => map.iter().all(|(field, value)| is_zero(field, value)),
    }
}

fn digest_into(value: &Value, skip: &dyn Fn(&str, &Value) -> bool, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => 0u8.hash(hasher),
        Value::Bool(flag) => (1u8, flag).hash(hasher),
        Value::Number(number) => (2u8, number.to_string()).hash(hasher),
        Value::String(text) => (3u8, text).hash(hasher),
        Value::Array(items) => {
            (4u8, items.len()).hash(hasher);
            items.iter().for_each(|item| digest_into(item, skip, hasher));
        }
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().filter(|(key, value)| !skip(key, value)).collect();
            pairs.sort_by_key(|(key, _)| *key);
            (5u8, pairs.len()).hash(hasher);
            for (key, value) in pairs {
                key.hash(hasher);
                if OPEN_MAPS.contains(&key.as_str()) {
                    digest_into(value, &|_, value| value.is_null(), hasher);
                } else {
                    digest_into(value, skip, hasher);
                }
            }
        }
    }
}

/// Upstream's alphabet for generated names: no vowels, no digits that look like letters.
const SAFE_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A number in the form of upstream's `SafeEncodeString` over its decimal digits.
pub(crate) fn safe_encode(number: u32) -> String {
    number.to_string().bytes().map(|byte| SAFE_ALPHABET[byte as usize % SAFE_ALPHABET.len()] as char).collect()
}

/// RFC 7396 (JSON merge patch), which the shell applies between its read and its write of an object.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_sets_are_kept_once() {
        let mut interner = Interner::default();
        let one = interner.labels(Some(&json!({"app": "a", "tier": "b"})));
        let two = interner.labels(Some(&json!({"tier": "b", "app": "a"})));
        assert!(Arc::ptr_eq(&one.0, &two.0));
        assert_eq!(one.get("tier"), Some("b"));
        assert_eq!(one.get("x"), None);
    }

    #[test]
    fn strings_that_nobody_holds_are_swept() {
        let mut interner = Interner::default();
        (0..SWEEP_FLOOR * 3).for_each(|n| drop(interner.text(&format!("pod-{n}"))));
        assert!(interner.strings.len() <= SWEEP_FLOOR);
    }

    #[test]
    fn digest_ignores_order_and_nulls() {
        assert_eq!(digest(&json!({"a": 1, "b": [1, 2]})), digest(&json!({"b": [1, 2], "a": 1, "c": null})));
        assert_ne!(digest(&json!({"a": 1})), digest(&json!({"a": "1"})));
    }

    #[test]
    fn a_template_is_the_same_after_a_client_has_typed_it() {
        let raw =
            json!({"spec": {"hostNetwork": false, "containers": [{"name": "a", "env": [{"name": "x", "value": ""}]}]}});
        let typed = json!({"metadata": {"creationTimestamp": null}, "spec": {"containers": [
            {"name": "a", "env": [{"name": "x"}], "resources": {}}], "securityContext": {}}});
        assert_eq!(typed_digest(&raw), typed_digest(&typed));
        let label = |labels: Value| json!({"metadata": {"labels": labels}});
        assert_ne!(typed_digest(&label(json!({"a": ""}))), typed_digest(&label(json!({}))));
        let token = |flag: Value| json!({"spec": {"automountServiceAccountToken": flag}});
        assert_ne!(typed_digest(&token(json!(false))), typed_digest(&token(Value::Null)));
    }

    #[test]
    fn merge_is_rfc_7396() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut target, &json!({"a": {"b": null, "e": 3}, "d": [2]}));
        assert_eq!(target, json!({"a": {"c": 2, "e": 3}, "d": [2]}));
    }
}
