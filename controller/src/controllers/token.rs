//! Pure: Secrets of type `kubernetes.io/service-account-token` hold a token of their account, and go with it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan, itself};
use super::text::{digest, str_at};
use super::view::meta::Uid;
use super::view::policy::{Policy, What};
use super::view::{Change, Key, Projected, View};

/// The row; a key is a Secret. Upstream's tokens controller acts as the controller manager itself.
pub(super) const CONTROLLER: Controller = Controller {
    account: "kube-controller-manager",
    component: "serviceaccount-token-controller",
    watches: &[KindId::SECRETS, KindId::SERVICE_ACCOUNTS],
    keys,
    plan,
};

fn keys(view: &View, change: &Change, keys: &mut Vec<Key>) {
    if change.key.kind == KindId::SECRETS {
        return itself(view, change, keys);
    }
    let secrets = view.within(KindId::SECRETS, &change.key.namespace);
    keys.extend(secrets.filter(|(_, secret)| account(secret) == Some(&change.key.name)).map(|(key, _)| key));
}

fn account(secret: &Projected) -> Option<&super::text::Str> {
    match secret.as_policy().map(|policy| &policy.what) {
        Some(What::TokenSecret { account, .. }) => Some(account),
        _ => None,
    }
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(secret) = view.as_policy(key).filter(|secret| secret.meta.deleted.is_none()) else {
        return Plan::default();
    };
    let What::TokenSecret { account, account_uid, complete, authorities } = &secret.what else {
        return Plan::default();
    };
    if account.is_empty() {
        return Plan::default();
    }
    let account_key = Key { kind: KindId::SERVICE_ACCOUNTS, namespace: key.namespace.clone(), name: account.clone() };
    match view.as_policy(&account_key).map(|account| account.meta.uid) {
        Some(uid) if account_uid.is_none_or(|known| known == uid) => {
            let published = BASE64_STANDARD.encode(&context.options.root_ca);
            if *complete && account_uid.is_some() && *authorities == digest(&Value::String(published)) {
                return Plan::default();
            }
            let account = account.clone();
            Plan::act(Action::Token { key: key.clone(), uid: secret.meta.uid, account, account_uid: uid })
        }
        _ => without_account(key, secret, &account_key, context),
    }
}

/// The account is gone, or a namesake of the one that the token was for: a live look, then the Secret goes.
fn without_account(key: &Key, secret: &Policy, account: &Key, context: &Context) -> Plan {
    let What::TokenSecret { account_uid, .. } = &secret.what else { return Plan::default() };
    let found = match context.reads.object(account) {
        Ok(found) => found.map(|object| Uid::parse(str_at(object, &["metadata", "uid"]))),
        Err(needs) => return needs,
    };
    if found.is_some_and(|found| account_uid.is_none_or(|known| known == found)) {
        return Plan::default();
    }
    let uid = secret.meta.uid;
    Plan::act(Action::Delete { key: key.clone(), uid, propagation: "", grace_seconds: None, note: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::world::World;

    #[test]
    fn a_secret_gets_its_token_and_goes_with_its_account() {
        let mut world = World::new(&[&CONTROLLER]);
        let account = world.put(json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "namespace": "a", "name": "robot" } }));
        let secret = world.put(json!({ "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": { "namespace": "a", "name": "s", "annotations": { "kubernetes.io/service-account.name": "robot" } } }));
        world.settle();
        assert_eq!(world.objects[&secret]["data"]["token"], "t");
        assert_eq!(world.actions, 1);
        world.change(&secret, json!({ "data": { "ca.crt": "a former one" } }));
        world.settle();
        assert_eq!(world.objects[&secret]["data"]["ca.crt"], "Q0E=", "it follows the authorities");
        world.remove(&account);
        world.settle();
        assert!(!world.objects.contains_key(&secret));
    }
}
