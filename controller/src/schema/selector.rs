//! Pure: label selectors and field selectors, parsed, validated and matched with upstream's grammar and messages.

mod fields;

use serde_json::{Map, Value};

pub use fields::{FieldRequirement, FieldSelector};

use super::field_error::{FieldError, Path, aggregate};
use super::names;

/// How a requirement relates a key to its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of the values (`=`, `==`, `in`).
    In,
    /// The key is absent or its value is none of the values (`!=`, `notin`).
    NotIn,
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer above the one given.
    Gt,
    /// The value is an integer below the one given.
    Lt,
}

/// One condition of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The relation.
    pub operator: Operator,
    /// Its values; empty for existence.
    pub values: Vec<String>,
}

/// A selector that cannot be read; the message is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// A label selector: all requirements must hold. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Selects no object.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Parses the text form, such as `app=web,tier in (a,b),!old`.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        let mut parser = Parser { tokens: scan(text), position: 0 };
        let mut requirements = parser.requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// A selector of equal labels: a Service's or ReplicationController's `spec.selector`. Empty selects everything, as
    /// upstream's; callers for whom empty means nothing check first.
    pub fn from_map(labels: &Map<String, Value>) -> LabelSelector {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or_default().to_owned()],
            })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// The selector of a `metav1.LabelSelector` object: null or absent selects nothing, empty selects everything.
    pub fn from_object(selector: &Value) -> Result<LabelSelector, SelectorError> {
        let Some(object) = selector.as_object() else { return Ok(LabelSelector::nothing()) };
        let empty = Map::new();
        let labels = object.get("matchLabels").and_then(Value::as_object).unwrap_or(&empty);
        let mut result = LabelSelector::from_map(labels);
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let requirement = Requirement { key: text("key").to_owned(), operator, values };
            check(&requirement)?;
            result.requirements.push(requirement);
        }
        result.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(result)
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Map<String, Value>) -> bool {
        self.matches_by(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether an object whose labels are found by `label` is selected.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it is known to select nothing.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }
}

impl Requirement {
    /// Whether a label with this value (none: absent) satisfies the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|known| known == value);
        let bound = || self.values.first().and_then(|bound| bound.parse::<i64>().ok());
        match (self.operator, value) {
            (Operator::In, value) => value.is_some_and(listed),
            (Operator::NotIn, value) => !value.is_some_and(listed),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::Gt | Operator::Lt, None) => false,
            (operator, Some(value)) => match (value.parse::<i64>().ok(), bound()) {
                (Some(value), Some(bound)) => (operator == Operator::Gt) == (value > bound) && value != bound,
                _ => false,
            },
        }
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, Requirement { key, operator, values }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::In if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::NotIn if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::In => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::Gt => write!(f, "{key}>{}", values.join(","))?,
                Operator::Lt => write!(f, "{key}<{}", values.join(","))?,
            }
        }
        Ok(())
    }
}

/// The rules of one requirement, upstream's `NewRequirement`.
fn check(requirement: &Requirement) -> Result<(), SelectorError> {
    let Requirement { key, operator, values } = requirement;
    let mut errors = Vec::new();
    let key_errors = names::qualified_name_errors(key);
    if !key_errors.is_empty() {
        errors.push(FieldError::invalid("key", key.as_str(), key_errors.join("; ")));
    }
    let shown = || Value::from(values.clone());
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            let detail = "for 'in', 'notin' operators, values set can't be empty";
            errors.push(FieldError::invalid("values", shown(), detail));
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            let detail = "values set must be empty for exists and does not exist";
            errors.push(FieldError::invalid("values", shown(), detail));
        }
        Operator::Gt | Operator::Lt => {
            if values.len() != 1 {
                let detail = "for 'Gt', 'Lt' operators, exactly one value is required";
                errors.push(FieldError::invalid("values", shown(), detail));
            }
            for (index, value) in values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err()) {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(format_args!("values[{index}]"), value.as_str(), detail));
            }
        }
        _ => {}
    }
    for (index, value) in values.iter().enumerate() {
        let value_errors = names::label_value_errors(value);
        if !value_errors.is_empty() {
            let field = format_args!("values[{index}][{key}]").to_string();
            errors.push(FieldError::invalid(field, value.as_str(), value_errors.join("; ")));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(SelectorError(aggregate(&errors))) }
}

/// A word of the grammar; `in` and `notin` are words like others where a value is expected.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    Wrong(String),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Word(text) | Token::Wrong(text) => text,
            Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

fn scan(text: &str) -> Vec<Token> {
    const SPECIAL: &str = "=!(),><";
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        let length = if SPECIAL.contains(first) {
            let symbol = ["==", "!=", ")", ",", "!", "=", ">", "<", "("].iter().find(|known| rest.starts_with(**known));
            match symbol {
                Some(symbol) => {
                    tokens.push(Token::Symbol(symbol));
                    symbol.len()
                }
                None => {
                    tokens.push(Token::Wrong(format!("error expected: keyword found '{first}'")));
                    first.len_utf8()
                }
            }
        } else {
            let end = rest.find(|c: char| SPECIAL.contains(c) || " \t\r\n".contains(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        };
        rest = rest[length..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.position.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.position += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => {}
                other => {
                    let found = other.text();
                    return fail(format!("found '{found}', expected: !, identifier, or 'end of string'"));
                }
            }
            let requirement =
                self.requirement().map_err(|error| SelectorError(format!("unable to parse requirement: {error}")))?;
            requirements.push(requirement);
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => match self.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return fail(format!("found '{}', expected: identifier after ','", other.text())),
                },
                other => return fail(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = *self.peek() == Token::Symbol("!");
        if negated {
            self.position += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return fail(format!("found '{}', expected: identifier", other.text())),
        };
        let errors = names::qualified_name_errors(&key);
        if !errors.is_empty() {
            let error = FieldError::invalid("<nil>", key.as_str(), errors.join("; "));
            return fail(error.to_string());
        }
        if negated || matches!(self.peek(), Token::End | Token::Symbol(",")) {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Ok(Requirement { key, operator, values: Vec::new() });
        }
        let word = self.next();
        let operator = match word.text() {
            "in" | "=" | "==" => Operator::In,
            "notin" | "!=" => Operator::NotIn,
            ">" => Operator::Gt,
            "<" => Operator::Lt,
            other => return fail(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let mut values = if matches!(word, Token::Word(_)) { self.set()? } else { vec![self.exact()?] };
        values.sort();
        values.dedup();
        let requirement = Requirement { key, operator, values };
        check(&requirement)?;
        Ok(requirement)
    }

    fn exact(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(_) => Ok(self.next().text().to_owned()),
            other => fail(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return fail(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        // An empty place before, between or after commas is the empty value.
        let mut expects_value = true;
        loop {
            match self.next() {
                Token::Word(value) if expects_value => {
                    values.push(value);
                    expects_value = false;
                }
                Token::Symbol(",") => {
                    if expects_value {
                        values.push(String::new());
                    }
                    expects_value = true;
                }
                Token::Symbol(")") => {
                    if expects_value {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                other if expects_value => {
                    return fail(format!("found '{}', expected: ',', ')' or identifier", other.text()));
                }
                other => return fail(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

fn fail<T>(message: String) -> Result<T, SelectorError> {
    Err(SelectorError(message))
}

/// The rules of a `metav1.LabelSelector` in an object.
pub fn validate_label_selector(selector: &Value, path: Path<'_>) -> Vec<FieldError> {
    let Some(selector) = selector.as_object() else { return Vec::new() };
    let mut errors = Vec::new();
    if let Some(labels) = selector.get("matchLabels") {
        errors.extend(names::validate_labels(labels, path.child("matchLabels")));
    }
    let expressions_path = path.child("matchExpressions");
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    for (index, expression) in expressions.enumerate() {
        let path = expressions_path.index(index);
        let text = |name| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let values: &[Value] = expression.get("values").and_then(Value::as_array).map_or(&[], Vec::as_slice);
        match text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(path.child("operator"), other, "not a valid selector operator"));
            }
        }
        let key = text("key");
        let key_errors = names::qualified_name_errors(key).into_iter();
        errors.extend(key_errors.map(|error| FieldError::invalid(path.child("key"), key, error)));
        let values_path = path.child("values");
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            let value_errors = names::label_value_errors(value).into_iter();
            errors.extend(value_errors.map(|error| FieldError::invalid(values_path.index(index), value, error)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(labels.as_object().unwrap())
    }

    #[test]
    fn parses_and_matches() {
        let labels = json!({"app": "web", "tier": "a", "n": "5"});
        for good in [
            "",
            "app=web",
            "app==web",
            "app in (web,x)",
            "app notin (y)",
            "app",
            "!gone",
            "x!=y",
            "n>4",
            "n<6",
            "app=web, tier in (a , b)",
            "gone notin ()",
        ] {
            assert!(matches(good, labels.clone()), "{good}");
        }
        for bad in ["app=x", "app in (x)", "app notin (web)", "!app", "gone", "app!=web", "n>5", "n<5", "gone="] {
            assert!(!matches(bad, labels.clone()), "{bad}");
        }
        assert!(matches("in in (in,notin)", json!({"in": "in"})));
        assert_eq!(LabelSelector::parse("b,a in (y,x),c!=d").unwrap().to_string(), "a in (x,y),b,c!=d");
    }

    #[test]
    fn errors_are_upstreams() {
        let error = |text| LabelSelector::parse(text).unwrap_err().0;
        assert_eq!(error("a b"), "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        assert_eq!(error("a in x"), "unable to parse requirement: found 'x' expected: '('");
        assert_eq!(error(",a"), "found ',', expected: !, identifier, or 'end of string'");
        assert_eq!(error("a,"), "found '', expected: identifier after ','");
        assert!(
            error("a=-").starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label")
        );
        assert!(
            error("-a")
                .starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist")
        );
    }

    #[test]
    fn objects() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "t", "operator": "Exists"}]});
        let selector = LabelSelector::from_object(&selector).unwrap();
        assert!(selector.matches(json!({"app": "web", "t": ""}).as_object().unwrap()));
        assert!(!selector.matches(json!({"app": "web"}).as_object().unwrap()));
        assert!(LabelSelector::from_object(&Value::Null).unwrap().is_nothing());
        assert!(LabelSelector::from_object(&json!({})).unwrap().is_everything());
        let wrong = json!({"matchExpressions": [{"key": "t", "operator": "In"}]});
        let errors = validate_label_selector(&wrong, Path::new("spec"));
        assert_eq!(
            errors[0].to_string(),
            "spec.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
        );
    }
}
