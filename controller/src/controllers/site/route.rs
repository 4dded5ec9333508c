//! Pure: the second duty: a Node says whether the routes to its pods are there.
//!
//! The agents make them, from each Node's pod ranges and address; so it is told here, in the words of upstream's route
//! controller, whether that can come out right: two boards with ranges that overlap cannot both have theirs. The older one
//! keeps it, and agents make none to the younger. A condition that somebody else wrote, a plugin of the pod network, is left to that one.

use core::net::IpAddr;
use std::collections::BTreeMap;

use serde_json::json;

use crate::cidr::Cidr;
use crate::client::PatchKind;
use crate::controllers::kind::KindId;
use crate::controllers::plan::{Action, Context, Controller, Plan, Regarding, Report};
use crate::controllers::text::Str;
use crate::controllers::view::meta::{Condition, condition};
use crate::controllers::view::node::Node;
use crate::controllers::view::{Change, Key, Projected, View};

/// The row. All nodes share one key: whether a range is free depends on the others'.
pub(crate) const CONTROLLER: Controller =
    Controller { account: "route-controller", component: "route_controller", watches: &[KindId::NODES], keys, plan };

const CONDITION: &str = "NetworkUnavailable";
const CREATED: &str = "RouteCreated";
const NOT_CREATED: &str = "NoRouteCreated";

fn keys(_: &View, change: &Change, keys: &mut Vec<Key>) {
    if change.old.as_ref().map(seen) != change.new.as_ref().map(seen) {
        keys.push(Key::new(KindId::NODES, "", ""));
    }
}

/// What the plan looks at.
fn seen(object: &Projected) -> Option<(&[Str], bool, Option<&Condition>)> {
    object
        .as_node()
        .map(|node| (&*node.pod_cidrs, node.internal_ips.is_empty(), condition(&node.conditions, CONDITION)))
}

fn plan(view: &View, _: &Key, context: &Context) -> Plan {
    let nodes = view.all(KindId::NODES).filter_map(|(key, object)| Some((key, object.as_node()?)));
    let mut nodes: Vec<_> = nodes.filter(|(_, node)| node.meta.deleted.is_none()).collect();
    // Who was there first keeps its ranges.
    nodes.sort_by(|(a, one), (b, other)| (one.meta.created, a).cmp(&(other.meta.created, b)));
    let mut taken = Taken::default();
    let mut actions = Vec::new();
    for (key, node) in &nodes {
        let known = condition(&node.conditions, CONDITION);
        if known.is_some_and(|known| ![CREATED, NOT_CREATED].contains(&&*known.reason)) {
            // It keeps its ranges all the same.
            let _ = taken.take(&key.name, &node.pod_cidrs);
            continue;
        }
        let verdict = judge(&key.name, node, &mut taken);
        // A young Node has neither range nor address yet: nobody knows more than its kubelet says.
        if verdict.is_err() && known.is_none() && (node.pod_cidrs.is_empty() || node.internal_ips.is_empty()) {
            continue;
        }
        actions.extend(tell(key, node, verdict, context));
    }
    if actions.is_empty() { Plan::default() } else { Plan { steps: vec![actions], ..Plan::default() } }
}

/// Whether its peers can have routes to this node; why not.
fn judge(name: &Str, node: &Node, taken: &mut Taken) -> Result<(), String> {
    if node.pod_cidrs.is_empty() {
        return Err("the node has no range for its pods".into());
    }
    taken.take(name, &node.pod_cidrs)?;
    if node.internal_ips.is_empty() { Err("the node has no address that a route could lead to".into()) } else { Ok(()) }
}

/// Ranges that are given, none of which overlaps another: whose they are, by their first address.
#[derive(Default)]
struct Taken(BTreeMap<IpAddr, (Cidr, Str, Str)>);

impl Taken {
    /// All of them or none.
    fn take(&mut self, name: &Str, cidrs: &[Str]) -> Result<(), String> {
        let mut ranges = Vec::new();
        for cidr in cidrs {
            let range: Cidr = cidr.parse().map_err(|_| format!("{cidr:?} is no range of addresses"))?;
            // The last one that begins before this one ends is the only one that can reach into it.
            let before = self.0.range(..=range.last()).next_back().map(|(_, known)| known);
            let meets = before.filter(|(known, ..)| known.contains(range.base()) || range.contains(known.base()));
            if let Some((_, other, theirs)) = meets {
                return Err(format!("{cidr} overlaps {theirs} of node {other}, which was there before"));
            }
            ranges.push((range, cidr));
        }
        for (range, cidr) in ranges {
            self.0.insert(range.base(), (range, name.clone(), cidr.clone()));
        }
        Ok(())
    }
}

/// The condition, if it is another one than before; an Event where something is wrong.
fn tell(key: &Key, node: &Node, verdict: Result<(), String>, context: &Context) -> Vec<Action> {
    let (status, reason, message) = match &verdict {
        Ok(()) => ("False", CREATED, "RouteController created a route".to_owned()),
        Err(why) => ("True", NOT_CREATED, format!("RouteController failed to create a route: {why}")),
    };
    let known = condition(&node.conditions, CONDITION);
    if known.is_some_and(|known| (&*known.status, &*known.reason, &*known.message) == (status, reason, &message)) {
        return Vec::new();
    }
    let now = context.now.wall();
    let since = known.filter(|known| &*known.status == status).and_then(|known| known.transitioned).unwrap_or(now);
    let mut news = Condition::new(CONDITION, status, reason, message, since).to_value();
    news["lastHeartbeatTime"] = json!(context.now.stamp());
    let uid = node.meta.uid;
    let body = json!({ "metadata": { "uid": uid.to_string() }, "status": { "conditions": [news] } });
    let (subresource, patch) = (Some("status"), PatchKind::Strategic);
    let mut actions = vec![Action::Patch { key: key.clone(), subresource, patch, body }];
    if let Err(why) = verdict {
        let message = format!("Could not create route for node {}: {why}", key.name);
        let regarding = Regarding { key: key.clone(), uid };
        actions.push(Action::Event(Report { regarding, warning: true, reason: "FailedToCreateRoute", message }));
    }
    actions
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::controllers::node_lifecycle;
    use crate::controllers::world::World;

    fn node(name: &str, cidrs: &[&str]) -> Value {
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": { "podCIDRs": cidrs },
            "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.1.1" }],
                "conditions": [{ "type": "Ready", "status": "True" }] } })
    }

    /// Status and reason; the message where there is no route.
    fn said(world: &World, key: &Key) -> String {
        let conditions = world.objects[key]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|one| one["type"] == CONDITION);
        let text = |field: &str| found.and_then(|one| one[field].as_str()).unwrap_or("-").to_owned();
        let why = text("message");
        let why = why.split_once(": ").map(|(_, why)| why).unwrap_or_default();
        format!("{} {} {why}", text("status"), text("reason")).trim().to_owned()
    }

    #[test]
    fn every_node_with_a_range_and_an_address_has_routes() {
        let mut world = World::new(&[&CONTROLLER, &node_lifecycle::CONTROLLER]);
        let one = world.put(node("a", &["10.42.0.0/24", "fd00:0:0:1::/64"]));
        let two = world.put(node("b", &["10.42.1.0/24", "fd00:0:0:2::/64"]));
        let young = world.put(node("c", &[]));
        world.settle();
        assert_eq!(
            (said(&world, &one), said(&world, &two)),
            ("False RouteCreated".into(), "False RouteCreated".into())
        );
        assert_eq!(said(&world, &young), "- -", "nothing is known of it");
        let condition = world.objects[&one]["status"]["conditions"][1].clone();
        assert_eq!(condition["message"], "RouteController created a route");
        assert!(condition["lastTransitionTime"].is_string() && condition["lastHeartbeatTime"].is_string());
        world.change(&young, json!({ "spec": { "podCIDRs": ["10.42.2.0/24"] } }));
        world.change(&one, json!({ "status": { "addresses": [] } }));
        world.settle();
        assert_eq!(said(&world, &young), "False RouteCreated");
        assert_eq!(said(&world, &one), "True NoRouteCreated the node has no address that a route could lead to");
        let taints: Vec<&str> = world.view.as_node(&one).unwrap().taints.iter().map(|taint| &*taint.key).collect();
        assert_eq!(taints, ["node.kubernetes.io/network-unavailable"]);
    }

    #[test]
    fn of_two_nodes_with_one_range_the_older_keeps_it() {
        let mut world = World::new(&[&CONTROLLER]);
        let old = world.put(node("z", &["10.42.0.0/23"]));
        world.advance(5);
        let young = world.put(node("a", &["10.42.1.0/24"]));
        let beside = world.put(node("b", &["10.42.2.0/24", "10.42.1.128/25"]));
        let free = world.put(node("c", &["10.42.2.0/24"]));
        world.settle();
        let why = "10.42.1.0/24 overlaps 10.42.0.0/23 of node z, which was there before";
        assert_eq!(said(&world, &young), format!("True NoRouteCreated {why}"));
        assert_eq!(
            (said(&world, &old), said(&world, &free)),
            ("False RouteCreated".into(), "False RouteCreated".into())
        );
        assert!(said(&world, &beside).contains("10.42.1.128/25"), "what it cannot have whole it has not in part");
        assert!(world.messages().contains(&&*format!("Could not create route for node a: {why}")));
        let actions = world.actions;
        world.change(&young, json!({ "metadata": { "labels": { "a": "b" } } }));
        world.settle();
        assert_eq!(world.actions, actions, "it is told once");
        world.advance(5);
        world.remove(&old);
        world.settle();
        assert_eq!(
            (said(&world, &young), said(&world, &free)),
            ("False RouteCreated".into(), "False RouteCreated".into())
        );
        assert!(said(&world, &beside).contains("of node a"));
    }

    #[test]
    fn a_plugins_own_condition_stays_and_rubbish_is_told() {
        let mut world = World::new(&[&CONTROLLER]);
        let mut plugins = node("a", &["10.42.0.0/24"]);
        plugins["status"]["conditions"] = json!([{ "type": CONDITION, "status": "False", "reason": "CalicoIsUp" }]);
        let plugins = world.put(plugins);
        let wrong = world.put(node("b", &["10.42.0.0"]));
        let same = world.put(node("c", &["10.42.0.0/25"]));
        world.settle();
        assert_eq!(said(&world, &plugins), "False CalicoIsUp");
        assert_eq!(said(&world, &wrong), "True NoRouteCreated \"10.42.0.0\" is no range of addresses");
        assert!(said(&world, &same).contains("of node a"));
    }
}
