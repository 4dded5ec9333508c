//! Pure: certificate requests: boards' own are approved by right, approved ones are signed, old ones go.

use serde_json::{Value, json};

use super::kind::KindId;
use super::plan::{Action, Context, Controller, Need, Plan};
use super::text::list_at;
use super::view::meta::revision;
use super::view::policy::SigningRequest;
use super::view::{Change, Key, View};
use crate::authn::boards;
use crate::pki::approval::{recognise, serves_only_itself};
use crate::pki::signer::{KUBELET_SERVING, is_ours};

/// The row that approves.
pub(super) const APPROVING: Controller = Controller {
    account: "certificate-controller",
    component: "certificate-controller",
    watches: &[KindId::SIGNING_REQUESTS, KindId::NODES],
    keys: |view, change, keys| {
        if change.key.kind == KindId::SIGNING_REQUESTS {
            keys.push(change.key.clone());
            return;
        }
        // A board may serve by its addresses once its Node has them.
        let waits = |request: &SigningRequest| &*request.signer == KUBELET_SERVING && open(request);
        let requests = view.all(KindId::SIGNING_REQUESTS);
        keys.extend(requests.filter(|(_, r)| r.as_signing_request().is_some_and(|r| waits(r))).map(|(key, _)| key));
    },
    plan: approve,
};

/// The row that signs.
pub(super) const SIGNING: Controller = Controller {
    account: "certificate-controller",
    component: "certificate-controller",
    watches: &[KindId::SIGNING_REQUESTS],
    keys: own,
    plan: sign,
};

/// The row that cleans up.
pub(super) const CLEANING: Controller = Controller {
    account: "certificate-controller",
    component: "certificate-controller",
    watches: &[KindId::SIGNING_REQUESTS],
    keys: own,
    plan: clean,
};

/// How long issued, refused and failed requests are kept (upstream's csrcleaner).
const CLOSED_S: i64 = 3600;
/// How long a request waits for an answer.
const OPEN_S: i64 = 24 * 3600;

fn own(_: &View, change: &Change, keys: &mut Vec<Key>) {
    keys.push(change.key.clone());
}

fn open(request: &SigningRequest) -> bool {
    !request.approved && !request.denied
}

fn approve(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(request) = view.as_signing_request(key).filter(|request| open(request) && !request.issued) else {
        return Plan::default();
    };
    let whole = match context.reads.object(key) {
        Ok(Some(whole)) => whole,
        Ok(None) => return Plan::default(),
        Err(needs) => return needs,
    };
    let Some(found) = recognise(whole) else { return Plan::default() };
    if &*request.signer == KUBELET_SERVING && !serves_only_itself(whole, &found.node_name, &nodes(view)) {
        return Plan::default();
    }
    if found.subresource == "nodeclient" {
        match context.reads.object(&board_keys()) {
            // Whoever was shut out may hold a token too: that name is given again by a person.
            Ok(Some(map)) if was_shut_out(map, &found.node_name) => return Plan::default(),
            Ok(_) => {}
            Err(needs) => return needs,
        }
    }
    let spec = access(whole, found.subresource);
    match context.reads.access.get(&spec) {
        None => Plan::needs([Need::Access(spec)]),
        Some(false) => Plan::default(),
        Some(true) => {
            let stamp = context.now.stamp();
            let mut conditions = list_at(whole, &["status", "conditions"]).to_vec();
            conditions.push(json!({
                "type": "Approved", "status": "True", "reason": "AutoApproved", "message": found.message,
                "lastUpdateTime": stamp, "lastTransitionTime": stamp,
            }));
            let merge = json!({ "status": { "conditions": conditions } });
            let (uid, revision) = (request.meta.uid, Some(revision(whole)));
            Plan::act(Action::Edit { key: key.clone(), subresource: Some("approval"), uid, revision, merge })
        }
    }
}

fn board_keys() -> Key {
    Key { kind: KindId::CONFIG_MAPS, namespace: boards::NAMESPACE.into(), name: boards::NAME.into() }
}

fn was_shut_out(board_keys: &Value, node_name: &str) -> bool {
    boards::entries(board_keys).any(|(_, entry)| entry.node == node_name && entry.revoked.is_some())
}

/// Nodes as far as `serves_only_itself` looks at them.
fn nodes(view: &View) -> Vec<Value> {
    let nodes = view.all(KindId::NODES).filter_map(|(key, object)| Some((key, object.as_node()?)));
    nodes
        .map(|(key, node)| {
            let addresses: Vec<Value> = node.addresses.iter().map(|address| json!({ "address": &**address })).collect();
            json!({ "metadata": { "name": &*key.name }, "status": { "addresses": addresses } })
        })
        .collect()
}

/// The question whether the request's author may ask for such a certificate.
fn access(whole: &Value, subresource: &str) -> String {
    let author = |field: &str| whole["spec"].get(field).cloned().unwrap_or(Value::Null);
    let mut spec = json!({
        "user": author("username"), "groups": author("groups"), "uid": author("uid"), "extra": author("extra"),
        "resourceAttributes": {
            "group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests",
            "subresource": subresource, "verb": "create",
        },
    });
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
    spec.to_string()
}

fn sign(view: &View, key: &Key, context: &Context) -> Plan {
    let due = |request: &&std::sync::Arc<SigningRequest>| {
        request.approved && !request.denied && !request.failed && !request.issued && is_ours(&request.signer)
    };
    if view.as_signing_request(key).filter(due).is_none() {
        return Plan::default();
    }
    match context.reads.object(key) {
        Ok(Some(whole)) => Plan::act(Action::Sign { key: key.clone(), request: whole.clone() }),
        Ok(None) => Plan::default(),
        Err(needs) => needs,
    }
}

fn clean(view: &View, key: &Key, context: &Context) -> Plan {
    let Some(request) = view.as_signing_request(key) else { return Plan::default() };
    let closed = request.issued || request.denied || request.failed;
    let since = request.last_update.filter(|_| closed || request.approved).unwrap_or(request.meta.created);
    let due = since + if closed { CLOSED_S } else { OPEN_S };
    if due > context.now.wall() {
        let mut plan = Plan::default();
        plan.wake_in(due - context.now.wall());
        return plan;
    }
    let uid = request.meta.uid;
    Plan::act(Action::Delete { key: key.clone(), uid, propagation: "", grace_seconds: None, note: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    fn request(conditions: Value) -> Value {
        json!({ "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "name": "r" }, "spec": { "signerName": "kubernetes.io/kube-apiserver-client" },
            "status": { "conditions": conditions } })
    }

    #[test]
    fn approved_requests_are_signed_and_others_wait() {
        let mut world = World::new(&[&APPROVING, &SIGNING]);
        let key = world.put(request(json!([])));
        world.settle();
        assert!(world.objects[&key]["status"]["certificate"].is_null());
        world.put(request(json!([{ "type": "Approved", "status": "True" }])));
        world.settle();
        assert_eq!(world.objects[&key]["status"]["certificate"], "signed");
    }

    #[test]
    fn the_name_of_a_board_that_was_shut_out_waits_for_a_person() {
        use base64::Engine;
        let pem = crate::pki::tests::request("system:node:pi-1", &["system:nodes"], &[]);
        let joining = json!({ "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "name": "r" },
            "spec": { "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "username": "system:bootstrap:abc123",
                "usages": ["digital signature", "client auth"],
                "request": base64::prelude::BASE64_STANDARD.encode(pem) } });
        let approved = |entry: &str| {
            let mut world = World::new(&[&APPROVING]);
            world.allowed.insert("nodeclient".into());
            world.put(json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "ab".repeat(32): entry },
                "metadata": { "name": boards::NAME, "namespace": boards::NAMESPACE } }));
            let key = world.put(joining.clone());
            world.settle();
            world.objects[&key]["status"]["conditions"][0]["type"] == "Approved"
        };
        assert!(approved(r#"{"node":"pi-1"}"#));
        assert!(approved(r#"{"node":"pi-2","revoked":"2026-01-01T00:00:00Z"}"#));
        assert!(!approved(r#"{"node":"pi-1","revoked":"2026-01-01T00:00:00Z"}"#));
    }

    #[test]
    fn requests_do_not_stay_for_ever() {
        let mut world = World::new(&[&CLEANING]);
        let key = world.put(request(json!([{ "type": "Denied", "status": "True" }])));
        world.settle();
        world.advance(3599);
        world.settle();
        assert!(world.objects.contains_key(&key));
        world.advance(1);
        world.settle();
        assert!(!world.objects.contains_key(&key));
    }
}
