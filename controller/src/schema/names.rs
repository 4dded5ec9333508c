//! Pure: the forms of names, label keys and values, ports and keys, with upstream's messages.
//!
//! Each `*_errors` function returns upstream's messages for one value; none means that it is well formed.

use serde_json::Value;

use super::field_error::{FieldError, Path};

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
/// Upstream's bound on the sum of all annotation keys and values of an object.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const QUALIFIED_NAME_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `must be no more than N characters`.
pub fn max_len_error(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// `must be between LO and HI, inclusive`.
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// Upstream's form of a message about a regular expression.
pub fn regex_error(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let shown: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{format}')", shown.join(" or "))
}

fn lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// First and last by `edge`, all between by `edge` or `inner`; not empty.
fn shaped(value: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            edge(first) && edge(last) && bytes.iter().all(|&c| edge(c) || inner.contains(&c))
        }
        _ => false,
    }
}

fn is_label(value: &str) -> bool {
    shaped(value, lower_alnum, b"-")
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_qualified(value: &str) -> bool {
    shaped(value, |c| c.is_ascii_alphanumeric(), b"-_.")
}

/// A DNS-1123 label: names of namespaces, containers, most things inside a pod.
pub fn dns1123_label_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len_error(LABEL_MAX));
    }
    if !is_label(value) {
        errors.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            regex_error(message, DNS1123_LABEL, &["my-name", "123-abc"])
        });
    }
    errors
}

/// A DNS-1123 subdomain: the name of most objects.
pub fn dns1123_subdomain_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !is_subdomain(value) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(message, DNS1123_SUBDOMAIN, &["example.com"]));
    }
    errors
}

/// A wildcard DNS-1123 subdomain such as `*.example.com`.
pub fn wildcard_subdomain_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        errors.push(regex_error(message, &format!(r"\*\.{DNS1123_SUBDOMAIN}"), &["*.example.com"]));
    }
    errors
}

/// A DNS-1035 label: names of Services.
pub fn dns1035_label_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len_error(LABEL_MAX));
    }
    if !is_label(value) || !value.as_bytes()[0].is_ascii_lowercase() {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        errors.push(regex_error(message, DNS1035_LABEL, &["my-name", "abc-123"]));
    }
    errors
}

/// A qualified name, `[prefix/]name`: label keys, finalizers, resource names, taint keys.
pub fn qualified_name_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let form = || regex_error(QUALIFIED_NAME_MESSAGE, QUALIFIED_NAME, &["MyName", "my.name", "123-abc"]);
    let name = match value.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain_errors(prefix).iter().map(|error| format!("prefix part {error}")));
            }
            name
        }
        _ => {
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {} {tail}", form())];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_len_error(LABEL_MAX)));
    }
    if !is_qualified(name) {
        errors.push(format!("name part {}", form()));
    }
    errors
}

/// A label's value.
pub fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len_error(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified(value) {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(message, LABEL_VALUE, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// A path segment: names of RBAC objects, which may hold anything but `/`, `%`, `.` and `..`.
pub fn path_segment_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value == "." || value == ".." {
        errors.push(format!("may not be '{value}'"));
    }
    for illegal in ["/", "%"] {
        if value.contains(illegal) {
            errors.push(format!("may not contain '{illegal}'"));
        }
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len_error(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    if value == "." || value == ".." {
        errors.push(format!("must not be '{value}'"));
    } else if value.starts_with("..") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

/// An environment variable's name (upstream's relaxed form, the default since v1.34).
pub fn env_var_name_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if !value.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=') {
        let message =
            "a valid environment variable name must consist only of printable ASCII characters other than '='";
        errors.push(message.to_owned());
    }
    errors
}

/// A port number.
pub fn port_number_errors(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range_error(1, 65535)] }
}

/// A port's name (IANA_SVC_NAME).
pub fn port_name_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push(max_len_error(15));
    }
    if value.is_empty() || !value.bytes().all(|c| lower_alnum(c) || c == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A percentage such as `25%`.
pub fn percent_errors(value: &str) -> Vec<String> {
    let number = value.strip_suffix('%').unwrap_or("");
    if !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(message, "[0-9]+%", &["1%", "93%"])]
}

/// An HTTP header's name.
pub fn http_header_name_errors(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// An object name with the suffix rule of `generateName`: a trailing dash is masked, as a random suffix follows it.
pub fn prefix_errors(errors: fn(&str) -> Vec<String>, value: &str) -> Vec<String> {
    match value.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => errors(&format!("{stem}a")),
        _ => errors(value),
    }
}

/// Labels: each key a qualified name, each value a label value; errors carry the path of the whole map, as upstream's do.
pub fn validate_labels(labels: &Value, path: Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        errors.extend(qualified_name_errors(key).into_iter().map(|e| FieldError::invalid(path, key.as_str(), e)));
        errors.extend(label_value_errors(value).into_iter().map(|e| FieldError::invalid(path, value, e)));
    }
    errors
}

/// Annotations: keys are qualified names whatever their case, and all together are bounded.
pub fn validate_annotations(annotations: &Value, path: Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        let lower = key.to_lowercase();
        errors.extend(qualified_name_errors(&lower).into_iter().map(|e| FieldError::invalid(path, key.as_str(), e)));
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a-1", "0", "a--b"] {
            assert!(dns1123_label_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "-", "A", "a_b", "a-"] {
            assert!(!dns1123_label_errors(bad).is_empty(), "{bad}");
        }
        assert_eq!(dns1123_label_errors("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_subdomain_errors("Foo"),
            [
                r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert!(dns1123_label_errors("A")[0].contains("(e.g. 'my-name',  or '123-abc', regex used"));
        assert!(dns1035_label_errors("1a")[0].starts_with("a DNS-1035 label"));
        assert!(dns1035_label_errors("").len() == 1);
        assert!(qualified_name_errors("app.kubernetes.io/name").is_empty());
        assert_eq!(qualified_name_errors("/x")[0], "prefix part must be non-empty");
        assert!(qualified_name_errors("a/b/c")[0].ends_with("(e.g. 'example.com/MyName')"));
        assert!(label_value_errors("").is_empty() && !label_value_errors("-a").is_empty());
        assert!(port_name_errors("http-2").is_empty() && port_name_errors("80").len() == 1);
        assert!(percent_errors("25%").is_empty() && !percent_errors("%").is_empty());
        assert!(prefix_errors(dns1123_subdomain_errors, "web-").is_empty());
    }
}
