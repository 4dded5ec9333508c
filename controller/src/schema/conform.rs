//! Pure: a JSON object made to fit its type: what upstream's decoding into a Go struct and back does.
//!
//! Types are checked, unknown fields dropped and reported, nulls and zero values of plain (not pointer) fields dropped,
//! quantities and times put in canonical form.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::field_error::{Path, quote};
use super::quantity::Quantity;
use super::table::{Element, Field, Scalar, Shape, TypeId};
use super::time::Instant;

/// Unknown fields beyond this are not listed, as upstream.
const MAX_ERRORS: usize = 100;

/// An object that does not fit its type; the message is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    message: String,
    conversion: Option<String>,
}

impl DecodeError {
    /// With this message, however the object was read.
    pub fn new(message: String) -> DecodeError {
        DecodeError { message, conversion: None }
    }

    /// The message where the object did not come as JSON but as a map, as strategic patches leave it: upstream reads those
    /// by other code, which says less.
    pub fn of_conversion(&self) -> &str {
        self.conversion.as_deref().unwrap_or(&self.message)
    }
}

/// Makes an object fit its type. Returns `unknown field "spec.foo"` for each field that was dropped.
pub fn conform(kind: TypeId, object: &mut Map<String, Value>) -> Result<Vec<String>, DecodeError> {
    let mut walk = Walk { strict: Vec::new(), go: Vec::new() };
    walk.object(kind, object, Path::Root, true)?;
    Ok(walk.strict)
}

/// Upstream's message of what a strict decoder found: `strict decoding error: a, b`.
pub fn strict_decoding_error(errors: &[String]) -> String {
    format!("strict decoding error: {}", errors.join(", "))
}

/// Upstream's sentence around a decoding error, the message of a BadRequest.
pub fn cannot_be_handled(kind: &str, version: &str, error: &str) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}")
}

/// What Go's decoder calls a value.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

struct Walk {
    strict: Vec<String>,
    /// The field names on the way, as Go's decoder joins them (no indices).
    go: Vec<String>,
}

impl Walk {
    fn object(
        &mut self,
        kind: TypeId,
        object: &mut Map<String, Value>,
        path: Path<'_>,
        root: bool,
    ) -> Result<(), DecodeError> {
        let typed = root || kind.kinds().next().is_some() || kind.name().starts_with("meta.v1.");
        let names: Vec<String> = object.keys().cloned().collect();
        for name in names {
            let Some(field) = kind.field(&name) else {
                if typed && (name == "apiVersion" || name == "kind") {
                    continue;
                }
                object.remove(&name);
                self.unknown(path.child(&name));
                continue;
            };
            let Some(value) = object.get_mut(&name) else { continue };
            let depth = self.go.len();
            inlined(kind, &name, &mut self.go);
            self.go.push(name.clone());
            let keep = !value.is_null() && {
                self.field(kind, field, value, path.child(&name))?;
                !droppable(field, value)
            };
            self.go.truncate(depth);
            if !keep {
                object.remove(&name);
            }
        }
        Ok(())
    }

    fn field(&mut self, owner: TypeId, field: Field, value: &mut Value, path: Path<'_>) -> Result<(), DecodeError> {
        match field.shape() {
            Shape::List => {
                let Value::Array(items) = value else { return Err(self.mismatch(owner, field, value, true)) };
                for (index, item) in items.iter_mut().enumerate() {
                    self.element(owner, field, item, path.index(index))?;
                }
            }
            Shape::Map => {
                let Value::Object(entries) = value else { return Err(self.mismatch(owner, field, value, true)) };
                for (key, item) in entries.iter_mut() {
                    self.element(owner, field, item, path.child(key))?;
                }
            }
            Shape::One | Shape::Inline => self.element(owner, field, value, path)?,
        }
        Ok(())
    }

    fn element(&mut self, owner: TypeId, field: Field, value: &mut Value, path: Path<'_>) -> Result<(), DecodeError> {
        match field.element() {
            Element::Object(inner) => {
                if value.is_null() {
                    *value = Value::Object(Map::new());
                }
                match value {
                    Value::Object(object) => self.object(inner, object, path, false),
                    other => Err(self.mismatch(owner, field, other, false)),
                }
            }
            Element::Scalar(scalar) => {
                if value.is_null() && field.shape() != Shape::One {
                    *value = zero(scalar);
                }
                match fit(scalar, value) {
                    Ok(()) => Ok(()),
                    Err(Misfit::Type) => Err(self.mismatch(owner, field, value, false)),
                    Err(Misfit::Message(message)) => Err(DecodeError::new(message)),
                }
            }
        }
    }

    fn unknown(&mut self, path: Path<'_>) {
        let message = format!("unknown field {}", quote(&path.to_string()));
        if self.strict.len() < MAX_ERRORS && !self.strict.contains(&message) {
            self.strict.push(message);
        }
    }

    fn mismatch(&self, owner: TypeId, field: Field, value: &Value, whole: bool) -> DecodeError {
        let found = match value {
            Value::Number(number) if is_integer(field) => format!("number {number}"),
            other => json_type(other).to_owned(),
        };
        let element = go_type(field);
        let expected = match field.shape() {
            Shape::List if whole => format!("[]{element}"),
            Shape::Map if whole => format!("map[string]{element}"),
            _ => element,
        };
        let conversion = Some(conversion(field, value, whole, &expected));
        let (owner, path) = (owner.short_name(), self.go.join("."));
        let message = format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}");
        DecodeError { message, conversion }
    }
}

/// The Go names of the inlined structs on the way to a field: Go's messages show them.
fn inlined(kind: TypeId, name: &str, way: &mut Vec<String>) {
    for own in kind.fields() {
        if own.shape() == Shape::Inline {
            if let Element::Object(inner) = own.element()
                && inner.field(name).is_some()
            {
                let mut letters = own.name().chars();
                way.extend(letters.next().map(|first| first.to_uppercase().chain(letters).collect()));
                return inlined(inner, name, way);
            }
        } else if own.name() == name {
            return;
        }
    }
}

/// What upstream's converter of maps says of a value that does not fit.
fn conversion(field: Field, value: &Value, whole: bool, expected: &str) -> String {
    let found = match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
    };
    match (field.shape(), field.element()) {
        (Shape::List, _) if whole => format!("cannot restore slice from {found}"),
        (Shape::Map, _) if whole => format!("cannot restore map from {found}"),
        (_, Element::Object(_)) => format!("cannot restore struct from: {found}"),
        // Go converts whole numbers to text and fractions to whole numbers, which upstream does not allow here.
        (_, Element::Scalar(scalar)) => match (scalar, value) {
            (Scalar::String, Value::Number(number)) if !number.is_f64() => {
                format!("cannot convert {found} to {expected}")
            }
            (Scalar::Int32 | Scalar::Int64, Value::Number(_)) => format!("cannot convert {found} to {expected}"),
            _ => format!("unrecognized type: {expected}"),
        },
    }
}

fn is_integer(field: Field) -> bool {
    matches!(field.element(), Element::Scalar(Scalar::Int32 | Scalar::Int64))
}

fn go_type(field: Field) -> String {
    match field.element() {
        Element::Object(inner) => {
            let mut parts = inner.name().rsplitn(3, '.');
            let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{version}.{name}")
        }
        Element::Scalar(scalar) => match scalar {
            Scalar::String | Scalar::Time | Scalar::MicroTime => "string",
            Scalar::Int32 | Scalar::IntOrString => "int32",
            Scalar::Int64 => "int64",
            Scalar::Bool => "bool",
            Scalar::Double => "float64",
            Scalar::Bytes => "[]uint8",
            Scalar::Quantity => "resource.Quantity",
            Scalar::Duration => "v1.Duration",
            Scalar::Raw => "runtime.RawExtension",
            Scalar::Unknown => "runtime.Unknown",
            Scalar::Fields => "v1.FieldsV1",
            Scalar::Json => "v1.JSON",
            Scalar::Strings => "[]string",
            Scalar::SchemaOrArray => "v1.JSONSchemaPropsOrArray",
            Scalar::SchemaOrBool => "v1.JSONSchemaPropsOrBool",
            Scalar::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray",
        }
        .to_owned(),
    }
}

fn zero(scalar: Scalar) -> Value {
    match scalar {
        Scalar::String | Scalar::Bytes => Value::from(""),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => Value::from(0),
        Scalar::Bool => Value::Bool(false),
        Scalar::Quantity => Value::from("0"),
        Scalar::Strings => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

/// Whether upstream's `omitempty` leaves the value out.
pub(crate) fn droppable(field: Field, value: &Value) -> bool {
    if field.is_pointer() || field.is_required() {
        return false;
    }
    match (field.shape(), field.element()) {
        (Shape::List, _) => value.as_array().is_some_and(Vec::is_empty),
        (Shape::Map, _) => value.as_object().is_some_and(Map::is_empty),
        // Upstream shows it, and reads it as it reads nothing: one who writes it must not be taken for one who changes.
        (_, Element::Object(_)) => value.as_object().is_some_and(Map::is_empty),
        (_, Element::Scalar(scalar)) => match scalar {
            Scalar::String | Scalar::Bytes => value.as_str().is_some_and(str::is_empty),
            Scalar::Int32 | Scalar::Int64 => value.as_i64() == Some(0),
            Scalar::Double => value.as_f64() == Some(0.0),
            Scalar::Bool => value.as_bool() == Some(false),
            Scalar::Strings => value.as_array().is_some_and(Vec::is_empty),
            _ => false,
        },
    }
}

enum Misfit {
    Type,
    Message(String),
}

/// Checks one value and puts it in canonical form.
fn fit(scalar: Scalar, value: &mut Value) -> Result<(), Misfit> {
    let fits = match scalar {
        Scalar::String => value.is_string(),
        Scalar::Bool => value.is_boolean(),
        Scalar::Int32 => whole(value).is_some_and(|number| i32::try_from(number).is_ok()),
        Scalar::Int64 => whole(value).is_some(),
        Scalar::Double => value.is_number(),
        Scalar::Bytes => return fit_bytes(value),
        Scalar::Quantity => return fit_quantity(value),
        Scalar::IntOrString => match value {
            Value::String(_) => true,
            Value::Number(_) => whole(value).is_some_and(|number| i32::try_from(number).is_ok()),
            _ => false,
        },
        Scalar::Time | Scalar::MicroTime => return fit_time(scalar, value),
        Scalar::Duration => value.is_string(),
        Scalar::Raw | Scalar::Unknown | Scalar::Fields => value.is_object(),
        Scalar::Json | Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => true,
        Scalar::Strings => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
    };
    if fits { Ok(()) } else { Err(Misfit::Type) }
}

/// A whole number; one that YAML or a script wrote as `3.0` is none, as upstream.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64()
}

fn fit_bytes(value: &Value) -> Result<(), Misfit> {
    let text = value.as_str().ok_or(Misfit::Type)?;
    let compact: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
    match base64::engine::general_purpose::STANDARD.decode(compact) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len() / 4 * 4,
            };
            Err(Misfit::Message(format!("illegal base64 data at input byte {at}")))
        }
    }
}

fn fit_quantity(value: &mut Value) -> Result<(), Misfit> {
    if !value.is_string() && !value.is_number() {
        return Err(Misfit::Message(super::quantity::QuantityError::Format.to_string()));
    }
    let quantity = Quantity::from_value(value).map_err(|error| Misfit::Message(error.to_string()))?;
    *value = Value::String(quantity.to_string());
    Ok(())
}

fn fit_time(scalar: Scalar, value: &mut Value) -> Result<(), Misfit> {
    let text = value.as_str().ok_or(Misfit::Type)?;
    let (layout, time) = match scalar {
        Scalar::MicroTime => ("2006-01-02T15:04:05.000000Z07:00", Instant::parse(text).map(Instant::to_micros)),
        _ => ("2006-01-02T15:04:05Z07:00", Instant::parse(text).map(Instant::to_seconds)),
    };
    let Some(canonical) = time else {
        return Err(Misfit::Message(format!(
            r#"parsing time "{text}" as "{layout}": cannot parse "{text}" as "2006""#
        )));
    };
    *value = Value::String(canonical);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::lookup;
    use serde_json::json;

    fn run(kind: (&str, &str, &str), object: Value) -> (Value, Result<Vec<String>, String>) {
        let mut object = object.as_object().unwrap().clone();
        let result = conform(lookup(kind.0, kind.1, kind.2).unwrap(), &mut object);
        (Value::Object(object), result.map_err(|error| error.message))
    }

    const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let (object, strict) = run(
            DEPLOYMENT,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "foo": 1, "spec": {"replicas": 0, "foo": 1,
                "template": {"spec": {"containers": [{"name": "a", "bar": {}, "env": [], "image": "", "stdin": false}]}}}}),
        );
        let strict = strict.unwrap();
        assert_eq!(
            strict_decoding_error(&strict),
            r#"strict decoding error: unknown field "foo", unknown field "spec.foo", unknown field "spec.template.spec.containers[0].bar""#
        );
        assert_eq!(object["spec"]["replicas"], 0);
        assert_eq!(object["spec"]["template"]["spec"]["containers"], json!([{"name": "a"}]));
        assert_eq!(object["kind"], "Deployment");
    }

    #[test]
    fn mismatches_read_as_gos() {
        let error = |object| run(DEPLOYMENT, object).1.unwrap_err();
        assert_eq!(
            error(json!({"spec": {"replicas": "x"}})),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            error(json!({"metadata": {"labels": {"a": 1}}})),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
        );
        assert_eq!(
            error(json!({"spec": {"template": {"spec": {"containers": {}}}}})),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
        );
        assert_eq!(
            error(json!({"spec": {"replicas": 1.5}})),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(
            run(("", "v1", "Pod"), json!({"spec": {"volumes": [{"emptyDir": {"medium": 1}}]}})).1.unwrap_err(),
            "json: cannot unmarshal number into Go struct field EmptyDirVolumeSource.spec.volumes.VolumeSource.emptyDir.medium of type string"
        );
        assert_eq!(
            error(json!({"spec": []})),
            "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec"
        );
    }

    #[test]
    fn mismatches_of_maps_read_as_gos_converter() {
        let kind = lookup("apps", "v1", "Deployment").unwrap();
        for (mut object, expected) in [
            (json!({"spec": {"replicas": "x"}}), "unrecognized type: int32"),
            (json!({"spec": {"replicas": 1.5}}), "cannot convert float64 to int32"),
            (json!({"spec": {"paused": "x"}}), "unrecognized type: bool"),
            (json!({"metadata": {"labels": {"a": 1}}}), "cannot convert int64 to string"),
            (json!({"metadata": {"labels": []}}), "cannot restore map from slice"),
            (json!({"spec": {"template": {"spec": {"containers": {}}}}}), "cannot restore slice from map"),
            (json!({"spec": "x"}), "cannot restore struct from: string"),
        ] {
            let error = conform(kind, object.as_object_mut().unwrap()).unwrap_err();
            assert_eq!(error.of_conversion(), expected);
        }
    }

    #[test]
    fn values_become_canonical() {
        let (object, result) = run(
            ("", "v1", "Pod"),
            json!({"metadata": {"creationTimestamp": null, "deletionTimestamp": "2024-01-01T02:00:00+02:00"}, "spec": {
                "nodeName": "", "automountServiceAccountToken": false,
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}},
                    {"name": "b", "resources": {"limits": {}}, "securityContext": {}}]}, "status": {}}),
        );
        assert_eq!(result.unwrap(), Vec::<String>::new());
        assert_eq!(
            object,
            json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "spec": {
                "automountServiceAccountToken": false,
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}},
                    {"name": "b", "securityContext": {}}]}})
        );
    }
}
