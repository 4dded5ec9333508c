//! Pure: API errors as `metav1.Status`, with upstream's codes, reasons and wording.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::schema::field_error::{FieldError, aggregate};

/// A refused request; [`ApiError::status`] is what the client reads.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// Upstream's sentence.
    pub message: String,
    /// `details`: name, group, kind, causes, retryAfterSeconds.
    pub details: Map<String, Value>,
    /// `metadata`: a token to continue an expired list.
    pub metadata: Map<String, Value>,
}

/// What every door of the registry returns.
pub type Answer<T> = Result<T, ApiError>;

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new(), metadata: Map::new() }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        for (field, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                self.details.insert(field.to_owned(), value.into());
            }
        }
        self
    }

    fn of(code: u16, reason: &'static str, kind: &Kind, name: &str, message: impl Into<String>) -> Self {
        Self::new(code, reason, message).about(&kind.group, &kind.plural, name)
    }

    /// The whole `metav1.Status`.
    pub fn status(&self) -> Value {
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code});
        // kubectl words an invalid request by its details, even empty ones.
        if !self.details.is_empty() || self.reason == "Invalid" {
            status["details"] = Value::Object(self.details.clone());
        }
        if self.reason.is_empty() {
            status.as_object_mut().and_then(|status| status.remove("reason"));
        }
        status
    }

    /// 404: the object does not exist.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::of(404, "NotFound", kind, name, format!("{} {} not found", kind.resource(), quoted(name)))
    }

    /// 404: nothing is served at that path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409: a namesake exists.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::of(409, "AlreadyExists", kind, name, format!("{} {} already exists", kind.resource(), quoted(name)))
    }

    /// 409: the object is not in the state that the request presumes.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", kind.resource(), quoted(name));
        Self::of(409, "Conflict", kind, name, message)
    }

    /// 409: somebody else wrote in between.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422: fields are wrong.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let qualified =
            if kind.group.is_empty() { kind.kind.to_string() } else { format!("{}.{}", kind.kind, kind.group) };
        Self::with_causes(&qualified, name, errors).about(&kind.group, &kind.kind, name)
    }

    /// 422: a field of the request itself is wrong; upstream names no object then.
    pub fn invalid_request(error: &FieldError) -> Self {
        Self::with_causes("", "", std::slice::from_ref(error))
    }

    fn with_causes(qualified: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut errors = errors.to_vec();
        let mut seen = std::collections::HashSet::new();
        errors.retain(|error| seen.insert(error.to_string()));
        let message = format!("{qualified} {} is invalid: {}", quoted(name), aggregate(&errors));
        let mut error = Self::new(422, "Invalid", message);
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.reason.cause(), "message": error.body(), "field": error.field}))
            .collect();
        error.details.insert("causes".to_owned(), causes.into());
        error
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403: admission or policy refuses.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", kind.resource())
        } else {
            format!("{} {} is forbidden: {why}", kind.resource(), quoted(name))
        };
        Self::of(403, "Forbidden", kind, name, message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 406: no media type that the client accepts.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 415: a body of another media type than these.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 413: the body is too large.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 410: that revision is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 504: a revision that is still to come.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(504, "Timeout", format!("Timeout: {message}"));
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        error.details.insert("causes".to_owned(), causes);
        error.details.insert("retryAfterSeconds".to_owned(), 1.into());
        error
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u64) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        error.details.insert("retryAfterSeconds".to_owned(), retry_after_s.into());
        error
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let mut error = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        error.details.insert("causes".to_owned(), json!([{"message": message.to_string()}]));
        error
    }

    /// 500: an error with all its sources.
    pub fn because(error: &dyn std::error::Error) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        Self::internal(chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }
}

/// The `Status` that says that a deletion is done.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.plural, "uid": uid});
    if !kind.group.is_empty() {
        details["group"] = kind.group.as_ref().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn quoted(name: &str) -> String {
    crate::schema::field_error::quote(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_read_as_upstream_writes_them() {
        let kind = Kind::new("apps", "v1", "Deployment", "deployments");
        let error = ApiError::not_found(&kind, "web");
        assert_eq!(error.message, "deployments.apps \"web\" not found");
        assert_eq!(error.status()["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
        let wrong = [FieldError::required("spec.selector", "")];
        let error = ApiError::invalid(&kind, "web", &wrong);
        assert_eq!(error.message, "Deployment.apps \"web\" is invalid: spec.selector: Required value");
        assert_eq!(error.status()["details"]["kind"], "Deployment");
        assert_eq!(error.status()["details"]["causes"][0]["reason"], "FieldValueRequired");
    }
}
