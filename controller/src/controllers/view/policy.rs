//! Pure: Namespaces, accounts, Secrets, certificate requests and roles as the controllers see them.

use std::sync::Arc;

use serde_json::Value;

use super::Projected;
use super::meta::{Condition, Meta, Uid};
use crate::controllers::selector::Selector;
use crate::controllers::text::{Interner, Str, at, digest, int_at, list_at, str_at};
use crate::controllers::time;

/// A Namespace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Namespace {
    pub(crate) meta: Meta,
    /// `spec.finalizers` holds "kubernetes": its content must go first.
    pub(crate) guarded: bool,
    pub(crate) terminating: bool,
    pub(crate) conditions: Vec<Condition>,
}

/// A ServiceAccount, a Secret or a ConfigMap: the few of them that a controller keeps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) meta: Meta,
    pub(crate) what: What,
}

/// What a [`Policy`] is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    ServiceAccount,
    /// Of type `kubernetes.io/service-account-token`.
    TokenSecret {
        account: Str,
        account_uid: Option<Uid>,
        complete: bool,
        /// A digest of `ca.crt`.
        authorities: u64,
    },
    /// Of type `bootstrap.kubernetes.io/token`: when it ends, in seconds since 1970.
    BootstrapToken {
        expires: Option<i64>,
    },
    /// `kube-root-ca.crt`: a digest of its data.
    RootCa {
        data: u64,
    },
}

/// A CertificateSigningRequest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SigningRequest {
    pub(crate) meta: Meta,
    pub(crate) signer: Str,
    pub(crate) approved: bool,
    pub(crate) denied: bool,
    pub(crate) failed: bool,
    pub(crate) issued: bool,
    pub(crate) last_update: Option<i64>,
    pub(crate) expiration_seconds: Option<i64>,
}

/// A ClusterRole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClusterRole {
    pub(crate) meta: Meta,
    pub(crate) aggregates: Box<[Selector]>,
    pub(crate) rules: u64,
}

/// The ConfigMap that carries the cluster's CA into every namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

/// The row's projection.
pub(crate) fn project_namespace(object: &Value, interner: &mut Interner) -> Option<Projected> {
    Some(Projected::Namespace(Arc::new(Namespace {
        meta: Meta::project(object, interner),
        guarded: list_at(object, &["spec", "finalizers"]).iter().any(|value| value == "kubernetes"),
        terminating: str_at(object, &["status", "phase"]) == "Terminating",
        conditions: Condition::project_all(object, interner),
    })))
}

/// The row's projection.
pub(crate) fn project_service_account(object: &Value, interner: &mut Interner) -> Option<Projected> {
    Some(Projected::Policy(Arc::new(Policy { meta: Meta::project(object, interner), what: What::ServiceAccount })))
}

/// The row's projection: only tokens.
pub(crate) fn project_secret(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let annotation = |key| at(object, &["metadata", "annotations", key]).and_then(Value::as_str);
    let what = match str_at(object, &["type"]) {
        "kubernetes.io/service-account-token" => What::TokenSecret {
            account: interner.text(annotation("kubernetes.io/service-account.name").unwrap_or_default()),
            account_uid: annotation("kubernetes.io/service-account.uid").map(Uid::parse),
            complete: ["token", "ca.crt", "namespace"].iter().all(|field| at(object, &["data", field]).is_some()),
            authorities: digest(at(object, &["data", "ca.crt"]).unwrap_or(&Value::Null)),
        },
        "bootstrap.kubernetes.io/token" => What::BootstrapToken { expires: expiration(object) },
        _ => return None,
    };
    Some(Projected::Policy(Arc::new(Policy { meta: Meta::project(object, interner), what })))
}

fn expiration(object: &Value) -> Option<i64> {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.decode(str_at(object, &["data", "expiration"])).ok()?;
    time::parse(std::str::from_utf8(&text).ok()?)
}

/// The row's projection: only the root CA's.
pub(crate) fn project_config_map(object: &Value, interner: &mut Interner) -> Option<Projected> {
    if str_at(object, &["metadata", "name"]) != ROOT_CA {
        return None;
    }
    let what = What::RootCa { data: digest(object.get("data").unwrap_or(&Value::Null)) };
    Some(Projected::Policy(Arc::new(Policy { meta: Meta::project(object, interner), what })))
}

/// The row's projection.
pub(crate) fn project_signing_request(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let conditions = list_at(object, &["status", "conditions"]);
    let has =
        |kind| conditions.iter().any(|value| str_at(value, &["type"]) == kind && str_at(value, &["status"]) != "False");
    Some(Projected::SigningRequest(Arc::new(SigningRequest {
        meta: Meta::project(object, interner),
        signer: interner.text(str_at(object, &["spec", "signerName"])),
        approved: has("Approved"),
        denied: has("Denied"),
        failed: has("Failed"),
        issued: !str_at(object, &["status", "certificate"]).is_empty(),
        last_update: conditions.iter().filter_map(|value| time::parse(str_at(value, &["lastUpdateTime"]))).max(),
        expiration_seconds: int_at(object, &["spec", "expirationSeconds"]),
    })))
}

/// The row's projection.
pub(crate) fn project_cluster_role(object: &Value, interner: &mut Interner) -> Option<Projected> {
    let selectors = list_at(object, &["aggregationRule", "clusterRoleSelectors"]);
    Some(Projected::ClusterRole(Arc::new(ClusterRole {
        meta: Meta::project(object, interner),
        aggregates: selectors
            .iter()
            .filter_map(|selector| Selector::from_label_selector(Some(selector), interner))
            .collect(),
        rules: digest(object.get("rules").filter(|value| !value.is_null()).unwrap_or(&Value::Array(Vec::new()))),
    })))
}
