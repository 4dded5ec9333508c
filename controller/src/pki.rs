//! Shell: the cluster's certificate authority, certificates and service-account keys.
//!
//! Everything lies in `<data dir>/pki`: `ca.{crt,key}`, `serving.{crt,key}`, `admin.key`, `kubelet-client.key` and the
//! service-account keys `service-account/<n>.key`, of which the newest signs and all verify. Keys are 0600 and never leave.
//!
//! **Architecture invariant:** no private key and no token is ever in a `Debug` form or a log line.

pub mod approval;
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
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use self::authority::Authority;
use self::key::Key;
use self::tls::{ClientTrust, Serving, ServingNames};
pub use self::unverified::unverified_client;

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

/// All keys and certificates of one control plane.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    /// The certificate authority.
    pub authority: Arc<Authority>,
    /// The serving certificate.
    pub serving: Arc<Serving>,
    /// The service-account keys, newest first; never empty.
    pub(crate) token_keys: Vec<Arc<Key>>,
}

impl Pki {
    /// Opens `<data_dir>/pki` and makes what is missing. `now` is seconds since 1970.
    pub fn open(data_dir: &Path, now: i64) -> Result<Pki, PkiError> {
        let dir = data_dir.join("pki");
        let authority = Arc::new(Authority::open(&dir, now)?);
        let serving = Arc::new(Serving::open(dir.clone())?);
        let token_keys = open_token_keys(&dir.join("service-account"))?;
        Ok(Pki { dir, authority, serving, token_keys })
    }

    /// The TLS configuration of the API server, with a certificate for these names; call `serving.ensure` again when the
    /// names change.
    pub fn server_config(&self, names: &ServingNames, now: i64) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        self.serving.ensure(&self.authority, names, now)?;
        tls::server_config(self.serving.clone(), &self.authority)
    }

    /// What judges client certificates.
    pub fn client_trust(&self) -> Result<ClientTrust, PkiError> {
        ClientTrust::new(&self.authority)
    }

    /// The configuration for calling kubelets as `kube-apiserver-kubelet-client`.
    pub fn kubelet_client(&self, now: i64) -> Result<Arc<rustls::ClientConfig>, PkiError> {
        let key = Key::load_or_create(&self.dir.join("kubelet-client.key"))?;
        tls::kubelet_client_config(&self.authority, &key, now.max(TIME_FLOOR) + CLIENT_S).map(Arc::new)
    }

    /// The administrator's kubeconfig for a server's address: `kubernetes-admin` in `system:masters`. A secret.
    pub fn admin_kubeconfig(&self, server: SocketAddr, now: i64) -> Result<String, PkiError> {
        let key = Key::load_or_create(&self.dir.join("admin.key"))?;
        let end = now.max(TIME_FLOOR) + CLIENT_S;
        let certificate = self.authority.client("kubernetes-admin", &["system:masters"], &key, end)?;
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        Ok(format!(
            "apiVersion: v1\nkind: Config\n\
             clusters:\n- name: bramble\n  cluster:\n    server: https://{server}\n    certificate-authority-data: {}\n\
             users:\n- name: kubernetes-admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
             contexts:\n- name: bramble\n  context:\n    cluster: bramble\n    user: kubernetes-admin\n\
             current-context: bramble\n",
            encode(self.authority.certificate_pem()),
            encode(&key::pem("CERTIFICATE", &certificate)),
            encode(&key.to_pem()),
        ))
    }

    /// Adds a service-account key, which signs from the next start on; the former ones still verify.
    pub fn add_token_key(&self) -> Result<(), PkiError> {
        let number = self.token_keys.len() + 1;
        Key::load_or_create(&self.dir.join("service-account").join(format!("{number:04}.key"))).map(|_| ())
    }
}

/// Writes a file that only its owner reads, whole or not at all: kubeconfigs, join files.
pub fn write_secret_file(path: &Path, text: &str) -> Result<(), PkiError> {
    files::write_private(path, text.as_bytes())
}

/// Makes a directory that only its owner enters.
pub(crate) fn private_dir(path: &Path) -> Result<(), PkiError> {
    files::private_dir(path)
}

fn open_token_keys(dir: &Path) -> Result<Vec<Arc<Key>>, PkiError> {
    files::private_dir(dir)?;
    let listed = std::fs::read_dir(dir).map_err(|source| PkiError::File { path: dir.into(), source })?;
    let mut paths: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "key"));
    if paths.is_empty() {
        paths.push(dir.join("0001.key"));
    }
    paths.sort_unstable_by(|a, b| b.cmp(a));
    paths.iter().map(|path| Key::load_or_create(path).map(Arc::new)).collect()
}

#[cfg(test)]
pub(crate) mod tests;
