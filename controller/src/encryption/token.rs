//! Shell: the token that controllers over one etcd share, as k3s servers do, and the key that is made of it.
//!
//! The first controller makes one in `<data dir>/cluster-token` (0600), the others are given that file. Its key seals what
//! controllers must have in common (the authority's key, the service-account keys), so etcd never holds those in plain form.

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bramble_store::{
    Config, KeyService, LocalAlgorithm, LocalKey, OpenError, Scope, SealError, SealRule, Sealing, Store,
};
use ring::pbkdf2;

use super::{EncryptionError, new_key};
use crate::pki::write_secret_file;

/// Its name in the data directory, and of its key at rest.
const NAME: &str = "cluster-token";
/// What only controllers may know lies below this; no API resource begins with an underscore.
pub(crate) const CLUSTER_PREFIX: &str = "_cluster/";
/// Shorter ones can be guessed by who reads etcd's disk.
const CHARACTERS_MIN: usize = 16;
/// A third of a second on a small board, once a start; it slows down who guesses a token that a person made up.
const ROUNDS: NonZeroU32 = NonZeroU32::new(200_000).expect("it is not zero");
/// The pause before etcd is asked again: all boards of a rack may start at once.
const PAUSE: Duration = Duration::from_secs(1);

/// A token, as its key.
#[derive(Clone)]
pub struct ClusterToken {
    service: Arc<dyn KeyService>,
    /// Where it was made just now.
    made: Option<PathBuf>,
}

impl fmt::Debug for ClusterToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterToken")
    }
}

impl ClusterToken {
    /// The token in the given file, or in the data directory, where one is made if there is none.
    pub fn open(data_dir: &Path, given: Option<&Path>) -> Result<ClusterToken, EncryptionError> {
        use std::os::unix::fs::PermissionsExt;
        let path = given.map_or_else(|| data_dir.join(NAME), Path::to_owned);
        let made = given.is_none() && !path.exists();
        if made {
            write_secret_file(&path, &new_key()?).map_err(EncryptionError::Write)?;
        }
        let file = |source| EncryptionError::File { path: path.clone(), source };
        if std::fs::metadata(&path).map_err(file)?.permissions().mode() & 0o077 != 0 {
            return Err(EncryptionError::Mode(path));
        }
        let text = std::fs::read_to_string(&path).map_err(file)?;
        let service = key_of(text.trim()).ok_or_else(|| EncryptionError::TokenShort(path.clone()))?;
        Ok(ClusterToken { service, made: made.then_some(path) })
    }

    pub(super) fn service(&self) -> Arc<dyn KeyService> {
        self.service.clone()
    }

    /// These rules, and the token's own before them.
    pub(super) fn sealing(&self, mut sealing: Sealing) -> Sealing {
        let scope = Scope::Prefix(CLUSTER_PREFIX.to_owned());
        sealing.rules.insert(0, SealRule { scope, service: Some(NAME.to_owned()) });
        if !sealing.services.iter().any(|service| service.name() == NAME) {
            sealing.services.push(self.service());
        }
        sealing
    }

    /// Opens a shared store; waits until it answers.
    pub(super) async fn open_store(&self, config: Config) -> Result<Store, EncryptionError> {
        loop {
            let config = config.clone();
            let opened = tokio::task::spawn_blocking(|| Store::open(config)).await;
            let reason = match opened {
                Ok(Ok(store)) => return Ok(store),
                Ok(Err(OpenError::Sealed(source @ (SealError::KeyWrong { .. } | SealError::KeyMissing { .. })))) => {
                    return Err(self.refuse(source));
                }
                Ok(Err(OpenError::Backend(error))) => error.to_string(),
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => error.to_string(),
            };
            tracing::warn!(reason, "etcd cannot be used yet");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn refuse(&self, source: SealError) -> EncryptionError {
        match &source {
            SealError::KeyWrong { service } if service == NAME => {
                if let Some(path) = &self.made {
                    // It would hide what is wrong at the next start.
                    let _ = std::fs::remove_file(path);
                }
                EncryptionError::TokenWrong(source)
            }
            _ => OpenError::Sealed(source).into(),
        }
    }
}

/// None where the token is too short.
fn key_of(token: &str) -> Option<Arc<dyn KeyService>> {
    if token.len() < CHARACTERS_MIN {
        return None;
    }
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, b"bramble cluster token", token.as_bytes(), &mut key);
    LocalKey::new(NAME, LocalAlgorithm::AesGcm, &key).map(|key| Arc::new(key) as Arc<dyn KeyService>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_kept_private_and_always_the_same_key() {
        let dir = std::env::temp_dir().join(format!("bramble-token-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let first = ClusterToken::open(&dir, None).unwrap();
        let again = ClusterToken::open(&dir, Some(&dir.join(NAME))).unwrap();
        assert!(first.made.is_some() && again.made.is_none());
        let wrapped = first.service.wrap(b"0123456789abcdef").unwrap();
        assert_eq!(again.service.unwrap(&wrapped).unwrap(), b"0123456789abcdef");
        let other = key_of("another token of enough length").unwrap();
        assert!(other.unwrap(&wrapped).is_err());
        assert!(key_of("short").is_none());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_controllers_share_is_sealed_whatever_the_users_file_says() {
        let token = ClusterToken { service: key_of("a token of enough length").unwrap(), made: None };
        let users = Sealing { rules: vec![SealRule { scope: Scope::All, service: None }], services: Vec::new() };
        let sealing = token.sealing(users);
        assert_eq!(sealing.rules[0].service.as_deref(), Some(NAME));
        assert_eq!(sealing.rules[0].scope, Scope::Prefix("_cluster/".into()));
        assert_eq!(sealing.services.len(), 1);
    }
}
