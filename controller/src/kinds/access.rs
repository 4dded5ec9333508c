//! Pure: the rows of who may do what: RBAC's four, the reviews, certificate signing requests.

use serde_json::{Value, json};

use super::column::{age, age_of, name, or_none};
use super::strategy::{Part, Strategy, drop_status, keep, keep_status};
use super::{Column, Field, Kind, Review, Serving, Subresource};
use crate::object::{Object, time};
use crate::schema::field_error::FieldError;
use crate::schema::names;

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn rbac() -> [Kind; 4] {
    let strategy = Strategy { create_on_update: true, name_errors: names::path_segment_errors, ..Strategy::default() };
    let role = Strategy { validate: validate_rules, ..strategy };
    let binding = Strategy {
        prepare_create: complete_binding,
        prepare_update: |new, _| complete_binding(new),
        validate: validate_binding,
        validate_update: keep_role,
        ..strategy
    };
    let columns = || {
        vec![
            name(),
            Column::text("Role"),
            age(),
            Column::text("Users").wide(),
            Column::text("Groups").wide(),
            Column::text("ServiceAccounts").wide(),
        ]
    };
    [
        Kind {
            namespaced: false,
            columns: columns(),
            row: binding_row,
            strategy: binding,
            ..Kind::new(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings")
        },
        Kind { namespaced: false, strategy: role, ..Kind::new(RBAC, "v1", "ClusterRole", "clusterroles") },
        Kind {
            columns: columns(),
            row: binding_row,
            strategy: binding,
            ..Kind::new(RBAC, "v1", "RoleBinding", "rolebindings")
        },
        Kind { strategy: role, ..Kind::new(RBAC, "v1", "Role", "roles") },
    ]
}

pub(super) fn reviews() -> Vec<Kind> {
    let answered = |namespaced, review, kind| Kind { namespaced, serving: Serving::Answered(review), ..kind };
    let (authn, authz) = ("authentication.k8s.io", "authorization.k8s.io");
    vec![
        answered(false, Review::SelfSubject, Kind::new(authn, "v1", "SelfSubjectReview", "selfsubjectreviews")),
        answered(false, Review::Token, Kind::new(authn, "v1", "TokenReview", "tokenreviews")),
        answered(
            true,
            Review::LocalSubjectAccess,
            Kind::new(authz, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews"),
        ),
        answered(
            false,
            Review::SelfSubjectAccess,
            Kind::new(authz, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
        ),
        answered(
            false,
            Review::SelfSubjectRules,
            Kind::new(authz, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
        ),
        answered(false, Review::SubjectAccess, Kind::new(authz, "v1", "SubjectAccessReview", "subjectaccessreviews")),
    ]
}

pub(super) fn signing_request() -> Kind {
    Kind {
        short_names: vec!["csr".into()],
        namespaced: false,
        columns: vec![
            name(),
            age(),
            Column::text("SignerName"),
            Column::text("Requestor"),
            Column::text("RequestedDuration"),
            Column::text("Condition"),
        ],
        row: request_row,
        fields: vec![Field::new("spec.signerName", &["spec", "signerName"])],
        subresources: vec![Subresource::Approval, Subresource::Status],
        strategy: Strategy {
            prepare_create: drop_status,
            prepare_update: |new, old| {
                keep_status(new, old);
                keep(new, old, "spec");
            },
            prepare_status: |new, old| {
                super::strategy::status_only(new, old);
                keep_decisions(new, old);
            },
            prepare_part: |part, new, old| {
                if part == Part::Approval {
                    keep(new, old, "spec");
                    let conditions = new.remove(&["status", "conditions"]);
                    keep(new, old, "status");
                    if let Some(conditions) = conditions {
                        new.set(&["status", "conditions"], conditions);
                    }
                }
            },
            stamp: stamp_conditions,
            validate: validate_request,
            ..Strategy::default()
        },
        ..Kind::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
    }
}

/// Approved and Denied are written through `approval` only.
fn keep_decisions(new: &mut Object, old: &Object) {
    let decides = |condition: &&Value| condition["type"] == "Approved" || condition["type"] == "Denied";
    let of = |object: &Object, wanted: bool| -> Vec<Value> {
        let conditions = object.items(&["status", "conditions"]).iter();
        conditions.filter(|condition| decides(condition) == wanted).cloned().collect()
    };
    let conditions = [of(old, true), of(new, false)].concat();
    if !conditions.is_empty() {
        new.set(&["status", "conditions"], conditions);
    }
}

/// Conditions that come without times get them.
fn stamp_conditions(new: &mut Object, old: &Object, now: &str) {
    let same = |a: &Value, b: &Value| a["type"] == b["type"] && a["status"] == b["status"];
    let mut conditions = new.items(&["status", "conditions"]).to_vec();
    for condition in &mut conditions {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.into();
        }
        if condition["lastTransitionTime"].is_null() {
            let before = old.items(&["status", "conditions"]).iter().find(|other| same(other, condition));
            let since = before.map(|other| other["lastTransitionTime"].clone()).filter(|time| !time.is_null());
            condition["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
        }
    }
    if !conditions.is_empty() {
        new.set(&["status", "conditions"], conditions);
    }
}

fn validate_request(object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if object.items(&["spec", "usages"]).is_empty() {
        errors.push(FieldError::required("spec.usages", ""));
    }
    let signer = object.text(&["spec", "signerName"]);
    if signer.is_empty() {
        errors.push(FieldError::required("spec.signerName", ""));
    } else if !signer.contains('/') {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid("spec.signerName", signer, why));
    }
    if let Some(seconds) = object.integer(&["spec", "expirationSeconds"]).filter(|seconds| *seconds < 600) {
        errors.push(FieldError::invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    errors
}

fn request_row(object: &Object, now: i64) -> Vec<Value> {
    let duration = object.integer(&["spec", "expirationSeconds"]).map(time::human_duration);
    vec![
        object.name().into(),
        age_of(object, now),
        or_none(object.text(&["spec", "signerName"])).into(),
        object.text(&["spec", "username"]).into(),
        duration.unwrap_or_else(|| "<none>".to_owned()).into(),
        condition(object).into(),
    ]
}

fn condition(object: &Object) -> String {
    let has = |name: &str| object.items(&["status", "conditions"]).iter().any(|condition| condition["type"] == name);
    let mut text = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        text += ",Failed";
    }
    if !object.text(&["status", "certificate"]).is_empty() {
        text += ",Issued";
    }
    text
}

fn complete_binding(object: &mut Object) {
    if object.text(&["roleRef", "apiGroup"]).is_empty() {
        object.set(&["roleRef", "apiGroup"], RBAC);
    }
    let mut subjects = object.items(&["subjects"]).to_vec();
    for subject in &mut subjects {
        if subject.get("apiGroup").is_none_or(|group| group == "") && subject["kind"] != "ServiceAccount" {
            subject["apiGroup"] = RBAC.into();
        }
    }
    if !subjects.is_empty() {
        object.set(&["subjects"], subjects);
    }
}

fn validate_rules(role: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, rule) in role.items(&["rules"]).iter().enumerate() {
        let field = |name: &str| format!("rules[{at}].{name}");
        let is_empty = |name: &str| rule[name].as_array().is_none_or(Vec::is_empty);
        if is_empty("verbs") {
            errors.push(FieldError::required(field("verbs"), "verbs must contain at least one value"));
        }
        if !is_empty("nonResourceURLs") {
            let mut wrong = |why: &str| {
                errors.push(FieldError::invalid(field("nonResourceURLs"), rule["nonResourceURLs"].clone(), why));
            };
            if role.kind() == "Role" {
                wrong("namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|name| !is_empty(name)) {
                wrong("rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        for (name, what) in [("apiGroups", "api group"), ("resources", "resource")] {
            if is_empty(name) {
                errors
                    .push(FieldError::required(field(name), format!("resource rules must supply at least one {what}")));
            }
        }
    }
    if role.get(&["aggregationRule"]).is_some_and(Value::is_object)
        && role.items(&["aggregationRule", "clusterRoleSelectors"]).is_empty()
    {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required("aggregationRule.clusterRoleSelectors", why));
    }
    errors
}

fn validate_binding(object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let role = |field: &str| object.text(&["roleRef", field]);
    if role("apiGroup") != RBAC {
        errors.push(FieldError::not_supported("roleRef.apiGroup", role("apiGroup"), &[RBAC]));
    }
    let known: &[&str] =
        if object.kind() == "ClusterRoleBinding" { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
    if !known.contains(&role("kind")) {
        errors.push(FieldError::not_supported("roleRef.kind", role("kind"), known));
    }
    if role("name").is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (at, subject) in object.items(&["subjects"]).iter().enumerate() {
        let field = format!("subjects[{at}]");
        let kind = subject["kind"].as_str().unwrap_or_default();
        if subject["name"].as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        }
        match kind {
            "ServiceAccount" if subject["namespace"].as_str().unwrap_or_default().is_empty() => {
                errors.push(FieldError::required(format!("{field}.namespace"), ""));
            }
            "User" | "Group" | "ServiceAccount" => {}
            other => {
                errors.push(FieldError::not_supported(
                    format!("{field}.kind"),
                    other,
                    &["Group", "ServiceAccount", "User"],
                ));
            }
        }
    }
    errors
}

fn keep_role(new: &Object, old: &Object) -> Vec<FieldError> {
    let changed = new.get(&["roleRef"]) != old.get(&["roleRef"]);
    let value = || new.get(&["roleRef"]).cloned().unwrap_or_else(|| json!({}));
    changed.then(|| FieldError::invalid("roleRef", value(), "cannot change roleRef")).into_iter().collect()
}

fn binding_row(object: &Object, now: i64) -> Vec<Value> {
    let subjects = |kind: &str| {
        let wanted = object.items(&["subjects"]).iter().filter(|subject| subject["kind"] == kind);
        let names = wanted.map(|subject| {
            let name = subject["name"].as_str().unwrap_or_default();
            match subject["namespace"].as_str().filter(|_| kind == "ServiceAccount") {
                Some(namespace) => format!("{namespace}/{name}"),
                None => name.to_owned(),
            }
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let role = |field: &str| object.text(&["roleRef", field]);
    vec![
        object.name().into(),
        format!("{}/{}", role("kind"), role("name")).into(),
        age_of(object, now),
        subjects("User").into(),
        subjects("Group").into(),
        subjects("ServiceAccount").into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_what_they_are_about() {
        let role = json!({"kind": "Role", "rules": [{"verbs": []}, {"verbs": ["get"], "nonResourceURLs": ["/x"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        let errors = validate_rules(&Object::from_value(role).unwrap());
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            ]
        );
    }

    #[test]
    fn decisions_survive_a_status_write() {
        let old = Object::from_value(json!({"status": {"conditions": [{"type": "Approved"}]}})).unwrap();
        let mut new =
            Object::from_value(json!({"status": {"certificate": "x", "conditions": [{"type": "Denied"}]}})).unwrap();
        keep_decisions(&mut new, &old);
        assert_eq!(condition(&new), "Approved,Issued");
    }

    #[test]
    fn conditions_without_times_get_them() {
        let of = |condition: Value| Object::from_value(json!({"status": {"conditions": [condition]}})).unwrap();
        let old = of(json!({"type": "Approved", "status": "True", "lastTransitionTime": "then"}));
        let mut new = of(json!({"type": "Approved", "status": "True"}));
        stamp_conditions(&mut new, &old, "now");
        let condition = &new.items(&["status", "conditions"])[0];
        assert_eq!((&condition["lastUpdateTime"], &condition["lastTransitionTime"]), (&json!("now"), &json!("then")));
    }
}
