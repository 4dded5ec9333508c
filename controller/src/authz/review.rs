//! Pure: the review kinds of authorization.k8s.io and SelfSubjectReview: from who asks and the object to its status.

use serde_json::{Map, Value, json};

use super::{Attributes, Authorizer, Decision};
use crate::identity::Identity;

/// Why a review is not evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// 400 with this message.
    #[error("{0}")]
    BadRequest(String),
    /// 422: `field: Invalid value: <value>: message`.
    #[error("{field}: Invalid value: {value}: {message}")]
    Invalid {
        /// `spec.user`.
        field: &'static str,
        /// The value as JSON.
        value: String,
        /// Upstream's detail.
        message: &'static str,
    },
}

/// Evaluates a review object of the given resource (`selfsubjectaccessreviews`, `subjectaccessreviews`,
/// `localsubjectaccessreviews`, `selfsubjectrulesreviews`, `selfsubjectreviews`) and returns it with its status filled in.
pub fn evaluate(authorizer: &Authorizer, asker: &Identity, resource: &str, review: &Value) -> Result<Value, Problem> {
    let status = match resource {
        "selfsubjectreviews" => json!({"userInfo": user_info(asker)}),
        "selfsubjectrulesreviews" => rules_status(authorizer, asker, review)?,
        "selfsubjectaccessreviews" => access_status(authorizer, asker, review)?,
        _ => {
            let spec = review.get("spec").unwrap_or(&Value::Null);
            let subject = subject(spec)?;
            if resource == "localsubjectaccessreviews" {
                check_local(review)?;
            }
            access_status(authorizer, &subject, review)?
        }
    };
    let mut out = review.clone();
    if let Some(out) = out.as_object_mut() {
        out.insert("status".into(), status);
    }
    Ok(out)
}

/// `authentication.k8s.io/v1 UserInfo`, empty fields left out.
pub fn user_info(identity: &Identity) -> Value {
    let mut out = Map::new();
    out.insert("username".into(), json!(identity.name));
    if !identity.uid.is_empty() {
        out.insert("uid".into(), json!(identity.uid));
    }
    if !identity.groups.is_empty() {
        out.insert("groups".into(), json!(identity.groups));
    }
    if !identity.extra.is_empty() {
        out.insert("extra".into(), json!(identity.extra));
    }
    Value::Object(out)
}

fn invalid(field: &'static str, value: Option<&Value>, message: &'static str) -> Problem {
    Problem::Invalid { field, value: value.map_or_else(|| "null".into(), Value::to_string), message }
}

fn subject(spec: &Value) -> Result<Identity, Problem> {
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let extra = spec.get("extra").and_then(Value::as_object);
    let identity = Identity {
        name: text("user"),
        uid: text("uid"),
        groups: spec.get("groups").map(strings).unwrap_or_default(),
        extra: extra.into_iter().flatten().map(|(key, value)| (key.clone(), strings(value))).collect(),
    };
    if identity.name.is_empty() && identity.groups.is_empty() {
        return Err(invalid("spec.user", Some(&json!("")), "at least one of user or group must be specified"));
    }
    Ok(identity)
}

fn check_local(review: &Value) -> Result<(), Problem> {
    let wanted = review.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    if let Some(attributes) = review.pointer("/spec/resourceAttributes") {
        let own = attributes.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if own != wanted {
            let value = json!(own);
            return Err(invalid("spec.resourceAttributes.namespace", Some(&value), "must match metadata.namespace"));
        }
    }
    match review.pointer("/spec/nonResourceAttributes") {
        Some(value) => Err(invalid("spec.nonResourceAttributes", Some(value), "disallowed on this kind of request")),
        None => Ok(()),
    }
}

fn access_status(authorizer: &Authorizer, subject: &Identity, review: &Value) -> Result<Value, Problem> {
    let attributes = requested(review.get("spec").unwrap_or(&Value::Null))?;
    let decision = authorizer.authorize(subject, &attributes);
    let mut status = Map::new();
    status.insert("allowed".into(), json!(decision.is_allowed()));
    if matches!(decision, Decision::Deny(_)) {
        status.insert("denied".into(), json!(true));
    }
    if !decision.reason().is_empty() {
        status.insert("reason".into(), json!(decision.reason()));
    }
    Ok(Value::Object(status))
}

fn requested(spec: &Value) -> Result<Attributes, Problem> {
    let present = |field: &str| spec.get(field).filter(|value| !value.is_null());
    match (present("resourceAttributes"), present("nonResourceAttributes")) {
        (Some(resource), None) => Ok(resource_attributes(resource)),
        (None, Some(path)) => {
            let text = |field: &str| path.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok(Attributes { verb: text("verb"), path: text("path"), ..Attributes::default() })
        }
        (Some(_), both) => Err(invalid(
            "spec.nonResourceAttributes",
            both,
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => Err(invalid(
            "spec.resourceAttributes",
            None,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

fn resource_attributes(value: &Value) -> Attributes {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text("version");
    Attributes {
        verb: text("verb"),
        api_group: text("group"),
        api_version: if version.is_empty() { "*".into() } else { version },
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        path: String::new(),
        field_selector: field_selector(value.get("fieldSelector")),
    }
}

/// The selector as a query would carry it; requirements that equality cannot say are dropped, which only broadens the check.
fn field_selector(value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    if let Some(raw) = value.get("rawSelector").and_then(Value::as_str) {
        return raw.to_owned();
    }
    let requirements = value.get("requirements").and_then(Value::as_array).into_iter().flatten();
    let terms = requirements.filter_map(|requirement| {
        let key = requirement.get("key")?.as_str()?;
        let [only] = requirement.get("values")?.as_array()?.as_slice() else { return None };
        let operator = match requirement.get("operator")?.as_str()? {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        Some(format!("{key}{operator}{}", only.as_str()?))
    });
    terms.collect::<Vec<_>>().join(",")
}

fn rules_status(authorizer: &Authorizer, asker: &Identity, review: &Value) -> Result<Value, Problem> {
    let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Problem::BadRequest("no namespace on request".into()));
    }
    let found = authorizer.rules_for(asker, namespace);
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    for rule in &found.rules {
        let mut rule_json = rule.to_json();
        let Some(fields) = rule_json.as_object_mut() else { continue };
        let urls = fields.remove("nonResourceURLs");
        let verbs = fields.get("verbs").cloned().unwrap_or_default();
        if fields.contains_key("resources") {
            resource_rules.push(rule_json);
        }
        if let Some(urls) = urls {
            path_rules.push(json!({"verbs": verbs, "nonResourceURLs": urls}));
        }
    }
    let mut status =
        json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": found.incomplete});
    if !found.errors.is_empty() {
        status["evaluationError"] = json!(found.errors.join(", "));
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorizer() -> Authorizer {
        let authorizer = Authorizer::new();
        let rules = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "nonResourceURLs": ["/version"]}]});
        authorizer.put("clusterroles", "", "reader", &rules);
        let bind = json!({"roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "ann"}]});
        authorizer.put("clusterrolebindings", "", "reader", &bind);
        authorizer
    }

    fn ann() -> Identity {
        Identity { name: "ann".into(), groups: vec!["system:authenticated".into()], ..Identity::default() }
    }

    #[test]
    fn access_reviews_answer_for_self_and_others() {
        let pods = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
        let own = evaluate(&authorizer(), &ann(), "selfsubjectaccessreviews", &pods).unwrap();
        assert_eq!(
            own["status"],
            json!({"allowed": true, "reason": "RBAC: allowed by ClusterRoleBinding \"reader\" of ClusterRole \"reader\" to User \"ann\""})
        );
        let other = json!({"spec": {"user": "bob", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
        let other = evaluate(&authorizer(), &ann(), "subjectaccessreviews", &other).unwrap();
        assert_eq!(other["status"], json!({"allowed": false}));
        let path = json!({"spec": {"user": "ann", "nonResourceAttributes": {"verb": "get", "path": "/version"}}});
        assert_eq!(
            evaluate(&authorizer(), &ann(), "subjectaccessreviews", &path).unwrap()["status"]["allowed"],
            json!(true)
        );
    }

    #[test]
    fn wrong_reviews_are_told_as_upstream_tells_them() {
        let nobody = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
        assert_eq!(
            evaluate(&authorizer(), &ann(), "subjectaccessreviews", &nobody).unwrap_err().to_string(),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified"
        );
        assert!(matches!(
            evaluate(&authorizer(), &ann(), "selfsubjectaccessreviews", &json!({"spec": {}})),
            Err(Problem::Invalid { field: "spec.resourceAttributes", .. })
        ));
        let local =
            json!({"metadata": {"namespace": "a"}, "spec": {"user": "u", "resourceAttributes": {"namespace": "b"}}});
        assert!(evaluate(&authorizer(), &ann(), "localsubjectaccessreviews", &local).is_err());
        assert_eq!(
            evaluate(&authorizer(), &ann(), "selfsubjectrulesreviews", &json!({"spec": {}})),
            Err(Problem::BadRequest("no namespace on request".into()))
        );
    }

    #[test]
    fn rules_are_told_apart_and_who_one_is() {
        let review = json!({"spec": {"namespace": "default"}});
        let rules = evaluate(&authorizer(), &ann(), "selfsubjectrulesreviews", &review).unwrap();
        assert_eq!(
            rules["status"],
            json!({"resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version"]}], "incomplete": false})
        );
        let own = evaluate(&authorizer(), &ann(), "selfsubjectreviews", &json!({})).unwrap();
        assert_eq!(own["status"]["userInfo"], json!({"username": "ann", "groups": ["system:authenticated"]}));
    }
}
