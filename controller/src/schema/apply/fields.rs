//! Pure: sets of fields, and their form on the wire (`FieldsV1`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// One step from a value to a part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// `f:name`.
    Field(String),
    /// `k:{"name":"a"}`: an item of an associative list; values as JSON text.
    Key(Vec<(String, String)>),
    /// `v:"x"`: an item of a set, as JSON text.
    Value(String),
    /// `i:0`.
    Index(usize),
}

/// A set of paths as a tree; `member` says that the path to this node is in the set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path to this node is in the set.
    pub member: bool,
    /// What follows.
    pub children: BTreeMap<Step, FieldSet>,
}

impl FieldSet {
    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[Step]) {
        let mut node = self;
        for step in path {
            node = node.children.entry(step.clone()).or_default();
        }
        node.member = true;
    }

    /// Removes a path of named fields and all below it.
    pub fn remove_fields(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        let step = Step::Field((*first).to_owned());
        if rest.is_empty() {
            self.children.remove(&step);
        } else if let Some(child) = self.children.get_mut(&step) {
            child.remove_fields(rest);
            if child.is_empty() {
                self.children.remove(&step);
            }
        }
    }

    /// Paths of either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut result = self.clone();
        result.member |= other.member;
        for (step, child) in &other.children {
            let merged = match result.children.get(step) {
                Some(own) => own.union(child),
                None => child.clone(),
            };
            result.children.insert(step.clone(), merged);
        }
        result
    }

    /// Paths of both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let both = |(step, child): (&Step, &FieldSet)| {
            let shared = child.intersection(other.children.get(step)?);
            (!shared.is_empty()).then(|| (step.clone(), shared))
        };
        FieldSet { member: self.member && other.member, children: self.children.iter().filter_map(both).collect() }
    }

    /// Paths of this one only.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let left = |(step, child): (&Step, &FieldSet)| {
            let rest = match other.children.get(step) {
                Some(other) => child.difference(other),
                None => child.clone(),
            };
            (!rest.is_empty()).then(|| (step.clone(), rest))
        };
        FieldSet { member: self.member && !other.member, children: self.children.iter().filter_map(left).collect() }
    }

    /// The paths as text, `.spec.containers[name="a"].image`, in order.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.write_paths(&mut String::new(), &mut found);
        found
    }

    fn write_paths(&self, prefix: &mut String, found: &mut Vec<String>) {
        if self.member && !prefix.is_empty() {
            found.push(prefix.clone());
        }
        for (step, child) in &self.children {
            let length = prefix.len();
            let written = match step {
                Step::Field(name) => write!(prefix, ".{name}"),
                Step::Key(keys) => {
                    let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    write!(prefix, "[{}]", keys.join(","))
                }
                Step::Value(value) => write!(prefix, "[={value}]"),
                Step::Index(index) => write!(prefix, "[{index}]"),
            };
            written.expect("a String takes all text");
            child.write_paths(prefix, found);
            prefix.truncate(length);
        }
    }

    /// The `FieldsV1` object.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        for (step, child) in self.children.iter().filter(|(_, child)| !child.is_empty()) {
            let mut inner = child.to_value();
            if child.member
                && let Value::Object(inner) = &mut inner
                && !inner.is_empty()
            {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            object.insert(step_text(step), inner);
        }
        Value::Object(object)
    }

    /// Reads a `FieldsV1` object; steps that cannot be read are left out.
    pub fn from_value(value: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (name, inner) in value.as_object().into_iter().flatten() {
            let Some(step) = parse_step(name) else { continue };
            let mut child = FieldSet::from_value(inner);
            let inner = inner.as_object();
            child.member = inner.is_none_or(|inner| inner.is_empty() || inner.contains_key("."));
            set.children.insert(step, child);
        }
        set
    }
}

fn step_text(step: &Step) -> String {
    match step {
        Step::Field(name) => format!("f:{name}"),
        Step::Key(keys) => {
            let keys: Vec<String> =
                keys.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
            format!("k:{{{}}}", keys.join(","))
        }
        Step::Value(value) => format!("v:{value}"),
        Step::Index(index) => format!("i:{index}"),
    }
}

fn parse_step(text: &str) -> Option<Step> {
    let (kind, rest) = text.split_once(':')?;
    match kind {
        "f" => Some(Step::Field(rest.to_owned())),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
            Some(Step::Key(keys.into_iter().map(|(name, value)| (name, value.to_string())).collect()))
        }
        "v" => Some(Step::Value(serde_json::from_str::<Value>(rest).ok()?.to_string())),
        "i" => rest.parse().ok().map(Step::Index),
        _ => None,
    }
}
