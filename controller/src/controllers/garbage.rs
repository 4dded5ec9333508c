//! Pure: garbage collection: what its owners leave behind goes, and an owner that waits for its dependents is let go.
//!
//! ```text
//! owners: all gone -> delete | some stay -> drop references to the others | one goes in the foreground -> delete too
//! deleted with `orphan` -> dependents forget it -> finalizer off
//! deleted with `foregroundDeletion` -> dependents are deleted -> none blocks any more -> finalizer off
//! ```

use serde_json::{Value, json};

use super::graph::{OwnerRef, Vertex};
use super::kind::KindId;
use super::plan::{Action, Context, Controller, Need, Plan};
use super::text::{list_at, str_at};
use super::view::meta::{Uid, revision};
use super::view::{Change, Key, View};

/// The row. It concerns every kind there is, built in or not.
pub(super) const CONTROLLER: Controller = Controller {
    account: "generic-garbage-collector",
    component: "garbage-collector-controller",
    watches: &[],
    keys,
    plan,
};

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    if view.graph.vertex(&change.key).is_some() {
        keys.push(change.key.clone());
    }
    // Somebody who waits in the foreground for this one.
    keys.extend(change.waiting.iter().filter(|owner| view.graph.vertex(owner).is_some()).cloned());
    let going = !change.present || view.graph.vertex(&change.key).is_some_and(|vertex| vertex.deleting);
    if going {
        keys.extend(view.graph.dependents(change.uid).map(|(key, _)| key.clone()));
    }
}

/// After a list of owners anew: who went unseen left dependents behind.
pub(super) fn keys_after_list(view: &View, kind: KindId, keys: &mut Vec<Key>) {
    keys.extend(view.graph.dependents_on_kind(kind).cloned());
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(vertex) = view.graph.vertex(key) else { return Plan::default() };
    let decided = match vertex {
        vertex if vertex.deleting && vertex.orphan => orphan(view, key, vertex, context),
        vertex if vertex.deleting && vertex.foreground => foreground(view, key, vertex, context),
        vertex if vertex.deleting => Ok(Plan::default()),
        vertex => judge(view, key, vertex, context),
    };
    decided.unwrap_or_else(|needs| needs)
}

/// Dependents forget their owner, then the finalizer goes.
fn orphan(view: &View, key: &Key, vertex: &Vertex, context: &Context) -> Result<Plan, Plan> {
    let dependents: Vec<Key> = view.graph.dependents(vertex.uid).map(|(key, _)| key.clone()).collect();
    if dependents.is_empty() {
        return without_finalizer(key, vertex, "orphan", context);
    }
    read_all(&dependents, context)?;
    let mut forget = Vec::new();
    for dependent in &dependents {
        if let Some(object) = context.reads.object(dependent)? {
            forget.push(drop_owners(dependent, object, &[vertex.uid]));
        }
    }
    Ok(Plan { steps: vec![forget], ..Plan::default() })
}

/// Dependents are deleted; those that block hold the finalizer.
fn foreground(view: &View, key: &Key, vertex: &Vertex, context: &Context) -> Result<Plan, Plan> {
    let blocks = |dependent: &Vertex| dependent.owners.iter().any(|owner| owner.uid == vertex.uid && owner.blocks);
    if !view.graph.dependents(vertex.uid).any(|(_, dependent)| blocks(dependent)) {
        return without_finalizer(key, vertex, "foregroundDeletion", context);
    }
    // The dependents' own plans delete them: they see an owner that goes in the foreground.
    Ok(Plan::default())
}

fn without_finalizer(key: &Key, vertex: &Vertex, finalizer: &str, context: &Context) -> Result<Plan, Plan> {
    let Some(object) = context.reads.object(key)?.filter(|object| is(object, vertex.uid)) else {
        return Ok(Plan::default());
    };
    let left: Vec<&Value> =
        list_at(object, &["metadata", "finalizers"]).iter().filter(|value| *value != finalizer).collect();
    let merge = json!({ "metadata": { "finalizers": left } });
    Ok(Plan::act(edit(key, object, merge)))
}

fn edit(key: &Key, object: &Value, merge: Value) -> Action {
    let uid = Uid::parse(str_at(object, &["metadata", "uid"]));
    Action::Edit { key: key.clone(), subresource: None, uid, revision: Some(revision(object)), merge }
}

fn is(object: &Value, uid: Uid) -> bool {
    Uid::parse(str_at(object, &["metadata", "uid"])) == uid
}

fn drop_owners(key: &Key, object: &Value, owners: &[Uid]) -> Action {
    let stays = |owner: &&Value| !owners.contains(&Uid::parse(str_at(owner, &["uid"])));
    let left: Vec<&Value> = list_at(object, &["metadata", "ownerReferences"]).iter().filter(stays).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    edit(key, object, json!({ "metadata": { "ownerReferences": left } }))
}

fn read_all(keys: &[Key], context: &Context) -> Result<(), Plan> {
    let missing: Vec<Need> = keys
        .iter()
        .filter(|key| !context.reads.objects.contains_key(key))
        .map(|key| Need::Object(key.clone()))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Plan::needs(missing)) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Solid,
    Gone,
    /// On its way out in the foreground: its dependents go first.
    Waiting,
}

fn standing(view: &View, key: &Key, owner: &OwnerRef, context: &Context) -> Result<Standing, Plan> {
    // An owner of unknown kind, or in another scope, is not ours to judge.
    let Some(owner_key) = view.owner_key(key, owner) else { return Ok(Standing::Solid) };
    if key.namespace.is_empty() && view.kinds.get(owner_key.kind).namespaced {
        return Ok(Standing::Solid);
    }
    if view.object(&owner_key).is_some_and(|object| object.meta().uid == owner.uid && object.meta().deleted.is_none()) {
        return Ok(Standing::Solid);
    }
    Ok(match context.reads.object(&owner_key)? {
        Some(object) if is(object, owner.uid) => {
            let finalizers = list_at(object, &["metadata", "finalizers"]);
            let deleting = !object["metadata"]["deletionTimestamp"].is_null();
            match deleting && finalizers.iter().any(|value| value == "foregroundDeletion") {
                true => Standing::Waiting,
                false => Standing::Solid,
            }
        }
        _ => Standing::Gone,
    })
}

fn judge(view: &View, key: &Key, vertex: &Vertex, context: &Context) -> Result<Plan, Plan> {
    let mut standings = Vec::with_capacity(vertex.owners.len());
    for owner in &vertex.owners {
        standings.push((owner.uid, standing(view, key, owner, context)?));
    }
    let solid = standings.iter().any(|(_, standing)| *standing == Standing::Solid);
    let rest: Vec<Uid> =
        standings.iter().filter(|(_, standing)| *standing != Standing::Solid).map(|(uid, _)| *uid).collect();
    if rest.is_empty() {
        return Ok(Plan::default());
    }
    if solid {
        let Some(object) = context.reads.object(key)?.filter(|object| is(object, vertex.uid)) else {
            return Ok(Plan::default());
        };
        return Ok(Plan::act(drop_owners(key, object, &rest)));
    }
    let waiting = standings.iter().any(|(_, standing)| *standing == Standing::Waiting);
    let has_dependents = view.graph.dependents(vertex.uid).next().is_some();
    if waiting && !vertex.orphan && in_a_circle(view, vertex) {
        return break_circle(key, vertex, context);
    }
    let propagation = match () {
        () if vertex.orphan => "Orphan",
        () if vertex.foreground || (waiting && has_dependents) => "Foreground",
        () => "Background",
    };
    Ok(Plan::act(Action::Delete { key: key.clone(), uid: vertex.uid, propagation, grace_seconds: None, note: None }))
}

/// Its owner waits for it, and it would wait for a dependent that waits itself: that may be the same owner.
fn in_a_circle(view: &View, vertex: &Vertex) -> bool {
    let waits = |(_, dependent): (&Key, &Vertex)| dependent.deleting && dependent.foreground;
    vertex.owners.iter().any(|owner| owner.blocks) && view.graph.dependents(vertex.uid).any(waits)
}

/// No owner waits for it any more; then it goes in its turn.
fn break_circle(key: &Key, vertex: &Vertex, context: &Context) -> Result<Plan, Plan> {
    let Some(object) = context.reads.object(key)?.filter(|object| is(object, vertex.uid)) else {
        return Ok(Plan::default());
    };
    let mut owners = list_at(object, &["metadata", "ownerReferences"]).to_vec();
    for owner in &mut owners {
        owner["blockOwnerDeletion"] = false.into();
    }
    Ok(Plan::act(edit(key, object, json!({ "metadata": { "ownerReferences": owners } }))))
}

#[cfg(test)]
mod tests;
