//! Shell: how registries are reached from this board: with or without TLS, whom it believes, which mirrors come first.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::mirrors::{Endpoint, Mirrors};
use super::registry::FetchError;

/// Where Linux distributions keep the authorities that a machine trusts.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// How registries are reached from this board.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// `host[:port]` of those that are spoken to without TLS.
    pub insecure: Vec<String>,
    /// `<host[:port]>/ca.crt` below it is trusted for that registry, as Docker's `certs.d`.
    pub authorities: Option<PathBuf>,
    /// Further authorities, each for one registry or mirror.
    pub authority_files: Vec<AuthorityFile>,
    /// What is asked before a registry itself.
    pub mirrors: Mirrors,
}

/// Who signs the certificate of one registry or mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFile {
    /// `host[:port]`.
    pub host: String,
    /// PEM.
    pub path: PathBuf,
}

impl AuthorityFile {
    /// Reads `HOST[:PORT]=FILE`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((host, path)) if !host.is_empty() && !path.is_empty() => {
                Ok(Self { host: host.to_owned(), path: path.into() })
            }
            _ => Err(format!("{text:?} is not HOST[:PORT]=FILE")),
        }
    }
}

impl Registries {
    /// A registry itself, which is asked when none of its mirrors gives.
    pub(super) fn itself(&self, registry: &str) -> Endpoint {
        Endpoint::of_registry(registry, self.insecure.iter().any(|listed| listed == registry))
    }

    /// Read anew for each pull: pulls are rare, a parsed bundle is half a megabyte.
    pub(super) fn tls(&self, authority: &str) -> Result<Arc<ClientConfig>, FetchError> {
        let own = self.authorities.as_ref().map(|folder| folder.join(authority).join("ca.crt"));
        let listed = self.authority_files.iter().filter(|file| file.host == authority).map(|file| file.path.clone());
        let mut roots = RootCertStore::empty();
        let system = SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
        for path in system.into_iter().chain(own).chain(listed) {
            for certificate in CertificateDer::pem_file_iter(&path).into_iter().flatten().flatten() {
                let _ = roots.add(certificate);
            }
        }
        if roots.is_empty() {
            return Err(FetchError::Protocol("no CA certificates on this machine: install ca-certificates".into()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| FetchError::Protocol(error.to_string()))?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}
