//! Pure: the schema table of Kubernetes v1.35 and everything that it drives.
//!
//! The way of a manifest: [`read`] (bytes to JSON, duplicate fields noticed) or [`protobuf`] (bytes to JSON), [`conform`]
//! (types checked, unknown fields dropped and reported, canonical values), [`defaults`], [`validate`].

pub mod apply;
pub mod conform;
pub mod defaults;
pub mod field_error;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod read;
pub mod selector;
mod syntax;
pub mod table;
pub mod time;
pub mod validate;

pub use conform::{DecodeError, conform, strict_decoding_error};
pub use defaults::default;
pub use field_error::{FieldError, Path, Reason};
pub use read::{Document, read_json, read_yaml, strict_errors};
pub use table::{TypeId, lookup, lookup_api_version, type_named};
pub use validate::{validate, validate_at};
