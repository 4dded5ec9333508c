//! Pure: every node gets a range of pod addresses of its own.

use core::net::Ipv4Addr;
use std::collections::BTreeSet;

use serde_json::json;

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan};
use super::view::node::Node;
use super::view::{Key, View};
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

/// The length of a node's prefix.
const NODE_PREFIX: u32 = 24;

/// The n-th range of the cluster's.
fn range(cluster: (u32, u32), n: u32) -> Option<u32> {
    let (base, prefix) = cluster;
    let most = 1u32.checked_shl(NODE_PREFIX.checked_sub(prefix)?)?;
    (n < most).then(|| base + (n << (32 - NODE_PREFIX)))
}

fn parse(cidr: &str) -> Option<(u32, u32)> {
    let (address, prefix) = cidr.split_once('/')?;
    let prefix: u32 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or_default();
    Some((u32::from(address.parse::<Ipv4Addr>().ok()?) & mask, prefix))
}

fn plan(view: &View, _: &Key, context: &Context) -> Plan {
    let Some(cluster) = parse(&context.options.cluster_cidr) else { return Plan::default() };
    let nodes = || view.all(KindId::NODES).filter_map(|(key, object)| object.as_node().map(|node| (key, node)));
    let mut taken: BTreeSet<u32> = nodes()
        .flat_map(|(_, node)| node.pod_cidrs.iter())
        .filter_map(|cidr| parse(cidr))
        .map(|(base, _)| base)
        .collect();
    let mut free = (0..).map_while(|n| range(cluster, n));
    let mut actions = Vec::new();
    for (key, node) in nodes().filter(|(_, node)| node.pod_cidrs.is_empty() && node.meta.deleted.is_none()) {
        let Some(base) = free.find(|base| taken.insert(*base)) else { break };
        actions.push(give(key, node, base));
    }
    Plan { steps: vec![actions], ..Plan::default() }
}

fn give(key: Key, node: &Node, base: u32) -> Action {
    let cidr = format!("{}/{NODE_PREFIX}", Ipv4Addr::from(base));
    let body = json!({
        "metadata": { "uid": node.meta.uid.to_string() }, "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
    });
    Action::Patch { key, subresource: None, patch: PatchKind::Strategic, body }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(range(parse("10.42.0.0/16").unwrap(), 255), Some(u32::from(Ipv4Addr::new(10, 42, 255, 0))));
        assert_eq!(range(parse("10.42.0.0/16").unwrap(), 256), None);
    }
}
