//! Pure: which objects a list or a watch wants, decided on stored bytes.

use serde_json::{Map, Value};

use crate::kinds::{Field, Kind};
use crate::registry::pluck::pluck;
use crate::registry::status::{Answer, ApiError};
use crate::schema::selector::{FieldSelector, LabelSelector};

/// Label and field selectors of one request, bound to the fields of a kind.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    labels: LabelSelector,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
struct Condition {
    field: Field,
    value: String,
    equal: bool,
}

const LABELS: &[&str] = &["metadata", "labels"];
const NAME: Field = Field::new("metadata.name", &["metadata", "name"]);
const NAMESPACE: Field = Field::new("metadata.namespace", &["metadata", "namespace"]);

impl Filter {
    /// Parses both selectors; a field that the kind cannot be selected by is a bad request.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Answer<Self> {
        let labels = LabelSelector::parse(labels)
            .map_err(|error| ApiError::bad_request(format!("unable to parse requirement: {error}")))?;
        let fields = FieldSelector::parse(fields).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let conditions = fields.requirements.into_iter().map(|requirement| {
            let known =
                [NAME].into_iter().chain(kind.namespaced.then_some(NAMESPACE)).chain(kind.fields.iter().copied());
            let field = known.into_iter().find(|field| field.name == requirement.field);
            let field = field.ok_or_else(|| unknown_field(kind, &requirement.field))?;
            Ok(Condition { field, value: requirement.value, equal: requirement.equal })
        });
        Ok(Self { labels, conditions: conditions.collect::<Answer<_>>()? })
    }

    /// Does it want everything?
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.conditions.is_empty()
    }

    /// The one name that it wants: a list of it is a get.
    pub fn name(&self) -> Option<&str> {
        self.conditions.iter().find(|c| c.equal && c.field.path == NAME.path).map(|c| c.value.as_str())
    }

    /// The one namespace that it wants.
    pub fn namespace(&self) -> Option<&str> {
        self.conditions.iter().find(|c| c.equal && c.field.path == NAMESPACE.path).map(|c| c.value.as_str())
    }

    /// Does it want the object in this JSON?
    pub fn wants(&self, json: &[u8]) -> Answer<bool> {
        if self.is_everything() {
            return Ok(true);
        }
        let places = self.conditions.iter().flat_map(|condition| condition.field.places());
        let paths: Vec<&[&str]> = std::iter::once(LABELS).chain(places).collect();
        let found = pluck(json, &paths).map_err(ApiError::internal)?;
        let (labels, values) = found.split_first().expect("labels are always asked for");
        let none = Map::new();
        let labels = labels.as_ref().and_then(Value::as_object).unwrap_or(&none);
        let mut found = self.conditions.iter().zip(values.chunks(Field::PLACES));
        let holds =
            found.all(|(condition, values)| condition.holds(values.iter().flatten().find(|value| !is_empty(value))));
        Ok(holds && self.labels.matches(labels))
    }
}

impl Condition {
    fn holds(&self, value: Option<&Value>) -> bool {
        let same = match value {
            Some(Value::String(text)) => *text == self.value,
            None => self.field.zero == self.value,
            Some(Value::Bool(flag)) => (if *flag { "true" } else { "false" }) == self.value,
            Some(other) => other.as_i64().is_some_and(|number| self.value.parse() == Ok(number)),
        };
        same == self.equal
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value == ""
}

fn unknown_field(kind: &Kind, field: &str) -> ApiError {
    if kind.fields.is_empty() {
        return ApiError::bad_request(format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ));
    }
    ApiError::bad_request(format!("field label not supported: {field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Kind {
        let node = Field::new("spec.nodeName", &["spec", "nodeName"]);
        Kind { fields: vec![node], ..Kind::new("", "v1", "Pod", "pods") }
    }

    #[test]
    fn selects_by_labels_and_fields() {
        let json = br#"{"metadata":{"name":"a","labels":{"app":"web"}},"spec":{"nodeName":"pi"}}"#;
        for (labels, fields, wanted) in [
            ("", "", true),
            ("app=web", "", true),
            ("app!=web", "", false),
            ("", "spec.nodeName=pi", true),
            ("", "spec.nodeName=", false),
            ("app", "spec.nodeName!=other,metadata.name=a", true),
        ] {
            let filter = Filter::parse(&pods(), labels, fields).unwrap();
            assert_eq!(filter.wants(json).unwrap(), wanted, "{labels} {fields}");
        }
        let absent = Filter::parse(&pods(), "", "spec.nodeName=").unwrap();
        assert!(absent.wants(br#"{"metadata":{"name":"a"}}"#).unwrap());
    }

    #[test]
    fn an_empty_field_may_be_found_elsewhere() {
        let source = Field { instead: &["reporter"], ..Field::new("source", &["source", "component"]) };
        let kind = Kind { fields: vec![source], ..Kind::new("", "v1", "Event", "events") };
        let filter = Filter::parse(&kind, "", "source=a").unwrap();
        for (json, wanted) in [
            (r#"{"source":{"component":"a"},"reporter":"b"}"#, true),
            (r#"{"source":{"component":"b"},"reporter":"a"}"#, false),
            (r#"{"source":{"component":""},"reporter":"a"}"#, true),
            (r#"{"reporter":"a"}"#, true),
            (r#"{}"#, false),
        ] {
            assert_eq!(filter.wants(json.as_bytes()).unwrap(), wanted, "{json}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = Filter::parse(&pods(), "", "spec.colour=red").unwrap_err();
        assert_eq!(error.message, "field label not supported: spec.colour");
    }
}
