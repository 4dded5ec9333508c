//! Pure: the first duty: a Node says where its board stands and what it is. One that waits for its provider waits no longer.
//!
//! What the site's file says of a board holds, also against labels that somebody changed by hand; of what it says nothing
//! nothing is touched.

use serde_json::{Map, Value, json};

use super::{INSTANCE_TYPE, REGION, Site, ZONE};
use crate::controllers::kind::KindId;
use crate::controllers::plan::{Action, Context, Controller, Plan, Regarding, Report, itself};
use crate::controllers::view::node::Node;
use crate::controllers::view::{Key, View};

/// The row.
pub(crate) const CONTROLLER: Controller = Controller {
    account: "node-controller",
    component: "cloud-node-controller",
    watches: &[KindId::NODES],
    keys: itself,
    plan,
};

/// A kubelet that was told `--cloud-provider=external` registers with this taint.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// The longest value of a label.
const LABEL_MAX: usize = 63;

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(site) = &context.options.site else { return Plan::default() };
    let known = view.as_node(key).filter(|node| node.meta.deleted.is_none() && site.exists(&key.name));
    let Some(node) = known else { return Plan::default() };
    // Where it stands cannot be told yet.
    if node.internal_ips.is_empty() && site.asks_addresses() && site.zone(&key.name, &[]).is_none() {
        return Plan::default();
    }
    let labels = labels(site, &key.name, node);
    let taints = node.taints_without(UNINITIALIZED);
    let waited = taints.len() < node.taints.len();
    let mut merge = json!({});
    if !labels.is_empty() {
        merge["metadata"] = json!({ "labels": labels });
    }
    if node.provider_id.is_none() {
        merge["spec"]["providerID"] = json!(format!("bramble://{}", key.name));
    }
    if waited {
        merge["spec"]["taints"] = if taints.is_empty() { Value::Null } else { taints.into() };
    }
    if merge == json!({}) {
        return Plan::default();
    }
    let (uid, revision) = (node.meta.uid, Some(node.meta.revision));
    let mut plan = Plan::act(Action::Edit { key: key.clone(), subresource: None, uid, revision, merge });
    if waited {
        plan.then(Action::Event(Report {
            regarding: Regarding { key: key.clone(), uid },
            warning: false,
            reason: "Synced",
            message: "Node synced successfully".to_owned(),
        }));
    }
    plan
}

/// The labels that are missing or say something else.
fn labels(site: &Site, name: &str, node: &Node) -> Map<String, Value> {
    let model = node.model.as_deref().map(label_value).filter(|value| !value.is_empty());
    let wanted = [
        (ZONE, site.zone(name, &node.internal_ips).map(str::to_owned)),
        (REGION, site.region().map(str::to_owned)),
        (INSTANCE_TYPE, site.instance_type(name).map(str::to_owned).or(model)),
    ];
    let mut changed = Map::new();
    for (names, value) in wanted {
        let Some(value) = value else { continue };
        let differs = |name: &&str| node.meta.labels.get(name) != Some(value.as_str());
        changed.extend(names.into_iter().filter(differs).map(|name| (name.to_owned(), json!(value))));
    }
    changed
}

/// `Raspberry Pi 4 Model B Rev 1.4` as a label can say it.
fn label_value(text: &str) -> String {
    let words = text.split(|one: char| !(one.is_ascii_alphanumeric() || "-_.".contains(one)));
    let joined = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-");
    let ends = |one: char| !one.is_ascii_alphanumeric();
    let start = joined.trim_start_matches(ends);
    start[..start.len().min(LABEL_MAX)].trim_end_matches(ends).to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::controllers::world::World;

    const SITE: &str = "region = \"home\"\n[[zone]]\nname = \"attic\"\nboards = [\"pi-1\"]\n\
                        [[zone]]\nname = \"cellar\"\nnetworks = [\"10.0.2.0/24\"]\n\
                        [[instance-type]]\nname = \"pi4-8g\"\nboards = [\"pi-2\"]\n";

    fn world(site: &str) -> World {
        let mut world = World::new(&[&CONTROLLER]);
        world.options.site = Some(Arc::new(Site::parse(site.as_bytes()).unwrap()));
        world
    }

    fn node(name: &str, ip: Option<&str>) -> Value {
        let addresses: Vec<Value> = ip.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
        json!({ "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "annotations": { "bramble.dev/board-model": "Raspberry Pi 4 Model B (8 GB)" } },
            "spec": { "taints": [{ "key": UNINITIALIZED, "value": "true", "effect": "NoSchedule" },
                { "key": "mine", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z" }] },
            "status": { "addresses": addresses } })
    }

    fn labels_of<'a>(world: &'a World, key: &Key) -> Vec<&'a str> {
        let labels = &world.objects[key]["metadata"]["labels"];
        let all = ZONE.iter().chain(&REGION).chain(&INSTANCE_TYPE);
        all.map(|name| labels[name].as_str().unwrap_or("-")).collect()
    }

    #[test]
    fn a_board_that_waits_for_its_provider_is_told_who_and_where_it_is() {
        let mut world = world(SITE);
        let one = world.put(node("pi-1", Some("10.0.2.7")));
        world.settle();
        let model = "Raspberry-Pi-4-Model-B-8-GB";
        assert_eq!(labels_of(&world, &one), ["attic", "attic", "home", "home", model, model]);
        let spec = &world.objects[&one]["spec"];
        assert_eq!(spec["providerID"], "bramble://pi-1");
        assert_eq!(
            spec["taints"],
            json!([{ "key": "mine", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z" }])
        );
        assert_eq!(world.messages(), ["Node synced successfully"]);
        let two = world.put(node("pi-2", Some("10.0.2.8")));
        world.settle();
        assert_eq!(labels_of(&world, &two), ["cellar", "cellar", "home", "home", "pi4-8g", "pi4-8g"]);
        let (actions, foreign) = (world.actions, json!({ "spec": { "providerID": "other://pi-1" } }));
        world.change(&one, foreign);
        world.settle();
        assert_eq!(world.actions, actions, "nothing is left to say, and another provider's id stays");
    }

    #[test]
    fn the_file_holds_against_hands_and_is_silent_about_others() {
        let mut world = world("[[zone]]\nname = \"attic\"\nboards = [\"pi-1\"]\n");
        let mut plain = node("pi-1", Some("10.0.0.1"));
        plain["spec"] = json!({});
        let one = world.put(plain);
        let two = world.put(node("pi-2", Some("10.0.0.2")));
        world.settle();
        assert_eq!(world.messages(), ["Node synced successfully"], "a plain one waited for nobody");
        let by_hand = json!({ "metadata": { "labels": { ZONE[0]: "mine", REGION[0]: "mine" } } });
        world.change(&one, by_hand.clone());
        world.change(&two, by_hand);
        world.settle();
        assert_eq!(labels_of(&world, &one)[..4], ["attic", "attic", "mine", "-"]);
        assert_eq!(labels_of(&world, &two)[..4], ["mine", "-", "mine", "-"]);
    }

    #[test]
    fn a_board_whose_place_is_not_known_yet_waits() {
        let mut world = world(SITE);
        let key = world.put(node("pi-3", None));
        world.settle();
        assert_eq!(world.actions, 0);
        world.change(&key, json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "10.0.2.3" }] } }));
        world.settle();
        assert_eq!(labels_of(&world, &key)[0], "cellar");
        let mut denied = self::world("authoritative = true\n[[zone]]\nname = \"a\"\nboards = [\"pi-1\"]\n");
        denied.put(node("stranger", Some("10.0.2.3")));
        denied.settle();
        denied.options.site = None;
        denied.put(node("pi-1", Some("10.0.2.3")));
        denied.settle();
        assert_eq!(denied.actions, 0, "no such board; and without a site nobody is provided for");
    }

    #[test]
    fn models_become_values_of_labels() {
        for (model, value) in [
            ("Raspberry Pi Zero 2 W Rev 1.0", "Raspberry-Pi-Zero-2-W-Rev-1.0"),
            (" (QEMU) ", "QEMU"),
            ("...", ""),
            (&"é".repeat(80), ""),
            (&format!("{}-b", "a".repeat(62)), &"a".repeat(62)),
        ] {
            assert_eq!(label_value(model), value);
            assert_eq!(crate::schema::names::label_value_errors(value), Vec::<String>::new());
        }
    }
}
