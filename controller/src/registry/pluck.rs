//! Pure: a few fields out of JSON bytes, without building the rest: what selectors look at.

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// The values at these paths, `None` where the JSON has none. A path never leads through lists.
pub(super) fn pluck(json: &[u8], paths: &[&[&str]]) -> Result<Vec<Option<Value>>, serde_json::Error> {
    let mut found = vec![None; paths.len()];
    let wanted: Vec<usize> = (0..paths.len()).collect();
    let mut reader = serde_json::Deserializer::from_slice(json);
    Level { paths, depth: 0, wanted, found: &mut found }.deserialize(&mut reader)?;
    Ok(found)
}

/// One map on the way: which paths lead through it.
struct Level<'a> {
    paths: &'a [&'a [&'a str]],
    depth: usize,
    wanted: Vec<usize>,
    found: &'a mut Vec<Option<Value>>,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let here: Vec<usize> = self
                .wanted
                .iter()
                .copied()
                .filter(|&at| self.paths[at].get(self.depth) == Some(&key.as_ref()))
                .collect();
            if here.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else if here.iter().any(|&at| self.paths[at].len() == self.depth + 1) {
                let value: Value = map.next_value()?;
                for at in here {
                    let rest = &self.paths[at][self.depth + 1..];
                    self.found[at] = rest.iter().try_fold(&value, |value, field| value.get(*field)).cloned();
                }
            } else {
                let below = Level { paths: self.paths, depth: self.depth + 1, wanted: here, found: self.found };
                map.next_value_seed(below)?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_leaves_and_maps() {
        let text = json!({"metadata": {"labels": {"a": "b"}, "name": "n"}, "spec": {"nodeName": "pi", "x": [1, {"nodeName": 2}]},
            "status": null})
        .to_string();
        let paths: [&[&str]; 6] = [
            &["metadata", "labels"],
            &["spec", "nodeName"],
            &["status", "phase"],
            &["metadata", "name"],
            &["metadata", "labels", "a"],
            &["spec", "x", "nodeName"],
        ];
        let found = pluck(text.as_bytes(), &paths).unwrap();
        assert_eq!(found, [Some(json!({"a": "b"})), Some(json!("pi")), None, Some(json!("n")), Some(json!("b")), None]);
    }
}
