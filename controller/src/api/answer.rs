//! Pure: answers: objects and errors as HTTP responses in the form that the client accepts.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
use serde_json::Value;

use super::body::full;
use super::negotiate::{Form, Media, Shape};
use super::table::{self, Include};
use super::{Body, Request};
use crate::kinds::Kind;
use crate::registry::status::{Answer, ApiError};
use crate::registry::{Written, view};

/// A response with that status and media type.
pub(crate) fn response(code: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> http::Response<Body> {
    with_body(code, content_type, full(bytes))
}

/// A response around a body.
pub(crate) fn with_body(code: u16, content_type: &'static str, body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A JSON value in the client's media type.
pub(crate) fn value(code: u16, form: Form, value: &Value) -> http::Response<Body> {
    let bytes = match form.media {
        Media::Json => value.to_string(),
        Media::Yaml => serde_yaml_ng::to_string(value).unwrap_or_default(),
    };
    response(code, form.content_type(), bytes)
}

/// An error as `metav1.Status`.
pub(crate) fn error(form: Form, error: &ApiError) -> http::Response<Body> {
    let mut answer = value(error.code, form, &error.status());
    if let Some(seconds) = error.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// One object in the client's form.
pub(crate) fn object(
    code: u16,
    form: Form,
    kind: &Kind,
    written: &Written,
    include: Include,
    now: i64,
) -> Answer<http::Response<Body>> {
    let Written { value: stored, revision, .. } = written;
    let shown = match form.shape {
        Shape::Whole if form.media == Media::Json => {
            let mut bytes = Vec::with_capacity(stored.len() + 32);
            view::emit(kind, stored, *revision, &mut bytes)?;
            return Ok(response(code, form.content_type(), bytes));
        }
        Shape::Whole => view::object(kind, stored, *revision)?.into_value(),
        Shape::Partial(version) => table::partial(view::object(kind, stored, *revision)?, version),
        Shape::Table(version) => {
            let row = table::row(kind, view::object(kind, stored, *revision)?, include, version, now);
            table::table(kind, vec![row], &revision.to_string(), version)
        }
    };
    Ok(value(code, form, &shown))
}

/// A written object in the client's form; nothing for who prefers that (RFC 7240), as agents do for what they write often.
pub(crate) fn written(
    request: &Request,
    form: Form,
    kind: &Kind,
    written: &Written,
    now: i64,
) -> Answer<http::Response<Body>> {
    if prefers_nothing(request.header(PREFER)) {
        let mut response = http::Response::new(full(Bytes::new()));
        *response.status_mut() = http::StatusCode::NO_CONTENT;
        response.headers_mut().insert(APPLIED, HeaderValue::from_static(MINIMAL));
        return Ok(response);
    }
    let code = if written.created { 201 } else { 200 };
    object(code, form, kind, written, request.include(), now)
}

const PREFER: HeaderName = HeaderName::from_static("prefer");
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const MINIMAL: &str = "return=minimal";

fn prefers_nothing(prefer: &str) -> bool {
    prefer.split([',', ';']).any(|preference| preference.trim().eq_ignore_ascii_case(MINIMAL))
}

/// Adds `Warning` headers, as client-go prints them.
pub(crate) fn warn(response: &mut http::Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_prefers_a_minimal_answer_says_so() {
        assert!(prefers_nothing("return=minimal"));
        assert!(prefers_nothing("respond-async, Return=Minimal; wait=10"));
        assert!(!prefers_nothing("return=representation") && !prefers_nothing(""));
    }
}
