//! Pure: Kubernetes' protobuf bodies (`k8s\0` and `runtime.Unknown`) to JSON objects, by the numbers of the table.
//!
//! The result is what upstream's JSON of the same object says: zero values of plain fields are left out. The inverse is
//! not needed: every client that sends protobuf also reads JSON.

use base64::Engine as _;
use serde_json::{Map, Number, Value};

use super::conform::droppable;
use super::table::{Element, Field, Scalar, Shape, TypeId, lookup_api_version, type_named};
use super::time::Instant;

/// What stands before every body.
pub const MAGIC: [u8; 4] = *b"k8s\0";
/// Upstream's objects nest about twenty deep; JSON schemas in CRDs nest as their authors like.
const MAX_DEPTH: usize = 128;

/// A body that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The prefix is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// Larger than a request body may be.
    #[error("the document is larger than {} bytes", super::read::MAX_BYTES)]
    TooLarge,
    /// Bytes end within a value.
    #[error("unexpected EOF")]
    Truncated,
    /// A number longer than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A wire type that the field cannot have.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// The field.
        field: &'static str,
        /// The wire type found.
        wire: u8,
    },
    /// A field number of zero or a group.
    #[error("proto: illegal tag {0}")]
    Tag(u64),
    /// Not UTF-8.
    #[error("proto: a string is not UTF-8")]
    Utf8,
    /// Too deeply nested.
    #[error("proto: the message is nested more than {MAX_DEPTH} deep")]
    Depth,
    /// No such type.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\" in scheme")]
    NoKind {
        /// As in the envelope.
        api_version: String,
        /// As in the envelope.
        kind: String,
    },
    /// JSON within the message that is none.
    #[error("{0}")]
    Json(String),
}

/// Decodes a body. `expected` is the apiVersion and kind of the endpoint, for bodies that leave them out.
pub fn decode(bytes: &[u8], expected: Option<(&str, &str)>) -> Result<Map<String, Value>, ProtobufError> {
    if bytes.len() > super::read::MAX_BYTES {
        return Err(ProtobufError::TooLarge);
    }
    let unknown = envelope(bytes)?;
    let fallback = expected.unwrap_or_default();
    let api_version = if unknown.api_version.is_empty() { fallback.0 } else { &unknown.api_version };
    let kind = if unknown.kind.is_empty() { fallback.1 } else { &unknown.kind };
    let mut object = match unknown.content_type.as_str() {
        "application/json" => json(unknown.raw)?.as_object().cloned().unwrap_or_default(),
        _ => {
            let id = lookup_api_version(api_version, kind)
                .ok_or_else(|| ProtobufError::NoKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
            message(id, unknown.raw, MAX_DEPTH)?
        }
    };
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(object)
}

/// Decodes a bare message of a type.
pub fn decode_message(kind: TypeId, bytes: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    message(kind, bytes, MAX_DEPTH)
}

struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
    content_type: String,
}

fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let body = bytes.strip_prefix(&MAGIC).ok_or(ProtobufError::Prefix)?;
    let mut found = Envelope { api_version: String::new(), kind: String::new(), raw: &[], content_type: String::new() };
    let mut reader = Reader { bytes: body };
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => {
                let mut meta = Reader { bytes: reader.delimited("typeMeta", wire)? };
                while let Some((number, wire)) = meta.tag()? {
                    match number {
                        1 => found.api_version = meta.string("apiVersion", wire)?,
                        2 => found.kind = meta.string("kind", wire)?,
                        _ => meta.skip(wire)?,
                    }
                }
            }
            2 => found.raw = reader.delimited("raw", wire)?,
            4 => found.content_type = reader.string("contentType", wire)?,
            _ => reader.skip(wire)?,
        }
    }
    Ok(found)
}

fn message(kind: TypeId, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    let mut object = Map::new();
    merge_message(kind, bytes, depth, &mut object)?;
    Ok(object)
}

fn merge_message(
    kind: TypeId,
    bytes: &[u8],
    depth: usize,
    object: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.tag()? {
        let Some(field) = kind.field_numbered(number) else {
            reader.skip(wire)?;
            continue;
        };
        let name = field.name();
        match field.shape() {
            Shape::Inline => {
                if let Element::Object(inner) = field.element() {
                    merge_message(inner, reader.delimited(name, wire)?, depth, object)?;
                }
            }
            Shape::One => {
                let value = element(field, &mut reader, wire, depth)?;
                if value.is_null() || droppable(field, &value) {
                    object.remove(name);
                } else {
                    object.insert(name.to_owned(), value);
                }
            }
            Shape::List => {
                let packed = wire == 2 && is_varint(field);
                let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = list else { continue };
                if packed {
                    let mut packed = Reader { bytes: reader.delimited(name, wire)? };
                    while !packed.bytes.is_empty() {
                        items.push(element(field, &mut packed, 0, depth)?);
                    }
                } else {
                    items.push(element(field, &mut reader, wire, depth)?);
                }
            }
            Shape::Map => {
                let (key, value) = entry(field, reader.delimited(name, wire)?, depth)?;
                let entries = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = entries {
                    entries.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

/// A plain struct that says nothing; upstream's encoder writes every one of them.
fn is_varint(field: Field) -> bool {
    matches!(field.element(), Element::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Bool))
}

fn entry(field: Field, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let mut reader = Reader { bytes };
    let (mut key, mut value) = (String::new(), None);
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => key = reader.string(field.name(), wire)?,
            2 => value = Some(element(field, &mut reader, wire, depth)?),
            _ => reader.skip(wire)?,
        }
    }
    let value = match (value, field.element()) {
        (Some(value), _) => value,
        (None, Element::Object(_)) => Value::Object(Map::new()),
        (None, Element::Scalar(Scalar::Strings)) => Value::Array(Vec::new()),
        (None, Element::Scalar(Scalar::Quantity)) => Value::from("0"),
        (None, Element::Scalar(_)) => Value::from(""),
    };
    Ok((key, value))
}

fn element(field: Field, reader: &mut Reader<'_>, wire: u8, depth: usize) -> Result<Value, ProtobufError> {
    match field.element() {
        Element::Object(inner) => Ok(Value::Object(message(inner, reader.delimited(field.name(), wire)?, depth)?)),
        Element::Scalar(scalar) => scalar_value(field, scalar, reader, wire, depth),
    }
}

fn scalar_value(
    field: Field,
    scalar: Scalar,
    reader: &mut Reader<'_>,
    wire: u8,
    depth: usize,
) -> Result<Value, ProtobufError> {
    let name = field.name();
    if matches!(scalar, Scalar::Int32 | Scalar::Int64 | Scalar::Bool) {
        let number = reader.varint_of(name, wire)?;
        return Ok(match scalar {
            Scalar::Bool => Value::Bool(number != 0),
            Scalar::Int32 => Value::from(number as i32),
            _ => Value::from(number as i64),
        });
    }
    if scalar == Scalar::Double {
        let bits = reader.fixed64(name, wire)?;
        return Ok(Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number));
    }
    let bytes = reader.delimited(name, wire)?;
    Ok(match scalar {
        Scalar::String => Value::String(utf8(bytes)?),
        Scalar::Bytes => Value::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Scalar::Quantity => match nested_bytes(bytes, 1)? {
            Some(text) if !text.is_empty() => Value::String(utf8(text)?),
            _ => Value::Null,
        },
        Scalar::IntOrString => int_or_string(bytes, field)?,
        Scalar::Time | Scalar::MicroTime => time(scalar, bytes)?,
        Scalar::Duration => Value::String(duration(nested_number(bytes, 1)? as i64)),
        Scalar::Raw | Scalar::Unknown => raw(nested_bytes(bytes, 1)?.unwrap_or_default())?,
        Scalar::Fields | Scalar::Json => match nested_bytes(bytes, 1)? {
            Some(text) if !text.is_empty() => json(text)?,
            _ => Value::Null,
        },
        Scalar::Strings => Value::Array(strings(bytes, 1)?),
        Scalar::SchemaOrArray => match schema(bytes, depth)? {
            Some(schema) => schema,
            None => {
                let mut reader = Reader { bytes };
                let mut list = Vec::new();
                while let Some((number, wire)) = reader.tag()? {
                    match number {
                        2 => list.push(Value::Object(message(
                            schema_type(),
                            reader.delimited("jSONSchemas", wire)?,
                            depth,
                        )?)),
                        _ => reader.skip(wire)?,
                    }
                }
                Value::Array(list)
            }
        },
        Scalar::SchemaOrBool => match nested_bytes(bytes, 2)? {
            Some(inner) => Value::Object(message(schema_type(), inner, depth)?),
            None => Value::Bool(nested_number(bytes, 1)? != 0),
        },
        Scalar::SchemaOrStrings => match schema(bytes, depth)? {
            Some(schema) => schema,
            None => Value::Array(strings(bytes, 2)?),
        },
        Scalar::Int32 | Scalar::Int64 | Scalar::Bool | Scalar::Double => Value::Null,
    })
}

fn schema_type() -> TypeId {
    type_named("apiextensions.v1.JSONSchemaProps").expect("the table holds CRDs' schemas")
}

fn schema(bytes: &[u8], depth: usize) -> Result<Option<Value>, ProtobufError> {
    nested_bytes(bytes, 1)?.map(|inner| message(schema_type(), inner, depth).map(Value::Object)).transpose()
}

fn int_or_string(bytes: &[u8], field: Field) -> Result<Value, ProtobufError> {
    if nested_number(bytes, 1)? == 1 {
        return Ok(Value::String(utf8(nested_bytes(bytes, 3)?.unwrap_or_default())?));
    }
    let number = nested_number(bytes, 2)? as i32;
    let unset = number == 0 && !field.is_pointer() && !field.is_required();
    Ok(if unset { Value::Null } else { Value::from(number) })
}

fn time(scalar: Scalar, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (seconds, nanos) = (nested_number(bytes, 1)? as i64, nested_number(bytes, 2)? as i64);
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    // Years 1 to 9999, the range of RFC 3339.
    if !(-62_135_596_800..=253_402_300_799).contains(&seconds) {
        return Err(ProtobufError::Overflow);
    }
    let time = Instant { seconds, nanos: u32::try_from(nanos).unwrap_or_default().min(999_999_999) };
    Ok(Value::String(if scalar == Scalar::Time { time.to_seconds() } else { time.to_micros() }))
}

/// Go's form of a duration.
fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let (seconds, rest) = (total / 1_000_000_000, total % 1_000_000_000);
    if seconds == 0 && rest != 0 {
        let (unit, size) = match rest {
            1_000_000.. => ("ms", 1_000_000),
            1_000.. => ("\u{b5}s", 1_000),
            _ => ("ns", 1),
        };
        return format!("{sign}{}{unit}", fraction(rest / size, rest % size, size));
    }
    let tail = format!("{}s", fraction(seconds % 60, rest, 1_000_000_000));
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{sign}{tail}"),
        (0, minutes) => format!("{sign}{minutes}m{tail}"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{tail}"),
    }
}

fn fraction(whole: u64, part: u64, size: u64) -> String {
    if part == 0 {
        return whole.to_string();
    }
    let digits = size.ilog10() as usize;
    format!("{whole}.{}", format!("{part:0digits$}").trim_end_matches('0'))
}

/// An embedded object: JSON, or protobuf with its own envelope.
fn raw(bytes: &[u8]) -> Result<Value, ProtobufError> {
    if bytes.starts_with(&MAGIC) {
        return decode(bytes, None).map(Value::Object);
    }
    if bytes.is_empty() { Ok(Value::Null) } else { json(bytes) }
}

fn json(bytes: &[u8]) -> Result<Value, ProtobufError> {
    serde_json::from_slice(bytes).map_err(|error| ProtobufError::Json(error.to_string()))
}

fn utf8(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Utf8)
}

fn strings(bytes: &[u8], wanted: u32) -> Result<Vec<Value>, ProtobufError> {
    let mut reader = Reader { bytes };
    let mut found = Vec::new();
    while let Some((number, wire)) = reader.tag()? {
        if number == wanted {
            found.push(Value::String(reader.string("items", wire)?));
        } else {
            reader.skip(wire)?;
        }
    }
    Ok(found)
}

/// The last bytes of this number in a message.
fn nested_bytes(bytes: &[u8], wanted: u32) -> Result<Option<&[u8]>, ProtobufError> {
    let mut reader = Reader { bytes };
    let mut found = None;
    while let Some((number, wire)) = reader.tag()? {
        if number == wanted && wire == 2 {
            found = Some(reader.delimited("", wire)?);
        } else {
            reader.skip(wire)?;
        }
    }
    Ok(found)
}

fn nested_number(bytes: &[u8], wanted: u32) -> Result<u64, ProtobufError> {
    let mut reader = Reader { bytes };
    let mut found = 0;
    while let Some((number, wire)) = reader.tag()? {
        if number == wanted && wire == 0 {
            found = reader.varint()?;
        } else {
            reader.skip(wire)?;
        }
    }
    Ok(found)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (head, tail) = self.bytes.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.bytes = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Overflow)
    }

    /// The next field's number and wire type; none at the end.
    fn tag(&mut self) -> Result<Option<(u32, u8)>, ProtobufError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 => Ok(Some((number, (tag & 7) as u8))),
            _ => Err(ProtobufError::Tag(tag)),
        }
    }

    fn skip(&mut self, wire: u8) -> Result<(), ProtobufError> {
        match wire {
            0 => self.varint().map(|_| ()),
            1 => self.take(8).map(|_| ()),
            2 => self.delimited("", 2).map(|_| ()),
            5 => self.take(4).map(|_| ()),
            _ => Err(ProtobufError::Tag(u64::from(wire))),
        }
    }

    fn delimited(&mut self, field: &'static str, wire: u8) -> Result<&'a [u8], ProtobufError> {
        if wire != 2 {
            return Err(ProtobufError::WireType { field, wire });
        }
        let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Overflow)?;
        self.take(length)
    }

    fn string(&mut self, field: &'static str, wire: u8) -> Result<String, ProtobufError> {
        utf8(self.delimited(field, wire)?)
    }

    fn varint_of(&mut self, field: &'static str, wire: u8) -> Result<u64, ProtobufError> {
        if wire == 0 { self.varint() } else { Err(ProtobufError::WireType { field, wire }) }
    }

    fn fixed64(&mut self, field: &'static str, wire: u8) -> Result<u64, ProtobufError> {
        if wire != 1 {
            return Err(ProtobufError::WireType { field, wire });
        }
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }
}

#[cfg(test)]
mod tests;
