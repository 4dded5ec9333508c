//! Pure: strings that occur in many rules are kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// A shared string.
pub(crate) type Name = Arc<str>;

/// Below this many entries a sweep is not worth its time.
const SWEEP_FLOOR: usize = 1024;

/// The set of all strings in use. Bounded by what is in use: it sweeps when it has doubled since the last sweep.
#[derive(Default)]
pub(crate) struct Names {
    known: HashSet<Name>,
    after_sweep: usize,
}

impl Names {
    /// The one copy of `text`.
    pub(crate) fn get(&mut self, text: &str) -> Name {
        if let Some(name) = self.known.get(text) {
            return name.clone();
        }
        if self.known.len() > 2 * self.after_sweep.max(SWEEP_FLOOR) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.after_sweep = self.known.len();
        }
        let name = Name::from(text);
        self.known.insert(name.clone());
        name
    }

    /// The strings of a JSON array; anything else is an empty list.
    pub(crate) fn list(&mut self, value: Option<&serde_json::Value>) -> Box<[Name]> {
        let Some(items) = value.and_then(serde_json::Value::as_array) else { return Box::default() };
        items.iter().filter_map(serde_json::Value::as_str).map(|text| self.get(text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_and_unused_ones_go() {
        let mut names = Names::default();
        let first = names.get("pods");
        assert!(Arc::ptr_eq(&first, &names.get("pods")));
        for i in 0..10_000 {
            names.get(&format!("once-{i}"));
        }
        assert!(names.known.len() <= 2 * SWEEP_FLOOR + 1);
        assert!(Arc::ptr_eq(&first, &names.get("pods")));
    }
}
