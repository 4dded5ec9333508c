//! Pure: what a caller asks to be written, and the bounds of it.

use bytes::Bytes;

use crate::error::WriteError;
use crate::record::Revision;

/// How much a write must survive: a floor, the store may do more. Ordered from weakest to strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In memory only; lost with the process.
    Volatile,
    /// Visible at once; on disk with the next durable commit, or after `Config::deferred_max_delay`.
    Deferred,
    /// On disk before the answer, and visible only then.
    Durable,
}

/// What must hold for a key, at the newest state, for its batch to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key exists and was last written at this revision.
    At(Revision),
}

/// What happens to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key gets this value.
    Put(Bytes),
    /// The key goes; one that does not exist stays away silently.
    Delete,
}

/// One key of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// `<resource>/<rest>`.
    pub key: String,
    /// What must hold for it.
    pub precondition: Precondition,
    /// What happens to it.
    pub change: Change,
}

impl Write {
    /// A put.
    pub fn put(key: impl Into<String>, precondition: Precondition, value: impl Into<Bytes>) -> Write {
        Write { key: key.into(), precondition, change: Change::Put(value.into()) }
    }

    /// A deletion.
    pub fn delete(key: impl Into<String>, precondition: Precondition) -> Write {
        Write { key: key.into(), precondition, change: Change::Delete }
    }
}

/// A batch is one API write with its unique keys (service addresses, node ports): far below this, which is etcd's bound.
pub const BATCH_WRITES_MAX: usize = 128;
/// Longest key: resource, namespace and name of 253 bytes each fit twice.
pub const KEY_BYTES_MAX: usize = 1536;
/// Largest value: upstream's request limit of 3 MiB, so that the API refuses first.
pub const VALUE_BYTES_MAX: usize = 3 << 20;

/// The resource prefix of a key or of a key prefix: the bytes before the first `/`.
pub(crate) fn resource(key: &str) -> Option<&str> {
    key.split_once('/').map(|(resource, _)| resource).filter(|resource| !resource.is_empty())
}

/// Whether a batch is well-formed; says nothing about preconditions.
pub(crate) fn validate(batch: &[Write]) -> Result<(), WriteError> {
    if batch.len() > BATCH_WRITES_MAX {
        return Err(WriteError::BatchTooLarge { writes: batch.len() });
    }
    for (index, write) in batch.iter().enumerate() {
        // A resource that begins with a dot is the store's own.
        let foreign = resource(&write.key).is_some_and(|resource| !resource.starts_with('.'));
        if !foreign || write.key.len() > KEY_BYTES_MAX {
            return Err(WriteError::InvalidKey { key: write.key.clone() });
        }
        if batch[..index].iter().any(|earlier| earlier.key == write.key) {
            return Err(WriteError::InvalidKey { key: write.key.clone() });
        }
        if let Change::Put(value) = &write.change
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(WriteError::ValueTooLarge { key: write.key.clone(), bytes: value.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_resource_and_come_once() {
        let put = |key: &str| Write::put(key, Precondition::Any, "v");
        assert!(validate(&[put("pods/a"), put("pods/b")]).is_ok());
        assert!(validate(&[put("pods/a"), put("pods/a")]).is_err());
        assert!(validate(&[put("pods")]).is_err());
        assert!(validate(&[put("/a")]).is_err());
        assert!(validate(&[put(".sealing/a")]).is_err());
        assert!(validate(&[put(&format!("pods/{}", "x".repeat(KEY_BYTES_MAX)))]).is_err());
        assert!(validate(&[Write::put("pods/a", Precondition::Any, vec![0; VALUE_BYTES_MAX + 1])]).is_err());
        assert_eq!(resource("deployments.apps/default/web"), Some("deployments.apps"));
    }
}
