//! Shell: sealing at rest: which records are sealed, the data keys that seal them, and the keys that wrap those.
//!
//! ```text
//! key service (a key of the file, or a KMS) --wraps--> data key (at rest under `.sealing/`) --HKDF--> a record's key
//! ```
//! A record's key is derived from the data key and sixteen random bytes, so it seals once and needs no nonce of its own.
//! The key and the revision of the record are bound as associated data: a sealed value in another place does not open.
//! Data keys are few, and all of them are unwrapped when the store opens: no read ever asks a key service.
//!
//! **Architecture invariant:** what a rule seals reaches neither a backing nor a snapshot in plain form.

mod cipher;
mod local;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};

use self::cipher::{DATA_KEY_BYTES, DataKey, SALT_BYTES};
pub use self::local::{LocalAlgorithm, LocalKey};
use crate::record::{Damaged, Version, encode, encode_sealed, parse};
use crate::write::resource;

/// Where wrapped data keys lie: no resource of a caller begins with a dot.
pub(crate) const KEYS_PREFIX: &str = ".sealing/";

/// Wraps data keys: the door to a key in a file, or to a key management service.
pub trait KeyService: Send + Sync {
    /// Its name, such as `aesgcm:key1`; wrapped keys carry it, so it never changes.
    fn name(&self) -> &str;

    /// A data key in a form that only this service opens. May block.
    fn wrap(&self, key: &[u8]) -> Result<Vec<u8>, KeyServiceError>;

    /// The inverse. May block.
    fn unwrap(&self, wrapped: &[u8]) -> Result<Vec<u8>, KeyServiceError>;
}

/// Why a key service gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyServiceError {
    /// It is not the key with which this was wrapped, or the bytes were changed.
    #[error("not the key that wrapped it")]
    Wrong,
    /// It cannot be asked now.
    #[error("{0}")]
    Unavailable(String),
}

/// Why a store cannot seal or open its records. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Records are sealed below a key that was not given.
    #[error("records of this store are sealed with the key {service:?}, which was not given")]
    KeyMissing {
        /// The name of the key.
        service: String,
    },
    /// A key of that name was given, and it is another one.
    #[error("the key {service:?} is not the one that sealed this store")]
    KeyWrong {
        /// The name of the key.
        service: String,
    },
    /// The key service cannot be asked.
    #[error("the key service {service:?} does not answer: {reason}")]
    Service {
        /// Its name.
        service: String,
        /// What it said.
        reason: String,
    },
    /// A wrapped key is no wrapped key.
    #[error("the data key {key} is damaged")]
    Damaged {
        /// Where it lies.
        key: String,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes")]
    Random,
}

/// Which keys a rule concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every key.
    All,
    /// Keys that begin with this, such as `secrets/`.
    Prefix(String),
    /// Keys whose resource ends with this, such as `.apps`.
    ResourceSuffix(String),
    /// Keys whose resource holds no dot.
    DotlessResource,
}

impl Scope {
    fn holds(&self, key: &str) -> bool {
        let resource = resource(key).unwrap_or_default();
        match self {
            Scope::All => true,
            Scope::Prefix(prefix) => key.starts_with(&**prefix),
            Scope::ResourceSuffix(suffix) => resource.ends_with(&**suffix),
            Scope::DotlessResource => !resource.contains('.'),
        }
    }
}

/// What happens to the keys of a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealRule {
    /// Whom it concerns.
    pub scope: Scope,
    /// The name of the service whose data key seals them; none leaves them plain.
    pub service: Option<String>,
}

/// What is sealed, and with what. The first rule that concerns a key decides; a key without rule stays plain. Whatever
/// is at rest is opened with any of the services.
#[derive(Clone, Default)]
pub struct Sealing {
    /// In order.
    pub rules: Vec<SealRule>,
    /// Every service that seals, or has sealed what is still there.
    pub services: Vec<Arc<dyn KeyService>>,
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.services.iter().map(|service| service.name()).collect();
        f.debug_struct("Sealing").field("rules", &self.rules).field("services", &names).finish()
    }
}

impl Sealing {
    /// One rule: these prefixes with this service.
    pub fn prefixes(prefixes: &[&str], service: Arc<dyn KeyService>) -> Sealing {
        let name = service.name().to_owned();
        let rule = |prefix: &&str| SealRule { scope: Scope::Prefix((*prefix).into()), service: Some(name.clone()) };
        Sealing { rules: prefixes.iter().map(rule).collect(), services: vec![service] }
    }

    fn service_for(&self, key: &str) -> Option<&str> {
        // The keys themselves are wrapped already.
        if key.starts_with(KEYS_PREFIX) {
            return None;
        }
        self.rules.iter().find(|rule| rule.scope.holds(key))?.service.as_deref()
    }

    fn service(&self, name: &str) -> Result<&Arc<dyn KeyService>, SealError> {
        let found = self.services.iter().find(|service| service.name() == name);
        found.ok_or_else(|| SealError::KeyMissing { service: name.to_owned() })
    }
}

/// A data key, its wrapped form, and whose it is.
#[derive(Clone)]
struct Held {
    key: Arc<DataKey>,
    service: String,
    wrapped: Bytes,
}

/// Every data key that was ever at rest in this process's time, and the rules.
#[derive(Clone, Default)]
pub(crate) struct Keyring {
    sealing: Sealing,
    keys: BTreeMap<u64, Held>,
    /// Keys that are at rest no more; a reader may still hold a view of before.
    retired: BTreeMap<u64, Held>,
}

impl Keyring {
    fn find(&self, id: u64) -> Option<Held> {
        self.keys.get(&id).or_else(|| self.retired.get(&id)).cloned()
    }

    /// The newest data key of a service.
    fn current(&self, service: &str) -> Option<(u64, &Held)> {
        self.keys.iter().rev().find(|(_, held)| held.service == service).map(|(id, held)| (*id, held))
    }

    /// Takes in wrapped keys that are at rest.
    fn learn(&mut self, at_rest: &BTreeMap<u64, Bytes>) -> Result<(), SealError> {
        for (id, wrapped) in at_rest {
            let damaged = || SealError::Damaged { key: key_of(*id) };
            let (service, inner) = split(wrapped).ok_or_else(damaged)?;
            let key = self.sealing.service(service)?.unwrap(inner).map_err(|error| of_service(service, error))?;
            let key = Arc::new(DataKey::new(&key).ok_or_else(damaged)?);
            self.keys.insert(*id, Held { key, service: service.to_owned(), wrapped: wrapped.clone() });
        }
        Ok(())
    }

    /// A new data key for a service.
    fn make(&mut self, service: &str) -> Result<(u64, Bytes), SealError> {
        let mut plain = [0; DATA_KEY_BYTES];
        SystemRandom::new().fill(&mut plain).map_err(|_| SealError::Random)?;
        let inner = self.sealing.service(service)?.wrap(&plain).map_err(|error| of_service(service, error))?;
        let wrapped = join(service, &inner);
        let last = |keys: &BTreeMap<u64, Held>| keys.last_key_value().map_or(0, |(id, _)| *id);
        let id = last(&self.keys).max(last(&self.retired)) + 1;
        let key = Arc::new(DataKey::new(&plain).ok_or(SealError::Random)?);
        self.keys.insert(id, Held { key, service: service.to_owned(), wrapped: wrapped.clone() });
        Ok((id, wrapped))
    }

    /// The services that seal something.
    fn sealing_services(&self) -> BTreeSet<String> {
        self.sealing.rules.iter().filter_map(|rule| rule.service.clone()).collect()
    }
}

fn of_service(service: &str, error: KeyServiceError) -> SealError {
    let service = service.to_owned();
    match error {
        KeyServiceError::Wrong => SealError::KeyWrong { service },
        KeyServiceError::Unavailable(reason) => SealError::Service { service, reason },
    }
}

/// Where a data key lies.
pub(crate) fn key_of(id: u64) -> String {
    format!("{KEYS_PREFIX}{id:016x}")
}

/// The number of a data key, by where it lies.
pub(crate) fn id_of(key: &str) -> Option<u64> {
    u64::from_str_radix(key.strip_prefix(KEYS_PREFIX)?, 16).ok()
}

fn join(service: &str, inner: &[u8]) -> Bytes {
    [service.as_bytes(), b"\n", inner].concat().into()
}

fn split(wrapped: &[u8]) -> Option<(&str, &[u8])> {
    let end = wrapped.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&wrapped[..end]).ok()?, &wrapped[end + 1..]))
}

/// Seals and opens records; shared by the writer and all readers.
#[derive(Default)]
pub(crate) struct Sealer(RwLock<Keyring>);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Opens all data keys at rest, and makes those that are missing, which must be at rest before anything is sealed.
    pub(crate) fn open(
        sealing: Sealing,
        at_rest: &BTreeMap<u64, Bytes>,
    ) -> Result<(Sealer, BTreeMap<u64, Bytes>), SealError> {
        let mut keyring = Keyring { sealing, ..Keyring::default() };
        keyring.learn(at_rest)?;
        let mut made = BTreeMap::new();
        for service in keyring.sealing_services() {
            if keyring.current(&service).is_none() {
                made.extend([keyring.make(&service)?]);
            }
        }
        Ok((Sealer(RwLock::new(keyring)), made))
    }

    fn keyring(&self) -> RwLockReadGuard<'_, Keyring> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Keyring> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// No data key yet.
    #[cfg(feature = "etcd")]
    pub(crate) fn empty(sealing: Sealing) -> Sealer {
        Sealer(RwLock::new(Keyring { sealing, ..Keyring::default() }))
    }

    /// Takes in the data keys at rest that are not known yet. May block.
    #[cfg(feature = "etcd")]
    pub(crate) fn learn(&self, at_rest: &BTreeMap<u64, Bytes>) -> Result<(), SealError> {
        let sealing = self.sealing();
        let unknown = at_rest.iter().filter(|(id, _)| !self.knows(**id)).map(|(id, raw)| (*id, raw.clone())).collect();
        let mut learned = Keyring { sealing, ..Keyring::default() };
        learned.learn(&unknown)?;
        self.change().keys.extend(learned.keys);
        Ok(())
    }

    /// Makes a data key for every service that seals and has none; they must be at rest before anything is sealed. May
    /// block.
    #[cfg(feature = "etcd")]
    pub(crate) fn make_missing(&self) -> Result<BTreeMap<u64, Bytes>, SealError> {
        let mut keyring = self.keyring().clone();
        let mut made = BTreeMap::new();
        for service in keyring.sealing_services() {
            if keyring.current(&service).is_none() {
                made.extend([keyring.make(&service)?]);
            }
        }
        *self.change() = keyring;
        Ok(made)
    }

    /// These never came to rest.
    #[cfg(feature = "etcd")]
    pub(crate) fn forget(&self, made: &BTreeMap<u64, Bytes>) {
        self.change().keys.retain(|id, _| !made.contains_key(id));
    }

    #[cfg(feature = "etcd")]
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.keyring().find(id).is_some()
    }

    /// The newest data key of all services; zero where there is none.
    #[cfg(feature = "etcd")]
    pub(crate) fn newest(&self) -> u64 {
        let keyring = self.keyring();
        keyring.keys.keys().chain(keyring.retired.keys()).max().copied().unwrap_or_default()
    }

    /// The data keys that have a newer one of the same service: no controller seals with them any more. Another one may
    /// still seal with the newest of a service that we do not use.
    #[cfg(feature = "etcd")]
    pub(crate) fn superseded(&self) -> BTreeSet<u64> {
        let keyring = self.keyring();
        let newest = |held: &Held| keyring.current(&held.service).map(|(id, _)| id);
        keyring.keys.iter().filter(|(id, held)| newest(held) != Some(**id)).map(|(id, _)| *id).collect()
    }

    /// The next keyring: the same data keys, opened with these services, and a new one for each that seals. It is used
    /// from [`Sealer::install`] on.
    pub(crate) fn prepare(&self, sealing: Sealing) -> Result<(Keyring, BTreeMap<u64, Bytes>), SealError> {
        let now = self.keyring().clone();
        let at_rest = now.keys.iter().map(|(id, held)| (*id, held.wrapped.clone())).collect();
        let mut next = Keyring { sealing, keys: BTreeMap::new(), retired: now.retired };
        next.learn(&at_rest)?;
        let made = next.sealing_services().iter().map(|service| next.make(service)).collect::<Result<_, _>>()?;
        Ok((next, made))
    }

    pub(crate) fn install(&self, next: Keyring) {
        *self.change() = next;
    }

    /// What is sealed, and with what.
    pub(crate) fn sealing(&self) -> Sealing {
        self.keyring().sealing.clone()
    }

    /// The data keys that seal what is written now.
    pub(crate) fn current(&self) -> BTreeSet<u64> {
        let keyring = self.keyring();
        keyring.sealing_services().iter().filter_map(|service| keyring.current(service)).map(|(id, _)| id).collect()
    }

    /// The data keys that seal nothing any more, once all that is stale is written again.
    pub(crate) fn unused(&self) -> BTreeSet<u64> {
        let current = self.current();
        self.keyring().keys.keys().filter(|id| !current.contains(id)).copied().collect()
    }

    /// These data keys are at rest no more.
    pub(crate) fn retire(&self, ids: &BTreeSet<u64>) {
        let mut keyring = self.change();
        let (gone, kept) = std::mem::take(&mut keyring.keys).into_iter().partition(|(id, _)| ids.contains(id));
        keyring.keys = kept;
        keyring.retired.extend::<BTreeMap<_, _>>(gone);
    }

    /// The wrapped form of a data key.
    pub(crate) fn wrapped(&self, id: u64) -> Option<Bytes> {
        self.keyring().find(id).map(|held| held.wrapped)
    }

    /// The bytes at rest of a version of `key`.
    pub(crate) fn encode(&self, key: &str, version: &Version) -> Result<Bytes, SealError> {
        let keyring = self.keyring();
        let Some(service) = keyring.sealing.service_for(key) else { return Ok(encode(key, version)) };
        let missing = || SealError::KeyMissing { service: service.to_owned() };
        let (id, held) = keyring.current(service).ok_or_else(missing)?;
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| SealError::Random)?;
        let body = held.key.seal(id, &salt, key, version.revision, &version.value).ok_or(SealError::Random)?;
        Ok(encode_sealed(key, version.revision, &body))
    }

    /// The inverse.
    pub(crate) fn decode(&self, key: &str, raw: &[u8]) -> Result<Version, Damaged> {
        let parsed = parse(key, raw)?;
        let revision = parsed.revision;
        if !parsed.sealed {
            return Ok(Version { revision, value: parsed.value()? });
        }
        let id = cipher::id(parsed.body).ok_or(Damaged)?;
        let held = self.keyring().find(id).ok_or(Damaged)?;
        let value = held.key.open(key, revision, parsed.body).ok_or(Damaged)?;
        Ok(Version { revision, value })
    }

    /// The data key that seals a record at rest.
    pub(crate) fn sealed_by(key: &str, raw: &[u8]) -> Option<u64> {
        parse(key, raw).ok().filter(|parsed| parsed.sealed).and_then(|parsed| cipher::id(parsed.body))
    }

    /// Whether a record at rest would be written otherwise now.
    pub(crate) fn stale(&self, key: &str, raw: &[u8]) -> bool {
        let keyring = self.keyring();
        let wanted = keyring.sealing.service_for(key).and_then(|service| keyring.current(service)).map(|(id, _)| id);
        Sealer::sealed_by(key, raw) != wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Revision;

    fn service(name: &str, byte: u8) -> Arc<dyn KeyService> {
        Arc::new(LocalKey::new(name, LocalAlgorithm::ChaCha20Poly1305, &[byte; 32]).unwrap())
    }

    fn sealing(services: &[(&str, u8)]) -> Sealing {
        let mut sealing = Sealing::prefixes(&["secrets/"], service(services[0].0, services[0].1));
        sealing.services.extend(services[1..].iter().map(|(name, byte)| service(name, *byte)));
        sealing
    }

    fn version(value: &'static [u8]) -> Version {
        Version { revision: Revision(7), value: Bytes::from_static(value) }
    }

    #[test]
    fn a_sealed_record_opens_only_where_it_belongs() {
        let (sealer, made) = Sealer::open(sealing(&[("a", 1)]), &BTreeMap::new()).unwrap();
        assert_eq!(made.len(), 1);
        let raw = sealer.encode("secrets/x", &version(b"hunter2 hunter2")).unwrap();
        assert!(!raw.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(sealer.decode("secrets/x", &raw).unwrap(), version(b"hunter2 hunter2"));
        let plain = sealer.encode("pods/x", &version(b"hunter2")).unwrap();
        assert!(plain.windows(7).any(|window| window == b"hunter2"), "only what a rule names is sealed");
        // The same sealed body, honestly checksummed for another key or another revision.
        let body = parse("secrets/x", &raw).unwrap().body.to_vec();
        for (key, revision) in [("secrets/y", 7), ("secrets/x", 8)] {
            let moved = encode_sealed(key, Revision(revision), &body);
            assert!(parse(key, &moved).is_ok() && sealer.decode(key, &moved).is_err(), "{key} {revision}");
        }
    }

    #[test]
    fn a_wrong_or_missing_key_is_named() {
        let (_, made) = Sealer::open(sealing(&[("a", 1)]), &BTreeMap::new()).unwrap();
        let open = |sealing| Sealer::open(sealing, &made).map(|_| ());
        let name = || "a".to_owned();
        assert_eq!(open(sealing(&[("a", 2)])), Err(SealError::KeyWrong { service: name() }));
        assert_eq!(open(sealing(&[("b", 1)])), Err(SealError::KeyMissing { service: name() }));
        assert_eq!(open(Sealing::default()), Err(SealError::KeyMissing { service: name() }));
        assert_eq!(open(sealing(&[("b", 2), ("a", 1)])), Ok(()), "any of the keys opens");
    }

    #[test]
    fn a_prepared_keyring_makes_older_records_stale() {
        let (sealer, _) = Sealer::open(sealing(&[("a", 1)]), &BTreeMap::new()).unwrap();
        let old = sealer.encode("secrets/x", &version(b"v")).unwrap();
        assert!(!sealer.stale("secrets/x", &old));
        let (next, made) = sealer.prepare(sealing(&[("b", 2), ("a", 1)])).unwrap();
        assert_eq!(made.keys().copied().collect::<Vec<_>>(), [2]);
        sealer.install(next);
        assert!(sealer.stale("secrets/x", &old) && sealer.decode("secrets/x", &old).is_ok());
        let new = sealer.encode("secrets/x", &version(b"v")).unwrap();
        assert!(!sealer.stale("secrets/x", &new));
        let plain = Sealing { rules: Vec::new(), ..sealer.sealing() };
        sealer.install(sealer.prepare(plain).unwrap().0);
        assert!(sealer.stale("secrets/x", &new), "what is sealed no longer is written plain again");
    }

    #[test]
    fn scopes_are_as_the_configuration_says_them() {
        let group = Scope::ResourceSuffix(".apps".into());
        assert!(group.holds("deployments.apps/default/web") && !group.holds("pods/default/x.apps"));
        assert!(
            Scope::DotlessResource.holds("pods/default/a.b") && !Scope::DotlessResource.holds("deployments.apps/a")
        );
        let sealing =
            Sealing { rules: vec![SealRule { scope: Scope::All, service: Some("a".into()) }], services: vec![] };
        assert_eq!(sealing.service_for("pods/x"), Some("a"));
        assert_eq!(sealing.service_for(".sealing/0000000000000001"), None);
    }
}
