//! Pure: the query parameters of a request.

use super::path::decode_query;
use crate::kinds::Kind;
use crate::registry::status::{Answer, ApiError};
use crate::registry::{FieldValidation, Match};
use crate::schema::FieldError;

/// A query, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    raw: String,
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Takes a query string apart.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_query(name).into_owned(), decode_query(value).into_owned())
        });
        Self { raw: text.to_owned(), pairs: pairs.collect() }
    }

    /// The first value of a parameter; empty when absent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// Every value of a parameter.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.pairs.iter().filter(|(own, _)| own == name).map(|(_, value)| value.clone()).collect()
    }

    /// The query as it came.
    pub(crate) fn raw(&self) -> &str {
        &self.raw
    }

    /// A boolean: Go's spellings, and the bare name.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let found = self.pairs.iter().find(|(own, _)| own == name);
        found.is_some_and(|(_, value)| matches!(value.as_str(), "" | "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// Whether the parameter is given at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(own, _)| own == name)
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Answer<Option<i64>> {
        match self.text(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }

    /// `resourceVersion`; `None` when unset.
    pub(crate) fn resource_version(&self) -> Answer<Option<u64>> {
        match self.text("resourceVersion") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }

    /// `resourceVersionMatch`, and whether it goes with the rest of a list.
    pub(crate) fn matching(&self) -> Answer<Match> {
        let text = self.text("resourceVersionMatch");
        let forbidden =
            |why: &str| Err(invalid_options("ListOptions", FieldError::forbidden("resourceVersionMatch", why)));
        let matching = match text {
            "" => return Ok(Match::Unset),
            "NotOlderThan" => Match::NotOlderThan,
            "Exact" => Match::Exact,
            other => {
                let why = FieldError::not_supported("resourceVersionMatch", other, &["Exact", "NotOlderThan", ""]);
                return Err(invalid_options("ListOptions", why));
            }
        };
        if self.has("continue") && !self.text("continue").is_empty() {
            return forbidden("resourceVersionMatch is forbidden when continue is provided");
        }
        if self.text("resourceVersion").is_empty() && !self.has("sendInitialEvents") {
            return forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if matching == Match::Exact && self.text("resourceVersion") == "0" {
            return forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        Ok(matching)
    }

    /// `dryRun` of these options.
    pub(crate) fn dry_run(&self, options: &'static str) -> Answer<bool> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(invalid_options(options, FieldError::not_supported("dryRun", other, &["All"]))),
        }
    }

    /// `fieldValidation` of these options.
    pub(crate) fn field_validation(&self, options: &'static str) -> Answer<FieldValidation> {
        match self.text("fieldValidation") {
            "Ignore" => Ok(FieldValidation::Ignore),
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            other => {
                let why = FieldError::not_supported("fieldValidation", other, &["Ignore", "Strict", "Warn"]);
                Err(invalid_options(options, why))
            }
        }
    }
}

/// Upstream's bound of a manager's name.
const MANAGER_BYTES_MAX: usize = 128;

impl Query {
    /// `fieldManager` of these options, or who the user agent says it is: what stands before the first slash.
    pub(crate) fn field_manager(&self, options: &'static str, agent: &str) -> Answer<String> {
        let given = self.text("fieldManager");
        if given.is_empty() {
            let agent = agent.split('/').next().unwrap_or_default();
            let printable = agent.chars().filter(|one| !one.is_control());
            return Ok(printable.take(MANAGER_BYTES_MAX).collect());
        }
        if given.len() > MANAGER_BYTES_MAX {
            return Err(invalid_options(options, FieldError::too_long("fieldManager", MANAGER_BYTES_MAX)));
        }
        if let Some((at, wrong)) = given.char_indices().find(|(_, one)| one.is_control()) {
            let why = format!("invalid character U+{:04X} (at position {at})", u32::from(wrong));
            return Err(invalid_options(options, FieldError::invalid("fieldManager", given, why)));
        }
        Ok(given.to_owned())
    }
}

/// 422: options of a request that do not go, such as `CreateOptions`.
pub(crate) fn invalid_options(options: &'static str, why: FieldError) -> ApiError {
    ApiError::invalid(&Kind::new("meta.k8s.io", "v1", options, ""), "", &[why])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_read_as_go_reads_them() {
        let query = Query::parse("watch&limit=5&labelSelector=a%3Db&x=false");
        assert!(query.flag("watch") && !query.flag("x") && !query.flag("y"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.text("labelSelector"), "a=b");
        let refused = Query::parse("dryRun=Some").dry_run("CreateOptions").unwrap_err();
        assert_eq!(refused.code, 422);
        assert!(refused.message.starts_with("CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value"));
        let manager = |query: &str, agent: &str| Query::parse(query).field_manager("PatchOptions", agent);
        assert_eq!(manager("", "kubectl/v1.33.1 (linux/amd64)").unwrap(), "kubectl");
        assert_eq!(manager("fieldManager=me", "kubectl/v1").unwrap(), "me");
        let long = manager(&format!("fieldManager={}", "x".repeat(129)), "").unwrap_err();
        assert!(long.message.contains("fieldManager: Too long: may not be more than 128 bytes"), "{}", long.message);
        let matching = Query::parse("resourceVersionMatch=Exact&resourceVersion=0").matching();
        assert!(matching.unwrap_err().message.contains("forbidden for resourceVersion"));
    }
}
