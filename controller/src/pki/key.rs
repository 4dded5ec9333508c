//! Shell: ECDSA P-256 keys: made, loaded, used. Their bytes are never printed.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use super::certificate::public_key_info;
use super::{PkiError, files};

/// A private key.
pub(crate) struct Key {
    pkcs8: Vec<u8>,
    for_certificates: EcdsaKeyPair,
    for_tokens: EcdsaKeyPair,
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({})", self.id())
    }
}

impl Key {
    /// A new key.
    pub(crate) fn generate() -> Result<Key, PkiError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Key::from_pkcs8(document.map_err(|_| PkiError::Random)?.as_ref().to_vec())
    }

    pub(crate) fn from_pkcs8(pkcs8: Vec<u8>) -> Result<Key, PkiError> {
        let random = SystemRandom::new();
        let pair = |algorithm| {
            EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8, &random).map_err(|error| PkiError::Key(error.to_string()))
        };
        let for_certificates = pair(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let for_tokens = pair(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Key { pkcs8, for_certificates, for_tokens })
    }

    /// From PEM (PKCS#8).
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Key, PkiError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|error| PkiError::Key(error.to_string()))?;
        Key::from_pkcs8(der.secret_pkcs8_der().to_vec())
    }

    /// The key in a file, made and written (0600) if there is none.
    pub(crate) fn load_or_create(path: &Path) -> Result<Key, PkiError> {
        match files::read(path)? {
            Some(pem) => Key::from_pem(&pem),
            None => {
                let key = Key::generate()?;
                files::write_private(path, key.to_pem().as_bytes())?;
                Ok(key)
            }
        }
    }

    /// PEM (PKCS#8). A secret.
    pub(crate) fn to_pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// PKCS#8. A secret.
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The uncompressed point.
    pub(crate) fn point(&self) -> &[u8] {
        self.for_certificates.public_key().as_ref()
    }

    /// DER SubjectPublicKeyInfo.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        public_key_info(self.point())
    }

    /// The `kid` of tokens: base64url of the SHA-256 of the SubjectPublicKeyInfo, as upstream's.
    pub(crate) fn id(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(sha256(&self.public_key()))
    }

    /// An ASN.1 signature, as certificates carry it.
    pub(crate) fn sign_asn1(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let signature = self.for_certificates.sign(&SystemRandom::new(), message).map_err(|_| PkiError::Random)?;
        Ok(signature.as_ref().to_vec())
    }

    /// A fixed-length signature, as ES256 (RFC 7518, 3.4) has it.
    pub(crate) fn sign_fixed(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let signature = self.for_tokens.sign(&SystemRandom::new(), message).map_err(|_| PkiError::Random)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Random)?;
    Ok(bytes)
}

/// PEM text of a block.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
