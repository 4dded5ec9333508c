//! Pure: a Pod as the controllers see it.

use std::sync::Arc;

use serde_json::Value;

use super::Projected;
use super::meta::Meta;
use crate::controllers::text::{Interner, Str, int_at, list_at, str_at};
use crate::controllers::time;

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// A named container port, which a Service may mean by `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub(crate) name: Str,
    pub(crate) protocol: Str,
    pub(crate) port: u16,
}

/// A toleration of `NoExecute` taints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toleration {
    /// `None` tolerates every key.
    pub(crate) key: Option<Str>,
    /// `None` is the operator Exists.
    pub(crate) value: Option<Str>,
    pub(crate) seconds: Option<i64>,
}

/// The projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) meta: Meta,
    pub(crate) phase: Phase,
    pub(crate) ready: bool,
    /// Since when, in seconds since 1970.
    pub(crate) ready_since: i64,
    pub(crate) node: Option<Str>,
    pub(crate) ips: Box<[Str]>,
    pub(crate) hostname: Option<Str>,
    pub(crate) subdomain: Option<Str>,
    pub(crate) ports: Box<[NamedPort]>,
    pub(crate) restarts: i32,
    pub(crate) deletion_cost: i32,
    pub(crate) tolerations: Box<[Toleration]>,
    pub(crate) readiness_unknown: bool,
}

impl Pod {
    /// Neither finished nor on its way out.
    pub(crate) fn active(&self) -> bool {
        !self.terminal() && self.meta.deleted.is_none()
    }

    pub(crate) fn terminal(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Ready for at least `min_ready_seconds`.
    pub(crate) fn available(&self, min_ready_seconds: i64, now: i64) -> bool {
        self.ready && (min_ready_seconds == 0 || self.ready_since + min_ready_seconds <= now)
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Pod>()
            + self.ips.len() * 16
            + self.ports.len() * size_of::<NamedPort>()
            + self.tolerations.len() * size_of::<Toleration>()
    }
}

pub(crate) fn phase(text: &str) -> Phase {
    match text {
        "Running" => Phase::Running,
        "Succeeded" => Phase::Succeeded,
        "Failed" => Phase::Failed,
        "Unknown" => Phase::Unknown,
        _ => Phase::Pending,
    }
}

/// The row's projection.
pub(crate) fn project(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let ready = list_at(object, &["status", "conditions"]).iter().find(|value| str_at(value, &["type"]) == "Ready");
    let cost = str_at(object, &["metadata", "annotations", "controller.kubernetes.io/pod-deletion-cost"]);
    let ips = list_at(object, &["status", "podIPs"]).iter().filter_map(|ip| interner.text_at(ip, &["ip"])).collect();
    Some(Projected::Pod(Arc::new(Pod {
        meta: Meta::project(object, interner),
        phase: phase(str_at(object, &["status", "phase"])),
        ready: ready.is_some_and(|value| str_at(value, &["status"]) == "True"),
        ready_since: ready.and_then(|value| time::parse(str_at(value, &["lastTransitionTime"]))).unwrap_or_default(),
        readiness_unknown: ready.is_none(),
        node: interner.text_at(object, &["spec", "nodeName"]),
        ips: pod_ips(ips, object, interner),
        hostname: interner.text_at(object, &["spec", "hostname"]),
        subdomain: interner.text_at(object, &["spec", "subdomain"]),
        ports: named_ports(object, interner),
        restarts: list_at(object, &["status", "containerStatuses"])
            .iter()
            .filter_map(|status| int_at(status, &["restartCount"]))
            .max()
            .unwrap_or_default() as i32,
        deletion_cost: cost.parse().unwrap_or_default(),
        tolerations: tolerations(object, interner),
    })))
}

fn pod_ips(ips: Vec<Str>, object: &Value, interner: &mut Interner) -> Box<[Str]> {
    if ips.is_empty() { interner.text_at(object, &["status", "podIP"]).into_iter().collect() } else { ips.into() }
}

fn named_ports(object: &Value, interner: &mut Interner) -> Box<[NamedPort]> {
    let restartable = list_at(object, &["spec", "initContainers"])
        .iter()
        .filter(|container| str_at(container, &["restartPolicy"]) == "Always");
    let mut ports = Vec::new();
    for container in list_at(object, &["spec", "containers"]).iter().chain(restartable) {
        for port in list_at(container, &["ports"]) {
            let Some(name) = interner.text_at(port, &["name"]) else { continue };
            let protocol = interner.text_at(port, &["protocol"]).unwrap_or_else(|| interner.text("TCP"));
            let Some(port) = int_at(port, &["containerPort"]).and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            ports.push(NamedPort { name, protocol, port });
        }
    }
    ports.into()
}

fn tolerations(object: &Value, interner: &mut Interner) -> Box<[Toleration]> {
    list_at(object, &["spec", "tolerations"])
        .iter()
        .filter(|toleration| matches!(str_at(toleration, &["effect"]), "" | "NoExecute"))
        .map(|toleration| Toleration {
            key: interner.text_at(toleration, &["key"]),
            value: match str_at(toleration, &["operator"]) {
                "Exists" => None,
                _ => Some(interner.text(str_at(toleration, &["value"]))),
            },
            seconds: int_at(toleration, &["tolerationSeconds"]),
        })
        .collect()
}
