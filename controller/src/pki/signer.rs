//! Pure: upstream's rules for the built-in signers: which request and usages each accepts, and for how long it signs.

use std::collections::BTreeSet;

use super::certificate::{AltName, DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, Purpose};
use super::request::Request;

/// `kubernetes.io/kube-apiserver-client`: a client of the API.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// `kubernetes.io/kube-apiserver-client-kubelet`: a node as a client of the API.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// `kubernetes.io/kubelet-serving`: a node's own server.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// The longest time that is signed for, and what is given when nothing is asked.
const LONGEST_S: i64 = 365 * 86_400;
/// The shortest time that is signed for.
const SHORTEST_S: i64 = 600;

/// What a signer grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) key_usage: u16,
    pub(crate) purposes: Vec<Purpose>,
    pub(crate) seconds: i64,
}

/// Whether a signer is one of ours.
pub fn is_ours(signer: &str) -> bool {
    matches!(signer, CLIENT | KUBELET_CLIENT | KUBELET_SERVING)
}

/// Whether the signer accepts the request; the error is the message of the condition `Failed`, reason
/// `SignerValidationFailure`.
pub fn validate(signer: &str, request: &Request, usages: &[&str]) -> Result<(), String> {
    match signer {
        CLIENT => client_usages(usages),
        KUBELET_CLIENT => {
            organization_is_nodes(request)?;
            if let Some(name) = request.alt_names.first() {
                let kind = match name {
                    AltName::Dns(_) => "DNS",
                    AltName::Email(_) => "Email",
                    AltName::Ip(_) => "IP",
                    AltName::Uri(_) => "URI",
                };
                return Err(format!("{kind} subjectAltNames are not allowed"));
            }
            common_name_is_a_node(request)?;
            exact_usages(usages, "client auth")
        }
        KUBELET_SERVING => {
            organization_is_nodes(request)?;
            if !request.alt_names.iter().any(|name| matches!(name, AltName::Dns(_) | AltName::Ip(_))) {
                return Err("DNS or IP subjectAltName is required".into());
            }
            if request.alt_names.iter().any(|name| matches!(name, AltName::Email(_))) {
                return Err("Email subjectAltNames are not allowed".into());
            }
            if request.alt_names.iter().any(|name| matches!(name, AltName::Uri(_))) {
                return Err("URI subjectAltNames are not allowed".into());
            }
            exact_usages(usages, "server auth")?;
            common_name_is_a_node(request)
        }
        other => Err(format!("unknown signer {other:?}")),
    }
}

/// What is granted to a valid request.
pub(crate) fn grant(usages: &[&str], expiration_seconds: Option<i64>) -> Grant {
    let mut grant = Grant { key_usage: 0, purposes: Vec::new(), seconds: LONGEST_S };
    for usage in usages {
        match *usage {
            "digital signature" | "signing" => grant.key_usage |= DIGITAL_SIGNATURE,
            "key encipherment" => grant.key_usage |= KEY_ENCIPHERMENT,
            "server auth" => grant.purposes.push(Purpose::ServerAuth),
            "client auth" => grant.purposes.push(Purpose::ClientAuth),
            _ => {}
        }
    }
    if let Some(asked) = expiration_seconds {
        grant.seconds = asked.clamp(SHORTEST_S, LONGEST_S);
    }
    grant
}

fn organization_is_nodes(request: &Request) -> Result<(), String> {
    if request.organizations == ["system:nodes"] {
        return Ok(());
    }
    Err("subject organization is not system:nodes".into())
}

fn common_name_is_a_node(request: &Request) -> Result<(), String> {
    if request.common_name.starts_with("system:node:") {
        return Ok(());
    }
    Err("subject common name does not begin with system:node:".into())
}

fn exact_usages(usages: &[&str], purpose: &str) -> Result<(), String> {
    let own: BTreeSet<&str> = usages.iter().copied().collect();
    let plain = BTreeSet::from(["digital signature", purpose]);
    let with_rsa = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    if own == plain || own == with_rsa {
        return Ok(());
    }
    let mut wanted: Vec<&str> = with_rsa.into_iter().collect();
    wanted.sort_unstable();
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

fn client_usages(usages: &[&str]) -> Result<(), String> {
    if let Some(usage) =
        usages.iter().find(|usage| !matches!(**usage, "digital signature" | "key encipherment" | "client auth"))
    {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    if !usages.contains(&"client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(common_name: &str, organizations: &[&str], alt_names: &[AltName]) -> Request {
        Request {
            common_name: common_name.into(),
            organizations: organizations.iter().map(|name| (*name).into()).collect(),
            alt_names: alt_names.to_vec(),
            subject: Vec::new(),
            public_key: Vec::new(),
            key_bits: Vec::new(),
        }
    }

    #[test]
    fn each_signer_has_its_rules() {
        let (sign, encipher, client, server) = ("digital signature", "key encipherment", "client auth", "server auth");
        let node = "system:node:pi-1";
        let dns = [AltName::Dns("pi-1".into())];
        let mail = [AltName::Dns("pi-1".into()), AltName::Email("a@b".into())];
        type Case<'a> = (&'a str, Request, &'a [&'a str], Result<(), &'a str>);
        let table: &[Case<'_>] = &[
            (KUBELET_CLIENT, request(node, &["system:nodes"], &[]), &[sign, client], Ok(())),
            (KUBELET_CLIENT, request(node, &["system:nodes"], &[]), &[sign, encipher, client], Ok(())),
            (
                KUBELET_CLIENT,
                request(node, &["system:masters"], &[]),
                &[sign, client],
                Err("subject organization is not system:nodes"),
            ),
            (
                KUBELET_CLIENT,
                request(node, &["system:nodes", "x"], &[]),
                &[sign, client],
                Err("subject organization is not system:nodes"),
            ),
            (
                KUBELET_CLIENT,
                request("bob", &["system:nodes"], &[]),
                &[sign, client],
                Err("subject common name does not begin with system:node:"),
            ),
            (
                KUBELET_CLIENT,
                request(node, &["system:nodes"], &dns),
                &[sign, client],
                Err("DNS subjectAltNames are not allowed"),
            ),
            (
                KUBELET_CLIENT,
                request(node, &["system:nodes"], &[]),
                &[sign, server],
                Err("usages did not match [client auth digital signature key encipherment]"),
            ),
            (KUBELET_SERVING, request(node, &["system:nodes"], &dns), &[sign, server], Ok(())),
            (
                KUBELET_SERVING,
                request(node, &["system:nodes"], &[]),
                &[sign, server],
                Err("DNS or IP subjectAltName is required"),
            ),
            (
                KUBELET_SERVING,
                request(node, &["system:nodes"], &mail),
                &[sign, server],
                Err("Email subjectAltNames are not allowed"),
            ),
            (CLIENT, request("bob", &["dev", "ops"], &[]), &[client], Ok(())),
            (
                CLIENT,
                request("bob", &[], &[]),
                &[sign],
                Err("missing required usage for client certificate: client auth"),
            ),
            (
                CLIENT,
                request("bob", &[], &[]),
                &[client, server],
                Err("invalid usage for client certificate: server auth"),
            ),
        ];
        for (signer, request, usages, expected) in table {
            assert_eq!(validate(signer, request, usages), expected.map_err(str::to_owned), "{signer} {request:?}");
        }
        assert!(validate("example.com/x", &request("bob", &[], &[]), &[client]).is_err());
    }

    #[test]
    fn durations_stay_in_bounds() {
        assert_eq!(grant(&["client auth"], None).seconds, LONGEST_S);
        assert_eq!(grant(&[], Some(1)).seconds, SHORTEST_S);
        assert_eq!(grant(&[], Some(3600)).seconds, 3600);
        assert_eq!(grant(&[], Some(i64::MAX)).seconds, LONGEST_S);
        assert_eq!(grant(&["digital signature", "server auth"], None).purposes, [Purpose::ServerAuth]);
    }
}
