//! Pure: `Impersonate-*` headers: who one wants to be, and whether one may.

use http::HeaderMap;

use crate::authz::{Attributes, Authorizer};
use crate::identity::Identity;

/// Why a request does not go on as somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 500 with this message, as upstream's.
    Malformed(String),
    /// 403: what was asked for and the authoriser's reason; `authz::forbidden_message` words it with the asker.
    Forbidden(Box<Attributes>, String),
}

/// The identity that the headers ask for; `None` if they ask for none. Every part is authorised with the verb `impersonate`.
pub fn apply(headers: &HeaderMap, asker: &Identity, authorizer: &Authorizer) -> Result<Option<Identity>, Refused> {
    let Some(wanted) = requested(headers)? else { return Ok(None) };
    for attributes in parts(&wanted) {
        let decision = authorizer.authorize(asker, &attributes);
        if !decision.is_allowed() {
            return Err(Refused::Forbidden(Box::new(attributes), decision.reason().to_owned()));
        }
    }
    Ok(Some(with_groups(wanted)))
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn requested(headers: &HeaderMap) -> Result<Option<Identity>, Refused> {
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    let mut wanted = Identity {
        name: text(headers, "impersonate-user"),
        uid: text(headers, "impersonate-uid"),
        groups,
        ..Identity::default()
    };
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix("impersonate-extra-") else { continue };
        let value = value.to_str().unwrap_or_default().to_owned();
        wanted.extra.entry(percent_decoded(key)).or_default().push(value);
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if !wanted.groups.is_empty() || !wanted.extra.is_empty() || !wanted.uid.is_empty() {
        return Err(Refused::Malformed(
            "requested impersonation of groups, uid or extra without impersonating a user".into(),
        ));
    }
    Ok(None)
}

fn parts(wanted: &Identity) -> Vec<Attributes> {
    let part = |group: &str, resource: &str, name: &str| Attributes {
        verb: "impersonate".into(),
        api_group: group.into(),
        api_version: "v1".into(),
        resource: resource.into(),
        name: name.into(),
        ..Attributes::default()
    };
    let user = match service_account(&wanted.name) {
        Some((namespace, name)) => Attributes { namespace: namespace.into(), ..part("", "serviceaccounts", name) },
        None => part("", "users", &wanted.name),
    };
    let mut out = vec![user];
    out.extend(wanted.groups.iter().map(|group| part("", "groups", group)));
    for (key, values) in &wanted.extra {
        let extra = |value: &String| Attributes {
            subresource: key.clone(),
            ..part("authentication.k8s.io", "userextras", value)
        };
        out.extend(values.iter().map(extra));
    }
    if !wanted.uid.is_empty() {
        out.push(part("authentication.k8s.io", "uids", &wanted.uid));
    }
    out
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?
        .split_once(':')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
}

/// The groups that come with the name: a service account's, if none were asked for, and whether it is authenticated.
fn with_groups(mut wanted: Identity) -> Identity {
    if let (Some((namespace, name)), true) = (service_account(&wanted.name), wanted.groups.is_empty()) {
        wanted.groups = Identity::service_account(namespace, name).groups;
    }
    let told = wanted.is_in("system:authenticated") || wanted.is_in("system:unauthenticated");
    if !told {
        let anonymous = wanted.name == "system:anonymous";
        wanted.groups.push(if anonymous { "system:unauthenticated" } else { "system:authenticated" }.into());
    }
    wanted
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code =
            (bytes[at] == b'%').then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()));
        match code.flatten() {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn authorizer() -> Authorizer {
        let authorizer = Authorizer::new();
        let rules = json!({"rules": [{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"]},
            {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/acme.com/scopes"]}]});
        authorizer.put("clusterroles", "", "acts", &rules);
        let bind =
            json!({"roleRef": {"kind": "ClusterRole", "name": "acts"}, "subjects": [{"kind": "User", "name": "ann"}]});
        authorizer.put("clusterrolebindings", "", "acts", &bind);
        authorizer
    }

    #[test]
    fn one_becomes_whom_one_may() {
        let ann = Identity::user("ann", &[]);
        let master = Identity::user("root", &["system:masters"]);
        let bob = headers(&[("impersonate-user", "bob"), ("impersonate-extra-acme.com%2fscopes", "view")]);
        let became = apply(&bob, &ann, &authorizer()).unwrap().unwrap();
        assert_eq!((became.name.as_str(), became.groups), ("bob", vec!["system:authenticated".to_owned()]));
        assert_eq!(became.extra["acme.com/scopes"], ["view"]);
        assert_eq!(apply(&headers(&[]), &ann, &authorizer()), Ok(None));
        let account = headers(&[("impersonate-user", "system:serviceaccount:blue:bot")]);
        let became = apply(&account, &master, &authorizer()).unwrap().unwrap();
        assert_eq!(became, Identity::service_account("blue", "bot"));
        let anonymous = headers(&[("impersonate-user", "system:anonymous")]);
        assert_eq!(apply(&anonymous, &master, &authorizer()), Ok(Some(Identity::anonymous())));
    }

    #[test]
    fn one_does_not_become_more() {
        let ann = Identity::user("ann", &[]);
        let bob_as_master = headers(&[("impersonate-user", "bob"), ("impersonate-group", "system:masters")]);
        let Err(Refused::Forbidden(attributes, _)) = apply(&bob_as_master, &ann, &authorizer()) else { panic!() };
        assert_eq!(
            crate::authz::forbidden_message(&ann, &attributes, ""),
            "groups \"system:masters\" is forbidden: User \"ann\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope"
        );
        assert!(apply(&headers(&[("impersonate-user", "eve")]), &ann, &authorizer()).is_err());
        assert!(matches!(
            apply(&headers(&[("impersonate-group", "x")]), &ann, &authorizer()),
            Err(Refused::Malformed(_))
        ));
    }
}
