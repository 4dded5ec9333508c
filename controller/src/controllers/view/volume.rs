//! Pure: a PersistentVolume as the controllers see it.

use std::sync::Arc;

use serde_json::Value;

use super::Projected;
use super::meta::Meta;
use crate::controllers::text::{Interner, Str, at, list_at, str_at};

/// The projection, of what lies on a board; other volumes are somebody else's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Volume {
    pub(crate) meta: Meta,
    /// It says on which nodes it can be used.
    pub(crate) has_affinity: bool,
    /// Those nodes, where they are named; empty where it says so otherwise, or not at all.
    pub(crate) nodes: Box<[Str]>,
}

/// The row's projection: `local` and `hostPath`.
pub(crate) fn project(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let on_board = ["local", "hostPath"].iter().any(|kind| at(object, &["spec", kind]).is_some());
    on_board.then(|| {
        Projected::Volume(Arc::new(Volume {
            meta: Meta::project(object, interner),
            has_affinity: at(object, &["spec", "nodeAffinity", "required"]).is_some(),
            nodes: nodes(object, interner).unwrap_or_default().into(),
        }))
    })
}

/// The nodes that the terms name; `None` when one of them names none.
fn nodes(object: &Value, interner: &mut Interner) -> Option<Vec<Str>> {
    let mut found = Vec::new();
    for term in list_at(object, &["spec", "nodeAffinity", "required", "nodeSelectorTerms"]) {
        let named = [("matchExpressions", "kubernetes.io/hostname"), ("matchFields", "metadata.name")];
        let requirement = named.iter().find_map(|(list, key)| {
            let is = |one: &&Value| str_at(one, &["key"]) == *key && str_at(one, &["operator"]) == "In";
            list_at(term, &[list]).iter().find(is)
        });
        let values = list_at(requirement?, &["values"]).iter().filter_map(Value::as_str);
        found.extend(values.map(|name| interner.text(name)));
    }
    found.sort();
    found.dedup();
    Some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_terms_that_all_name_nodes_name_nodes() {
        let named = |terms: Value| {
            let object = json!({ "spec": { "hostPath": { "path": "/a" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } } });
            let Some(Projected::Volume(volume)) = project(&object, &mut Interner::default()) else {
                panic!("left out")
            };
            volume.nodes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let host = |names: &[&str]| json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": names });
        let field = json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["c"] }] });
        assert_eq!(named(json!([{ "matchExpressions": [host(&["b", "a"])] }, field])), ["a", "b", "c"]);
        let not = json!({ "key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["a"] });
        assert_eq!(named(json!([{ "matchExpressions": [host(&["a"])] }, { "matchExpressions": [not] }])), [""; 0]);
        let other = json!({ "spec": { "nfs": { "server": "a" } } });
        assert_eq!(project(&other, &mut Interner::default()), None);
    }
}
