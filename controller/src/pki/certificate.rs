//! Pure: what a certificate says, as the bytes to be signed (RFC 5280).

use core::net::IpAddr;

use super::der;

/// Digital signature (RFC 5280, 4.2.1.3; bit 0 is the most significant).
pub(crate) const DIGITAL_SIGNATURE: u16 = 1 << 15;
/// Key encipherment.
pub(crate) const KEY_ENCIPHERMENT: u16 = 1 << 13;
/// Signing of certificates and revocation lists.
pub(crate) const CERTIFICATE_SIGNING: u16 = 1 << 10 | 1 << 9;

/// The authority and what the control plane makes for itself is valid from 1970 on, so that one made by a board without a
/// clock works for a laptop, and one made by a laptop for such a board. What ends such a certificate is its end.
pub(crate) const ALWAYS: i64 = 0;

/// ecdsa-with-SHA256, the one algorithm that we sign with.
const ECDSA_SHA256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// A name of the holder besides the subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AltName {
    Dns(String),
    Ip(IpAddr),
    Email(String),
    Uri(String),
}

/// Extended key usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    ServerAuth,
    ClientAuth,
}

/// Everything that a certificate says, but for its signature.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// DER Names.
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    /// DER SubjectPublicKeyInfo.
    pub(crate) public_key: Vec<u8>,
    pub(crate) serial: [u8; 16],
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) authority: bool,
    pub(crate) key_usage: u16,
    pub(crate) purposes: Vec<Purpose>,
    pub(crate) alt_names: Vec<AltName>,
    pub(crate) subject_key_id: Vec<u8>,
    pub(crate) authority_key_id: Vec<u8>,
}

impl Profile {
    /// The TBSCertificate.
    pub(crate) fn to_be_signed(&self) -> Vec<u8> {
        let validity = der::sequence(&[&der::time(self.not_before), &der::time(self.not_after)]);
        der::sequence(&[
            &der::element(0xa0, &der::integer(&[2])),
            &der::integer(&self.serial),
            &algorithm(),
            &self.issuer,
            &validity,
            &self.subject,
            &self.public_key,
            &der::element(0xa3, &self.extensions()),
        ])
    }

    fn extensions(&self) -> Vec<u8> {
        let constraints = if self.authority { der::sequence(&[&der::truth()]) } else { der::sequence(&[]) };
        let mut all = extension(19, true, &constraints);
        if self.key_usage != 0 {
            all.extend(extension(15, true, &der::named_bits(self.key_usage)));
        }
        if !self.purposes.is_empty() {
            let purposes: Vec<u8> = self.purposes.iter().flat_map(|purpose| purpose.oid()).collect();
            all.extend(extension(37, false, &der::element(der::SEQUENCE, &purposes)));
        }
        if !self.alt_names.is_empty() {
            let names: Vec<u8> = self.alt_names.iter().flat_map(AltName::encode).collect();
            all.extend(extension(17, false, &der::element(der::SEQUENCE, &names)));
        }
        all.extend(extension(14, false, &der::octets(&self.subject_key_id)));
        all.extend(extension(35, false, &der::sequence(&[&der::element(0x80, &self.authority_key_id)])));
        der::element(der::SEQUENCE, &all)
    }
}

impl Purpose {
    fn oid(self) -> Vec<u8> {
        let last = match self {
            Purpose::ServerAuth => 1,
            Purpose::ClientAuth => 2,
        };
        der::oid(&[0x2b, 6, 1, 5, 5, 7, 3, last])
    }
}

impl AltName {
    fn encode(&self) -> Vec<u8> {
        match self {
            AltName::Email(text) => der::element(0x81, text.as_bytes()),
            AltName::Dns(text) => der::element(0x82, text.as_bytes()),
            AltName::Uri(text) => der::element(0x86, text.as_bytes()),
            AltName::Ip(IpAddr::V4(address)) => der::element(0x87, &address.octets()),
            AltName::Ip(IpAddr::V6(address)) => der::element(0x87, &address.octets()),
        }
    }
}

/// The certificate from its signed part and the signature.
pub(crate) fn signed(to_be_signed: &[u8], signature: &[u8]) -> Vec<u8> {
    der::sequence(&[to_be_signed, &algorithm(), &der::bit_string(signature)])
}

/// SubjectPublicKeyInfo of an uncompressed P-256 point.
pub(crate) fn public_key_info(point: &[u8]) -> Vec<u8> {
    let curve = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let kind = [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    der::sequence(&[&der::sequence(&[&der::oid(&kind), &der::oid(&curve)]), &der::bit_string(point)])
}

fn algorithm() -> Vec<u8> {
    der::sequence(&[&der::oid(&ECDSA_SHA256)])
}

fn extension(last_arc: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let id = der::oid(&[0x55, 0x1d, last_arc]);
    let value = der::octets(value);
    if critical { der::sequence(&[&id, &der::truth(), &value]) } else { der::sequence(&[&id, &value]) }
}
