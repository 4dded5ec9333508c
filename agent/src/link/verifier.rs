//! Pure: who the server must be: the pinned chain and the name always, the dates only by trusted time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::clock::Clock;

/// `sha256:<hex of the subject public key info>`, as kubeadm prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin(String);

impl Pin {
    /// Reads a pin; none if it is not `sha256:` and 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.trim().strip_prefix("sha256:")?;
        let whole = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        whole.then(|| Self(format!("sha256:{}", hex.to_ascii_lowercase())))
    }

    /// True if the certificate holds the pinned key.
    #[must_use]
    pub fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        spki_pin(certificate).is_some_and(|pin| pin == self.0)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The pin of a certificate's key; none if it is no certificate.
#[must_use]
pub fn spki_pin(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let hash = digest::digest(&digest::SHA256, parsed.public_key().raw);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256:{hex}"))
}

/// Checks chain and name against the pinned authorities, and dates by trusted time when there is any; a word on the time
/// that led far ahead does not shut out who could take it back.
#[derive(Debug)]
pub(crate) struct PinnedVerifier {
    chain: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    clock: Arc<Clock>,
}

impl PinnedVerifier {
    pub(crate) fn new(
        roots: &[CertificateDer<'static>],
        clock: Arc<Clock>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|error| format!("the cluster's CA: {error}"))?;
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|error| format!("the cluster's CA: {error}"))?;
        Ok(Self { chain, roots: roots.to_vec(), clock })
    }

    /// Without trusted time: a moment at which the leaf and its authorities are all valid, if there is one.
    fn moment(&self, leaf: &CertificateDer<'_>) -> UnixTime {
        let seconds = self.clock.trusted_s().unwrap_or_else(|| {
            let starts = self.roots.iter().filter_map(not_before);
            starts.chain(not_before(leaf)).max().unwrap_or_default()
        });
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }
}

fn not_before(certificate: &CertificateDer<'_>) -> Option<u64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    u64::try_from(parsed.validity().not_before.timestamp()).ok()
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let at = |now| self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let judged = at(self.moment(end_entity));
        let expired = matches!(
            judged,
            Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }))
        );
        match self.clock.before_jump_s() {
            Some(seconds) if expired => at(UnixTime::since_unix_epoch(Duration::from_secs(seconds))),
            _ => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Trusts nobody, only looks: for the one request that finds the authority which matches the pin. Nothing secret may
/// be sent over such a connection.
#[derive(Debug)]
pub(crate) struct LookingVerifier {
    seen: Mutex<Vec<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl LookingVerifier {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { seen: Mutex::new(Vec::new()), provider }
    }

    /// The chain that the server showed.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for LookingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if not_before(end_entity).is_none() {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        let all = std::iter::once(end_entity).chain(intermediates).map(|one| one.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;

    /// 2026-06-01, 2032-01-01 and 2040-01-01.
    const AT_2026: u64 = 1_780_272_000;
    const AT_2032: u64 = 1_956_528_000;
    const AT_2040: u64 = 2_208_988_800;

    #[test]
    fn a_visit_to_2040_does_not_shut_out_the_controller() {
        let authority_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (date_time_ymd(1970, 1, 2), date_time_ymd(2076, 1, 1));
        let authority = params.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(params, authority_key);
        let mut params = CertificateParams::new(vec!["pi-1".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(1970, 1, 2), date_time_ymd(2036, 1, 1));
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let holds = |clock: Clock| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = PinnedVerifier::new(&[authority.der().clone()], Arc::new(clock), provider).unwrap();
            let name = ServerName::try_from("pi-1").unwrap();
            verifier.verify_server_cert(leaf.der(), &[], &name, &[], UnixTime::now()).is_ok()
        };
        let told = |words: &[u64]| {
            let clock = Clock::default();
            words.iter().for_each(|word| clock.authenticate(*word));
            clock
        };
        assert!(holds(told(&[])) && holds(told(&[AT_2026])) && holds(told(&[AT_2026, AT_2032])));
        assert!(holds(told(&[AT_2040])) && holds(told(&[AT_2026, AT_2040])), "it may be a visit");
        assert!(!holds(told(&[AT_2040, AT_2040 + 10 * 86_400])), "it is that late by what was known before, too");
    }
}
