//! Shell: the TLS side: our serving certificate, replaced while running, and what a client's certificate is worth.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::authorities::{Authorities, end_of};
use super::authority::Authority;
use super::certificate::AltName;
use super::key::{Key, pem};
use super::{PkiError, TIME_FLOOR, files};

/// How long a serving certificate lives; a board that was off for five years still serves at once.
const SERVING_S: i64 = 10 * 365 * 86_400;
/// What must be left of it when it is loaded.
const SERVING_LEFT_S: i64 = 365 * 86_400;

/// The names that the API server is reached by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingNames {
    /// DNS names.
    pub dns: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl ServingNames {
    /// Loopback, localhost and the names of the Service `kubernetes`, with the node's own name and addresses and the first
    /// service address.
    pub fn new(node_name: &str, addresses: &[IpAddr], service_address: IpAddr, cluster_domain: &str) -> ServingNames {
        let service = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", node_name];
        let mut dns: BTreeSet<String> =
            service.iter().filter(|name| !name.is_empty()).map(|name| (*name).into()).collect();
        dns.insert(format!("kubernetes.default.svc.{cluster_domain}"));
        let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
        let addresses = addresses.iter().copied().filter(|address| !address.is_unspecified());
        ServingNames { dns, addresses: addresses.chain(loopback).chain([service_address]).collect() }
    }

    fn alt_names(&self) -> Vec<AltName> {
        let dns = self.dns.iter().cloned().map(AltName::Dns);
        dns.chain(self.addresses.iter().copied().map(AltName::Ip)).collect()
    }
}

/// The serving certificate of the API server. New handshakes see a new one at once; nothing restarts.
pub struct Serving {
    dir: PathBuf,
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Serving({})", self.dir.display())
    }
}

impl Serving {
    pub(super) fn new(dir: PathBuf) -> Serving {
        Serving { dir, current: RwLock::new(None) }
    }

    /// Makes sure that the certificate holds exactly these names, is the newest authority's and good for a while: the stored
    /// one if it does, else a new one. Returns whether it changed.
    pub(super) fn ensure(&self, by: &Authorities, names: &ServingNames, now: i64) -> Result<bool, PkiError> {
        let now = now.max(TIME_FLOOR);
        let key = Key::load_or_create(&self.dir.join("serving.key"))?;
        let path = self.dir.join("serving.crt");
        let stored = files::read(&path)?.and_then(|text| CertificateDer::from_pem_slice(&text).ok());
        let fits = stored.filter(|der| fits(der, &key, &by.newest, names, now).unwrap_or(false));
        let (der, changed) = match fits {
            Some(der) => (der, false),
            None => {
                let der = by.newest.server("kube-apiserver", names.alt_names(), &key, now + SERVING_S)?;
                files::write_public(&path, pem("CERTIFICATE", &der).as_bytes())?;
                (CertificateDer::from(der), true)
            }
        };
        let certified = certified_key(der, by, &key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(changed)
    }

    /// When the certificate ends, in seconds since 1970.
    pub(super) fn end(&self) -> Option<i64> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        end_of(current.as_ref()?.cert.first()?)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The TLS configuration of the API server: TLS 1.2 and 1.3, h2 and http/1.1, client certificates asked for and not required.
pub(super) fn server_config(serving: Arc<Serving>) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = provider();
    let asks = Arc::new(AnyClientCertificate { provider: provider.clone() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .with_client_cert_verifier(asks)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would outlive a revocation, and a command line never resumes one: so neither memory nor tickets.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The configuration for calling kubelets: our client certificate `kube-apiserver-kubelet-client`, servers by our authorities.
pub(super) fn kubelet_client_config(by: &Authorities, key: &Key, end: i64) -> Result<rustls::ClientConfig, PkiError> {
    let der = by.newest.client("kube-apiserver-kubelet-client", &[], key, end)?;
    // The way back goes along: a board may not have heard of the newest authority yet.
    let chain = std::iter::once(CertificateDer::from(der)).chain(by.chain()).collect();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()));
    rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .with_root_certificates(by.roots()?)
        .with_client_auth_cert(chain, private)
        .map_err(PkiError::Tls)
}

/// Who a client certificate is, as our authority vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The common name.
    pub name: String,
    /// The organisations.
    pub groups: Vec<String>,
    /// SHA-256 of the SubjectPublicKeyInfo: what is revoked is a key.
    pub key_hash: [u8; 32],
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// Seconds since 1970.
    pub not_after: i64,
}

impl Vouched {
    /// Whether it is a board's.
    pub fn is_board(&self) -> bool {
        self.name.starts_with("system:node:") && self.groups == ["system:nodes"]
    }
}

/// A name in a certificate.
pub(super) fn text(attribute: &x509_parser::x509::AttributeTypeAndValue<'_>) -> Result<String, String> {
    attribute.as_str().map(str::to_owned).map_err(|error| error.to_string())
}

/// Asks for a certificate and accepts any whose key the client holds: a wrong one is then answered with 401, as upstream
/// answers it, and not with an alert that no client explains.
#[derive(Debug)]
struct AnyClientCertificate {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClientCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: some clients show only what a hint names, and our authorities change while the server runs.
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities go along: a board that joins knows only a pin and finds it in the chain.
fn certified_key(der: CertificateDer<'static>, by: &Authorities, key: &Key) -> Result<CertifiedKey, PkiError> {
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()));
    let signer = rustls::crypto::ring::sign::any_ecdsa_type(&private).map_err(PkiError::Tls)?;
    Ok(CertifiedKey::new(std::iter::once(der).chain(by.chain()).collect(), signer))
}

fn fits(der: &CertificateDer<'_>, key: &Key, authority: &Authority, names: &ServingNames, now: i64) -> Option<bool> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let (_, issuer) = X509Certificate::from_der(authority.certificate()).ok()?;
    let mut found = ServingNames::default();
    for name in &parsed.subject_alternative_name().ok()??.value.general_names {
        match name {
            GeneralName::DNSName(text) => found.dns.insert((*text).into()),
            GeneralName::IPAddress(bytes) => found.addresses.insert(match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            }),
            _ => return None,
        };
    }
    let lives = parsed.validity().not_after.timestamp() > now + SERVING_LEFT_S;
    let ours =
        parsed.verify_signature(Some(issuer.public_key())).is_ok() && parsed.public_key().raw == key.public_key();
    Some(found == *names && lives && ours)
}
