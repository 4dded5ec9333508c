//! Shell: create: from a body to a new key.

use bramble_store::{Precondition, Revision, Write, WriteError};
use ring::rand::{SecureRandom, SystemRandom};

use super::admission::Operation;
use super::allocation::Claims;
use super::{Answer, ApiError, Call, Part, Registry, Target, Written, durability, record, shape};
use crate::kinds::strategy::validate_metadata;
use crate::kinds::{Kind, Persistence};
use crate::object::{Object, time};

/// How often a generated name or address that is taken is drawn again.
const ATTEMPTS: usize = 8;
/// Upstream's alphabet of generated names: no vowels, no look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// A generated name's prefix is cut so that prefix and suffix fit 63 characters.
const PREFIX_MAX: usize = 58;
const SUFFIX: usize = 5;

impl Registry {
    /// Creates an object in the target's collection.
    pub async fn create(&self, call: &mut Call, target: &Target, body: Object) -> Answer<Written> {
        let kinds = self.kinds();
        let stored = kinds.stored(&target.kind);
        let mut object = body;
        check_place(target, &mut object)?;
        if !object.resource_version().is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        shape::complete(&target.kind, &mut object, call)?;
        if !call.applies {
            shape::track_creation(&target.kind, &mut object, call, &time::format(self.now()));
        }
        if let Some(alias) = target.kind.alias {
            (alias.store)(&mut object);
            object.set(&["apiVersion"], stored.api_version());
        }
        let generated = object.name().is_empty() && !object.text(&["metadata", "generateName"]).is_empty();
        self.birth(&stored, &mut object);
        for attempt in 1.. {
            let mut candidate = object.clone();
            if generated {
                let name = generate_name(candidate.text(&["metadata", "generateName"]));
                candidate.set(&["metadata", "name"], name);
            }
            match self.create_once(call, target, &stored, candidate).await {
                Err(Refused::Taken(_)) if generated && attempt < ATTEMPTS => {}
                Err(Refused::Raced) if attempt < ATTEMPTS => {}
                Err(Refused::Taken(error) | Refused::Other(error)) => return Err(error),
                Err(Refused::Raced) => break,
                Ok(written) => return Ok(written),
            }
        }
        Err(ApiError::new(409, "Conflict", "addresses are being taken faster than they can be chosen; try again"))
    }

    /// The metadata that the server decides.
    fn birth(&self, kind: &Kind, object: &mut Object) {
        for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            object.remove(&["metadata", field]);
        }
        object.set(&["metadata", "uid"], uuid());
        object.set(&["metadata", "creationTimestamp"], time::format(self.now()));
        if kind.strategy.generation {
            object.set(&["metadata", "generation"], 1);
        }
    }

    async fn create_once(
        &self,
        call: &mut Call,
        target: &Target,
        stored: &std::sync::Arc<Kind>,
        mut object: Object,
    ) -> Result<Written, Refused> {
        let warnings = call.warnings.len();
        let name = object.name().to_owned();
        let target = Target { kind: stored.clone(), namespace: target.namespace.clone(), name: name.clone() };
        self.admit(call, &target, Part::Whole, Operation::Create, &mut object, None).await?;
        (stored.strategy.prepare_create)(&mut object);
        let mut errors = validate_metadata(&object, stored.namespaced, stored.strategy.name_errors);
        errors.extend(shape::validate(stored, &object));
        errors.extend((stored.strategy.validate)(&object));
        if !errors.is_empty() {
            return Err(Refused::Other(ApiError::invalid(stored, &name, &errors)));
        }
        let claims: Claims = self.claim(stored, &mut object, None).await?;
        call.warnings.extend((stored.strategy.warnings)(&object));
        let value = record::encode(&object);
        if call.dry_run {
            if self.record(&target).await?.is_some() {
                return Err(Refused::Taken(ApiError::already_exists(stored, &name)));
            }
            return Ok(Written { value, revision: 0, created: true });
        }
        let key = target.key();
        let mut batch = vec![Write::put(key.clone(), Precondition::Absent, value.clone())];
        batch.extend(claims.writes);
        match self.write(batch, durability::of_create(stored)).await {
            Ok(Revision(revision)) => {
                if matches!(stored.persistence, Persistence::Volatile) {
                    self.events.remember(key, Revision(revision), self.now());
                }
                Ok(Written { value, revision, created: true })
            }
            Err(error) => {
                call.warnings.truncate(warnings);
                Err(refused(stored, &name, &key, error, &claims.explicit))
            }
        }
    }
}

/// Why one attempt failed.
enum Refused {
    /// The name is taken.
    Taken(ApiError),
    /// Another key of the batch was taken meanwhile: choose again.
    Raced,
    Other(ApiError),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

fn refused(kind: &Kind, name: &str, key: &str, error: WriteError, explicit: &[(String, ApiError)]) -> Refused {
    match error {
        WriteError::Conflict { key: taken, .. } if taken == key => Refused::Taken(ApiError::already_exists(kind, name)),
        WriteError::Conflict { key: taken, .. } => explicit
            .iter()
            .find(|(claimed, _)| *claimed == taken)
            .map_or(Refused::Raced, |(_, error)| Refused::Other(error.clone())),
        other => Refused::Other(write_error(other)),
    }
}

/// A write that the store refused for its own reasons.
pub(super) fn write_error(error: WriteError) -> ApiError {
    match error {
        WriteError::ValueTooLarge { .. } => {
            ApiError::new(413, "RequestEntityTooLarge", "etcdserver: request is too large")
        }
        // Nobody knows whether it happened, so no client should be told to send it again by itself.
        WriteError::Unavailable { .. } => ApiError::new(504, "Timeout", format!("Timeout: {error}")),
        WriteError::Full => ApiError::new(507, "InsufficientStorage", "the store is full: delete something"),
        other => ApiError::internal(other),
    }
}

/// The object must be of the target's kind and in its namespace.
pub(super) fn check_place(target: &Target, object: &mut Object) -> Answer<()> {
    let kind = &target.kind;
    check_kind(kind, object)?;
    if kind.namespaced && !target.namespace.is_empty() {
        if object.namespace().is_empty() {
            object.set(&["metadata", "namespace"], target.namespace.as_str());
        } else if object.namespace() != target.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    } else if !kind.namespaced && object.namespace().is_empty() {
        object.remove(&["metadata", "namespace"]);
    }
    if !target.name.is_empty() {
        if object.name().is_empty() {
            object.set(&["metadata", "name"], target.name.as_str());
        } else if object.name() != target.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                object.name(),
                target.name
            )));
        }
    }
    Ok(())
}

fn check_kind(kind: &Kind, object: &mut Object) -> Answer<()> {
    let expected = kind.api_version();
    if object.api_version().is_empty() {
        object.set(&["apiVersion"], expected.as_str());
    }
    if object.kind().is_empty() {
        object.set(&["kind"], kind.kind.as_ref());
    }
    let wrong = |object: &Object| {
        format!(
            "{} in version {:?} cannot be handled as a {}: expected {expected}/{}, got {}/{}",
            object.kind(),
            last_part(object.api_version()),
            kind.kind,
            kind.kind,
            object.api_version(),
            object.kind()
        )
    };
    if object.kind() != kind.kind {
        return Err(ApiError::bad_request(wrong(object)));
    }
    if object.api_version() != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({expected})",
            object.api_version()
        )));
    }
    Ok(())
}

fn last_part(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or_default()
}

fn generate_name(prefix: &str) -> String {
    let mut end = prefix.len().min(PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    prefix[..end].to_owned() + &suffix()
}

/// Five random characters, as upstream's generated names end.
pub(super) fn suffix() -> String {
    random::<SUFFIX>().iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// A random version-4 UUID.
pub(crate) fn uuid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Random bytes of the system.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel's random source does not fail once it is seeded");
    bytes
}
