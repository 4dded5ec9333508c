//! Pure: bootstrap tokens end when they say so.

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Plan};
use super::view::policy::What;
use super::view::{Key, View};

/// The row; a key is a Secret.
pub(super) const CONTROLLER: Controller = Controller {
    account: "token-cleaner",
    component: "token-cleaner",
    watches: &[KindId::SECRETS],
    keys: |_, change, keys| {
        let token = change.new.as_ref().and_then(|secret| secret.as_policy());
        if &*change.key.namespace == "kube-system" && token.is_some_and(|token| expires(&token.what).is_some()) {
            keys.push(change.key.clone());
        }
    },
    plan,
};

fn expires(what: &What) -> Option<i64> {
    match what {
        What::BootstrapToken { expires } => *expires,
        _ => None,
    }
}

fn plan(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(secret) = view.as_policy(key) else { return Plan::default() };
    let Some(end) = expires(&secret.what) else { return Plan::default() };
    let mut plan = Plan::default();
    if end > context.now.wall() {
        plan.wake_in(end - context.now.wall());
    } else {
        let uid = secret.meta.uid;
        plan.then(Action::Delete { key: key.clone(), uid, propagation: "", grace_seconds: None, note: None });
    }
    plan
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use serde_json::json;

    use super::*;
    use crate::controllers::time;
    use crate::controllers::world::World;

    #[test]
    fn a_token_goes_when_it_has_ended() {
        let mut world = World::new(&[&CONTROLLER]);
        let end = base64::engine::general_purpose::STANDARD.encode(time::stamp(world.now.wall() + 60));
        world.put(json!({ "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": { "namespace": "kube-system", "name": "bootstrap-token-abcdef" }, "data": { "expiration": end } }));
        world.settle();
        assert_eq!(world.objects.len(), 1);
        world.advance(60);
        world.settle();
        assert!(world.objects.is_empty());
    }
}
