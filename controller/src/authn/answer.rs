//! Pure: refusals of authentication and authorisation as API errors.

use super::impersonation::Refused;
use super::token_request::IssueError;
use crate::authz::Attributes;
use crate::authz::escalation::Refusal;
use crate::authz::forbidden_message;
use crate::authz::review::Problem;
use crate::identity::Identity;
use crate::kinds::Kind;
use crate::registry::status::ApiError;
use crate::schema::field_error::FieldError;

/// A 403 in upstream's words: who may not do what.
pub(crate) fn forbidden(identity: &Identity, attributes: &Attributes, reason: &str) -> ApiError {
    let mut error = ApiError::new(403, "Forbidden", forbidden_message(identity, attributes, reason));
    let details = [("name", &attributes.name), ("group", &attributes.api_group), ("kind", &attributes.resource)];
    for (field, value) in details.into_iter().filter(|(_, value)| !value.is_empty()) {
        error.details.insert(field.to_owned(), value.as_str().into());
    }
    error
}

/// Why one does not become somebody else.
pub(crate) fn impersonation(asker: &Identity, refused: Refused) -> ApiError {
    match refused {
        Refused::Malformed(message) => ApiError::internal(message),
        Refused::Forbidden(attributes, reason) => forbidden(asker, &attributes, &reason),
    }
}

/// Why a Role or a binding is not written; `kind` and `name` are those of the object.
pub(crate) fn escalation(kind: &Kind, name: &str, refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::Forbidden(reason) => ApiError::forbidden(kind, name, reason),
        Refusal::NoRole(message) => ApiError::new(404, "NotFound", message.as_str()),
    }
}

/// Why a review is not evaluated; `kind` is the review's.
pub(crate) fn review(kind: &Kind, problem: &Problem) -> ApiError {
    match problem {
        Problem::BadRequest(message) => ApiError::bad_request(message.as_str()),
        Problem::Invalid { field, value, message } => {
            let value: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
            ApiError::invalid(kind, "", &[FieldError::invalid(*field, value, *message)])
        }
    }
}

/// Why no token is issued.
pub(crate) fn token(error: &IssueError) -> ApiError {
    let kind = Kind::new("authentication.k8s.io", "v1", "TokenRequest", "tokenrequests");
    match error {
        IssueError::NotFound { .. } => ApiError::new(404, "NotFound", error.to_string()),
        IssueError::BadRequest(message) => ApiError::bad_request(message.as_str()),
        IssueError::Invalid { field, value, detail } => {
            ApiError::invalid(&kind, "", &[FieldError::invalid(*field, value.clone(), *detail)])
        }
        IssueError::Conflict { .. } => ApiError::new(409, "Conflict", error.to_string()),
        IssueError::Sign(_) | IssueError::Store(_) => ApiError::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_have_upstreams_code_and_wording() {
        let ann = Identity::user("ann", &[]);
        let list = Attributes { verb: "list".into(), resource: "pods".into(), ..Attributes::default() };
        let error = forbidden(&ann, &list, "");
        assert_eq!((error.code, error.details["kind"].as_str()), (403, Some("pods")));
        let short = IssueError::Invalid {
            field: "spec.expirationSeconds",
            value: json!(5),
            detail: "may not specify a duration less than 10 minutes",
        };
        assert_eq!(
            token(&short).message,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"
        );
        let gone = IssueError::NotFound { resource: "serviceaccounts", name: "bot".into() };
        assert_eq!((token(&gone).code, token(&gone).message), (404, "serviceaccounts \"bot\" not found".into()));
        assert_eq!(impersonation(&ann, Refused::Malformed("x".into())).code, 500);
    }
}
