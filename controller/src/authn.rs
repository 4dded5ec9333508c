//! Shell: from a request's credentials to an identity.
//!
//! ```text
//!   client certificate ──ok──▶ identity
//!          │ none, wrong
//!   bearer token ───────ok──▶ identity        service account, then bootstrap (OIDC and webhook come here)
//!          │ none, wrong
//!   anything wrong ────────▶ 401
//!          │ nothing shown
//!          ▼
//!   system:anonymous
//! ```
//! A credential that is presented and wrong never falls back to anonymous. Impersonation is applied after, see
//! [`impersonation`].

pub(crate) mod answer;
pub mod boards;
pub mod bootstrap_token;
pub mod claims;
pub mod impersonation;
pub(crate) mod objects;
pub mod token_request;
pub mod tokens;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bramble_store::Store;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::claims::Claims;
use self::objects::{Object, Objects};
use self::tokens::{TokenError, Tokens};
use crate::authz::review::{Problem, user_info};
use crate::identity::Identity;
use crate::object::time;
use crate::pki::authorities::Authorities;
use crate::pki::key::hex;
use crate::pki::tls::Vouched;

/// An object that is being deleted counts as gone this long after.
const DELETION_LEEWAY_S: i64 = 60;

/// WebSocket clients of browsers cannot send headers; they carry the token as a protocol of this prefix.
const WEBSOCKET_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The certificates that a client showed on its connection; clones share the judgement, which is made once for each set of
/// authorities. The handshake itself accepts any certificate whose key the client holds, so that a wrong one is answered with 401 as upstream does.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    chain: Arc<[CertificateDer<'static>]>,
    judged: Arc<Mutex<Option<Judgement>>>,
}

/// What a set of authorities says of a chain.
#[derive(Clone, Debug)]
struct Judgement {
    by: Arc<Authorities>,
    result: Result<Arc<Vouched>, String>,
}

impl PeerCertificate {
    /// A chain as presented, leaf first; never empty.
    pub fn new(chain: Vec<CertificateDer<'static>>) -> PeerCertificate {
        PeerCertificate { chain: chain.into(), judged: Arc::default() }
    }
}

/// Why a request has no identity. All of them are 401 `Unauthorized` to the client; the reason is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthnError {
    /// A client certificate that our authority does not vouch for.
    #[error("client certificate: {0}")]
    Certificate(String),
    /// A bearer token that no authenticator accepts.
    #[error("invalid bearer token{}{}", if .0.is_empty() { "" } else { ", " }, .0)]
    Token(String),
}

struct Shared {
    objects: Objects,
    trust: watch::Receiver<Arc<Authorities>>,
    tokens: Tokens,
    /// SHA-256 of the public keys that are shut out.
    revoked: watch::Sender<HashSet<[u8; 32]>>,
    clock: fn() -> Duration,
}

/// The chain of authenticators, and the issuer of tokens. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

impl Authenticator {
    /// Certificates by `trust`, tokens by `tokens`, and what tokens are bound to from the store.
    /// `clock` tells the time since 1970.
    pub fn new(
        store: Store,
        trust: watch::Receiver<Arc<Authorities>>,
        tokens: Tokens,
        clock: fn() -> Duration,
    ) -> Authenticator {
        let shared = Shared { objects: Objects(store), trust, tokens, revoked: watch::Sender::default(), clock };
        Authenticator { shared: Arc::new(shared) }
    }

    /// From now on certificates over these keys (SHA-256 of the SubjectPublicKeyInfo) are refused, and no others.
    pub fn shut_out_only(&self, key_hashes: HashSet<[u8; 32]>) {
        self.shared.revoked.send_if_modified(|known| {
            *known != key_hashes && {
                *known = key_hashes;
                true
            }
        });
    }

    /// Returns when the key of this client comes to be shut out: what it has open ends then. Who comes later is told.
    pub async fn shut_out(&self, peer: &PeerCertificate) {
        if let Ok(vouched) = self.judged(peer) {
            let mut revoked = self.shared.revoked.subscribe();
            let is_shut_out = |keys: &HashSet<[u8; 32]>| keys.contains(&vouched.key_hash);
            if !is_shut_out(&revoked.borrow_and_update()) && revoked.wait_for(is_shut_out).await.is_ok() {
                return;
            }
        }
        std::future::pending().await
    }

    /// The identity behind a request: of its client certificate, of its bearer token, or anonymous without either.
    pub async fn authenticate(
        &self,
        headers: &http::HeaderMap,
        peer: Option<&PeerCertificate>,
    ) -> Result<Identity, AuthnError> {
        let by_certificate = peer.map(|peer| self.by_certificate(peer));
        if let Some(Ok(identity)) = by_certificate {
            return Ok(identity);
        }
        let by_token = match bearer(headers) {
            Some(token) => Some(self.by_token(&token, &[]).await.map(|(identity, _)| identity)),
            None => None,
        };
        match (by_token, by_certificate) {
            (Some(Ok(identity)), _) => Ok(identity),
            (Some(Err(error)), _) | (None, Some(Err(error))) => Err(error),
            (None, _) => Ok(Identity::anonymous()),
        }
    }

    /// Evaluates a TokenReview and returns it with its status.
    pub async fn review(&self, review: &Value) -> Result<Value, Problem> {
        let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
        if token.is_empty() {
            return Err(Problem::BadRequest("token is required for TokenReview in authentication".into()));
        }
        let asked = review.pointer("/spec/audiences").and_then(Value::as_array);
        let asked: Vec<&str> = asked.into_iter().flatten().filter_map(Value::as_str).collect();
        let status = match self.by_token(token, &asked).await {
            Ok((identity, audiences)) => {
                json!({"authenticated": true, "user": user_info(&identity), "audiences": audiences})
            }
            Err(error) => json!({"user": {}, "error": format!("[{error}]")}),
        };
        let mut out = review.clone();
        if let Some(out) = out.as_object_mut() {
            out.insert("status".into(), status);
        }
        Ok(out)
    }

    /// The issuer of service-account tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    fn objects(&self) -> &Objects {
        &self.shared.objects
    }

    fn now(&self) -> i64 {
        i64::try_from((self.shared.clock)().as_secs()).unwrap_or(i64::MAX)
    }

    fn by_certificate(&self, peer: &PeerCertificate) -> Result<Identity, AuthnError> {
        let vouched = self.judged(peer).map_err(AuthnError::Certificate)?;
        if self.shared.revoked.borrow().contains(&vouched.key_hash) {
            return Err(AuthnError::Certificate("revoked".into()));
        }
        let credential = vec![format!("X509SHA256={}", hex(&vouched.fingerprint))];
        let mut extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), credential)]);
        let mut groups = vouched.groups.clone();
        if self.now() <= vouched.not_after {
            groups.push("system:authenticated".into());
        } else if vouched.is_board() {
            // However long ago: it holds the key that we signed for this node, and may have the same signed again.
            groups = vec![boards::EXPIRED.into()];
            extra.insert(boards::KEY.to_owned(), vec![hex(&vouched.key_hash)]);
        } else {
            return Err(AuthnError::Certificate("expired".into()));
        }
        Ok(Identity { name: vouched.name.clone(), uid: String::new(), groups, extra })
    }

    fn judged(&self, peer: &PeerCertificate) -> Result<Arc<Vouched>, String> {
        let by = self.shared.trust.borrow().clone();
        let mut judged = peer.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = judged.as_ref().filter(|known| Arc::ptr_eq(&known.by, &by)) {
            return known.result.clone();
        }
        let result = by.judge(&peer.chain, self.now()).map(Arc::new);
        *judged = Some(Judgement { by, result: result.clone() });
        result
    }

    /// Who shows the token, and for which of the asked audiences (none asked: our own).
    async fn by_token(&self, token: &str, asked: &[&str]) -> Result<(Identity, Vec<String>), AuthnError> {
        let own = self.tokens().issuer();
        let asked = if asked.is_empty() { vec![own] } else { asked.to_vec() };
        match self.tokens().verify(token, self.now()) {
            Ok(claims) => {
                let held: &[String] = if claims.is_legacy() { &[own.to_owned()] } else { &claims.audiences };
                let common: Vec<String> = asked
                    .iter()
                    .filter(|audience| held.iter().any(|own| own == *audience))
                    .map(|a| (*a).to_owned())
                    .collect();
                if common.is_empty() {
                    return Err(AuthnError::Token(format!(
                        "token audiences {held:?} is invalid for the target audiences {asked:?}"
                    )));
                }
                self.check_bound(&claims, token).await.map_err(AuthnError::Token)?;
                Ok((identity_of(&claims), common))
            }
            Err(TokenError::Foreign) => {
                let identity = self.by_bootstrap_token(token).await?;
                Ok((identity, if asked.contains(&own) { vec![own.to_owned()] } else { Vec::new() }))
            }
            Err(error) => Err(AuthnError::Token(error.to_string())),
        }
    }

    async fn by_bootstrap_token(&self, token: &str) -> Result<Identity, AuthnError> {
        let unknown = || AuthnError::Token(String::new());
        let (id, _) = bootstrap_token::split(token).ok_or_else(unknown)?;
        let found = self.objects().get("secrets", "kube-system", &bootstrap_token::secret_name(id)).await;
        let found = found.map_err(|error| AuthnError::Token(error.to_string()))?;
        let Some(secret) = found else {
            tracing::info!(
                token_id = id,
                "a bootstrap token was refused: it is not known, or has expired or been revoked"
            );
            return Err(unknown());
        };
        bootstrap_token::authenticate(token, &secret.0, self.now()).map_err(|reason| {
            tracing::info!(token_id = id, reason, "a bootstrap token was refused");
            unknown()
        })
    }

    /// Whether everything that the token is bound to still exists, as the same object.
    async fn check_bound(&self, claims: &Claims, token: &str) -> Result<(), String> {
        let namespace = &claims.namespace;
        let account = self.existing("serviceaccounts", namespace, &claims.service_account.name).await?;
        let account = account.ok_or_else(|| format!("serviceaccounts {:?} not found", claims.service_account.name))?;
        if account.uid() != claims.service_account.uid {
            let (is, told) = (account.uid(), &claims.service_account.uid);
            return Err(format!("service account UID ({is}) does not match claim ({told})"));
        }
        let bound_to_node = claims.node.as_ref().filter(|_| claims.pod.is_none());
        let bound = [("pods", &**namespace, claims.pod.as_ref()), ("nodes", "", bound_to_node)];
        let secret = ("secrets", &**namespace, claims.secret.as_ref());
        for (resource, namespace, reference) in bound.into_iter().chain([secret]) {
            let Some(reference) = reference else { continue };
            let found = self.existing(resource, namespace, &reference.name).await?;
            let object = found.ok_or("service account token has been invalidated")?;
            if claims.is_legacy() {
                let stored = bootstrap_token::data(&object.0, "token");
                if !constant_time_eq(stored.as_bytes(), token.as_bytes()) {
                    return Err("token does not match its Secret".into());
                }
            } else if object.uid() != reference.uid {
                let (is, told) = (object.uid(), &reference.uid);
                return Err(format!("{resource} UID ({is}) does not match service account ref claim ({told})"));
            }
        }
        Ok(())
    }

    /// The object, unless it is gone or has been on its way out for a while.
    async fn existing(&self, resource: &str, namespace: &str, name: &str) -> Result<Option<Object>, String> {
        let found = self.objects().get(resource, namespace, name).await.map_err(|error| error.to_string())?;
        let gone_before = self.now() - DELETION_LEEWAY_S;
        Ok(found.filter(|object| {
            object.deletion_timestamp().and_then(time::parse).is_none_or(|deleted_at| deleted_at >= gone_before)
        }))
    }
}

/// Whether two secrets are equal, in a time that does not depend on where they differ.
pub(crate) fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | std::hint::black_box(a ^ b)) == 0
}

fn identity_of(claims: &Claims) -> Identity {
    let mut identity = Identity::service_account(&claims.namespace, &claims.service_account.name);
    identity.uid = claims.service_account.uid.clone();
    let mut tell = |key: &str, value: &str| {
        if !value.is_empty() {
            identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.id.is_empty() {
        tell("credential-id", &format!("JTI={}", claims.id));
    }
    for (kind, reference) in [("pod", &claims.pod), ("node", &claims.node)] {
        if let Some(reference) = reference {
            tell(&format!("{kind}-name"), &reference.name);
            tell(&format!("{kind}-uid"), &reference.uid);
        }
    }
    identity
}

/// The bearer token of a request: of `Authorization`, or of a WebSocket protocol.
fn bearer(headers: &http::HeaderMap) -> Option<String> {
    let authorization = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = authorization.and_then(|value| value.trim().split_once(' ')) {
        let token = token.trim();
        if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
            return Some(token.to_owned());
        }
    }
    let protocols = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered = protocols.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let encoded = offered.find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_PREFIX))?;
    let token = BASE64_URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(token).ok()
}

#[cfg(test)]
mod tests;
