//! Shell: the TLS side: our serving certificate, replaced while running, and what a client's certificate is worth.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

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
    key: Key,
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Serving({})", self.dir.display())
    }
}

impl Serving {
    pub(super) fn open(dir: PathBuf) -> Result<Serving, PkiError> {
        let key = Key::load_or_create(&dir.join("serving.key"))?;
        Ok(Serving { dir, key, current: RwLock::new(None) })
    }

    /// Makes sure that the certificate holds exactly these names and is good for a while: the stored one if it does, else a
    /// new one. Returns whether it changed.
    pub fn ensure(&self, authority: &Authority, names: &ServingNames, now: i64) -> Result<bool, PkiError> {
        let now = now.max(TIME_FLOOR);
        let path = self.dir.join("serving.crt");
        let stored = files::read(&path)?.and_then(|text| CertificateDer::from_pem_slice(&text).ok());
        let fits = stored.filter(|der| fits(der, &self.key, authority, names, now).unwrap_or(false));
        let (der, changed) = match fits {
            Some(der) => (der, false),
            None => {
                let der = authority.server("kube-apiserver", names.alt_names(), &self.key, now + SERVING_S)?;
                files::write_public(&path, pem("CERTIFICATE", &der).as_bytes())?;
                (CertificateDer::from(der), true)
            }
        };
        let certified = certified_key(der, authority, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(changed)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The TLS configuration of the API server: TLS 1.2 and 1.3, h2 and http/1.1, client certificates asked for and not required.
pub fn server_config(serving: Arc<Serving>, authority: &Authority) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = provider();
    let asks = Arc::new(AnyClientCertificate {
        provider: provider.clone(),
        hints: vec![DistinguishedName::from(authority.subject().to_vec())],
    });
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

/// The configuration for calling kubelets: our client certificate `kube-apiserver-kubelet-client`, servers by our authority.
pub(super) fn kubelet_client_config(
    authority: &Authority,
    key: &Key,
    end: i64,
) -> Result<rustls::ClientConfig, PkiError> {
    let der = authority.client("kube-apiserver-kubelet-client", &[], key, end)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()));
    rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(vec![CertificateDer::from(der)], private)
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

/// Judges client certificates against our authority.
#[derive(Clone)]
pub struct ClientTrust {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for ClientTrust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClientTrust")
    }
}

impl ClientTrust {
    /// Trusts the authority's client certificates.
    pub fn new(authority: &Authority) -> Result<ClientTrust, PkiError> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider());
        let verifier = builder.build().map_err(|error| PkiError::Certificate(error.to_string()))?;
        Ok(ClientTrust { verifier })
    }

    /// Judges a chain, leaf first: what it was worth while it was good. Whether it still is, is for the caller to say, by
    /// [`Vouched::not_after`]; that our clock stands before its beginning only says that our clock is behind. The error is
    /// for the log.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: i64) -> Result<Vouched, String> {
        let (leaf, rest) = chain.split_first().ok_or("no certificate")?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        if begin > end {
            return Err("the certificate is never valid".into());
        }
        let seconds = u64::try_from(now.max(TIME_FLOOR).clamp(begin, end)).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        self.verifier.verify_client_cert(leaf, rest, time).map_err(|error| error.to_string())?;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|error| error.to_string())
        };
        let name = parsed.subject().iter_common_name().last().map(text).transpose()?.unwrap_or_default();
        if name.is_empty() {
            return Err("the certificate names nobody".into());
        }
        Ok(Vouched {
            name,
            groups: parsed.subject().iter_organization().map(text).collect::<Result<_, _>>()?,
            key_hash: super::key::sha256(parsed.public_key().raw),
            fingerprint: super::key::sha256(leaf),
            not_after: end,
        })
    }
}

/// Asks for a certificate and accepts any whose key the client holds: a wrong one is then answered with 401, as upstream
/// answers it, and not with an alert that no client explains.
#[derive(Debug)]
struct AnyClientCertificate {
    provider: Arc<CryptoProvider>,
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for AnyClientCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
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

fn roots(authority: &Authority) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).map_err(PkiError::Tls)?;
    Ok(roots)
}

/// The authority goes along: a board that joins knows only its pin and finds it in the chain.
fn certified_key(der: CertificateDer<'static>, authority: &Authority, key: &Key) -> Result<CertifiedKey, PkiError> {
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()));
    let signer = rustls::crypto::ring::sign::any_ecdsa_type(&private).map_err(PkiError::Tls)?;
    Ok(CertifiedKey::new(vec![der, authority.certificate().clone()], signer))
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
