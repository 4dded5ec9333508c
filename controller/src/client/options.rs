//! Pure: the options of list, watch, patch and delete requests, and their query strings.

use serde_json::{Value, json};

/// What to list or watch.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `app=web,tier!=db`; empty for all.
    pub label_selector: String,
    /// `spec.nodeName=pi-1`; empty for all.
    pub field_selector: String,
    /// At which revision; empty for the newest.
    pub resource_version: String,
    /// How many objects a page holds; 0 for all at once.
    pub limit: usize,
    /// The token of the former page.
    pub continue_token: String,
}

impl ListOptions {
    /// Only objects with these labels.
    pub fn labels(selector: &str) -> Self {
        Self { label_selector: selector.to_owned(), ..Self::default() }
    }

    /// Only objects with these fields.
    pub fn fields(selector: &str) -> Self {
        Self { field_selector: selector.to_owned(), ..Self::default() }
    }

    /// The query string with its question mark, or nothing.
    pub(super) fn query(&self, more: Option<&str>) -> String {
        let limit = if self.limit == 0 { String::new() } else { self.limit.to_string() };
        let pairs = [
            ("labelSelector", &self.label_selector),
            ("fieldSelector", &self.field_selector),
            ("resourceVersion", &self.resource_version),
            ("limit", &limit),
            ("continue", &self.continue_token),
        ];
        let given = pairs.iter().filter(|(_, value)| !value.is_empty());
        let parts: Vec<String> = more
            .map(str::to_owned)
            .into_iter()
            .chain(given.map(|(name, value)| format!("{name}={}", encode_query(value))))
            .collect();
        if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
    }
}

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' merge by list keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// The media type that says so.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds; 0 removes at once.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`; empty for the kind's default.
    pub propagation_policy: &'static str,
    /// Only this very object; empty for any namesake.
    pub uid: String,
    /// Only at this revision; empty for any.
    pub resource_version: String,
}

impl DeleteOptions {
    /// Only the object with that uid.
    pub fn of_uid(uid: &str) -> Self {
        Self { uid: uid.to_owned(), ..Self::default() }
    }

    /// The `DeleteOptions` body.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if !self.propagation_policy.is_empty() {
            body["propagationPolicy"] = self.propagation_policy.into();
        }
        for (field, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if !value.is_empty() {
                body["preconditions"][field] = value.as_str().into();
            }
        }
        body
    }
}

/// Percent-encodes a query value.
pub fn encode_query(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/,!()".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        assert_eq!(ListOptions::default().query(None), "");
        assert_eq!(ListOptions::labels("app in (a,b)").query(None), "?labelSelector=app%20in%20(a,b)");
        let options = ListOptions { resource_version: "7".into(), limit: 5, ..ListOptions::default() };
        assert_eq!(options.query(Some("watch=true")), "?watch=true&resourceVersion=7&limit=5");
    }

    #[test]
    fn deletes() {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid("u") };
        assert_eq!(
            options.body(),
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}})
        );
    }
}
