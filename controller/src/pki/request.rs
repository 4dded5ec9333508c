//! Pure: a PKCS#10 certificate request, read and its signature checked.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::certificate::AltName;

/// The largest request that is read; a real one is below 2 KB.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// What a request asks for. Its signature has been verified: the asker holds the key.
#[derive(Clone, Debug)]
pub struct Request {
    /// The subject's common name, empty if it has none.
    pub common_name: String,
    /// The subject's organisations, in order.
    pub organizations: Vec<String>,
    pub(crate) alt_names: Vec<AltName>,
    /// DER Name, as it was sent.
    pub(crate) subject: Vec<u8>,
    /// DER SubjectPublicKeyInfo, as it was sent.
    pub(crate) public_key: Vec<u8>,
    /// The bits of the public key alone.
    pub(crate) key_bits: Vec<u8>,
}

/// Why a request is not readable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not PEM of the right type.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    /// Not a PKCS#10 request.
    #[error("malformed certificate request")]
    Malformed,
    /// The signature is not by the key inside.
    #[error("the request is not signed by its own key")]
    Signature,
}

impl Request {
    /// From `CertificateSigningRequest.spec.request`: base64 of PEM.
    pub fn from_base64(text: &str) -> Result<Request, RequestError> {
        if text.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::Malformed);
        }
        Request::from_pem(&BASE64_STANDARD.decode(text).map_err(|_| RequestError::Pem)?)
    }

    /// From PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Request, RequestError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| RequestError::Pem)?;
        let (rest, parsed) = X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        parsed.verify_signature().map_err(|_| RequestError::Signature)?;
        let info = &parsed.certification_request_info;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|_| RequestError::Malformed)
        };
        let common_name = info.subject.iter_common_name().last().map(text).transpose()?.unwrap_or_default();
        let organizations = info.subject.iter_organization().map(text).collect::<Result<_, _>>()?;
        let mut alt_names = Vec::new();
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    alt_names.push(alt_name(name).ok_or(RequestError::Malformed)?);
                }
            }
        }
        Ok(Request {
            common_name,
            organizations,
            alt_names,
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            key_bits: info.subject_pki.subject_public_key.data.to_vec(),
        })
    }
}

fn alt_name(name: &GeneralName<'_>) -> Option<AltName> {
    match name {
        GeneralName::DNSName(text) => Some(AltName::Dns((*text).to_owned())),
        GeneralName::RFC822Name(text) => Some(AltName::Email((*text).to_owned())),
        GeneralName::URI(text) => Some(AltName::Uri((*text).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))))
                .ok()
                .map(AltName::Ip)
        }
        _ => None,
    }
}
