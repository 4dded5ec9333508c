//! Pure: what a service-account token says, and whether it still holds at a time.

use serde_json::{Map, Value, json};

/// Clocks may differ by so much.
const LEEWAY_S: i64 = 60;

/// The issuer of tokens kept in Secrets of type `kubernetes.io/service-account-token`.
pub(crate) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`; empty where it is not known.
    pub uid: String,
}

/// The claims of a service-account token, upstream's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// `iss`
    pub issuer: String,
    /// `aud`
    pub audiences: Vec<String>,
    /// `iat` and `nbf`, seconds since 1970.
    pub issued_at: i64,
    /// `exp`; 0 for a legacy token, which lives as long as its Secret.
    pub expires_at: i64,
    /// `jti`
    pub id: String,
    /// The service account's namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: Reference,
    /// Bound to this pod.
    pub pod: Option<Reference>,
    /// Bound to this Secret.
    pub secret: Option<Reference>,
    /// Bound to this node, or the node of the pod.
    pub node: Option<Reference>,
    /// From here on the holder should have renewed.
    pub warn_after: Option<i64>,
}

/// Why claims do not hold, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Not the JSON that it should be.
    #[error("service account token claims could not be read")]
    Malformed,
    /// `exp` has passed.
    #[error("service account token has expired")]
    Expired,
    /// `nbf` is ahead.
    #[error("service account token is not valid yet")]
    NotYet,
}

impl Claims {
    /// Whether this is a token of a Secret, without audience and end.
    pub fn is_legacy(&self) -> bool {
        self.issuer == LEGACY_ISSUER
    }

    /// The payload of the token.
    pub fn to_json(&self) -> Value {
        let subject = format!("system:serviceaccount:{}:{}", self.namespace, self.service_account.name);
        if self.is_legacy() {
            return json!({
                "iss": LEGACY_ISSUER,
                "kubernetes.io/serviceaccount/namespace": self.namespace,
                "kubernetes.io/serviceaccount/secret.name": self.secret.as_ref().map_or("", |secret| &secret.name),
                "kubernetes.io/serviceaccount/service-account.name": self.service_account.name,
                "kubernetes.io/serviceaccount/service-account.uid": self.service_account.uid,
                "sub": subject,
            });
        }
        let mut bound = Map::new();
        bound.insert("namespace".into(), json!(self.namespace));
        for (field, reference) in [("node", &self.node), ("pod", &self.pod), ("secret", &self.secret)] {
            if let Some(reference) = reference {
                bound.insert(field.into(), reference.to_json());
            }
        }
        bound.insert("serviceaccount".into(), self.service_account.to_json());
        if let Some(at) = self.warn_after {
            bound.insert("warnafter".into(), json!(at));
        }
        json!({"aud": self.audiences, "exp": self.expires_at, "iat": self.issued_at, "iss": self.issuer, "jti": self.id,
            "kubernetes.io": bound, "nbf": self.issued_at, "sub": subject})
    }

    /// From the payload of a token whose signature has been verified.
    pub fn from_json(payload: &Value) -> Result<Claims, ClaimsError> {
        let text = |field: &str| payload.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let seconds = |field: &str| payload.get(field).and_then(Value::as_f64).map(|value| value as i64);
        let issuer = text("iss");
        if issuer == LEGACY_ISSUER {
            let own = |field: &str| text(&format!("kubernetes.io/serviceaccount/{field}"));
            let service_account = Reference { name: own("service-account.name"), uid: own("service-account.uid") };
            let secret = Some(Reference { name: own("secret.name"), uid: String::new() });
            return Claims { issuer, namespace: own("namespace"), service_account, secret, ..Claims::default() }
                .complete();
        }
        let bound = payload.get("kubernetes.io").ok_or(ClaimsError::Malformed)?;
        let audiences = match payload.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        Claims {
            issuer,
            audiences,
            issued_at: seconds("nbf").or_else(|| seconds("iat")).unwrap_or_default(),
            expires_at: seconds("exp").ok_or(ClaimsError::Malformed)?,
            id: text("jti"),
            namespace: bound.get("namespace").and_then(Value::as_str).unwrap_or_default().to_owned(),
            service_account: Reference::from_json(bound.get("serviceaccount")).ok_or(ClaimsError::Malformed)?,
            pod: Reference::from_json(bound.get("pod")),
            secret: Reference::from_json(bound.get("secret")),
            node: Reference::from_json(bound.get("node")),
            warn_after: bound.get("warnafter").and_then(Value::as_i64),
        }
        .complete()
    }

    /// Whether the token holds at `now`, seconds since 1970.
    pub fn check_time(&self, now: i64) -> Result<(), ClaimsError> {
        if self.is_legacy() {
            Ok(())
        } else if now > self.expires_at + LEEWAY_S {
            Err(ClaimsError::Expired)
        } else if now < self.issued_at - LEEWAY_S {
            Err(ClaimsError::NotYet)
        } else {
            Ok(())
        }
    }

    fn complete(self) -> Result<Claims, ClaimsError> {
        let whole = !self.namespace.is_empty() && !self.service_account.name.is_empty();
        if whole { Ok(self) } else { Err(ClaimsError::Malformed) }
    }
}

impl Reference {
    fn to_json(&self) -> Value {
        if self.uid.is_empty() { json!({"name": self.name}) } else { json!({"name": self.name, "uid": self.uid}) }
    }

    fn from_json(value: Option<&Value>) -> Option<Reference> {
        let value = value?;
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Reference { name: text("name"), uid: text("uid") }).filter(|reference| !reference.name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound() -> Claims {
        Claims {
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            audiences: vec!["a".into()],
            issued_at: 1000,
            expires_at: 4600,
            id: "j".into(),
            namespace: "blue".into(),
            service_account: Reference { name: "bot".into(), uid: "s1".into() },
            pod: Some(Reference { name: "web".into(), uid: "p1".into() }),
            node: Some(Reference { name: "pi-1".into(), uid: String::new() }),
            secret: None,
            warn_after: Some(3000),
        }
    }

    #[test]
    fn claims_are_upstreams_and_come_back() {
        let json = bound().to_json();
        assert_eq!(json["sub"], "system:serviceaccount:blue:bot");
        assert_eq!(
            json["kubernetes.io"],
            json!({"namespace": "blue", "node": {"name": "pi-1"}, "pod": {"name": "web", "uid": "p1"},
                "serviceaccount": {"name": "bot", "uid": "s1"}, "warnafter": 3000})
        );
        assert_eq!(Claims::from_json(&json), Ok(bound()));
        let legacy = Claims {
            issuer: LEGACY_ISSUER.into(),
            namespace: "blue".into(),
            service_account: Reference { name: "bot".into(), uid: "s1".into() },
            secret: Some(Reference { name: "bot-token".into(), uid: String::new() }),
            ..Claims::default()
        };
        assert_eq!(Claims::from_json(&legacy.to_json()), Ok(legacy));
        assert_eq!(Claims::from_json(&json!({"iss": "x", "exp": 1})), Err(ClaimsError::Malformed));
    }

    #[test]
    fn time_has_a_leeway_of_a_minute() {
        for (now, expected) in
            [(939, Err(ClaimsError::NotYet)), (940, Ok(())), (4660, Ok(())), (4661, Err(ClaimsError::Expired))]
        {
            assert_eq!(bound().check_time(now), expected, "{now}");
        }
    }
}
