//! Pure: the provider `site`: the four duties of a cloud controller manager, for boards that stand in some house.
//!
//! | duty | where | account |
//! | --- | --- | --- |
//! | nodes: provider id, zone, region, instance type; boards that shut down, boards that are gone | `node`, `lifecycle` | `node-controller` |
//! | routes: the condition NetworkUnavailable; ranges of pods that collide | `route` | `route-controller` |
//! | Services of type LoadBalancer | `load_balancer` beside this folder; an elected board announces | `service-controller` |
//! | volumes: zone and region of what lies on a board | `volume` | `pvl-controller` |
//!
//! What the site consists of stands in a file (`config`). Without one nodes and volumes are left to whoever else provides
//! them; routes are always ours, for it is our agents that make them.

mod config;
pub(super) mod lifecycle;
pub(super) mod node;
pub(super) mod route;
pub(super) mod volume;

pub use self::config::{FILE_BYTES_MAX, Mistake, Site};

/// The labels of a place, each with its deprecated twin that older workloads still select by.
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const INSTANCE_TYPE: [&str; 2] = ["node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"];
