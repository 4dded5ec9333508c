//! Pure: field selectors, `spec.nodeName=a,status.phase!=Failed`.

use super::{SelectorError, fail};

/// One condition of a field selector: equal, or not equal, to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field, such as `spec.nodeName`.
    pub field: String,
    /// Whether it must be equal.
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// A field selector: all conditions must hold. Which fields a kind knows is its row's business.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The conditions.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses `spec.nodeName=a,status.phase!=Failed`; `\,`, `\=` and `\\` are escapes in values.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut requirements = Vec::new();
        let mut terms = split_terms(text);
        terms.sort_unstable();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let operators = ["!=", "==", "="];
            let split = (0..term.len())
                .filter(|&at| term.is_char_boundary(at))
                .find_map(|at| Some((at, *operators.iter().find(|known| term[at..].starts_with(**known))?)));
            let Some((at, operator)) = split else {
                return fail(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            let value = unescape(&term[at + operator.len()..])?;
            requirements.push(FieldRequirement { field: term[..at].to_owned(), equal: operator != "!=", value });
        }
        Ok(FieldSelector { requirements })
    }

    /// Whether an object whose fields are found by `field` is selected; an absent field is the empty string.
    pub fn matches_by<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| (field(&r.field).unwrap_or_default() == r.value) == r.equal)
    }

    /// The one value that a field must have, where there is one.
    pub fn requires(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return fail(format!("invalid field selector: invalid escape sequence: \\{other}"));
                }
            },
            ',' | '=' => {
                return fail(format!("invalid field selector: unescaped character in value: {}", c as u32));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let selector = FieldSelector::parse(r"spec.nodeName=a,metadata.name!=b\,c").unwrap();
        assert_eq!(selector.requires("spec.nodeName"), Some("a"));
        assert!(selector.matches_by(|field| (field == "spec.nodeName").then_some("a")));
        assert!(!selector.matches_by(|field| Some(if field == "spec.nodeName" { "a" } else { "b,c" })));
        assert_eq!(FieldSelector::parse("x").unwrap_err().0, "invalid selector: 'x'; can't understand 'x'");
    }
}
