//! Pure: the first duty again: boards that were shut down in order keep new pods away, boards that are no more of the site go.
//!
//! ```text
//!          "node is shutting down"                  silence               Ready, or not ready for another reason
//! up --------------------------------> tainted --------------> tainted ----------------------------------------> up
//! ```

use serde_json::{Value, json};

use crate::controllers::kind::KindId;
use crate::controllers::node_lifecycle::readiness;
use crate::controllers::plan::{Action, Context, Controller, Note, Plan, Regarding, itself};
use crate::controllers::view::meta::condition;
use crate::controllers::view::node::Node;
use crate::controllers::view::{Key, View};

/// The row.
pub(crate) const CONTROLLER: Controller = Controller {
    account: "node-controller",
    component: "cloud-node-lifecycle-controller",
    watches: &[KindId::NODES],
    keys: itself,
    plan,
};

const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";
/// What a kubelet says of Ready when its host ends.
const SHUTTING_DOWN: &str = "node is shutting down";

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(site) = &context.options.site else { return Plan::default() };
    let Some(node) = view.as_node(key).filter(|node| node.meta.deleted.is_none()) else { return Plan::default() };
    // One that speaks would only register again, and again.
    if !site.exists(&key.name) && readiness(node) == "Unknown" {
        return Plan::act(remove(key, node));
    }
    let tainted = node.taints.iter().any(|taint| &*taint.key == SHUTDOWN);
    let Some(wanted) = is_off(node).filter(|off| *off != tainted) else { return Plan::default() };
    let mut taints = node.taints_without(SHUTDOWN);
    if wanted {
        taints.push(json!({ "key": SHUTDOWN, "effect": "NoSchedule", "timeAdded": context.now.stamp() }));
    }
    let list = if taints.is_empty() { Value::Null } else { taints.into() };
    let (uid, revision) = (node.meta.uid, Some(node.meta.revision));
    let merge = json!({ "spec": { "taints": list } });
    Plan::act(Action::Edit { key: key.clone(), subresource: None, uid, revision, merge })
}

/// Whether the board was shut down; `None` of one that is silent, of which only what is known already is true.
fn is_off(node: &Node) -> Option<bool> {
    let ready = condition(&node.conditions, "Ready")?;
    match &*ready.status {
        "False" => Some(ready.message.contains(SHUTTING_DOWN)),
        "True" => Some(false),
        _ => None,
    }
}

fn remove(key: &Key, node: &Node) -> Action {
    let note = Note {
        regarding: Regarding { key: key.clone(), uid: node.meta.uid },
        success: ("DeletingNode", "Deleted as no board of the site: "),
        failure: ("FailedToDeleteNode", "Could not delete what is no board of the site: "),
    };
    Action::Delete { key: key.clone(), uid: node.meta.uid, propagation: "", grace_seconds: None, note: Some(note) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::controllers::Site;
    use crate::controllers::node_lifecycle;
    use crate::controllers::world::World;

    fn node(name: &str, status: &str, message: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "status": { "conditions": [{ "type": "Ready", "status": status, "reason": "KubeletReady", "message": message }] } })
    }

    fn world(site: &str) -> World {
        let mut world = World::new(&[&node_lifecycle::CONTROLLER, &CONTROLLER]);
        world.options.site = Some(Arc::new(Site::parse(site.as_bytes()).unwrap()));
        world
    }

    fn says(world: &mut World, key: &Key, status: &str, message: &str) {
        let mut said = node(&key.name, status, message)["status"].take();
        world.advance(1);
        said["conditions"][0]["lastHeartbeatTime"] = world.now.stamp().into();
        world.change(key, json!({ "status": said }));
        world.settle();
    }

    fn is_tainted(world: &World, key: &Key) -> bool {
        world.view.as_node(key).unwrap().taints.iter().any(|taint| &*taint.key == SHUTDOWN)
    }

    #[test]
    fn a_board_that_was_shut_down_is_tainted_until_it_is_back() {
        let mut world = world("");
        let key = world.put(node("pi-1", "True", ""));
        world.put(node("pi-2", "True", ""));
        world.settle();
        assert!(!is_tainted(&world, &key));
        says(&mut world, &key, "False", "node is shutting down");
        assert!(is_tainted(&world, &key));
        let taints = &world.view.as_node(&key).unwrap().taints;
        let other = taints.iter().find(|taint| &*taint.key == "node.kubernetes.io/not-ready");
        assert!(other.is_some(), "two controllers, one list: {taints:?}");
        world.advance(60);
        world.settle();
        assert_eq!(readiness(world.view.as_node(&key).unwrap()), "Unknown");
        assert!(is_tainted(&world, &key), "silence is no return");
        says(&mut world, &key, "False", "no pod range");
        assert!(!is_tainted(&world, &key), "it starts");
        says(&mut world, &key, "False", "node is shutting down");
        says(&mut world, &key, "True", "");
        assert!(!is_tainted(&world, &key));
    }

    #[test]
    fn silent_nodes_of_boards_that_the_site_does_not_have_go() {
        let mut world = world("authoritative = true\n[[zone]]\nname = \"a\"\nboards = [\"pi-1\"]\n");
        let named = world.put(node("pi-1", "True", ""));
        let other = world.put(node("pi-2", "True", ""));
        world.settle();
        world.advance(20);
        says(&mut world, &other, "False", "broken");
        assert!(world.objects.contains_key(&other), "one that speaks stays");
        world.advance(60);
        world.settle();
        assert!(!world.objects.contains_key(&other) && world.objects.contains_key(&named), "both were silent");
        assert!(world.messages().contains(&"Deleted as no board of the site: pi-2"), "{:?}", world.messages());
    }

    #[test]
    fn a_site_that_does_not_name_everybody_deletes_nobody() {
        let mut world = world("[[zone]]\nname = \"a\"\nboards = [\"pi-1\"]\n");
        let other = world.put(node("pi-2", "True", ""));
        world.settle();
        world.advance(60);
        world.settle();
        assert_eq!(readiness(world.view.as_node(&other).unwrap()), "Unknown");
        assert!(world.objects.contains_key(&other));
    }
}
