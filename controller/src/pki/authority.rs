//! Shell: one certificate authority: its key, its certificate, and what it signs.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::{ALWAYS, AltName, CERTIFICATE_SIGNING, DIGITAL_SIGNATURE, Profile, Purpose, signed};
use super::key::{Key, hex, pem, random, sha256};
use super::request::Request;
use super::{PkiError, TIME_FLOOR, approval, der, signer};

/// How long the authority lives: longer than the boards.
const AUTHORITY_S: i64 = 50 * 365 * 86_400;

/// Clocks of boards may be behind by this much and still take a fresh certificate; upstream's signer says the same.
const BACKDATED_S: i64 = 5 * 60;

/// The certificate authority. It signs; who may have something signed is decided elsewhere.
#[derive(Debug)]
pub struct Authority {
    key: Key,
    certificate: CertificateDer<'static>,
    pem: String,
    subject: Vec<u8>,
    key_id: Vec<u8>,
    not_after: i64,
}

impl Authority {
    /// A new authority. `now` is seconds since 1970.
    pub(super) fn make(now: i64) -> Result<Authority, PkiError> {
        Authority::self_signed(Key::generate()?, now)
    }

    /// From PEM: its key and its certificate.
    pub(super) fn from_pem(key: &str, certificate: &str) -> Result<Authority, PkiError> {
        Authority::from_parts(Key::from_pem(key.as_bytes())?, certificate.as_bytes())
    }

    fn self_signed(key: Key, now: i64) -> Result<Authority, PkiError> {
        // The key's digest in the name keeps the names of two clusters' authorities apart in one trust store.
        let key_id = sha256(key.point())[..20].to_vec();
        let subject = der::name(&format!("bramble-ca-{}", hex(&key_id[..4])), &[]);
        let profile = Profile {
            issuer: subject.clone(),
            subject,
            public_key: key.public_key(),
            serial: serial()?,
            not_before: ALWAYS,
            not_after: now.max(TIME_FLOOR) + AUTHORITY_S,
            authority: true,
            key_usage: CERTIFICATE_SIGNING | DIGITAL_SIGNATURE,
            purposes: Vec::new(),
            alt_names: Vec::new(),
            subject_key_id: key_id.clone(),
            authority_key_id: key_id,
        };
        let to_be_signed = profile.to_be_signed();
        let certificate = signed(&to_be_signed, &key.sign_asn1(&to_be_signed)?);
        Authority::from_parts(key, pem("CERTIFICATE", &certificate).as_bytes())
    }

    fn from_parts(key: Key, text: &[u8]) -> Result<Authority, PkiError> {
        let malformed = |error: String| PkiError::Certificate(error);
        let certificate = CertificateDer::from_pem_slice(text).map_err(|error| malformed(error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| malformed(error.to_string()))?;
        if parsed.public_key().raw != key.public_key() {
            return Err(PkiError::Certificate("the authority's certificate and key do not belong together".into()));
        }
        let subject = parsed.subject().as_raw().to_vec();
        let not_after = parsed.validity().not_after.timestamp();
        let key_id = sha256(key.point())[..20].to_vec();
        let text = pem("CERTIFICATE", &certificate);
        Ok(Authority { key, certificate, pem: text, subject, key_id, not_after })
    }

    /// The key as PEM. A secret.
    pub(super) fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// Another authority's certificate as this one signs it: what trusts this one trusts that one. DER.
    pub(super) fn signs(&self, other: &Authority) -> Result<Vec<u8>, PkiError> {
        let profile = Profile {
            issuer: self.subject.clone(),
            subject: other.subject.clone(),
            public_key: other.key.public_key(),
            serial: serial()?,
            not_before: ALWAYS,
            not_after: self.not_after,
            authority: true,
            key_usage: CERTIFICATE_SIGNING | DIGITAL_SIGNATURE,
            purposes: Vec::new(),
            alt_names: Vec::new(),
            subject_key_id: other.key_id.clone(),
            authority_key_id: self.key_id.clone(),
        };
        let to_be_signed = profile.to_be_signed();
        Ok(signed(&to_be_signed, &self.key.sign_asn1(&to_be_signed)?))
    }

    /// The certificate as PEM, public.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The certificate as DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The pin that a joining board is given: `sha256:<hex of the SHA-256 of the SubjectPublicKeyInfo>`, as kubeadm's.
    pub fn pin(&self) -> String {
        pin_of_key(&self.key.public_key())
    }

    /// A client certificate for a key of ours.
    pub(crate) fn client(&self, name: &str, groups: &[&str], key: &Key, end: i64) -> Result<Vec<u8>, PkiError> {
        let subject = der::name(name, groups);
        self.leaf(
            subject,
            key.public_key(),
            key.point(),
            &[Purpose::ClientAuth],
            DIGITAL_SIGNATURE,
            Vec::new(),
            (ALWAYS, end),
        )
    }

    /// A serving certificate for a key of ours.
    pub(crate) fn server(&self, name: &str, alt_names: Vec<AltName>, key: &Key, end: i64) -> Result<Vec<u8>, PkiError> {
        let subject = der::name(name, &[]);
        self.leaf(
            subject,
            key.public_key(),
            key.point(),
            &[Purpose::ServerAuth],
            DIGITAL_SIGNATURE,
            alt_names,
            (ALWAYS, end),
        )
    }

    /// Signs an approved CertificateSigningRequest for one of our signers; the PEM is for `status.certificate`. `now` is
    /// seconds since 1970. [`PkiError::Refused`] carries the message of the condition `Failed`.
    pub fn sign_request(
        &self,
        signer_name: &str,
        request: &Request,
        usages: &[&str],
        expiration_seconds: Option<i64>,
        now: i64,
    ) -> Result<String, PkiError> {
        signer::validate(signer_name, request, usages).map_err(PkiError::Refused)?;
        let grant = signer::grant(usages, expiration_seconds);
        let now = now.max(TIME_FLOOR);
        // Holders renew after a part of its life, so its beginning must be told as it is; upstream grants the same slack.
        let life = (now - BACKDATED_S, now + grant.seconds);
        let (subject, key) = (request.subject.clone(), request.public_key.clone());
        let names = request.alt_names.clone();
        let der = self.leaf(subject, key, &request.key_bits, &grant.purposes, grant.key_usage, names, life)?;
        Ok(pem("CERTIFICATE", &der))
    }

    /// Signs an approved CertificateSigningRequest object at a time; the answer is what `status.certificate` holds (base64 of
    /// PEM), the error the message of its Failed condition.
    pub fn sign_object(&self, object: &Value, now: i64) -> Result<String, String> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let request =
            Request::from_base64(text("/spec/request")).map_err(|error| format!("unable to parse csr: {error}"))?;
        let seconds = object.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
        let signed = self.sign_request(text("/spec/signerName"), &request, &approval::usages(object), seconds, now);
        signed.map(|pem| BASE64_STANDARD.encode(pem)).map_err(|error| error.to_string())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a leaf that differ, named at its three callers")]
    fn leaf(
        &self,
        subject: Vec<u8>,
        public_key: Vec<u8>,
        key_bits: &[u8],
        purposes: &[Purpose],
        key_usage: u16,
        alt_names: Vec<AltName>,
        (begin, end): (i64, i64),
    ) -> Result<Vec<u8>, PkiError> {
        let profile = Profile {
            issuer: self.subject.clone(),
            subject,
            public_key,
            serial: serial()?,
            not_before: begin,
            not_after: end.min(self.not_after),
            authority: false,
            key_usage,
            purposes: purposes.to_vec(),
            alt_names,
            subject_key_id: sha256(key_bits)[..20].to_vec(),
            authority_key_id: self.key_id.clone(),
        };
        let to_be_signed = profile.to_be_signed();
        Ok(signed(&to_be_signed, &self.key.sign_asn1(&to_be_signed)?))
    }
}

fn pin_of_key(public_key: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256(public_key)))
}

/// The pin of a certificate's key.
pub(super) fn pin_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(pin_of_key(parsed.public_key().raw))
}

/// A positive serial of 126 random bits.
fn serial() -> Result<[u8; 16], PkiError> {
    let mut serial: [u8; 16] = random()?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}
