//! Pure: what a registry asks for in `WWW-Authenticate` (RFC 9110 §11, distribution's token specification).

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// An absolute URL.
        realm: String,
        /// Goes into the query.
        service: Option<String>,
        /// Goes into the query; the repository's pull scope where the registry names none.
        scope: Option<String>,
    },
}

/// Longest header that is read.
const HEADER_MAX: usize = 8 * 1024;

/// Reads one `WWW-Authenticate` header; `None` for schemes that registries do not use.
#[must_use]
pub fn parse(header: &str) -> Option<Challenge> {
    if header.len() > HEADER_MAX {
        return None;
    }
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (name, value) in parameters(rest) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// `name="value"` pairs; commas inside quotes belong to the value.
fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_owned();
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        found.push((name, value.trim().to_owned()));
        text = rest;
    }
    found
}

/// The query of a token request.
#[must_use]
pub fn query(service: Option<&str>, scope: &str) -> String {
    let mut query = String::new();
    if let Some(service) = service {
        query.push_str("service=");
        query.push_str(&escape(service));
        query.push('&');
    }
    query.push_str("scope=");
    query.push_str(&escape(scope));
    query
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_is_taken_apart() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse(header),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("registry.example".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
    }

    #[test]
    fn basic_and_unknown_schemes() {
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("Bearer service=\"no realm\""), None);
    }

    #[test]
    fn a_scope_is_escaped() {
        assert_eq!(query(Some("r e"), "repository:a/b:pull"), "service=r%20e&scope=repository%3Aa%2Fb%3Apull");
    }
}
