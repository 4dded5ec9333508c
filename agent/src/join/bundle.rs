//! Pure: a join bundle: one file with all that a board needs to join, signed by the cluster's authority.
//!
//! ```text
//! bramble join bundle v1
//! server https://10.0.0.1:6443          one line for each
//! token abcdef.0123456789abcdef
//! cluster-cidr 10.42.0.0/16,fd42::/48   where they are not the usual ones, with the next line
//! service-cidr 10.43.0.0/16,fd43::/112
//! expires 2026-11-27T19:00:00Z
//! -----BEGIN CERTIFICATE-----           the cluster's authority
//! ...
//! -----END CERTIFICATE-----
//! signature BASE64                      ECDSA P-256, SHA-256, over every byte before this line
//! ```
//! The signature tells a damaged file from a whole one, and binds address and token to the authority. Who the board's
//! controller is rests on the file itself, as with a pin that was typed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::request::pem;
use crate::link::{KeyPin, spki_pin};
use crate::pods::time::{parse_rfc3339, rfc3339};

/// The first line.
const HEAD: &str = "bramble join bundle v1";
const SIGNATURE: &str = "signature ";
/// Some servers and one certificate: a longer file is something else.
pub const FILE_BYTES_MAX: usize = 64 << 10;

/// What a bundle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// URLs of the cluster's API servers.
    pub servers: Vec<String>,
    /// A bootstrap token.
    pub token: String,
    /// Until when the token is good, in Unix milliseconds.
    pub expires_ms: i64,
    /// The cluster's ranges of pods and of Services, where they are not the usual ones.
    pub ranges: Option<[String; 2]>,
    /// The cluster's authority.
    pub authority: CertificateDer<'static>,
}

/// Why a file is no bundle to join with; Display says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Another kind of file, or a part of one.
    #[error(
        "it is no join bundle, or not a whole one ({0}): copy the file again that `bramble token create --bundle` wrote"
    )]
    Malformed(&'static str),
    /// Not as it was signed.
    #[error("its signature does not hold: a byte of it was changed, or another key signed it; copy the file again")]
    Changed,
    /// Of another cluster than the one that was named.
    #[error("it is of a foreign cluster: its authority is {found}, not {expected}; take the file of the right one")]
    Foreign {
        /// The pin of the file's authority.
        found: String,
        /// What was asked for.
        expected: String,
    },
}

impl Bundle {
    /// The text that is signed.
    #[must_use]
    pub fn unsigned(&self) -> String {
        let servers: String = self.servers.iter().map(|server| format!("server {server}\n")).collect();
        let lines = |[cluster, service]: &[String; 2]| format!("cluster-cidr {cluster}\nservice-cidr {service}\n");
        let ranges = self.ranges.as_ref().map_or_else(String::new, lines);
        let expires = rfc3339(self.expires_ms);
        let authority = pem("CERTIFICATE", &self.authority);
        format!("{HEAD}\n{servers}token {}\n{ranges}expires {expires}\n{authority}", self.token)
    }

    /// The pin of the cluster's authority.
    #[must_use]
    pub fn pin(&self) -> Option<KeyPin> {
        spki_pin(&self.authority).as_deref().and_then(KeyPin::parse)
    }

    /// Whether it is of the cluster with this authority.
    ///
    /// # Errors
    /// [`BundleError::Foreign`].
    pub fn expect(&self, pin: &KeyPin) -> Result<(), BundleError> {
        if pin.matches(&self.authority) {
            return Ok(());
        }
        Err(BundleError::Foreign { found: spki_pin(&self.authority).unwrap_or_default(), expected: pin.to_string() })
    }
}

/// The file of a signed text.
#[must_use]
pub fn signed(unsigned: &str, signature: &[u8]) -> String {
    format!("{unsigned}{SIGNATURE}{}\n", STANDARD.encode(signature))
}

/// Reads a file whose signature holds. Its token may have expired: who has joined needs none.
///
/// # Errors
/// [`BundleError`].
pub fn parse(bytes: &[u8]) -> Result<Bundle, BundleError> {
    use BundleError::Malformed;
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("it is no text"))?;
    if bytes.len() > FILE_BYTES_MAX || text.lines().next() != Some(HEAD) {
        return Err(Malformed("its first line is another one"));
    }
    let at = text.rfind(&format!("\n{SIGNATURE}")).ok_or(Malformed("its last line is missing"))? + 1;
    let (unsigned, line) = text.split_at(at);
    let signature = line.strip_prefix(SIGNATURE).and_then(|line| line.strip_suffix('\n'));
    let signature = signature.ok_or(Malformed("its last line is cut off"))?;
    let signature = STANDARD.decode(signature).map_err(|_| BundleError::Changed)?;
    let authority = CertificateDer::from_pem_slice(unsigned.as_bytes()).map_err(|_| BundleError::Changed)?;
    let (_, certificate) = X509Certificate::from_der(&authority).map_err(|_| BundleError::Changed)?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &certificate.public_key().subject_public_key.data);
    key.verify(unsigned.as_bytes(), &signature).map_err(|_| BundleError::Changed)?;
    let values = |name: &'static str| unsigned.lines().filter_map(move |line| line.strip_prefix(name));
    let bundle = Bundle {
        servers: values("server ").map(str::to_owned).collect(),
        token: values("token ").next().ok_or(Malformed("it has no token"))?.to_owned(),
        expires_ms: values("expires ").next().and_then(parse_rfc3339).ok_or(Malformed("it has no end"))?,
        ranges: values("cluster-cidr ").zip(values("service-cidr ")).next().map(|(a, b)| [a.to_owned(), b.to_owned()]),
        authority: authority.clone(),
    };
    if bundle.servers.is_empty() { Err(Malformed("it names no server")) } else { Ok(bundle) }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};

    use super::*;

    const END_MS: i64 = 1_795_000_000_000;

    fn bundle() -> (Bundle, KeyPair) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let bundle = Bundle {
            servers: vec!["https://10.0.0.1:6443".into(), "https://10.0.0.2:6443".into()],
            token: "abcdef.0123456789abcdef".into(),
            expires_ms: END_MS,
            ranges: Some(["10.42.0.0/16,fd42::/48".into(), "10.43.0.0/16,fd43::/112".into()]),
            authority: certificate.der().clone(),
        };
        (bundle, key)
    }

    fn file(bundle: &Bundle, key: &KeyPair) -> String {
        let text = bundle.unsigned();
        signed(&text, &key.sign(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_bundle_comes_back() {
        let (bundle, key) = bundle();
        let read = parse(file(&bundle, &key).as_bytes()).unwrap();
        assert_eq!(read, bundle);
    }

    #[test]
    fn no_byte_can_be_changed() {
        let (bundle, key) = bundle();
        let whole = file(&bundle, &key).into_bytes();
        for at in 0..whole.len() {
            for flip in [1, 0x20, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                // A signature's end may be written in two ways; what it signs may not.
                assert!(parse(&bytes).is_err(), "byte {at} ^ {flip}");
            }
            assert!(parse(&whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_foreign_authority_is_told() {
        let ((one, key), (other, other_key)) = (bundle(), bundle());
        let text = one.unsigned();
        let forged = signed(&text, &other_key.sign(text.as_bytes()).unwrap());
        assert_eq!(parse(forged.as_bytes()), Err(BundleError::Changed));
        let read = parse(file(&one, &key).as_bytes()).unwrap();
        assert_eq!(read.expect(&one.pin().unwrap()), Ok(()));
        let error = read.expect(&other.pin().unwrap()).unwrap_err().to_string();
        assert!(error.contains("foreign cluster") && error.contains(&other.pin().unwrap().to_string()), "{error}");
    }
}
