//! Pure: every namespace has a ServiceAccount `default`.

use serde_json::json;

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan};
use super::view::{Change, Key, View};

/// The row.
pub(super) const CONTROLLER: Controller = Controller {
    account: "service-account-controller",
    component: "serviceaccount-controller",
    watches: &[KindId::NAMESPACES, KindId::SERVICE_ACCOUNTS],
    keys: namespace_keys,
    plan,
};

/// The namespace that changed, or whose object changed.
pub(super) fn namespace_keys(_: &View, change: &Change, keys: &mut Vec<Key>) {
    let name = if change.key.kind == KindId::NAMESPACES { &change.key.name } else { &change.key.namespace };
    keys.push(Key { kind: KindId::NAMESPACES, namespace: "".into(), name: name.clone() });
}

fn plan(view: &View, key: &Key, _: &Context) -> Plan {
    let Some(namespace) = view.as_namespace(key) else { return Plan::default() };
    let account = Key { kind: KindId::SERVICE_ACCOUNTS, namespace: key.name.clone(), name: "default".into() };
    if namespace.terminating || namespace.meta.deleted.is_some() || view.object(&account).is_some() {
        return Plan::default();
    }
    let body = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": &*key.name },
    });
    Plan::act(Action::Create { kind: KindId::SERVICE_ACCOUNTS, body, exists_ok: true, note: None })
}
