//! Pure: the four walks over values with their schema: collect, compare, merge, prune.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::super::table::{Element, Field, ListType, Shape, TypeId};
use super::fields::{FieldSet, Step};

/// What the schema says of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// An object with fields of its own.
    Object(TypeId),
    /// A map whose values are this field's element.
    Map(Field),
    /// A list whose items are found by keys.
    Keyed(Field),
    /// A set of scalars.
    Set,
    /// One value, replaced whole.
    Leaf,
    /// No schema: objects are granular, lists are one value.
    Untyped,
}

/// What two versions of an object differ in.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Only in the new one.
    pub added: FieldSet,
    /// In both, different.
    pub modified: FieldSet,
    /// Only in the old one.
    pub removed: FieldSet,
}

impl Kind {
    fn of(field: Field) -> Kind {
        match (field.shape(), field.element()) {
            _ if field.is_atomic_map() => Kind::Leaf,
            (Shape::Map, _) => Kind::Map(field),
            (Shape::List, _) => match field.list_type() {
                ListType::Map => Kind::Keyed(field),
                ListType::Set => Kind::Set,
                ListType::Atomic | ListType::Unset => Kind::Leaf,
            },
            (_, Element::Object(inner)) => Kind::Object(inner),
            (_, Element::Scalar(_)) => Kind::Leaf,
        }
    }

    fn element(field: Field) -> Kind {
        match field.element() {
            Element::Object(inner) if !inner.is_atomic() => Kind::Object(inner),
            _ => Kind::Leaf,
        }
    }

    /// The kind of a named part of an object or map.
    fn field(self, name: &str) -> Kind {
        match self {
            Kind::Object(kind) => kind.field(name).map_or(Kind::Leaf, Kind::of),
            Kind::Map(field) => Kind::element(field),
            Kind::Untyped => Kind::Untyped,
            Kind::Keyed(_) | Kind::Set | Kind::Leaf => Kind::Leaf,
        }
    }

    /// A value of another shape than the schema's is one value.
    fn fitting(self, value: &Value) -> Kind {
        let fits = match self {
            Kind::Object(_) | Kind::Map(_) | Kind::Untyped => value.is_object(),
            Kind::Keyed(field) => {
                value.as_array().is_some_and(|items| items.iter().all(|item| key_of(field, item).is_some()))
            }
            Kind::Set => value.is_array(),
            Kind::Leaf => true,
        };
        if fits { self } else { Kind::Leaf }
    }
}

/// The step to an item of an associative list. A key that is absent counts with its default, as upstream's.
fn key_of(field: Field, item: &Value) -> Option<Step> {
    let item = item.as_object()?;
    let inner = match field.element() {
        Element::Object(inner) => Some(inner),
        Element::Scalar(_) => None,
    };
    let mut keys = Vec::new();
    for name in field.list_map_keys() {
        let default = || inner.and_then(|inner| inner.field(name)).and_then(Field::default).map(str::to_owned);
        let value = item.get(name).filter(|value| !value.is_null()).map(Value::to_string).or_else(default);
        if let Some(value) = value {
            keys.push((name.to_owned(), value));
        }
    }
    keys.sort();
    if keys.is_empty() { None } else { Some(Step::Key(keys)) }
}

fn step(name: &str) -> Step {
    Step::Field(name.to_owned())
}

/// The fields that an object sets.
pub fn collect(kind: Kind, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect_into(kind, value, &mut set);
    set
}

fn collect_into(kind: Kind, value: &Value, node: &mut FieldSet) {
    match (kind.fitting(value), value) {
        (kind @ (Kind::Object(_) | Kind::Map(_) | Kind::Untyped), Value::Object(object)) => {
            for (name, value) in object {
                let child = node.children.entry(step(name)).or_default();
                collect_into(kind.field(name), value, child);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                child.member |= empty || matches!(kind, Kind::Map(_));
            }
        }
        (Kind::Keyed(field), Value::Array(items)) => {
            for item in items {
                let Some(key) = key_of(field, item) else { continue };
                let child = node.children.entry(key).or_default();
                child.member = true;
                collect_into(Kind::element(field), item, child);
            }
        }
        (Kind::Set, Value::Array(items)) => {
            for item in items {
                node.children.entry(Step::Value(item.to_string())).or_default().member = true;
            }
        }
        _ => node.member = true,
    }
}

/// What changed from one version to the other.
pub fn compare(kind: Kind, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let mut comparison = Comparison::default();
    let mut path = Vec::new();
    compare_at(kind, old, new, &mut path, &mut comparison);
    comparison
}

fn compare_at(kind: Kind, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Step>, found: &mut Comparison) {
    let shown = new.or(old);
    let kind = shown.map_or(Kind::Leaf, |value| kind.fitting(value));
    let kind = if old.is_some_and(|old| kind.fitting(old) != kind) { Kind::Leaf } else { kind };
    if kind == Kind::Leaf {
        match (old, new) {
            (Some(old), Some(new)) if old != new => found.modified.insert(path),
            (Some(_), None) => found.removed.insert(path),
            (None, Some(_)) => found.added.insert(path),
            _ => {}
        }
        return;
    }
    // A container that comes or goes is a field itself, but for those that are always there.
    let both = old.is_some() && new.is_some();
    if !path.is_empty() {
        match (old, new) {
            (None, Some(_)) => found.added.insert(path),
            (Some(_), None) => found.removed.insert(path),
            _ => {}
        }
    }
    let (old_parts, new_parts) = (parts(kind, old), parts(kind, new));
    let steps: BTreeSet<&Step> = old_parts.iter().chain(&new_parts).map(|(step, ..)| step).collect();
    for step in steps {
        let old = old_parts.iter().find(|(known, ..)| known == step).map(|(_, _, value)| *value);
        let new = new_parts.iter().find(|(known, ..)| known == step).map(|(_, _, value)| *value);
        let part = old_parts.iter().chain(&new_parts).find(|(known, ..)| known == step).map(|(_, kind, _)| *kind);
        path.push(step.clone());
        if let (true, Some(empty)) = (both, always_there(kind, step)) {
            compare_at(part.unwrap_or(Kind::Leaf), old.or(Some(&empty)), new.or(Some(&empty)), path, found);
        } else {
            compare_at(part.unwrap_or(Kind::Leaf), old, new, path, found);
        }
        path.pop();
    }
}

/// The empty form of a container that upstream's Go struct always holds, so that only its parts come and go.
fn always_there(kind: Kind, step: &Step) -> Option<Value> {
    let (Kind::Object(kind), Step::Field(name)) = (kind, step) else { return None };
    let field = kind.field(name).filter(|field| !field.is_pointer() && !field.is_atomic_map())?;
    match (field.shape(), field.element()) {
        (Shape::One, Element::Object(_)) => Some(Value::Object(Map::new())),
        (Shape::List, _) if field.is_required() && Kind::of(field) != Kind::Leaf => Some(Value::Array(Vec::new())),
        _ => None,
    }
}

fn parts(kind: Kind, value: Option<&Value>) -> Vec<(Step, Kind, &Value)> {
    match (kind, value) {
        (Kind::Object(_) | Kind::Map(_) | Kind::Untyped, Some(Value::Object(object))) => {
            object.iter().map(|(name, value)| (step(name), kind.field(name), value)).collect()
        }
        (Kind::Keyed(field), Some(Value::Array(items))) => {
            items.iter().filter_map(|item| Some((key_of(field, item)?, Kind::element(field), item))).collect()
        }
        (Kind::Set, Some(Value::Array(items))) => {
            items.iter().map(|item| (Step::Value(item.to_string()), Kind::Leaf, item)).collect()
        }
        _ => Vec::new(),
    }
}

/// Merges an applied configuration into the live value.
pub fn merge(kind: Kind, live: &mut Value, applied: &Value) {
    let kind = kind.fitting(applied);
    let kind = if kind.fitting(live) == kind { kind } else { Kind::Leaf };
    match (kind, &mut *live, applied) {
        (Kind::Object(_) | Kind::Map(_) | Kind::Untyped, Value::Object(live), Value::Object(applied)) => {
            for (name, value) in applied {
                match live.get_mut(name) {
                    Some(present) => merge(kind.field(name), present, value),
                    None => {
                        live.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Kind::Keyed(_) | Kind::Set, Value::Array(live), Value::Array(applied)) => {
            *live = merge_list(kind, std::mem::take(live), applied);
        }
        _ => *live = applied.clone(),
    }
}

/// The configuration's items keep their order; an item that only the server has stands after the same items as before.
fn merge_list(kind: Kind, live: Vec<Value>, applied: &[Value]) -> Vec<Value> {
    let id = |item: &Value| match kind {
        Kind::Keyed(field) => key_of(field, item),
        _ => Some(Step::Value(item.to_string())),
    };
    let wanted: Vec<Option<Step>> = applied.iter().map(id).collect();
    let present: Vec<Option<Step>> = live.iter().map(id).collect();
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let mut result = Vec::with_capacity(live.len().max(applied.len()));
    let (mut own, mut next) = (0, 0);
    while own < live.len() || next < applied.len() {
        if let Some(key) = present.get(own) {
            if !wanted.contains(key) {
                result.extend(live[own].take());
                own += 1;
                continue;
            }
            // A shared item waits for its turn in the configuration's order, or has had it.
            let next_shared = wanted[next..].iter().find(|key| present.contains(key));
            if next_shared != Some(key) {
                own += 1;
                continue;
            }
        }
        let Some(item) = applied.get(next) else { continue };
        let found = present.iter().position(|key| *key == wanted[next]);
        let mut merged = item.clone();
        if let Some(mut before) = found.and_then(|at| live[at].take()) {
            if let Kind::Keyed(field) = kind {
                merge(Kind::element(field), &mut before, item);
            }
            merged = before;
        }
        result.push(merged);
        own += usize::from(found == Some(own));
        next += 1;
    }
    result
}

/// Removes what the manager owned last time, wants no more, and nobody else owns.
pub fn prune(kind: Kind, value: &mut Value, last: &FieldSet, wanted: Option<&FieldSet>, others: Option<&FieldSet>) {
    let kind = kind.fitting(value);
    for (step, child) in last.children.iter().filter(|(_, child)| !child.is_empty()) {
        let wanted = wanted.and_then(|set| set.children.get(step)).filter(|set| !set.is_empty());
        let others = others.and_then(|set| set.children.get(step)).filter(|set| !set.is_empty());
        // An item belongs to those who own the item, not to those who own fields in it.
        let kept = others.is_some_and(|set| set.member || matches!(step, Step::Field(_)));
        if wanted.is_none() && !kept {
            remove(kind, value, step);
        } else if let Some((inner, part)) = part(kind, value, step) {
            prune(inner, part, child, wanted, others);
            let emptied = match part {
                Value::Array(items) => items.is_empty(),
                Value::Object(entries) => matches!(inner, Kind::Map(_)) && entries.is_empty(),
                _ => false,
            };
            if emptied && !child.member {
                remove(kind, value, step);
            }
        }
    }
}

fn part<'a>(kind: Kind, value: &'a mut Value, step: &Step) -> Option<(Kind, &'a mut Value)> {
    match (kind, value, step) {
        (Kind::Object(_) | Kind::Map(_) | Kind::Untyped, Value::Object(object), Step::Field(name)) => {
            Some((kind.field(name), object.get_mut(name)?))
        }
        (Kind::Keyed(field), Value::Array(items), step) => {
            let item = items.iter_mut().find(|item| key_of(field, item).as_ref() == Some(step))?;
            Some((Kind::element(field), item))
        }
        _ => None,
    }
}

fn remove(kind: Kind, value: &mut Value, step: &Step) {
    match (kind, value, step) {
        (_, Value::Object(object), Step::Field(name)) => {
            object.remove(name);
        }
        (Kind::Keyed(field), Value::Array(items), step) => {
            items.retain(|item| key_of(field, item).as_ref() != Some(step));
        }
        (Kind::Set, Value::Array(items), step) => items.retain(|item| Step::Value(item.to_string()) != *step),
        _ => {}
    }
}
