//! Pure: the schema table of Kubernetes v1.35 and everything that it drives.

pub mod field_error;
pub mod names;
pub mod quantity;
pub mod selector;
