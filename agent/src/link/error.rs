//! Pure: what may go wrong with a request, by what the caller can do about it.

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answered, or the connection broke: try again later.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The server on the other side is not the one we trust.
    #[error("the API server is not trusted: {0}")]
    Untrusted(String),
    /// The server answered with a `metav1.Status`.
    #[error("{message}")]
    Status {
        /// The HTTP code.
        code: u16,
        /// `NotFound`, `Conflict`, `Expired`, ...
        reason: String,
        /// The server's message.
        message: String,
        /// When to come again, if the server said so.
        retry_after_s: Option<u64>,
    },
    /// The answer is not what the API promises.
    #[error("{path}: not JSON")]
    Malformed {
        /// The path that was asked.
        path: String,
        /// Where it stops being JSON.
        #[source]
        error: serde_json::Error,
    },
    /// The request cannot be expressed.
    #[error("bad request: {0}")]
    Request(String),
}

impl LinkError {
    /// Reads a `metav1.Status`, or makes one of what is there.
    pub(crate) fn from_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let parsed: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let retry_after_s =
            headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        let mut error = Self::from_status(&parsed, retry_after_s);
        if let Self::Status { code, message, .. } = &mut error {
            *code = status.as_u16();
            if message.is_empty() {
                let text = String::from_utf8_lossy(&body[..body.len().min(256)]);
                *message = format!("{status}: {}", text.trim());
            }
        }
        error
    }

    /// Reads the object of an `ERROR` event.
    pub(crate) fn from_status(status: &Value, retry_after_s: Option<u64>) -> Self {
        Self::Status {
            code: status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or_default(),
            reason: status["reason"].as_str().unwrap_or_default().to_owned(),
            message: status["message"].as_str().unwrap_or_default().to_owned(),
            retry_after_s: retry_after_s.or_else(|| status["details"]["retryAfterSeconds"].as_u64()),
        }
    }

    fn code(&self) -> u16 {
        match self {
            Self::Status { code, .. } => *code,
            _ => 0,
        }
    }

    fn has_reason(&self, wanted: &str) -> bool {
        matches!(self, Self::Status { reason, .. } if reason == wanted)
    }

    /// 404: there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// 409 because somebody wrote meanwhile.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == 409 && !self.is_already_exists()
    }

    /// 409 because it is there already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.has_reason("AlreadyExists")
    }

    /// 410: the history that was asked for is gone, so list again.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.code() == 410 || self.has_reason("Expired") || self.has_reason("Gone")
    }

    /// 401: the credentials are not accepted.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        self.code() == 401
    }

    /// 403: known, but not allowed.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == 403
    }

    /// True when the server gave its answer, so that the same request would get the same one.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.code(), 400 | 401 | 403 | 404 | 405 | 409 | 410 | 413 | 415 | 422)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_and_plain_text_is_kept() {
        let body = br#"{"kind":"Status","reason":"AlreadyExists","code":409,"message":"pods \"a\" already exists"}"#;
        let error = LinkError::from_answer(StatusCode::CONFLICT, &HeaderMap::new(), body);
        assert!(error.is_already_exists() && !error.is_conflict());
        let error = LinkError::from_answer(StatusCode::BAD_GATEWAY, &HeaderMap::new(), b"sorry\n");
        assert_eq!(error.to_string(), "502 Bad Gateway: sorry");
    }
}
