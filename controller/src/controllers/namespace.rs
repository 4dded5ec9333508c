//! Pure: the end of a namespace: pods first, then all other content, then its finalizer.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Need, Plan};
use super::text::{Str, list_at};
use super::view::meta::{Condition, condition};
use super::view::policy::Namespace;
use super::view::{Change, Key, View};

/// The row. A change of anything in a namespace that ends concerns it.
pub(super) const CONTROLLER: Controller =
    Controller { account: "namespace-controller", component: "namespace-controller", watches: &[], keys, plan };

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    if change.key.kind == KindId::NAMESPACES {
        keys.push(change.key.clone());
        return;
    }
    let namespace = Key { kind: KindId::NAMESPACES, namespace: "".into(), name: change.key.namespace.clone() };
    if view.as_namespace(&namespace).is_some_and(|namespace| namespace.meta.deleted.is_some()) {
        keys.push(namespace);
    }
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(namespace) = view.as_namespace(key).filter(|namespace| namespace.meta.deleted.is_some()) else {
        return Plan::default();
    };
    if !namespace.guarded {
        return Plan::default();
    }
    let kinds: Vec<KindId> = view.kinds.ids().filter(|id| view.kinds.get(*id).namespaced).collect();
    let missing: Vec<Need> = kinds
        .iter()
        .filter(|kind| !context.reads.lists.contains_key(&(**kind, key.name.clone())))
        .map(|kind| Need::List(*kind, key.name.clone()))
        .collect();
    if !missing.is_empty() {
        return Plan::needs(missing);
    }
    let content = |kind: KindId| context.reads.lists.get(&(kind, key.name.clone())).map_or(&[][..], Vec::as_slice);
    let left: Vec<(KindId, &[Value])> =
        kinds.into_iter().map(|kind| (kind, content(kind))).filter(|(_, items)| !items.is_empty()).collect();
    let mut plan = Plan::default();
    plan.steps.extend(status(view, key, namespace, &left, context).map(|edit| vec![edit]));
    if left.is_empty() {
        plan.then(finalize(key, namespace));
        return plan;
    }
    // Pods end while what they use is still there (KEP-5080); everything else after them.
    let pods = left.iter().any(|(kind, _)| *kind == KindId::PODS);
    let due = left.iter().filter(|(kind, _)| !pods || *kind == KindId::PODS);
    let fresh = |items: &[Value]| items.iter().any(|item| item["metadata"]["deletionTimestamp"].is_null());
    let removals: Vec<Action> = due
        .filter(|(_, items)| fresh(items))
        .map(|(kind, _)| Action::DeleteCollection { kind: *kind, namespace: key.name.clone() })
        .collect();
    plan.steps.push(removals);
    plan
}

fn finalize(key: &Key, namespace: &Namespace) -> Action {
    let merge = json!({ "spec": { "finalizers": [] } });
    let uid = namespace.meta.uid;
    Action::Edit { key: key.clone(), subresource: Some("finalize"), uid, revision: None, merge }
}

fn tally<'a>(counts: impl Iterator<Item = (String, usize)> + 'a, between: &str) -> String {
    let texts: Vec<String> =
        counts.map(|(what, count)| format!("{what} {between} {count} resource instances")).collect();
    texts.join(", ")
}

fn wanted(view: &View, left: &[(KindId, &[Value])], now: i64) -> Vec<Condition> {
    let flag = |kind: &str, problem: Option<(&str, String)>, fine: (&str, &str)| match problem {
        Some((reason, message)) => Condition::new(kind, "True", reason, message, now),
        None => Condition::new(kind, "False", fine.0, fine.1.to_owned(), now),
    };
    let kinds = left.iter().map(|(kind, items)| (view.kinds.get(*kind).group_resource(), items.len()));
    let remaining = format!("Some resources are remaining: {}", tally(kinds, "has"));
    let mut finalizers: BTreeMap<Str, usize> = BTreeMap::new();
    for item in left.iter().flat_map(|(_, items)| items.iter()) {
        for finalizer in list_at(item, &["metadata", "finalizers"]).iter().filter_map(Value::as_str) {
            *finalizers.entry(finalizer.into()).or_default() += 1;
        }
    }
    let held = tally(finalizers.iter().map(|(name, count)| (name.to_string(), *count)), "in");
    let held = format!("Some content in the namespace has finalizers remaining: {held}");
    vec![
        flag(
            "NamespaceDeletionDiscoveryFailure",
            None,
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        flag(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        flag(
            "NamespaceDeletionContentFailure",
            None,
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        flag(
            "NamespaceContentRemaining",
            (!left.is_empty()).then_some(("SomeResourcesRemain", remaining)),
            ("ContentRemoved", "All content successfully removed"),
        ),
        flag(
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty()).then_some(("SomeFinalizersRemain", held)),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
}

fn status(
    view: &View,
    key: &Key,
    namespace: &Namespace,
    left: &[(KindId, &[Value])],
    context: &Context,
) -> Option<Action> {
    let mut conditions = namespace.conditions.clone();
    let mut changed = false;
    for mut news in wanted(view, left, context.now.wall()) {
        let known = condition(&conditions, &news.kind);
        if known.is_some_and(|known| known.status == news.status && known.message == news.message) {
            continue;
        }
        if let Some(known) = known.filter(|known| known.status == news.status) {
            news.transitioned = known.transitioned;
        }
        conditions.retain(|condition| condition.kind != news.kind);
        conditions.push(news);
        changed = true;
    }
    // A namespace that goes at once needs no report.
    if !changed || left.is_empty() {
        return None;
    }
    let conditions: Vec<Value> = conditions.iter().map(Condition::to_value).collect();
    let merge = json!({ "status": { "conditions": conditions } });
    let (uid, revision) = (namespace.meta.uid, Some(namespace.meta.revision));
    Some(Action::Edit { key: key.clone(), subresource: Some("status"), uid, revision, merge })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    #[test]
    fn pods_end_first_then_the_rest_then_the_namespace() {
        let mut world = World::new(&[&CONTROLLER]);
        let namespace = world.put(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" },
            "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" } }));
        let pod = world
            .put(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "shop", "name": "p" },
            "spec": { "nodeName": "pi-1" } }));
        world.put(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": "shop", "name": "c" } }));
        world
            .put(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": "other", "name": "c" } }));
        world.settle();
        assert_eq!(world.actions, 0);
        world.delete(&namespace, "");
        world.settle();
        assert_eq!(world.objects.len(), 4, "the pod's node has not let go");
        let conditions = &world.objects[&namespace]["status"]["conditions"];
        assert_eq!(
            conditions[3]["message"],
            "Some resources are remaining: pods. has 1 resource instances, configmaps. has 1 resource instances"
        );
        world.remove(&pod);
        world.settle();
        assert_eq!(world.objects.len(), 1);
    }
}
