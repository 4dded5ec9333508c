//! Pure: what a URL's path asks for.

use std::borrow::Cow;

/// A path below `/api` or `/apis`, taken apart; upstream's RequestInfo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows a proxy's subresource, with its leading slash.
    pub(crate) rest: String,
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api`.
    LegacyVersions,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`.
    Resources(String, String),
    /// An object, a collection, or something below an object.
    Resource(ResourcePath),
    /// Anything else: health, version, OpenAPI ...
    Other,
}

/// Subresources of a namespace: its own, not resources in it.
const OF_NAMESPACE: [&str; 2] = ["status", "finalize"];

/// Reads a path.
pub(crate) fn parse(path: &str) -> Route {
    let mut parts = path.trim_matches('/').splitn(3, '/');
    let (root, rest) = match (parts.next(), parts.next(), parts.next()) {
        (Some("api"), None, _) => return Route::LegacyVersions,
        (Some("apis"), None, _) => return Route::Groups,
        (Some("api"), Some(version), None) => return Route::Resources(String::new(), version.to_owned()),
        (Some("apis"), Some(group), None) => return Route::Group(group.to_owned()),
        (Some("api"), Some(version), Some(rest)) => ((String::new(), version.to_owned()), rest),
        (Some("apis"), Some(group), Some(rest)) => match rest.split_once('/') {
            None => return Route::Resources(group.to_owned(), rest.to_owned()),
            Some((version, rest)) => ((group.to_owned(), version.to_owned()), rest),
        },
        _ => return Route::Other,
    };
    let mut found = ResourcePath { group: root.0, version: root.1, ..ResourcePath::default() };
    let mut parts: Vec<Cow<'_, str>> = rest.split('/').map(decode).collect();
    let in_namespace = parts.len() >= 3 && parts[0] == "namespaces" && !OF_NAMESPACE.contains(&parts[2].as_ref());
    if in_namespace {
        found.namespace = parts[1].to_string();
        parts.drain(..2);
    } else if parts.len() >= 2 && parts[0] == "namespaces" {
        found.namespace = parts[1].to_string();
    }
    let mut parts = parts.into_iter();
    let mut next = || parts.next().unwrap_or_default().into_owned();
    (found.resource, found.name, found.subresource) = (next(), next(), next());
    let rest: Vec<Cow<'_, str>> = parts.collect();
    if !rest.is_empty() {
        found.rest = format!("/{}", rest.join("/"));
    }
    Route::Resource(found)
}

/// Undoes percent-encoding; malformed escapes stay.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    decode_with(text, false)
}

/// Undoes the encoding of a query: `+` is a space.
pub(crate) fn decode_query(text: &str) -> Cow<'_, str> {
    decode_with(text, true)
}

fn decode_with(text: &str, plus: bool) -> Cow<'_, str> {
    let encoded = text.contains('%') || plus && text.contains('+');
    if !encoded {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(if plus && byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> [String; 6] {
        let Route::Resource(found) = parse(path) else { panic!("{path} is no resource") };
        [found.group, found.namespace, found.resource, found.name, found.subresource, found.rest]
    }

    #[test]
    fn paths_are_taken_apart() {
        for (path, expected) in [
            ("/api/v1/pods", ["", "", "pods", "", "", ""]),
            ("/api/v1/namespaces/a/pods/web/log", ["", "a", "pods", "web", "log", ""]),
            ("/api/v1/namespaces", ["", "", "namespaces", "", "", ""]),
            ("/api/v1/namespaces/a", ["", "a", "namespaces", "a", "", ""]),
            ("/api/v1/namespaces/a/finalize", ["", "a", "namespaces", "a", "finalize", ""]),
            ("/apis/apps/v1/namespaces/a/deployments/b/scale", ["apps", "a", "deployments", "b", "scale", ""]),
            ("/api/v1/nodes/pi/proxy/stats/summary", ["", "", "nodes", "pi", "proxy", "/stats/summary"]),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                ["rbac.authorization.k8s.io", "", "clusterroles", "system:node", "", ""],
            ),
        ] {
            assert_eq!(resource(path), expected, "{path}");
        }
        assert_eq!(parse("/apis/apps/v1"), Route::Resources("apps".into(), "v1".into()));
        assert_eq!(parse("/api/"), Route::LegacyVersions);
        assert_eq!(parse("/healthz"), Route::Other);
        assert_eq!(decode_query("a+b%20c%zz"), "a b c%zz");
    }
}
