//! Pure: strategic merge patch, what kubectl sends for built-in kinds: lists of objects merge by their merge keys.
//!
//! Directives: `$patch: replace|delete|merge`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`, `$retainKeys`.

use serde_json::{Map, Value};

use super::super::table::{Element, Field, Shape, TypeId};
use super::PatchError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Applies a patch to an object of a built-in type.
pub fn strategic_merge_patch(
    kind: TypeId,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    merge_map(Some(kind), target, patch.clone())
}

fn bad(message: impl Into<String>) -> PatchError {
    PatchError::BadRequest(message.into())
}

fn merge_map(
    kind: Option<TypeId>,
    target: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<(), PatchError> {
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            *target = cleaned(kind, patch)?;
            return Ok(());
        }
        Some(Value::String(directive)) if directive == "delete" => {
            target.clear();
            return Ok(());
        }
        Some(Value::String(directive)) if directive == "merge" => {}
        Some(other) => {
            let shown = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            return Err(bad(format!("unknown patch type: {shown} in map: {}", Value::Object(patch))));
        }
    }
    retain_keys(target, &mut patch)?;
    let (directives, values): (Vec<_>, Vec<_>) =
        patch.into_iter().partition(|(name, _)| name.starts_with(ORDER) || name.starts_with(DELETE));
    let mut orders = Map::new();
    for (name, value) in directives {
        let Value::Array(items) = value else {
            let list = if name.starts_with(ORDER) { "setElementOrder list" } else { "primitive list" };
            return Err(bad(format!("invalid patch format of {list}")));
        };
        if let Some(list) = name.strip_prefix(DELETE) {
            if let Some(Value::Array(present)) = target.get_mut(list) {
                present.retain(|item| !items.contains(item));
            }
        } else if let Some(list) = name.strip_prefix(ORDER) {
            orders.insert(list.to_owned(), Value::Array(items));
        }
    }
    let lengths: Vec<(String, usize)> = orders
        .keys()
        .map(|name| (name.clone(), target.get(name).and_then(Value::as_array).map_or(0, Vec::len)))
        .collect();
    for (name, value) in values {
        let field = kind.and_then(|kind| kind.field(&name));
        let ordered = orders.contains_key(&name);
        merge_value(field, target, name, value, ordered)?;
    }
    for (name, length) in lengths {
        let field = kind.and_then(|kind| kind.field(&name));
        if let (Some(Value::Array(items)), Some(Value::Array(order))) = (target.get_mut(&name), orders.get(&name)) {
            // Upstream's merge works in place, so an item that fills the gap of a deleted one counts as known.
            let before = items[..length.min(items.len())].to_vec();
            reorder(field.and_then(Field::merge_key), items, order, &before);
        }
    }
    Ok(())
}

/// `$retainKeys`: of the target's fields only those that are listed stay; the patch may set no other.
fn retain_keys(target: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad("invalid patch format of retainKeys")) };
    let listed = |name: &str| keys.iter().any(|key| key == name);
    let set = patch.iter().filter(|(name, value)| !value.is_null() && !name.starts_with('$'));
    if set.into_iter().any(|(name, _)| !listed(name)) {
        return Err(bad("patch content doesn't match retainKeys list"));
    }
    target.retain(|name, _| listed(name));
    Ok(())
}

fn merge_value(
    field: Option<Field>,
    target: &mut Map<String, Value>,
    name: String,
    patch: Value,
    // The patch says how the whole list is ordered.
    ordered: bool,
) -> Result<(), PatchError> {
    let inner = field.and_then(element_type);
    match (target.get_mut(&name), patch) {
        (_, Value::Null) => {
            target.remove(&name);
        }
        (Some(Value::Object(present)), Value::Object(patch)) => {
            if field.is_some_and(Field::patch_replaces) {
                *present = cleaned(inner, patch)?;
            } else if field.is_some_and(|field| field.shape() == Shape::Map) {
                merge_entries(inner, present, patch)?;
            } else {
                let deleted = patch.get(PATCH) == Some(&Value::from("delete"));
                merge_map(inner, present, patch)?;
                if deleted {
                    target.remove(&name);
                }
            }
        }
        (Some(Value::Array(present)), Value::Array(patch)) if field.is_some_and(Field::patch_merges) => {
            let key = field.and_then(Field::merge_key);
            let listed: Vec<Value> =
                patch.iter().filter(|item| item.get(PATCH).is_none()).map(identity_by(key)).collect();
            let replaced = patch.iter().any(|item| item.get(PATCH) == Some(&Value::from("replace")));
            let before = match key {
                Some(key) => merge_list(inner, key, present, patch)?,
                None => {
                    let before = present.clone();
                    present.extend(patch);
                    dedupe(present);
                    before
                }
            };
            if !ordered && !replaced {
                reorder(key, present, &listed, &before);
            }
        }
        (Some(_), Value::Array(patch)) | (None, Value::Array(patch)) => {
            let plain = patch.into_iter().filter(|item| item.get(PATCH).is_none());
            let fresh = plain.map(|item| cleaned_value(inner, item)).collect::<Result<_, _>>()?;
            target.insert(name, Value::Array(fresh));
        }
        (_, Value::Object(patch)) => {
            if patch.get(PATCH) == Some(&Value::from("delete")) {
                target.remove(&name);
            } else {
                target.insert(name, Value::Object(cleaned(inner, patch)?));
            }
        }
        (_, patch) => {
            target.insert(name, patch);
        }
    }
    Ok(())
}

/// A map from strings: its keys are not fields, its values may be objects.
fn merge_entries(
    inner: Option<TypeId>,
    target: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<(), PatchError> {
    match patch.remove(PATCH).as_ref().and_then(Value::as_str) {
        Some("replace") => target.clear(),
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        _ => {}
    }
    for (key, value) in patch {
        match (target.get_mut(&key), value) {
            (_, Value::Null) => {
                target.remove(&key);
            }
            (Some(Value::Object(present)), Value::Object(patch)) => merge_map(inner, present, patch)?,
            (_, value) => {
                target.insert(key, cleaned_value(inner, value)?);
            }
        }
    }
    Ok(())
}

fn element_type(field: Field) -> Option<TypeId> {
    match field.element() {
        Element::Object(inner) => Some(inner),
        Element::Scalar(_) => None,
    }
}

/// A patch where there is nothing to patch: directives and nulls go.
fn cleaned(kind: Option<TypeId>, patch: Map<String, Value>) -> Result<Map<String, Value>, PatchError> {
    let mut fresh = Map::new();
    merge_map(kind, &mut fresh, patch)?;
    Ok(fresh)
}

fn cleaned_value(kind: Option<TypeId>, patch: Value) -> Result<Value, PatchError> {
    match patch {
        Value::Object(patch) => cleaned(kind, patch).map(Value::Object),
        other => Ok(other),
    }
}

fn dedupe(items: &mut Vec<Value>) {
    let mut seen: Vec<Value> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    *items = seen;
}

/// Answers the identities of what was there and was not deleted.
fn merge_list(
    inner: Option<TypeId>,
    key: &str,
    target: &mut Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let (mut plain, mut replaces) = (Vec::new(), false);
    for item in patch {
        let Value::Object(item) = item else {
            return Err(bad("invalid JSON document"));
        };
        let directive = item.get(PATCH).map(|directive| directive.as_str().unwrap_or_default().to_owned());
        match directive.as_deref() {
            None => plain.push(item),
            Some("replace") => replaces = true,
            Some("delete") => {
                let wanted = item.get(key).ok_or_else(|| no_key(&item, key))?.clone();
                target.retain(|present| present.get(key) != Some(&wanted));
            }
            Some("merge") => {
                return Err(bad("merging lists cannot yet be specified in the patch"));
            }
            Some(other) => {
                return Err(bad(format!("unknown patch type: {other} in map: {}", Value::Object(item))));
            }
        }
    }
    if replaces {
        // As they are: two of one key too, such as a node's addresses of one type.
        *target = plain.into_iter().map(|item| cleaned(inner, item).map(Value::Object)).collect::<Result<_, _>>()?;
        return Ok(Vec::new());
    }
    let before = target.iter().map(identity_by(Some(key))).collect();
    for item in plain {
        let wanted = item.get(key).ok_or_else(|| no_key(&item, key))?;
        match target.iter_mut().find(|present| present.get(key) == Some(wanted)) {
            Some(Value::Object(present)) => merge_map(inner, present, item)?,
            _ => target.push(Value::Object(cleaned(inner, item)?)),
        }
    }
    Ok(before)
}

/// What tells an item of a list from the others: the value of its key, or itself.
fn identity_by(key: Option<&str>) -> impl Fn(&Value) -> Value {
    move |item| key.and_then(|key| item.get(key)).unwrap_or(item).clone()
}

fn no_key(item: &Map<String, Value>, key: &str) -> PatchError {
    let shown: Vec<String> = item
        .iter()
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}:{text}"),
            other => format!("{name}:{other}"),
        })
        .collect();
    PatchError::Unprocessable(format!("map: map[{}] does not contain declared merge key: {key}", shown.join(" ")))
}

/// Puts the items that the patch lists in its order; an item that only the server has goes before the first of them
/// that it preceded on the server (`before`), else behind all. A patch that says no order lists what it has itself.
fn reorder(key: Option<&str>, items: &mut Vec<Value>, order: &[Value], before: &[Value]) {
    let identity = identity_by(key);
    let order: Vec<Value> = order.iter().map(&identity).collect();
    let before: Vec<Value> = before.iter().map(&identity).collect();
    let rank = |list: &[Value], item: &Value| list.iter().position(|id| *id == identity(item));
    let (mut listed, mut own): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| rank(&order, item).is_some());
    listed.sort_by_key(|item| rank(&order, item));
    own.sort_by_key(|item| rank(&before, item).unwrap_or(usize::MAX));
    let mut own = own.into_iter().peekable();
    for item in listed {
        let place = rank(&before, &item);
        let precedes = |own: &Value| matches!((rank(&before, own), place), (Some(own), Some(place)) if own < place);
        while let Some(next) = own.next_if(|own| precedes(own)) {
            items.push(next);
        }
        items.push(item);
    }
    items.extend(own);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::lookup;
    use serde_json::json;

    fn deployment(target: Value, patch: Value) -> Result<Value, PatchError> {
        let mut target = target.as_object().unwrap().clone();
        let kind = lookup("apps", "v1", "Deployment").unwrap();
        strategic_merge_patch(kind, &mut target, patch.as_object().unwrap())?;
        Ok(Value::Object(target))
    }

    fn pod(spec: Value, patch: Value) -> Value {
        let mut target = json!({"spec": spec}).as_object().unwrap().clone();
        let kind = lookup("", "v1", "Pod").unwrap();
        strategic_merge_patch(kind, &mut target, json!({"spec": patch}).as_object().unwrap()).unwrap();
        target["spec"].clone()
    }

    #[test]
    fn lists_merge_by_key() {
        let spec = json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}], "nodeSelector": {"x": "y", "z": "1"}});
        let patch = json!({"containers": [{"name": "a", "image": "2", "args": ["y"], "env": [{"name": "E", "value": "1"}]}, {"name": "c"}], "nodeSelector": {"x": null}});
        assert_eq!(
            pod(spec, patch),
            json!({"containers": [{"name": "a", "image": "2", "args": ["y"], "env": [{"name": "E", "value": "1"}]}, {"name": "c"}, {"name": "b"}],
                "nodeSelector": {"z": "1"}})
        );
    }

    #[test]
    fn directives() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "securityContext": {"runAsUser": 1}});
        let patch = json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "c", "env": [{"name": "x", "value": null}]}],
            "securityContext": {"$patch": "replace", "fsGroup": 2}});
        assert_eq!(
            pod(spec.clone(), patch),
            json!({"containers": [{"name": "c", "env": [{"name": "x"}]}, {"name": "b"}], "securityContext": {"fsGroup": 2}})
        );
        let patch = json!({"containers": [{"$patch": "replace"}, {"name": "z"}]});
        assert_eq!(pod(spec, patch)["containers"], json!([{"name": "z"}]));
        let error = deployment(
            json!({"spec": {"template": {"spec": {"containers": []}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}),
        );
        assert_eq!(error.unwrap_err().to_string(), "map: map[image:a] does not contain declared merge key: name");
        let error = deployment(json!({}), json!({"spec": {"$patch": "nope"}})).unwrap_err();
        assert!(error.to_string().starts_with("unknown patch type: nope in map: "));
    }

    #[test]
    fn retain_keys_drops_the_rest() {
        let target = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(deployment(target, patch).unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
        let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch =
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]});
        assert_eq!(pod(spec, patch), json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}));
    }

    /// As upstream's library orders them, where a patch is written by hand (its `mergeSlice`).
    #[test]
    fn new_items_go_before_known_ones() {
        let names = |spec: Value, patch: Value| -> Vec<String> {
            let patched = pod(spec, patch);
            let items = patched["containers"].as_array().unwrap().iter();
            items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
        };
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        assert_eq!(names(spec.clone(), json!({"containers": [{"name": "new"}]})), ["new", "a", "b", "c"]);
        assert_eq!(
            names(spec.clone(), json!({"containers": [{"name": "b"}, {"name": "new"}]})),
            ["a", "b", "new", "c"]
        );
        let again = json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "a", "image": "x"}]});
        assert_eq!(names(spec.clone(), again), ["a", "b", "c"]);
        let all = json!({"containers": [{"$patch": "replace"}, {"name": "z"}, {"name": "a"}]});
        assert_eq!(names(spec, all), ["z", "a"]);
        let kind = lookup("", "v1", "Node").unwrap();
        let two = json!([{"type": "InternalIP", "address": "10.0.0.5"}, {"type": "InternalIP", "address": "fd00::5"}]);
        let mut target = json!({"status": {"addresses": [{"type": "Hostname", "address": "a"}]}});
        let mut patch = json!({"status": {"addresses": two}});
        patch["status"]["addresses"].as_array_mut().unwrap().push(json!({"$patch": "replace"}));
        strategic_merge_patch(kind, target.as_object_mut().unwrap(), patch.as_object().unwrap()).unwrap();
        assert_eq!(target["status"]["addresses"], two, "what replaces a list is not merged in itself");
        let mut target = json!({"metadata": {"finalizers": ["a", "b"]}}).as_object().unwrap().clone();
        let kind = lookup("", "v1", "Pod").unwrap();
        let patch = json!({"metadata": {"finalizers": ["c", "a"]}});
        strategic_merge_patch(kind, &mut target, patch.as_object().unwrap()).unwrap();
        assert_eq!(target["metadata"]["finalizers"], json!(["c", "a", "b"]));
    }

    #[test]
    fn orders_and_primitive_lists() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "server"}]});
        let patch = json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "new"}], "containers": [{"name": "new"}]});
        let names: Vec<Value> =
            pod(spec, patch)["containers"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect();
        assert_eq!(names, ["b", "a", "new", "server"]);
        let mut target = json!({"metadata": {"finalizers": ["a", "b"]}}).as_object().unwrap().clone();
        let kind = lookup("", "v1", "Pod").unwrap();
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}});
        strategic_merge_patch(kind, &mut target, patch.as_object().unwrap()).unwrap();
        assert_eq!(target["metadata"]["finalizers"], json!(["c", "b"]));
    }

    /// Patches that upstream's client made and its library applied: `[live, patch, result]` on each line.
    const GOLDEN: &str = include_str!("../../../schema/golden/strategic.jsonl");

    /// Upstream leaves nulls and directives in items that it appends; decoding drops them.
    fn decoded(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let kept = map.into_iter().filter(|(name, value)| !value.is_null() && !name.starts_with('$'));
                let kept = kept.map(|(name, value)| (name, decoded(value))).filter(|(_, value)| *value != json!([]));
                Value::Object(kept.collect())
            }
            Value::Array(items) => {
                Value::Array(items.into_iter().filter(|item| item.get(PATCH).is_none()).map(decoded).collect())
            }
            other => other,
        }
    }

    #[test]
    fn what_upstream_patches_is_patched() {
        for line in GOLDEN.lines() {
            let [live, patch, result]: [Value; 3] = serde_json::from_str(line).unwrap();
            assert_eq!(decoded(deployment(live, patch).unwrap()), decoded(result), "{line}");
        }
    }
}
