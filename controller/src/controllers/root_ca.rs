//! Pure: every namespace has the ConfigMap `kube-root-ca.crt`, with which pods trust the API server.

use serde_json::json;

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan};
use super::service_account::namespace_keys;
use super::text::digest;
use super::view::policy::{ROOT_CA, What};
use super::view::{Key, View};

/// The row.
pub(super) const CONTROLLER: Controller = Controller {
    account: "root-ca-cert-publisher",
    component: "root-ca-cert-publisher",
    watches: &[KindId::NAMESPACES, KindId::CONFIG_MAPS],
    keys: namespace_keys,
    plan,
};

const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.";

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(namespace) = view.as_namespace(key) else { return Plan::default() };
    if namespace.terminating || namespace.meta.deleted.is_some() {
        return Plan::default();
    }
    let map = Key { kind: KindId::CONFIG_MAPS, namespace: key.name.clone(), name: ROOT_CA.into() };
    let data = json!({ "ca.crt": context.options.root_ca });
    match view.as_policy(&map) {
        Some(known) if known.what == (What::RootCa { data: digest(&data) }) => Plan::default(),
        Some(_) => {
            // The whole data is ours: keys that others put there go.
            let body = body(key, data);
            Plan::act(Action::Replace { key: map, subresource: None, body })
        }
        None => {
            Plan::act(Action::Create { kind: KindId::CONFIG_MAPS, body: body(key, data), exists_ok: true, note: None })
        }
    }
}

fn body(key: &Key, data: serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": ROOT_CA, "namespace": &*key.name,
            "annotations": { "kubernetes.io/description": DESCRIPTION },
        },
        "data": data,
    })
}
