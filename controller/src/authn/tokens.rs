//! Shell: service-account tokens are signed and their signatures verified here (ES256, RFC 7515 and 7518).

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::claims::{Claims, LEGACY_ISSUER};
use crate::pki::key::{Key, hex, random};
use crate::pki::{Pki, PkiError};

/// The largest token that is looked at; ours are below 1.5 KB.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// A token or another secret that is shown only where it is meant to be.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself: for the one who may have it, never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Issues and verifies service-account tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Newest first; they change while the server runs.
    keys: watch::Receiver<Arc<[Arc<Key>]>>,
    issuer: Arc<str>,
}

/// Why a bearer token is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT of our issuer: perhaps somebody else's.
    #[error("not a service account token")]
    Foreign,
    /// It claims to be ours and is signed by none of our keys.
    #[error("invalid signature")]
    Signature,
    /// The claims do not hold.
    #[error(transparent)]
    Claims(#[from] super::claims::ClaimsError),
}

impl Tokens {
    /// With the service-account keys of the authority; the issuer is `https://kubernetes.default.svc.<cluster domain>`.
    pub fn new(pki: &Pki, cluster_domain: &str) -> Tokens {
        let issuer = format!("https://kubernetes.default.svc.{cluster_domain}");
        Tokens { keys: pki.follow_token_keys(), issuer: issuer.into() }
    }

    /// `iss`, and the audience of the API server itself.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs claims. Issuer and id are filled in.
    pub fn issue(&self, mut claims: Claims) -> Result<Secret, PkiError> {
        claims.issuer = self.issuer.to_string();
        claims.id = uuid(random()?);
        self.sign(&claims)
    }

    /// A token without end for a Secret of type `kubernetes.io/service-account-token`.
    pub fn issue_legacy(&self, namespace: &str, account: (&str, &str), secret: &str) -> Result<Secret, PkiError> {
        let reference = |name: &str, uid: &str| super::claims::Reference { name: name.into(), uid: uid.into() };
        self.sign(&Claims {
            issuer: LEGACY_ISSUER.into(),
            namespace: namespace.into(),
            service_account: reference(account.0, account.1),
            secret: Some(reference(secret, "")),
            ..Claims::default()
        })
    }

    fn sign(&self, claims: &Claims) -> Result<Secret, PkiError> {
        let keys = self.keys.borrow().clone();
        let key = keys.first().ok_or_else(|| PkiError::Key("there is no service-account key".into()))?;
        let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "ES256", "kid": key.id()});
        let message = format!("{}.{}", encode(header), encode(claims.to_json()));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign_fixed(message.as_bytes())?);
        Ok(Secret(format!("{message}.{signature}")))
    }

    /// The claims of a token that one of our keys signed and that holds at `now`. Whether what it is bound to still exists is
    /// the caller's to ask.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Foreign);
        };
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Foreign);
        }
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Foreign);
        let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| TokenError::Foreign);
        let (header, payload_json) = (json(header)?, json(payload)?);
        let issuer = payload_json.get("iss").and_then(Value::as_str).unwrap_or_default();
        if issuer != &*self.issuer && issuer != LEGACY_ISSUER {
            return Err(TokenError::Foreign);
        }
        if header.get("alg").and_then(Value::as_str) != Some("ES256") {
            return Err(TokenError::Signature);
        }
        let kid = header.get("kid").and_then(Value::as_str);
        let signature = decode(signature)?;
        let message = &token.as_bytes()[..token.rfind('.').unwrap_or_default()];
        let keys = self.keys.borrow().clone();
        let signed = keys.iter().filter(|key| kid.is_none_or(|kid| key.id() == kid)).any(|key| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point()).verify(message, &signature).is_ok()
        });
        if !signed {
            return Err(TokenError::Signature);
        }
        let claims = Claims::from_json(&payload_json)?;
        claims.check_time(now)?;
        Ok(claims)
    }

    /// `/openid/v1/jwks`: the public keys that verify.
    pub fn jwks(&self) -> Value {
        let keys = self.keys.borrow().clone();
        let keys = keys.iter().map(|key| {
            // An uncompressed point is 0x04, x, y.
            let (x, y) = key.point()[1..].split_at(32);
            json!({"use": "sig", "kty": "EC", "kid": key.id(), "crv": "P-256", "alg": "ES256",
                "x": BASE64_URL_SAFE_NO_PAD.encode(x), "y": BASE64_URL_SAFE_NO_PAD.encode(y)})
        });
        json!({"keys": keys.collect::<Vec<_>>()})
    }

    /// `/.well-known/openid-configuration`, with the API server's advertised address.
    pub fn discovery(&self, advertised: std::net::SocketAddr) -> Value {
        json!({"issuer": &*self.issuer, "jwks_uri": format!("https://{advertised}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]})
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use super::super::claims::Reference;
    use super::*;
    use crate::pki::Renewal;
    use crate::pki::tests::Dir;

    const NOW: i64 = 1_800_000_000;

    fn claims() -> Claims {
        Claims {
            audiences: vec!["vault".into()],
            issued_at: NOW,
            expires_at: NOW + 600,
            namespace: "blue".into(),
            service_account: Reference { name: "bot".into(), uid: "s1".into() },
            ..Claims::default()
        }
    }

    /// The check that any OpenID Connect client makes: with nothing but the published keys.
    fn verified_by_published_keys(token: &str, jwks: &Value) -> bool {
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let header: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
        let keys = jwks["keys"].as_array().unwrap();
        let key = keys.iter().find(|key| key["kid"] == header["kid"]).unwrap();
        let point = [vec![4], decode(key["x"].as_str().unwrap()), decode(key["y"].as_str().unwrap())].concat();
        // rustls' verifier is another path than the one under test: ASN.1 signature over the SubjectPublicKeyInfo's point.
        let fixed = decode(parts[2]);
        let integer = |bytes: &[u8]| {
            let mut bytes: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
            if bytes[0] & 0x80 != 0 {
                bytes.insert(0, 0);
            }
            [vec![2, bytes.len() as u8], bytes].concat()
        };
        let body = [integer(&fixed[..32]), integer(&fixed[32..])].concat();
        let signature = [vec![0x30, body.len() as u8], body].concat();
        let message = format!("{}.{}", parts[0], parts[1]);
        let algorithm = &ring::signature::ECDSA_P256_SHA256_ASN1;
        UnparsedPublicKey::new(algorithm, point).verify(message.as_bytes(), &signature).is_ok()
    }

    #[test]
    fn a_token_is_verified_by_us_and_by_the_published_keys() {
        let dir = Dir::new("tokens");
        let pki = Pki::open(&dir.0, NOW).unwrap();
        let tokens = Tokens::new(&pki, "cluster.local");
        let token = tokens.issue(claims()).unwrap();
        let found = tokens.verify(token.reveal(), NOW + 1).unwrap();
        assert_eq!(found.service_account.uid, "s1");
        assert_eq!((found.issuer.as_str(), found.id.len()), (tokens.issuer(), 36));
        assert!(verified_by_published_keys(token.reveal(), &tokens.jwks()));
        assert_eq!(tokens.verify(token.reveal(), NOW + 700), Err(super::super::claims::ClaimsError::Expired.into()));
        assert!(!format!("{token:?} {tokens:?}").contains(&token.reveal()[..20]));
    }

    #[test]
    fn a_changed_token_is_refused() {
        let dir = Dir::new("forged");
        let tokens = Tokens::new(&Pki::open(&dir.0, NOW).unwrap(), "cluster.local");
        let token = tokens.issue(claims()).unwrap();
        let parts: Vec<&str> = token.reveal().split('.').collect();
        let other = Claims { namespace: "kube-system".into(), issuer: tokens.issuer().into(), ..claims() };
        let payload = BASE64_URL_SAFE_NO_PAD.encode(other.to_json().to_string());
        let forged = format!("{}.{payload}.{}", parts[0], parts[2]);
        assert_eq!(tokens.verify(&forged, NOW), Err(TokenError::Signature));
        let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(tokens.verify(&format!("{none}.{payload}."), NOW), Err(TokenError::Signature));
        assert_eq!(tokens.verify("abc", NOW), Err(TokenError::Foreign));
        let stranger = Dir::new("stranger");
        let theirs = Tokens::new(&Pki::open(&stranger.0, NOW).unwrap(), "cluster.local").issue(claims()).unwrap();
        assert_eq!(tokens.verify(theirs.reveal(), NOW), Err(TokenError::Signature));
    }

    #[test]
    fn tokens_of_a_former_key_still_hold_after_rotation() {
        let dir = Dir::new("rotation");
        let pki = Pki::open(&dir.0, NOW).unwrap();
        let tokens = Tokens::new(&pki, "cluster.local");
        let old = tokens.issue(claims()).unwrap();
        pki.take(&pki.renewed(Renewal::Leaves, NOW).unwrap(), NOW).unwrap();
        let next_run = Tokens::new(&Pki::open(&dir.0, NOW).unwrap(), "cluster.local");
        for tokens in [tokens, next_run] {
            assert!(tokens.verify(old.reveal(), NOW).is_ok());
            let new = tokens.issue(claims()).unwrap();
            assert!(verified_by_published_keys(new.reveal(), &tokens.jwks()));
            let header = |token: &Secret| token.reveal().split('.').next().unwrap().to_owned();
            assert_ne!(header(&old), header(&new));
        }
    }
}
