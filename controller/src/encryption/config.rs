//! Pure: upstream's EncryptionConfiguration (apiserver.config.k8s.io/v1) as rules and key services of the store.
//!
//! The first provider of a resource seals, every key of the file opens. `aesgcm` and `kms` v2 are upstream's; their keys wrap
//! our data keys, which seal the records. `chacha20poly1305` is one more, in the same form.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bramble_store::{KeyService, LocalAlgorithm, LocalKey, Scope, SealRule, Sealing};
use serde::Deserialize;

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
/// Upstream's default.
const KMS_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a file is no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no YAML of that form.
    #[error("no EncryptionConfiguration")]
    Yaml(#[source] serde_yaml_ng::Error),
    /// Something in it.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<BTreeMap<String, serde_yaml_ng::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kms {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    name: String,
    endpoint: String,
    timeout: Option<String>,
}

/// A key management service, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    /// The path of its unix socket.
    pub(super) socket: String,
    pub(super) timeout: Duration,
}

/// A key service, with what tells it from a namesake.
type Named = (Arc<dyn KeyService>, String);

/// Makes the client of a key management service.
pub(super) type OpenKms<'a> = &'a dyn Fn(Place) -> Arc<dyn KeyService>;

fn file(text: &str) -> Result<File, ConfigError> {
    let file: File = serde_yaml_ng::from_str(text).map_err(ConfigError::Yaml)?;
    if file.api_version != API_VERSION || file.kind != KIND {
        return Err(invalid(format!("it is a {} of {}, not a {KIND} of {API_VERSION}", file.kind, file.api_version)));
    }
    Ok(file)
}

fn invalid(text: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(text.into())
}

/// What a file says.
pub(super) fn parse(text: &str, open: OpenKms<'_>) -> Result<Sealing, ConfigError> {
    let mut sealing = Sealing::default();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for entry in file(text)?.resources {
        let mut first = None;
        for (index, provider) in entry.providers.iter().enumerate() {
            for (service, identity) in services_of(provider, open)? {
                if index == 0 && first.is_none() {
                    first = Some(service.name().to_owned());
                }
                match seen.insert(service.name().to_owned(), identity.clone()) {
                    None => sealing.services.push(service),
                    Some(before) if before == identity => {}
                    Some(_) => return Err(invalid(format!("two different keys are called {}", service.name()))),
                }
            }
        }
        if entry.providers.is_empty() {
            return Err(invalid("an entry has no provider"));
        }
        for resource in &entry.resources {
            sealing.rules.push(SealRule { scope: scope(resource)?, service: first.clone() });
        }
    }
    Ok(sealing)
}

/// The key services of one provider; `identity` has none.
fn services_of(
    provider: &BTreeMap<String, serde_yaml_ng::Value>,
    open: OpenKms<'_>,
) -> Result<Vec<Named>, ConfigError> {
    let mut kinds = provider.iter();
    let (Some((kind, value)), None) = (kinds.next(), kinds.next()) else {
        return Err(invalid("a provider is exactly one of aesgcm, chacha20poly1305, kms and identity"));
    };
    match kind.as_str() {
        "identity" => Ok(Vec::new()),
        "aesgcm" => local(kind, LocalAlgorithm::AesGcm, value),
        "chacha20poly1305" => local(kind, LocalAlgorithm::ChaCha20Poly1305, value),
        "kms" => {
            let place = place(value)?;
            let identity = place.socket.clone();
            Ok(vec![(open(place), identity)])
        }
        "aescbc" => Err(invalid("aescbc does not notice changed bytes: use aesgcm")),
        "secretbox" => {
            Err(invalid("secretbox is not there: its sister is chacha20poly1305, with keys of 32 bytes too"))
        }
        other => Err(invalid(format!("{other} is no provider"))),
    }
}

fn local(kind: &str, algorithm: LocalAlgorithm, value: &serde_yaml_ng::Value) -> Result<Vec<Named>, ConfigError> {
    let keys: Keys = serde_yaml_ng::from_value(value.clone()).map_err(ConfigError::Yaml)?;
    if keys.keys.is_empty() {
        return Err(invalid(format!("{kind} has no key")));
    }
    let make = |key: Key| {
        let name = format!("{kind}:{}", key.name);
        if key.name.is_empty() || key.name.contains(['\n', ':']) {
            return Err(invalid(format!("a key of {kind} has a name that cannot be")));
        }
        let bytes = BASE64_STANDARD.decode(key.secret.trim());
        let bytes = bytes.map_err(|_| invalid(format!("the secret of {name} is no base64")))?;
        let made = LocalKey::new(&name, algorithm, &bytes);
        let made = made.ok_or_else(|| invalid(format!("the secret of {name} has {} bytes, not 32", bytes.len())))?;
        Ok((Arc::new(made) as Arc<dyn KeyService>, key.secret))
    };
    keys.keys.into_iter().map(make).collect()
}

fn place(value: &serde_yaml_ng::Value) -> Result<Place, ConfigError> {
    let kms: Kms = serde_yaml_ng::from_value(value.clone()).map_err(ConfigError::Yaml)?;
    if kms.api_version.as_deref() != Some("v2") {
        return Err(invalid(format!("kms {}: only apiVersion v2 is spoken", kms.name)));
    }
    if kms.name.is_empty() || kms.name.contains(['\n', ':']) {
        return Err(invalid("a kms has a name that cannot be"));
    }
    let socket = kms.endpoint.strip_prefix("unix://").filter(|path| !path.is_empty());
    let socket = socket.ok_or_else(|| invalid(format!("kms {}: its endpoint must be unix:///PATH", kms.name)))?;
    let timeout = match kms.timeout.as_deref() {
        None => KMS_TIMEOUT,
        Some(text) => duration(text).ok_or_else(|| invalid(format!("kms {}: {text:?} is no timeout", kms.name)))?,
    };
    Ok(Place { name: kms.name, socket: socket.to_owned(), timeout })
}

/// `3s`, `500ms`: what Go writes for whole units.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit_ms) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let number: u64 = number.parse().ok().filter(|number| (1..=600_000).contains(number))?;
    Some(Duration::from_millis(number * unit_ms))
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group), `*.*`.
fn scope(resource: &str) -> Result<Scope, ConfigError> {
    Ok(match resource {
        "*.*" => Scope::All,
        "*." => Scope::DotlessResource,
        _ => match resource.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') && !suffix[1..].contains('*') => {
                Scope::ResourceSuffix(suffix.to_owned())
            }
            None if !resource.is_empty() && !resource.contains(['*', '/']) => Scope::Prefix(format!("{resource}/")),
            _ => return Err(invalid(format!("{resource:?} names no resources"))),
        },
    })
}

/// The key management services of a file that is valid.
pub(super) fn services(text: &str) -> Vec<Place> {
    let entries = file(text).map(|file| file.resources).unwrap_or_default();
    let providers = entries.into_iter().flat_map(|entry| entry.providers);
    providers.filter_map(|provider| provider.get("kms").and_then(|value| place(value).ok())).collect()
}

/// The file that we make ourselves: Secrets, sealed with the first of these (name, base64) keys.
pub(super) fn own_file(keys: &[(String, String)]) -> String {
    let mut text = format!(
        "# Made by bramble. Whoever has this file and the store reads every Secret; whoever loses it, none.\n\
         # `bramble store rotate` puts a new key first.\n\
         apiVersion: {API_VERSION}\nkind: {KIND}\nresources:\n- resources: [secrets]\n  providers:\n  \
         - chacha20poly1305:\n      keys:\n"
    );
    for (name, secret) in keys {
        text += &format!("      - name: {name}\n        secret: {secret}\n");
    }
    text + "  - identity: {}\n"
}

/// The keys of such a file.
pub(super) fn own_keys(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let value = file(text)?.resources.into_iter().next().and_then(|entry| entry.providers.into_iter().next());
    let value = value.and_then(|mut provider| provider.remove("chacha20poly1305"));
    let value = value.ok_or_else(|| invalid("it was changed by hand: name it with --encryption-provider-config"))?;
    let keys: Keys = serde_yaml_ng::from_value(value).map_err(ConfigError::Yaml)?;
    Ok(keys.keys.into_iter().map(|key| (key.name, key.secret)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Sealing, ConfigError> {
        parse(text, &|place| {
            let made = LocalKey::new(&format!("kms:{}", place.name), LocalAlgorithm::AesGcm, &[7; 32]);
            Arc::new(made.unwrap())
        })
    }

    fn with(resources: &str, providers: &str) -> String {
        format!(
            "apiVersion: {API_VERSION}\nkind: {KIND}\nresources:\n- resources: {resources}\n  providers: {providers}\n"
        )
    }

    #[test]
    fn upstreams_file_is_understood() {
        let key = BASE64_STANDARD.encode([1; 32]);
        let text = with(
            "[secrets, deployments.apps, '*.example.com', '*.', '*.*']",
            &format!(
                "[{{aesgcm: {{keys: [{{name: new, secret: {key}}}, {{name: old, secret: AAAAAAAAAAAAAAAAAAAAAA==}}]}}}}, \
                      {{kms: {{apiVersion: v2, name: hsm, endpoint: 'unix:///run/kms.sock', timeout: 500ms}}}}, {{identity: {{}}}}]"
            ),
        );
        let sealing = parsed(&text).unwrap();
        let names: Vec<&str> = sealing.services.iter().map(|service| service.name()).collect();
        assert_eq!(names, ["aesgcm:new", "aesgcm:old", "kms:hsm"]);
        let scopes: Vec<Scope> = sealing.rules.iter().map(|rule| rule.scope.clone()).collect();
        assert_eq!(
            scopes,
            [
                Scope::Prefix("secrets/".into()),
                Scope::Prefix("deployments.apps/".into()),
                Scope::ResourceSuffix(".example.com".into()),
                Scope::DotlessResource,
                Scope::All
            ]
        );
        assert!(sealing.rules.iter().all(|rule| rule.service.as_deref() == Some("aesgcm:new")));
        assert_eq!(services(&text)[0].socket, "/run/kms.sock");
        assert_eq!(services(&text)[0].timeout, Duration::from_millis(500));
    }

    #[test]
    fn identity_first_writes_plain() {
        let text = with(
            "[secrets]",
            &format!(
                "[{{identity: {{}}}}, {{aesgcm: {{keys: [{{name: k, secret: {}}}]}}}}]",
                BASE64_STANDARD.encode([1; 32])
            ),
        );
        let sealing = parsed(&text).unwrap();
        assert_eq!((sealing.rules[0].service.as_deref(), sealing.services.len()), (None, 1));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let said =
            |resources: &str, providers: &str| parsed(&with(resources, providers)).map(|_| ()).unwrap_err().to_string();
        assert!(said("[secrets]", "[{aescbc: {keys: []}}]").contains("use aesgcm"));
        assert!(said("[secrets]", "[{secretbox: {keys: []}}]").contains("chacha20poly1305"));
        assert!(said("[secrets]", "[{aesgcm: {keys: [{name: k, secret: AAAA}]}}]").contains("3 bytes"));
        assert!(said("[secrets]", "[{kms: {name: k, endpoint: 'unix:///x'}}]").contains("v2"));
        assert!(said("['pods/*']", "[{identity: {}}]").contains("names no resources"));
        assert!(said("[secrets]", "[]").contains("no provider"));
        assert!(parsed("kind: Pod").is_err());
    }

    #[test]
    fn our_own_file_is_one_of_upstreams_form() {
        let keys = [
            ("key2".to_owned(), BASE64_STANDARD.encode([2; 32])),
            ("key1".to_owned(), BASE64_STANDARD.encode([1; 32])),
        ];
        let text = own_file(&keys);
        assert_eq!(own_keys(&text).unwrap(), keys);
        let sealing = parsed(&text).unwrap();
        assert_eq!(sealing.rules[0].service.as_deref(), Some("chacha20poly1305:key2"));
        assert_eq!(sealing.services.len(), 2);
    }
}
