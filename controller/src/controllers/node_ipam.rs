//! Pure: every node gets a range of pod addresses of its own.

use core::net::IpAddr;
use std::collections::BTreeSet;

use serde_json::json;

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan};
use super::view::node::Node;
use super::view::{Key, View};
use crate::cidr::Cidr;
use crate::client::PatchKind;

/// The row. All nodes share one key: two ranges given at once must differ.
pub(super) const CONTROLLER: Controller = Controller {
    account: "node-controller",
    component: "cidrAllocator",
    watches: &[KindId::NODES],
    keys: |_, change, keys| {
        if change.new.as_ref().and_then(|node| node.as_node()).is_some_and(|node| node.pod_cidrs.is_empty()) {
            keys.push(Key::new(KindId::NODES, "", ""));
        }
    },
    plan,
};

/// The length of a node's prefix in a range of the cluster.
pub(crate) fn node_bits(cluster: &Cidr) -> u8 {
    if cluster.is_ipv4() { 24 } else { 64 }
}

fn plan(view: &View, _: &Key, context: &Context) -> Plan {
    let nodes = || view.all(KindId::NODES).filter_map(|(key, object)| object.as_node().map(|node| (key, node)));
    let ranges = nodes().flat_map(|(_, node)| node.pod_cidrs.iter()).filter_map(|cidr| cidr.parse::<Cidr>().ok());
    let taken: BTreeSet<IpAddr> = ranges.map(|range| range.base()).collect();
    let free = |cluster: &Cidr| {
        let (cluster, taken) = (*cluster, &taken);
        let parts = (0..).map_while(move |n| cluster.part(node_bits(&cluster), n));
        parts.filter(move |range| !taken.contains(&range.base()))
    };
    let mut free: Vec<_> = context.options.cluster_cidrs.iter().map(free).collect();
    let mut actions = Vec::new();
    for (key, node) in nodes().filter(|(_, node)| node.pod_cidrs.is_empty() && node.meta.deleted.is_none()) {
        // One of each family, or none.
        let Some(given) = free.iter_mut().map(Iterator::next).collect::<Option<Vec<Cidr>>>() else { break };
        actions.push(give(key, node, &given));
    }
    Plan { steps: vec![actions], ..Plan::default() }
}

fn give(key: Key, node: &Node, ranges: &[Cidr]) -> Action {
    let cidrs: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    let body = json!({
        "metadata": { "uid": node.meta.uid.to_string() }, "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs },
    });
    Action::Patch { key, subresource: None, patch: PatchKind::Strategic, body }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::controllers::world::World;

    #[test]
    fn ranges_are_unique_and_the_lowest_free_is_given() {
        let mut world = World::new(&[&CONTROLLER]);
        let node = |name: &str| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": {} });
        let keys: Vec<Key> = ["a", "b", "c"].iter().map(|name| world.put(node(name))).collect();
        world.settle();
        let cidr = |world: &World, key: &Key| world.objects[key]["spec"]["podCIDR"].as_str().unwrap().to_owned();
        assert_eq!(
            keys.iter().map(|key| cidr(&world, key)).collect::<Vec<_>>(),
            ["10.42.0.0/24", "10.42.1.0/24", "10.42.2.0/24"]
        );
        world.remove(&keys[1]);
        let late = world.put(node("d"));
        world.settle();
        assert_eq!(cidr(&world, &late), "10.42.1.0/24");
    }

    #[test]
    fn in_two_families_a_node_gets_a_range_of_each_in_the_clusters_order() {
        let mut world = World::new(&[&CONTROLLER]);
        world.options.cluster_cidrs = Cidr::list("10.42.0.0/23,fd42::/48").unwrap();
        let node = |name: &str, spec: Value| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": spec });
        world.put(node("old", json!({ "podCIDR": "fd42::/64", "podCIDRs": ["fd42::/64"] })));
        let keys: Vec<Key> = ["a", "b", "c"].iter().map(|name| world.put(node(name, json!({})))).collect();
        world.settle();
        let spec = |at: usize| world.objects[&keys[at]]["spec"].clone();
        assert_eq!(spec(0), json!({ "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd42:0:0:1::/64"] }));
        assert_eq!(spec(1)["podCIDRs"], json!(["10.42.1.0/24", "fd42:0:0:2::/64"]));
        assert_eq!(spec(2), json!({}), "IPv4 is used up: it gets none at all");
    }
}
