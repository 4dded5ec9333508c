//! Pure: how durable a write must be (DESIGN §5).

use bramble_store::Durability;

use super::Part;
use crate::identity::Identity;
use crate::kinds::{Kind, Persistence};
use crate::object::Object;

/// A new object: on the card, unless its kind lives in RAM.
pub(super) fn of_create(kind: &Kind) -> Durability {
    match kind.persistence {
        Persistence::Volatile => Durability::Volatile,
        Persistence::Durable | Persistence::Heartbeat(_) => Durability::Durable,
    }
}

/// A changed object. Status of our own agents and controllers may follow later: they keep it until a durable revision
/// covers it. That a pod has ended may not: its work would be done twice.
pub fn of_update(kind: &Kind, part: Part, who: &Identity, new: &Object, old: &Object) -> Durability {
    match kind.persistence {
        Persistence::Volatile => return Durability::Volatile,
        Persistence::Heartbeat(only) if only(old, new) => return Durability::Volatile,
        Persistence::Durable | Persistence::Heartbeat(_) => {}
    }
    if part == Part::Status && is_ours(who) && !ends(new, old) { Durability::Deferred } else { Durability::Durable }
}

/// A removed object.
pub(super) fn of_delete(kind: &Kind) -> Durability {
    of_create(kind)
}

fn is_ours(who: &Identity) -> bool {
    let controller =
        who.name.strip_prefix("system:serviceaccount:kube-system:").is_some_and(|name| name.ends_with("-controller"));
    controller || who.is_in("system:nodes") || who.name == "system:kube-scheduler"
}

fn ends(new: &Object, old: &Object) -> bool {
    let terminal = |object: &Object| matches!(object.text(&["status", "phase"]), "Succeeded" | "Failed");
    terminal(new) && !terminal(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_status_of_our_own_is_deferred() {
        let kind = Kind::new("", "v1", "Pod", "pods");
        let pod = |phase: &str| Object::from_value(json!({"status": {"phase": phase}})).unwrap();
        let node = Identity::user("system:node:a", &["system:nodes"]);
        let alice = Identity::user("alice", &[]);
        let of = |part, who: &Identity, phase| of_update(&kind, part, who, &pod(phase), &pod("Pending"));
        assert_eq!(of(Part::Status, &node, "Running"), Durability::Deferred);
        assert_eq!(of(Part::Status, &node, "Failed"), Durability::Durable);
        assert_eq!(of(Part::Status, &alice, "Running"), Durability::Durable);
        assert_eq!(of(Part::Whole, &node, "Running"), Durability::Durable);
        assert_eq!(of(Part::Status, &Identity::controller("deployment"), "Running"), Durability::Deferred);
    }
}
