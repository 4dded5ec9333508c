//! Pure: continue tokens: where a list goes on, and at which revision.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::registry::status::{Answer, ApiError};

/// Where the next page starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The revision of the first page; `None` continues at the newest (an inconsistent continuation).
    pub(crate) revision: Option<u64>,
    /// The last key told.
    pub(crate) after: String,
}

impl Token {
    /// As the client carries it; upstream's layout.
    pub(crate) fn encode(&self) -> String {
        let revision = self.revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": self.after}).to_string())
    }

    /// From a client.
    pub(crate) fn decode(text: &str, prefix: &str) -> Answer<Self> {
        let invalid = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| invalid(&error.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
        if value["v"] != "meta.k8s.io/v1" {
            return Err(invalid("server does not recognize this encoded version"));
        }
        let after = value["start"].as_str().filter(|key| key.starts_with(prefix)).ok_or_else(|| invalid("start"))?;
        let revision = value["rv"].as_i64().ok_or_else(|| invalid("rv"))?;
        if revision == 0 {
            return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        Ok(Self { revision: u64::try_from(revision).ok(), after: after.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_other_lists() {
        for revision in [Some(7), None] {
            let token = Token { revision, after: "pods/a/b".into() };
            assert_eq!(Token::decode(&token.encode(), "pods/").unwrap(), token);
            assert_eq!(Token::decode(&token.encode(), "nodes/").unwrap_err().code, 400);
        }
        assert_eq!(Token::decode("!", "").unwrap_err().code, 400);
    }
}
