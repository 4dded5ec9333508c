//! Pure: which certificate requests of boards are approved without a person, and by which right.

use core::net::IpAddr;

use serde_json::Value;

use super::certificate::AltName;
use super::key::{hex, sha256};
use super::request::Request;
use super::signer::{KUBELET_CLIENT, KUBELET_SERVING, validate};
use crate::authn::boards;

/// A request that may be approved if its author holds a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// The author needs `create` on `certificatesigningrequests/<this>` in certificates.k8s.io: `nodeclient`,
    /// `selfnodeclient` or `selfnodeserver`.
    pub subresource: &'static str,
    /// The message of the condition Approved, reason `AutoApproved`.
    pub message: &'static str,
    /// The node that the certificate is for.
    pub node_name: String,
}

/// What a CertificateSigningRequest is, if it is one of a board; `None` leaves it to a person.
pub fn recognise(object: &Value) -> Option<Recognised> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let request = Request::from_base64(text("/spec/request")).ok()?;
    let signer = text("/spec/signerName");
    validate(signer, &request, &usages(object)).ok()?;
    let node_name = request.common_name.strip_prefix("system:node:")?.to_owned();
    let own = text("/spec/username") == request.common_name;
    // Who comes with an expired certificate gets one over the same key, and only for itself.
    let extra = object.pointer("/spec/extra").and_then(|extra| extra.get(boards::KEY)?.get(0)?.as_str());
    if extra.is_some_and(|key| !own || signer != KUBELET_CLIENT || key != hex(&sha256(&request.public_key))) {
        return None;
    }
    let (subresource, message) = match (signer, own) {
        (KUBELET_CLIENT, true) => {
            ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
        }
        (KUBELET_CLIENT, false) => {
            ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
        }
        (KUBELET_SERVING, true) => {
            ("selfnodeserver", "Auto approving self kubelet server certificate after SubjectAccessReview.")
        }
        _ => return None,
    };
    Some(Recognised { subresource, message, node_name })
}

/// The key (SHA-256, hexadecimal digits) and the node of a request for a board's client certificate.
pub fn board_key(object: &Value) -> Option<(String, String)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let request =
        Request::from_base64(text("/spec/request")).ok().filter(|_| text("/spec/signerName") == KUBELET_CLIENT)?;
    Some((hex(&sha256(&request.public_key)), request.common_name.strip_prefix("system:node:")?.to_owned()))
}

/// Whether all names in a request for a serving certificate are the node's own, by its Node object, and no other node's. So a
/// board that fell into wrong hands cannot obtain a certificate for the API server or for a neighbour.
pub fn serves_only_itself(object: &Value, node_name: &str, nodes: &[Value]) -> bool {
    let encoded = object.pointer("/spec/request").and_then(Value::as_str).unwrap_or_default();
    let Ok(request) = Request::from_base64(encoded) else { return false };
    let name_of = |node: &Value| node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (own, others): (Vec<&Value>, Vec<&Value>) = nodes.iter().partition(|node| name_of(node) == node_name);
    let holds = |node: &&Value, name: &AltName| match name {
        AltName::Dns(text) => name_of(node) == *text || addresses(node).any(|address| address == text),
        AltName::Ip(ip) => addresses(node).any(|address| address.parse() == Ok(*ip)),
        AltName::Email(_) | AltName::Uri(_) => false,
    };
    request.alt_names.iter().all(|name| {
        !is_reserved(name) && own.iter().any(|node| holds(node, name)) && !others.iter().any(|node| holds(node, name))
    })
}

/// The `spec.usages` of a CertificateSigningRequest.
pub(crate) fn usages(object: &Value) -> Vec<&str> {
    let usages = object.pointer("/spec/usages").and_then(Value::as_array);
    usages.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn addresses(node: &Value) -> impl Iterator<Item = &str> {
    let all = node.pointer("/status/addresses").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(|address| address.get("address")?.as_str())
}

/// Names that mean the API server, or every machine.
fn is_reserved(name: &AltName) -> bool {
    match name {
        AltName::Dns(text) => {
            let text = text.to_ascii_lowercase();
            text == "localhost" || text == "kubernetes" || text.starts_with("kubernetes.") || text.contains('*')
        }
        AltName::Ip(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_unspecified(),
        AltName::Ip(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unspecified(),
        AltName::Email(_) | AltName::Uri(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use serde_json::json;

    use super::super::tests::request;
    use super::*;

    fn csr(author: &str, signer: &str, usage: &str, names: &[&str]) -> Value {
        let pem = request("system:node:pi-1", &["system:nodes"], names);
        json!({"spec": {"request": base64::prelude::BASE64_STANDARD.encode(pem), "signerName": signer,
            "username": author, "usages": ["digital signature", usage]}})
    }

    #[test]
    fn requests_of_boards_are_told_apart() {
        let what = |csr: &Value| recognise(csr).map(|found| found.subresource);
        let client = |author: &str| csr(author, KUBELET_CLIENT, "client auth", &[]);
        assert_eq!(what(&client("system:bootstrap:abc123")), Some("nodeclient"));
        assert_eq!(what(&client("system:node:pi-1")), Some("selfnodeclient"));
        assert_eq!(what(&client("system:node:pi-2")), Some("nodeclient"));
        assert_eq!(what(&csr("system:node:pi-1", KUBELET_SERVING, "server auth", &["pi-1"])), Some("selfnodeserver"));
        assert_eq!(what(&csr("system:node:pi-2", KUBELET_SERVING, "server auth", &["pi-1"])), None);
        assert_eq!(what(&csr("system:node:pi-1", "example.com/x", "client auth", &[])), None);
    }

    #[test]
    fn an_expired_board_gets_the_same_key_signed_again() {
        let mut renewal = csr("system:node:pi-1", KUBELET_CLIENT, "client auth", &[]);
        let (key, node) = board_key(&renewal).unwrap();
        assert_eq!((key.len(), node.as_str()), (64, "pi-1"));
        renewal["spec"]["extra"] = json!({boards::KEY: [key]});
        assert_eq!(recognise(&renewal).map(|found| found.subresource), Some("selfnodeclient"));
        for (field, other) in
            [("username", json!("system:node:pi-2")), ("extra", json!({boards::KEY: ["0".repeat(64)]}))]
        {
            let mut other_one = renewal.clone();
            other_one["spec"][field] = other;
            assert_eq!(recognise(&other_one), None, "{field}");
        }
    }

    #[test]
    fn a_board_serves_by_its_own_names_only() {
        let node = |name: &str, address: &str| json!({"metadata": {"name": name}, "status": {"addresses": [{"address": address}]}});
        let nodes = [node("pi-1", "192.0.2.1"), node("pi-2", "192.0.2.2")];
        for (names, allowed) in [
            (&["pi-1", "192.0.2.1"][..], true),
            (&["192.0.2.2"], false),
            (&["pi-2"], false),
            (&["pi-1", "kubernetes.default.svc"], false),
            (&["127.0.0.1"], false),
            (&["192.0.2.9"], false),
        ] {
            let csr = csr("system:node:pi-1", KUBELET_SERVING, "server auth", names);
            assert_eq!(serves_only_itself(&csr, "pi-1", &nodes), allowed, "{names:?}");
        }
        let stolen = [node("pi-1", "192.0.2.2"), node("pi-2", "192.0.2.2")];
        let csr = csr("system:node:pi-1", KUBELET_SERVING, "server auth", &["192.0.2.2"]);
        assert!(!serves_only_itself(&csr, "pi-1", &stolen));
    }
}
