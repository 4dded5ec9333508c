//! Shell: encryption at rest: the file that says what is sealed and with what, and new keys while the API serves.
//!
//! Without a file of the user's, `<data dir>/encryption.yaml` (0600) is made with one key, and Secrets are sealed with it.

mod config;
mod kms;
pub(crate) mod token;

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bramble_store::{Config, OpenError, RotateError, Rotation, SealError, Sealing, Store};
use ring::rand::{SecureRandom, SystemRandom};

pub use self::config::ConfigError;
use self::config::Place;
pub use self::token::ClusterToken;
use crate::pki::{PkiError, write_secret_file};

/// How often a key management service is asked which key it uses: as upstream does.
const STATUS_PERIOD: Duration = Duration::from_secs(60);

/// What goes wrong with keys at rest.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Everybody may read the keys.
    #[error("{} holds keys, and others may read it: chmod 600 it", .0.display())]
    Mode(PathBuf),
    /// The file says what cannot be done.
    #[error("{}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// The file cannot be written.
    #[error("cannot write the keys")]
    Write(#[source] PkiError),
    /// No random bytes for a key.
    #[error("the kernel gives no random bytes")]
    Random,
    /// The store was sealed with the key of a file that is not there.
    #[error("{} is missing, and the store is sealed with a key of it: bring it back, or name the right file with \
             --encryption-provider-config", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the store said.
        #[source]
        source: SealError,
    },
    /// The token is too easily guessed.
    #[error("the token in {} is too short: make one with `openssl rand -hex 32`", .0.display())]
    TokenShort(PathBuf),
    /// The cluster in etcd has another token.
    #[error(
        "this etcd holds a cluster of another token: give the file `cluster-token` of its first controller's data \
             directory with --token-file"
    )]
    TokenWrong(#[source] SealError),
    /// The store does not open with these keys.
    #[error("cannot open the store")]
    Store(#[from] OpenError),
    /// The keys could not be changed.
    #[error("cannot change the keys")]
    Rotate(#[from] RotateError),
}

/// Where the keys come from.
#[derive(Clone, Debug)]
pub struct Encryption {
    path: PathBuf,
    /// The file is ours: `rotate` makes a new key itself.
    own: bool,
    /// What several controllers share; it seals what only they may know, and Secrets where there is no file.
    token: Option<ClusterToken>,
}

impl Encryption {
    /// The user's file, or our own below the data directory.
    pub fn new(data_dir: &Path, given: Option<&Path>) -> Encryption {
        let path = given.map_or_else(|| data_dir.join("encryption.yaml"), Path::to_owned);
        Encryption { path, own: given.is_none(), token: None }
    }

    /// For controllers that share a store: the user's file, the same for all of them, or else the token's key.
    pub fn shared(token: ClusterToken, given: Option<&Path>) -> Encryption {
        let path = given.map(Path::to_owned).unwrap_or_default();
        Encryption { path, own: false, token: Some(token) }
    }

    fn load(&self) -> Result<Sealing, EncryptionError> {
        match &self.token {
            None => self.load_file(),
            Some(token) if !self.has_file() => Ok(token.sealing(Sealing::prefixes(&["secrets/"], token.service()))),
            Some(token) => Ok(token.sealing(self.load_file()?)),
        }
    }

    fn has_file(&self) -> bool {
        !self.path.as_os_str().is_empty()
    }

    fn load_file(&self) -> Result<Sealing, EncryptionError> {
        use std::os::unix::fs::PermissionsExt;
        let file = |source| EncryptionError::File { path: self.path.clone(), source };
        let mode = std::fs::metadata(&self.path).map_err(file)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(EncryptionError::Mode(self.path.clone()));
        }
        let text = std::fs::read_to_string(&self.path).map_err(file)?;
        config::parse(&text, &kms::open).map_err(|source| EncryptionError::Config { path: self.path.clone(), source })
    }

    /// Opens a store with these keys. A wrong or a missing key changes nothing.
    pub async fn open(&self, mut config: Config) -> Result<Store, EncryptionError> {
        if let Some(token) = &self.token {
            config.sealing = self.load()?;
            return token.open_store(config).await;
        }
        if !self.own || self.path.exists() {
            config.sealing = self.load()?;
            return Ok(Store::open(config)?);
        }
        // A store from before, or a new one: only one that is not sealed gets a new key.
        let store = Store::open(config).map_err(|error| match error {
            OpenError::Sealed(source) => EncryptionError::Missing { path: self.path.clone(), source },
            error => EncryptionError::Store(error),
        })?;
        self.write(&[("key1".to_owned(), new_key()?)])?;
        store.rotate(self.load()?).await?;
        Ok(store)
    }

    /// Takes up what the file says now, seals everything anew, and forgets the former data keys. Into a file of our own it
    /// first puts a new key before the others, which stay for older snapshots.
    pub async fn rotate(&self, store: &Store) -> Result<Rotation, EncryptionError> {
        if self.own {
            let text = std::fs::read_to_string(&self.path);
            let text = text.map_err(|source| EncryptionError::File { path: self.path.clone(), source })?;
            let mut keys = config::own_keys(&text)
                .map_err(|source| EncryptionError::Config { path: self.path.clone(), source })?;
            keys.insert(0, (format!("key{}", keys.len() + 1), new_key()?));
            self.write(&keys)?;
        }
        Ok(store.rotate(self.load()?).await?)
    }

    fn write(&self, keys: &[(String, String)]) -> Result<(), EncryptionError> {
        write_secret_file(&self.path, &config::own_file(keys)).map_err(EncryptionError::Write)
    }

    /// The key management services of the file.
    pub fn services(&self) -> Result<Services, EncryptionError> {
        if !self.has_file() {
            return Ok(Services(Vec::new()));
        }
        let text = std::fs::read_to_string(&self.path);
        let text = text.map_err(|source| EncryptionError::File { path: self.path.clone(), source })?;
        let places = config::services(&text).into_iter().map(|place| (place, None));
        Ok(Services(places.collect()))
    }
}

/// Key management services, each with the key that it used when it was asked last.
#[derive(Debug)]
pub struct Services(Vec<(Place, Option<String>)>);

impl Services {
    /// Asks for ever, once a minute, and tells whether all are well; ends at once where there are none.
    pub async fn follow(mut self, store: Store, well: impl Fn(bool)) {
        while !self.0.is_empty() {
            let (all_well, _) = self.ask(&store).await;
            well(all_well);
            tokio::time::sleep(STATUS_PERIOD).await;
        }
    }

    /// Asks each once, and whether all are well; where one uses another key than before, everything is sealed anew.
    async fn ask(&mut self, store: &Store) -> (bool, Option<Rotation>) {
        let (mut all_well, mut rotation) = (true, None);
        for (place, last) in &mut self.0 {
            let id = match kms::key_id(place).await {
                Ok(id) => id,
                Err(error) => {
                    tracing::warn!(service = place.name, %error, "the key service does not answer");
                    all_well = false;
                    continue;
                }
            };
            if last.as_ref().is_some_and(|last| *last != id) {
                match store.rotate(store.sealing()).await {
                    Ok(done) => rotation = Some(done),
                    Err(error) => {
                        tracing::error!(service = place.name, %error, "its new key could not be taken up");
                        all_well = false;
                        continue;
                    }
                }
            }
            *last = Some(id);
        }
        (all_well, rotation)
    }
}

fn new_key() -> Result<String, EncryptionError> {
    let mut key = [0; 32];
    SystemRandom::new().fill(&mut key).map_err(|_| EncryptionError::Random)?;
    Ok(BASE64_STANDARD.encode(key))
}

#[cfg(test)]
mod tests;
