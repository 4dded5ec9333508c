//! Shell: the cluster's certificate authorities, certificates and service-account keys.
//!
//! Everything lies in `<data dir>/pki`: the authorities ([`authorities`]), `serving.{crt,key}`, `admin.key`,
//! `kubelet-client.key` and the service-account keys `service-account/<n>.key`, of which the newest signs and all verify.
//! Keys are 0600 and never leave, but to the other controllers of a cluster, sealed.
//!
//! **Architecture invariant:** no private key and no token is ever in a `Debug` form or a log line.
//! **Architecture invariant:** who uses keys asks for those of the moment: they change while the server runs.

pub mod approval;
pub mod authorities;
pub mod authority;
mod certificate;
mod der;
mod files;
pub(crate) mod key;
pub mod request;
pub mod signer;
pub mod tls;
mod unverified;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::authorities::{Authorities, CERTIFICATE, KEY};
use self::authority::Authority;
pub use self::files::Files;
use self::key::Key;
use self::tls::{Serving, ServingNames};
pub use self::unverified::unverified_client;
use crate::object::time;

/// The earliest time that it can be, 2026-01-01: a clock before it is not set, and ends of certificates count from here.
pub(crate) const TIME_FLOOR: i64 = 1_767_225_600;

/// How long the administrator's certificate and our own client certificates live; they are made anew at every start.
const CLIENT_S: i64 = 10 * 365 * 86_400;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes")]
    Random,
    /// A key is not what it should be.
    #[error("key: {0}")]
    Key(String),
    /// A certificate is not what it should be.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The TLS library refuses.
    #[error("TLS")]
    Tls(#[source] rustls::Error),
    /// A certificate request that its signer does not accept.
    #[error("{0}")]
    Refused(String),
}

/// What is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The keys and certificates of this controller, and the service-account key that signs.
    Leaves,
    /// The authority. The former ones stay trusted.
    Authority,
    /// Nothing: the former authorities are not trusted any more.
    OnlyTheNewest,
}

/// All keys and certificates of one control plane.
#[derive(Debug)]
pub struct Pki {
    data_dir: PathBuf,
    authorities: watch::Sender<Arc<Authorities>>,
    /// The service-account keys, newest first; never empty.
    token_keys: watch::Sender<Arc<[Arc<Key>]>>,
    kubelet_client: watch::Sender<Arc<rustls::ClientConfig>>,
    serving: Arc<Serving>,
    /// Of the serving certificate, once the server runs.
    names: Mutex<Option<ServingNames>>,
}

impl Pki {
    /// Opens `<data_dir>/pki`, finishes what a cut left and makes what is missing. `now` is seconds since 1970.
    pub fn open(data_dir: &Path, now: i64) -> Result<Pki, PkiError> {
        files::finish(data_dir)?;
        let files = complete(data_dir, now)?;
        let authorities = Authorities::from_files(&files)?;
        let dir = data_dir.join("pki");
        Ok(Pki {
            data_dir: data_dir.to_owned(),
            token_keys: watch::Sender::new(token_keys(&files)?),
            kubelet_client: watch::Sender::new(kubelet_client(&dir, &authorities, now)?),
            authorities: watch::Sender::new(Arc::new(authorities)),
            serving: Arc::new(Serving::new(dir)),
            names: Mutex::default(),
        })
    }

    /// What all controllers of a cluster have in common.
    pub fn common(&self) -> Result<Files, PkiError> {
        files::gather(&self.data_dir)
    }

    /// The same as it would be after a renewal; nothing is written. `now` is seconds since 1970.
    pub fn renewed(&self, what: Renewal, now: i64) -> Result<Files, PkiError> {
        let mut files = self.common()?;
        match what {
            Renewal::Authority => self.authorities().rolled_over(&files, now),
            Renewal::OnlyTheNewest => Ok(self.authorities().only_the_newest(&files)),
            Renewal::Leaves => {
                let number = self.token_keys.borrow().len() + 1;
                files.insert(token_key_name(number), Key::generate()?.to_pem());
                Ok(files)
            }
        }
    }

    /// Takes common keys into use, at once and for ever.
    pub fn take(&self, files: &Files, now: i64) -> Result<(), PkiError> {
        // What cannot be used is refused before it is in anybody's place.
        let (authorities, keys) = (Authorities::from_files(files)?, token_keys(files)?);
        files::put(&self.data_dir, files)?;
        self.token_keys.send_replace(keys);
        self.authorities.send_replace(Arc::new(authorities));
        self.refresh(now)
    }

    /// New keys for the certificates of this controller alone.
    pub fn renew_own_keys(&self, now: i64) -> Result<(), PkiError> {
        for name in ["serving.key", "kubelet-client.key", "admin.key"] {
            let path = self.data_dir.join("pki").join(name);
            files::write_private(&path, Key::generate()?.to_pem().as_bytes())?;
        }
        self.refresh(now)
    }

    /// Makes this controller's own certificates anew where they are old or another authority's; cheap where they are not.
    pub fn refresh(&self, now: i64) -> Result<(), PkiError> {
        let authorities = self.authorities();
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(names) = names {
            self.serving.ensure(&authorities, &names, now)?;
        }
        self.kubelet_client.send_replace(kubelet_client(&self.data_dir.join("pki"), &authorities, now)?);
        Ok(())
    }

    /// The authorities of the moment.
    pub fn authorities(&self) -> Arc<Authorities> {
        self.authorities.borrow().clone()
    }

    /// The authorities, which judge client certificates too, and that they change.
    pub fn follow_authorities(&self) -> watch::Receiver<Arc<Authorities>> {
        self.authorities.subscribe()
    }

    /// The service-account keys of the moment, newest first.
    pub(crate) fn follow_token_keys(&self) -> watch::Receiver<Arc<[Arc<Key>]>> {
        self.token_keys.subscribe()
    }

    /// The TLS configuration of the API server, with a certificate for these names. `now` is seconds since 1970.
    pub fn server_config(&self, names: &ServingNames, now: i64) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = Some(names.clone());
        self.serving.ensure(&self.authorities(), names, now)?;
        tls::server_config(self.serving.clone())
    }

    /// The configuration of the moment for calling kubelets as `kube-apiserver-kubelet-client`.
    pub fn kubelet_client(&self) -> watch::Receiver<Arc<rustls::ClientConfig>> {
        self.kubelet_client.subscribe()
    }

    /// What there is and until when, for people: `{"authorities": [{"pin", "notAfter", "trusted"}], "serving": {"notAfter"},
    /// "serviceAccountKeys": [id]}`, the newest first.
    pub fn describe(&self) -> Value {
        let ages = self.authorities().ages();
        let authorities = ages
            .iter()
            .map(|(pin, end, trusted)| json!({"pin": pin, "notAfter": time::format(*end), "trusted": trusted}));
        let keys: Vec<String> = self.token_keys.borrow().iter().map(|key| key.id()).collect();
        json!({
            "authorities": authorities.collect::<Vec<_>>(),
            "serving": {"notAfter": self.serving.end().map(time::format)},
            "serviceAccountKeys": keys,
        })
    }

    /// The administrator's kubeconfig for a server's address: `kubernetes-admin` in `system:masters`. A secret.
    pub fn admin_kubeconfig(&self, server: SocketAddr, now: i64) -> Result<String, PkiError> {
        let key = Key::load_or_create(&self.data_dir.join("pki/admin.key"))?;
        let by = self.authorities();
        let end = now.max(TIME_FLOOR) + CLIENT_S;
        let certificate = by.newest.client("kubernetes-admin", &["system:masters"], &key, end)?;
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        Ok(format!(
            "apiVersion: v1\nkind: Config\n\
             clusters:\n- name: bramble\n  cluster:\n    server: https://{server}\n    certificate-authority-data: {}\n\
             users:\n- name: kubernetes-admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
             contexts:\n- name: bramble\n  context:\n    cluster: bramble\n    user: kubernetes-admin\n\
             current-context: bramble\n",
            encode(&by.bundle_pem()),
            encode(&key::pem("CERTIFICATE", &certificate)),
            encode(&key.to_pem()),
        ))
    }
}

/// Writes a file that only its owner reads, whole or not at all: kubeconfigs, join files.
pub fn write_secret_file(path: &Path, text: &str) -> Result<(), PkiError> {
    files::write_private(path, text.as_bytes())
}

/// The common files; what a cluster starts with is made and written.
fn complete(data_dir: &Path, now: i64) -> Result<Files, PkiError> {
    let mut files = files::gather(data_dir)?;
    let before = files.len();
    match (files.contains_key(CERTIFICATE), files.contains_key(KEY)) {
        (true, true) => {}
        (true, false) => return Err(PkiError::Key(format!("{CERTIFICATE} is there, its key is not"))),
        // A key alone is what a cut left of the first start: nobody has seen it.
        (false, _) => {
            let authority = Authority::make(now)?;
            files.insert(CERTIFICATE.to_owned(), authority.certificate_pem().to_owned());
            files.insert(KEY.to_owned(), authority.key_pem());
        }
    }
    if !files.keys().any(|name| name.starts_with(TOKEN_KEYS)) {
        files.insert(token_key_name(1), Key::generate()?.to_pem());
    }
    if files.len() != before {
        files::put(data_dir, &files)?;
    }
    Ok(files)
}

const TOKEN_KEYS: &str = "pki/service-account/";

fn token_key_name(number: usize) -> String {
    format!("{TOKEN_KEYS}{number:04}.key")
}

fn token_keys(files: &Files) -> Result<Arc<[Arc<Key>]>, PkiError> {
    let texts = files.iter().rev().filter(|(name, _)| name.starts_with(TOKEN_KEYS));
    texts.map(|(_, text)| Key::from_pem(text.as_bytes()).map(Arc::new)).collect()
}

fn kubelet_client(dir: &Path, by: &Authorities, now: i64) -> Result<Arc<rustls::ClientConfig>, PkiError> {
    let key = Key::load_or_create(&dir.join("kubelet-client.key"))?;
    tls::kubelet_client_config(by, &key, now.max(TIME_FLOOR) + CLIENT_S).map(Arc::new)
}

#[cfg(test)]
pub(crate) mod tests;
