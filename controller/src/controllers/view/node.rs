//! Pure: Nodes and their Leases as the controllers see them.

use core::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Projected;
use super::meta::{Condition, Meta};
use crate::controllers::text::{Interner, Str, at, flag_at, list_at, str_at};

/// One taint; `time_added` is kept as it stands, so that a rewrite of the list does not touch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taint {
    pub(crate) key: Str,
    pub(crate) value: Str,
    pub(crate) effect: Str,
    pub(crate) time_added: Option<Str>,
}

impl Taint {
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({ "key": &*self.key, "effect": &*self.effect });
        if !self.value.is_empty() {
            value["value"] = Value::from(&*self.value);
        }
        if let Some(moment) = &self.time_added {
            value["timeAdded"] = Value::from(&**moment);
        }
        value
    }
}

impl Node {
    /// Its taints but those of this key, as a Node has them.
    pub(crate) fn taints_without(&self, key: &str) -> Vec<Value> {
        self.taints.iter().filter(|taint| &*taint.key != key).map(Taint::to_value).collect()
    }
}

/// The projection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) taints: Box<[Taint]>,
    pub(crate) unschedulable: bool,
    pub(crate) conditions: Vec<Condition>,
    /// The Ready condition's heartbeat, as text: only whether it differs matters.
    pub(crate) heartbeat: Str,
    pub(crate) pod_cidrs: Box<[Str]>,
    pub(crate) addresses: Box<[Str]>,
    /// Those by which other boards reach it.
    pub(crate) internal_ips: Box<[IpAddr]>,
    pub(crate) provider_id: Option<Str>,
    /// The board's model, as its agent says it.
    pub(crate) model: Option<Str>,
}

/// The annotation in which an agent says what its board is.
pub(crate) const MODEL: &str = "bramble.dev/board-model";

/// A node's Lease.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lease {
    pub(crate) meta: Meta,
    pub(crate) renewed: Str,
    /// For how long its holder promises to be heard again.
    pub(crate) duration_s: u64,
}

/// Is the new projection a sign of life? Leases and Nodes are when they were renewed; any change of another kind is.
pub(super) fn beat(old: &Projected, new: &Projected) -> bool {
    match (old, new) {
        (Projected::Lease(old), Projected::Lease(new)) => old.renewed != new.renewed,
        (Projected::Node(old), Projected::Node(new)) => old.heartbeat != new.heartbeat,
        _ => true,
    }
}

/// Where agents keep their Leases.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The row's projection: only the Leases of nodes.
pub(crate) fn project_lease(object: &Value, interner: &mut Interner) -> Option<Projected> {
    if str_at(object, &["metadata", "namespace"]) != LEASE_NAMESPACE {
        return None;
    }
    let renewed = str_at(object, &["spec", "renewTime"]).into();
    let duration_s = at(object, &["spec", "leaseDurationSeconds"]).and_then(Value::as_u64).unwrap_or_default();
    Some(Projected::Lease(Arc::new(Lease { meta: Meta::project(object, interner), renewed, duration_s })))
}

/// The row's projection.
pub(crate) fn project_node(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let meta = Meta::project(object, interner);
    let taints = list_at(object, &["spec", "taints"]).iter().map(|taint| Taint {
        key: interner.text(str_at(taint, &["key"])),
        value: interner.text(str_at(taint, &["value"])),
        effect: interner.text(str_at(taint, &["effect"])),
        time_added: at(taint, &["timeAdded"]).and_then(Value::as_str).map(Str::from),
    });
    let taints = taints.collect();
    let ready = list_at(object, &["status", "conditions"]).iter().find(|value| str_at(value, &["type"]) == "Ready");
    Some(Projected::Node(Arc::new(Node {
        taints,
        unschedulable: flag_at(object, &["spec", "unschedulable"]),
        conditions: Condition::project_all(object, interner),
        heartbeat: ready.map_or("", |ready| str_at(ready, &["lastHeartbeatTime"])).into(),
        pod_cidrs: pod_cidrs(object, interner),
        addresses: list_at(object, &["status", "addresses"])
            .iter()
            .filter_map(|address| interner.text_at(address, &["address"]))
            .collect(),
        internal_ips: internal_ips(object),
        provider_id: interner.text_at(object, &["spec", "providerID"]),
        model: interner.text_at(object, &["metadata", "annotations", MODEL]),
        meta,
    })))
}

fn internal_ips(object: &Value) -> Box<[IpAddr]> {
    let internal = list_at(object, &["status", "addresses"]).iter().filter(|it| str_at(it, &["type"]) == "InternalIP");
    internal.filter_map(|it| str_at(it, &["address"]).parse().ok()).collect()
}

fn pod_cidrs(object: &Value, interner: &mut Interner) -> Box<[Str]> {
    let listed = list_at(object, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    let cidrs: Vec<Str> = listed.map(|cidr| interner.text(cidr)).collect();
    if cidrs.is_empty() { interner.text_at(object, &["spec", "podCIDR"]).into_iter().collect() } else { cidrs.into() }
}
