//! Pure: the fourth duty: volumes that lie on a board say in which zone and region, so that pods that use them go there.
//!
//! A volume whose affinity names boards gets the labels of their place; one that carries those labels and says nothing of
//! nodes gets the affinity that follows from them. What is there already stays.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{REGION, Site, ZONE};
use crate::client::PatchKind;
use crate::controllers::kind::KindId;
use crate::controllers::plan::{Action, Context, Controller, Plan, itself};
use crate::controllers::view::volume::Volume;
use crate::controllers::view::{Change, Key, Projected, View};

/// The row; a key is a volume.
pub(crate) const CONTROLLER: Controller = Controller {
    account: "pvl-controller",
    component: "persistentvolume-label-controller",
    watches: &[KindId::PERSISTENT_VOLUMES, KindId::NODES],
    keys,
    plan,
};

/// Between the zones of a volume that several boards of several zones have, in upstream's spelling.
const BETWEEN_ZONES: &str = "__";

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    if change.key.kind == KindId::PERSISTENT_VOLUMES {
        return itself(view, change, keys);
    }
    let labels = |object: &Option<Projected>| object.as_ref().map(|object| object.meta().labels.clone());
    if labels(&change.old) != labels(&change.new) {
        let on_it = |object: &Projected| object.as_volume().is_some_and(|it| it.nodes.contains(&change.key.name));
        keys.extend(view.all(KindId::PERSISTENT_VOLUMES).filter(|(_, object)| on_it(object)).map(|(key, _)| key));
    }
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(site) = &context.options.site else { return Plan::default() };
    let known = view.as_volume(key).filter(|volume| volume.meta.deleted.is_none());
    let Some(volume) = known else { return Plan::default() };
    let mut body = json!({});
    let labels = labels(view, site, volume);
    if !labels.is_empty() {
        body["metadata"]["labels"] = json!(labels);
    }
    let hint = requirements(volume);
    if !volume.has_affinity && !hint.is_empty() {
        body["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"] = json!([{ "matchExpressions": hint }]);
    }
    if body == json!({}) {
        return Plan::default();
    }
    body["metadata"]["uid"] = json!(volume.meta.uid.to_string());
    Plan::act(Action::Patch { key: key.clone(), subresource: None, patch: PatchKind::Strategic, body })
}

/// The labels that its boards have and it lacks. It has none until all of them are known.
fn labels(view: &View, site: &Site, volume: &Volume) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    for names in [ZONE, REGION] {
        if names.iter().any(|name| volume.meta.labels.get(name).is_some()) {
            continue;
        }
        let places: Option<BTreeSet<String>> = volume.nodes.iter().map(|node| place(view, site, node, names)).collect();
        let value = places.unwrap_or_default().into_iter().collect::<Vec<_>>().join(BETWEEN_ZONES);
        // A label holds no more; then it is better without.
        if !value.is_empty() && crate::schema::names::label_value_errors(&value).is_empty() {
            found.extend(names.into_iter().map(|name| (name, value.clone())));
        }
    }
    found
}

/// As the Node says; one that has not joined yet, as the site does.
fn place(view: &View, site: &Site, node: &str, [label, _]: [&'static str; 2]) -> Option<String> {
    let known = view.as_node(&Key::new(KindId::NODES, "", node));
    let told = known.and_then(|node| node.meta.labels.get(label));
    let planned = || if label == ZONE[0] { site.zone(node, &[]) } else { site.region() };
    told.or_else(planned).map(str::to_owned)
}

/// What its own labels say of nodes.
fn requirements(volume: &Volume) -> Vec<Value> {
    let told = [ZONE, REGION].into_iter().filter_map(|names| {
        let value = names.iter().find_map(|name| volume.meta.labels.get(name))?;
        let values: Vec<&str> = value.split(BETWEEN_ZONES).filter(|value| !value.is_empty()).collect();
        (!values.is_empty()).then(|| json!({ "key": names[0], "operator": "In", "values": values }))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::controllers::world::World;

    const SITE: &str = "region = \"home\"\n[[zone]]\nname = \"attic\"\nboards = [\"pi-1\"]\n\
                        [[zone]]\nname = \"cellar\"\nnetworks = [\"10.0.2.0/24\"]\n";

    fn world(site: Option<&str>) -> World {
        let mut world = World::new(&[&CONTROLLER]);
        world.options.site = site.map(|text| Arc::new(Site::parse(text.as_bytes()).unwrap()));
        world
    }

    fn volume(name: &str, source: &str, labels: Value, boards: &[&str]) -> Value {
        let term =
            json!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": boards }] });
        let affinity = json!({ "required": { "nodeSelectorTerms": [term] } });
        json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name, "labels": labels },
            "spec": { source: { "path": "/srv" }, "nodeAffinity": if boards.is_empty() { Value::Null } else { affinity } } })
    }

    fn node(name: &str, zone: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { ZONE[0]: zone } } })
    }

    fn labels_of<'a>(world: &'a World, key: &Key) -> Vec<&'a str> {
        let labels = &world.objects[key]["metadata"]["labels"];
        ZONE.iter().chain(&REGION).map(|name| labels[name].as_str().unwrap_or("-")).collect()
    }

    #[test]
    fn what_lies_on_a_board_lies_in_its_zone() {
        let mut world = world(Some(SITE));
        let planned = world.put(volume("a", "local", json!({}), &["pi-1"]));
        let unknown = world.put(volume("b", "hostPath", json!({}), &["pi-1", "pi-2"]));
        world.settle();
        assert_eq!(labels_of(&world, &planned), ["attic", "attic", "home", "home"], "before the board has joined");
        assert_eq!(labels_of(&world, &unknown), ["-", "-", "home", "home"]);
        let affinity = &world.objects[&planned]["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
        assert_eq!(affinity[0]["matchExpressions"][0]["key"], "kubernetes.io/hostname", "it is told already");
        world.put(node("pi-2", "cellar"));
        world.settle();
        assert_eq!(labels_of(&world, &unknown)[0], "attic__cellar");
        let actions = world.actions;
        world.put(node("pi-2", "elsewhere"));
        world.settle();
        assert_eq!((world.actions, labels_of(&world, &unknown)[0]), (actions, "attic__cellar"), "what it says stays");
    }

    #[test]
    fn a_volume_that_says_its_zone_is_used_there() {
        let mut world = world(Some(SITE));
        let labels = json!({ ZONE[0]: "attic__cellar", REGION[1]: "home" });
        let hinted = world.put(volume("a", "hostPath", labels, &[]));
        let silent = world.put(volume("b", "hostPath", json!({}), &[]));
        let foreign = world.put(volume("c", "nfs", json!({ ZONE[0]: "attic" }), &[]));
        world.settle();
        let terms = |world: &World, key: &Key| world.objects[key]["spec"]["nodeAffinity"]["required"].clone();
        assert_eq!(
            terms(&world, &hinted)["nodeSelectorTerms"],
            json!([{ "matchExpressions": [
                { "key": ZONE[0], "operator": "In", "values": ["attic", "cellar"] },
                { "key": REGION[0], "operator": "In", "values": ["home"] },
            ] }])
        );
        assert_eq!((terms(&world, &silent), terms(&world, &foreign)), (Value::Null, Value::Null));
        assert_eq!(world.actions, 1);
    }

    #[test]
    fn without_a_site_nobody_labels() {
        let mut world = world(None);
        world.put(node("pi-1", "attic"));
        world.put(volume("a", "local", json!({}), &["pi-1"]));
        world.put(volume("b", "hostPath", json!({ ZONE[0]: "attic" }), &[]));
        world.settle();
        assert_eq!(world.actions, 0);
    }
}
