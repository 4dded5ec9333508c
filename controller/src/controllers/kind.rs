//! Pure: the kinds that the controllers watch, one row each; kinds found by discovery follow after these rows.

use std::borrow::Cow;

use serde_json::Value;

use super::text::Interner;
use super::view::Projected;
use super::view::{disruption, network, node, pod, policy, volume, workload};

/// A place in the table of kinds: the constants are rows of [`ROWS`], larger numbers were found by discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindId(pub(crate) u16);

/// What a request needs to know of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: Cow<'static, str>,
    pub(crate) version: Cow<'static, str>,
    pub(crate) plural: Cow<'static, str>,
    pub(crate) kind: Cow<'static, str>,
    pub(crate) namespaced: bool,
}

/// How a watched object becomes the few fields that plans need; `None` leaves it out of the view.
pub(crate) type Project = fn(&Value, &mut Interner) -> Option<Projected>;

/// One row: a kind and its projection.
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) project: Project,
}

macro_rules! rows {
    ($($id:ident = $number:literal : $group:literal $version:literal $plural:literal $kind:literal $namespaced:literal $project:path;)*) => {
        impl KindId {
            $(pub(crate) const $id: KindId = KindId($number);)*
        }
        /// Every kind that some plan looks at.
        pub(crate) const ROWS: &[Row] = &[
            $(Row { group: $group, version: $version, plural: $plural, kind: $kind, namespaced: $namespaced, project: $project },)*
        ];
        #[cfg(test)]
        const NUMBERS: &[u16] = &[$($number),*];
    };
}

rows! {
    NAMESPACES = 0: "" "v1" "namespaces" "Namespace" false policy::project_namespace;
    PODS = 1: "" "v1" "pods" "Pod" true pod::project;
    NODES = 2: "" "v1" "nodes" "Node" false node::project_node;
    SERVICES = 3: "" "v1" "services" "Service" true network::project_service;
    ENDPOINTS = 4: "" "v1" "endpoints" "Endpoints" true network::project_endpoints;
    SECRETS = 5: "" "v1" "secrets" "Secret" true policy::project_secret;
    SERVICE_ACCOUNTS = 6: "" "v1" "serviceaccounts" "ServiceAccount" true policy::project_service_account;
    CONFIG_MAPS = 7: "" "v1" "configmaps" "ConfigMap" true policy::project_config_map;
    REPLICATION_CONTROLLERS = 8: "" "v1" "replicationcontrollers" "ReplicationController" true workload::project_replication_controller;
    REPLICA_SETS = 9: "apps" "v1" "replicasets" "ReplicaSet" true workload::project_replica_set;
    DEPLOYMENTS = 10: "apps" "v1" "deployments" "Deployment" true workload::project_deployment;
    ENDPOINT_SLICES = 11: "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" true network::project_endpoint_slice;
    LEASES = 12: "coordination.k8s.io" "v1" "leases" "Lease" true node::project_lease;
    SIGNING_REQUESTS = 13: "certificates.k8s.io" "v1" "certificatesigningrequests" "CertificateSigningRequest" false policy::project_signing_request;
    CLUSTER_ROLES = 14: "rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole" false policy::project_cluster_role;
    DISRUPTION_BUDGETS = 15: "policy" "v1" "poddisruptionbudgets" "PodDisruptionBudget" true disruption::project;
    PERSISTENT_VOLUMES = 16: "" "v1" "persistentvolumes" "PersistentVolume" false volume::project;
}

/// Events are written, never watched; they stand outside the table.
pub(crate) const EVENTS: Kind = Kind {
    group: Cow::Borrowed(""),
    version: Cow::Borrowed("v1"),
    plural: Cow::Borrowed("events"),
    kind: Cow::Borrowed("Event"),
    namespaced: true,
};

/// Asked, never stored: may somebody do something?
pub(crate) const ACCESS_REVIEWS: Kind = Kind {
    group: Cow::Borrowed("authorization.k8s.io"),
    version: Cow::Borrowed("v1"),
    plural: Cow::Borrowed("subjectaccessreviews"),
    kind: Cow::Borrowed("SubjectAccessReview"),
    namespaced: false,
};

impl Row {
    fn to_kind(&self) -> Kind {
        Kind {
            group: self.group.into(),
            version: self.version.into(),
            plural: self.plural.into(),
            kind: self.kind.into(),
            namespaced: self.namespaced,
        }
    }
}

impl Kind {
    /// `apps/v1`, or `v1` for the core group.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Upstream's way to name a resource in messages: `deployments.apps`, `pods.`.
    pub(crate) fn group_resource(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// The rows, then what discovery found beyond them.
#[derive(Clone, Debug)]
pub(crate) struct Kinds(Vec<Kind>);

impl Kinds {
    pub(crate) fn new() -> Kinds {
        Kinds(ROWS.iter().map(Row::to_kind).collect())
    }

    pub(crate) fn get(&self, id: KindId) -> &Kind {
        &self.0[id.0 as usize]
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = KindId> + use<> {
        (0..self.0.len() as u16).map(KindId)
    }

    /// Takes in a discovered kind, whatever version of it is offered; false when it stands here already.
    pub(crate) fn add(&mut self, kind: Kind) -> bool {
        if self.0.iter().any(|known| known.group == kind.group && known.plural == kind.plural) {
            return false;
        }
        self.0.push(kind);
        true
    }

    /// The kind that an owner reference (`apiVersion`, `kind`) means. Versions of one group are the same objects.
    pub(crate) fn find(&self, api_version: &str, kind: &str) -> Option<KindId> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.ids().find(|&id| self.get(id).group == group && self.get(id).kind == kind)
    }
}

/// The projection of a row; discovered kinds have none.
pub(crate) fn projection(id: KindId) -> Option<Project> {
    ROWS.get(id.0 as usize).map(|row| row.project)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_places_in_the_table() {
        assert!(NUMBERS.iter().enumerate().all(|(place, &number)| place == number as usize));
        assert_eq!(ROWS[KindId::DEPLOYMENTS.0 as usize].plural, "deployments");
    }

    #[test]
    fn an_owner_reference_finds_its_kind_in_any_version() {
        let kinds = Kinds::new();
        assert_eq!(kinds.find("apps/v1beta2", "ReplicaSet"), Some(KindId::REPLICA_SETS));
        assert_eq!(kinds.find("v1", "Pod"), Some(KindId::PODS));
        assert_eq!(kinds.find("v1", "ReplicaSet"), None);
    }
}
