//! Pure: the admission plugins CertificateApproval, CertificateSigning and CertificateSubjectRestriction, and who asks.

use serde_json::{Value, json};

use super::restriction::Operation;
use super::review::user_info;
use super::{Attributes, Authorizer};
use crate::identity::Identity;
use crate::pki::request::Request;
use crate::pki::signer::CLIENT;

/// The API group of certificate requests.
const GROUP: &str = "certificates.k8s.io";

impl Authorizer {
    /// Whether the identity may write this CertificateSigningRequest in this way: nobody asks for `system:masters`, approving
    /// and signing need the verbs `approve` and `sign` on the signer. The error is the message behind `... is forbidden: `.
    pub fn may_certify(
        &self,
        identity: &Identity,
        attributes: &Attributes,
        operation: Operation,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), String> {
        if attributes.api_group != GROUP || attributes.resource != "certificatesigningrequests" {
            return Ok(());
        }
        let signer = text(old.unwrap_or(object), "/spec/signerName");
        match (operation, &*attributes.subresource) {
            (Operation::Create, "") => not_for_masters(object),
            (Operation::Update, "approval") if !self.may_use(identity, "approve", signer) => {
                Err(format!("user not permitted to approve requests with signerName {signer:?}"))
            }
            (Operation::Update, "status") if signs(object, old) && !self.may_use(identity, "sign", signer) => {
                Err(format!("user not permitted to sign requests with signerName {signer:?}"))
            }
            _ => Ok(()),
        }
    }

    /// For the signer itself, or for all of its domain: `example.com/*`.
    fn may_use(&self, identity: &Identity, verb: &str, signer: &str) -> bool {
        let domain = signer.split_once('/').map_or("", |(domain, _)| domain);
        [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
            let attributes = Attributes {
                verb: verb.into(),
                api_group: GROUP.into(),
                api_version: "*".into(),
                resource: "signers".into(),
                name,
                ..Attributes::default()
            };
            self.authorize(identity, &attributes).is_allowed()
        })
    }
}

/// Writes who asks into a new CertificateSigningRequest, whatever it said before: approval trusts these fields.
pub fn stamp(identity: &Identity, object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    if let Value::Object(user) = user_info(identity) {
        spec.extend(user);
    }
    spec.entry("username").or_insert_with(|| json!(""));
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn not_for_masters(object: &Value) -> Result<(), String> {
    if text(object, "/spec/signerName") != CLIENT {
        return Ok(());
    }
    let request =
        Request::from_base64(text(object, "/spec/request")).map_err(|error| format!("unable to parse csr: {error}"))?;
    if request.organizations.iter().any(|group| group == "system:masters") {
        return Err(format!("use of {CLIENT} signer with system:masters group is not allowed"));
    }
    Ok(())
}

fn signs(object: &Value, old: Option<&Value>) -> bool {
    let part = |object: Option<&Value>, pointer: &str| object.and_then(|object| object.pointer(pointer)).cloned();
    ["/status/certificate", "/status/conditions"]
        .iter()
        .any(|pointer| part(Some(object), pointer) != part(old, pointer))
}

#[cfg(test)]
mod tests {
    use base64::Engine;

    use super::*;
    use crate::pki::tests::request;

    fn authorizer() -> Authorizer {
        let authorizer = Authorizer::new();
        let rules = |verb: &str, signer: &str| json!({"rules": [{"verbs": [verb], "apiGroups": [GROUP], "resources": ["signers"], "resourceNames": [signer]}]});
        let bind = |role: &str, user: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": user}]});
        authorizer.put("clusterroles", "", "approve", &rules("approve", "example.com/*"));
        authorizer.put("clusterroles", "", "sign", &rules("sign", "example.com/own"));
        authorizer.put("clusterrolebindings", "", "1", &bind("approve", "ann"));
        authorizer.put("clusterrolebindings", "", "2", &bind("sign", "bot"));
        authorizer
    }

    fn on(subresource: &str) -> Attributes {
        Attributes {
            api_group: GROUP.into(),
            resource: "certificatesigningrequests".into(),
            subresource: subresource.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn approving_and_signing_need_their_verbs() {
        let old = json!({"spec": {"signerName": "example.com/own"}});
        let signed = json!({"spec": {"signerName": "example.com/own"}, "status": {"certificate": "x"}});
        let may = |user: &str, part: &str, object: &Value| {
            authorizer().may_certify(&Identity::user(user, &[]), &on(part), Operation::Update, object, Some(&old))
        };
        assert_eq!(may("ann", "approval", &old), Ok(()));
        assert_eq!(
            may("bot", "approval", &old),
            Err("user not permitted to approve requests with signerName \"example.com/own\"".into())
        );
        assert_eq!(may("bot", "status", &signed), Ok(()));
        assert_eq!(
            may("ann", "status", &signed),
            Err("user not permitted to sign requests with signerName \"example.com/own\"".into())
        );
        assert_eq!(may("ann", "status", &old), Ok(()));
    }

    #[test]
    fn nobody_asks_to_be_a_master() {
        let csr = |groups: &[&str]| {
            let pem = base64::prelude::BASE64_STANDARD.encode(request("eve", groups, &[]));
            json!({"spec": {"signerName": CLIENT, "request": pem}})
        };
        let may = |object: &Value| {
            authorizer().may_certify(&Identity::user("eve", &[]), &on(""), Operation::Create, object, None)
        };
        assert_eq!(may(&csr(&["dev"])), Ok(()));
        assert_eq!(
            may(&csr(&["system:masters"])),
            Err("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed".into())
        );
    }

    #[test]
    fn who_asks_is_written_by_us() {
        let mut object = json!({"spec": {"username": "system:node:pi-1", "groups": ["system:masters"], "uid": "x"}});
        stamp(&Identity::user("eve", &["dev"]), &mut object);
        assert_eq!(object["spec"], json!({"username": "eve", "groups": ["dev", "system:authenticated"]}));
    }
}
