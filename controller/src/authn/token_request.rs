//! Shell: `POST serviceaccounts/<name>/token`: a token bound to an audience, a time and perhaps an object.

use serde_json::{Value, json};

use super::Authenticator;
use super::claims::{Claims, Reference};
use super::objects::Object;
use crate::object::time;
use crate::pki::PkiError;

/// The shortest life of a token.
const SHORTEST_S: i64 = 600;
/// The longest, as the API has it.
const LONGEST_S: i64 = 1 << 32;
/// What is given when nothing is asked.
const USUAL_S: i64 = 3600;
/// What a projected volume asks for when nobody chose: such tokens live on for a year, and holders that do not renew are
/// noticed by `warnafter` (KEP 1205).
const EXTENDED_WHEN_S: i64 = 3607;
/// The extended life.
const EXTENDED_S: i64 = 365 * 86_400;

/// Why no token is issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// 404: `<resource> "<name>" not found`.
    #[error("{resource} {name:?} not found")]
    NotFound {
        /// The plural.
        resource: &'static str,
        /// The name.
        name: String,
    },
    /// 400 with this message.
    #[error("{0}")]
    BadRequest(String),
    /// 422 for kind TokenRequest: field, value, detail.
    #[error("{field}: Invalid value: {value}: {detail}")]
    Invalid {
        /// `spec.expirationSeconds`
        field: &'static str,
        /// The value as JSON.
        value: Value,
        /// Upstream's detail.
        detail: &'static str,
    },
    /// 409 for the named object: resource, name, reason.
    #[error("Operation cannot be fulfilled on {resource} {name:?}: {detail}")]
    Conflict {
        /// The plural, or the kind where upstream says it.
        resource: String,
        /// The name.
        name: String,
        /// Upstream's detail.
        detail: String,
    },
    /// 500.
    #[error("failed to generate token")]
    Sign(#[source] PkiError),
    /// 500.
    #[error("the store")]
    Store(#[source] bramble_store::ReadError),
}

/// What a token is bound to besides its service account.
#[derive(Default)]
struct Bound {
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
}

impl Authenticator {
    /// Issues the token that a TokenRequest for a service account asks for; returns the TokenRequest with its status.
    /// Authorisation and admission have happened.
    pub async fn issue_token(&self, namespace: &str, name: &str, request: &Value) -> Result<Value, IssueError> {
        let account = self.find("serviceaccounts", namespace, name).await?;
        check_metadata(namespace, name, &account, request)?;
        let now = self.now();
        let spec = request.get("spec");
        let asked = spec.and_then(|spec| spec.get("expirationSeconds")).and_then(Value::as_i64).unwrap_or(USUAL_S);
        check_expiration(asked)?;
        let bound = match spec.and_then(|spec| spec.get("boundObjectRef")).filter(|reference| !reference.is_null()) {
            Some(reference) => self.bound(namespace, name, reference).await?,
            None => Bound::default(),
        };
        let own = self.tokens().issuer().to_owned();
        let audiences: Vec<String> = spec
            .and_then(|spec| spec.get("audiences"))
            .and_then(Value::as_array)
            .map_or_else(Vec::new, |list| list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect());
        let audiences = if audiences.is_empty() { vec![own.clone()] } else { audiences };
        let extended =
            asked == EXTENDED_WHEN_S && bound.pod.is_some() && audiences.iter().all(|audience| *audience == own);
        let claims = Claims {
            audiences: audiences.clone(),
            issued_at: now,
            expires_at: now + if extended { EXTENDED_S } else { asked },
            namespace: namespace.to_owned(),
            service_account: Reference { name: name.to_owned(), uid: account.uid().to_owned() },
            pod: bound.pod,
            secret: bound.secret,
            node: bound.node,
            warn_after: extended.then_some(now + asked),
            ..Claims::default()
        };
        let token = self.tokens().issue(claims).map_err(IssueError::Sign)?;
        let mut spec = spec.cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
        spec["audiences"] = json!(audiences);
        spec["expirationSeconds"] = json!(asked);
        spec.as_object_mut().map(|spec| spec.entry("boundObjectRef").or_insert(Value::Null));
        Ok(json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "uid": account.uid(), "creationTimestamp": time::format(now)},
            "spec": spec,
            "status": {"token": token.reveal(), "expirationTimestamp": time::format(now + asked)},
        }))
    }

    async fn find(&self, resource: &'static str, namespace: &str, name: &str) -> Result<Object, IssueError> {
        let found = self.objects().get(resource, namespace, name).await.map_err(IssueError::Store)?;
        found.ok_or_else(|| IssueError::NotFound { resource, name: name.to_owned() })
    }

    async fn bound(&self, namespace: &str, account: &str, reference: &Value) -> Result<Bound, IssueError> {
        let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
        let mut bound = Bound::default();
        let (resource, uid) = match (version, kind) {
            ("v1", "Pod") => {
                let pod = self.find("pods", namespace, name).await?;
                if pod.text("/spec/serviceAccountName") != account {
                    return Err(IssueError::BadRequest(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                    )));
                }
                bound.node = match pod.text("/spec/nodeName") {
                    "" => None,
                    node => {
                        let found = self.objects().get("nodes", "", node).await.map_err(IssueError::Store)?;
                        let uid = found.map(|node| node.uid().to_owned()).unwrap_or_default();
                        Some(Reference { name: node.to_owned(), uid })
                    }
                };
                bound.pod = Some(pod.reference(name));
                ("pods", pod.uid().to_owned())
            }
            ("v1", "Node") => {
                let node = self.find("nodes", "", name).await?;
                bound.node = Some(node.reference(name));
                ("nodes", node.uid().to_owned())
            }
            ("v1", "Secret") => {
                let secret = self.find("secrets", namespace, name).await?;
                bound.secret = Some(secret.reference(name));
                ("secrets", secret.uid().to_owned())
            }
            _ => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                return Err(IssueError::BadRequest(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        let wanted = text("uid");
        if !wanted.is_empty() && wanted != uid {
            return Err(IssueError::Conflict {
                resource: resource.to_owned(),
                name: name.to_owned(),
                detail: format!(
                    "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            });
        }
        Ok(bound)
    }
}

fn check_metadata(namespace: &str, name: &str, account: &Object, request: &Value) -> Result<(), IssueError> {
    let told = |field: &str| {
        let value = request.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
        value.filter(|value| !value.is_empty())
    };
    let invalid = |field, value: &str, detail| Err(IssueError::Invalid { field, value: json!(value), detail });
    match (told("name"), told("namespace"), told("uid")) {
        (Some(other), _, _) if other != name => {
            invalid("metadata.name", other, "must match the service account name if specified")
        }
        (_, Some(other), _) if other != namespace => {
            invalid("metadata.namespace", other, "must match the service account namespace if specified")
        }
        (_, _, Some(other)) if other != account.uid() => Err(IssueError::Conflict {
            resource: "TokenRequest.authentication.k8s.io".into(),
            name: name.to_owned(),
            detail: format!(
                "the UID in the token request ({other}) does not match the UID of the service account ({})",
                account.uid()
            ),
        }),
        _ => Ok(()),
    }
}

fn check_expiration(seconds: i64) -> Result<(), IssueError> {
    let detail = if seconds < SHORTEST_S {
        "may not specify a duration less than 10 minutes"
    } else if seconds > LONGEST_S {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    Err(IssueError::Invalid { field: "spec.expirationSeconds", value: json!(seconds), detail })
}
