//! Pure: a certificate with its key, and when it is to be renewed.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::ServingNames;
use crate::link::Identity;
use crate::pods::time::rfc3339;

/// A chain (leaf first) and its private key.
#[derive(Debug)]
pub struct Kept {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// When its life began for renewal: when it was issued, because signers date certificates back.
    from_s: i64,
    not_after_s: i64,
}

/// The line of a kept file that says when the certificate was issued, in Unix seconds of trusted time.
pub(super) const ISSUED: &str = "Issued: ";

impl Clone for Kept {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), ..*self }
    }
}

impl Kept {
    /// Reads certificates and one key from PEM.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
        let issued = String::from_utf8_lossy(pem).lines().find_map(|line| line.strip_prefix(ISSUED)?.parse().ok());
        Self::new(chain, key, issued)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        issued_s: Option<i64>,
    ) -> Result<Self, String> {
        let leaf = chain.first().ok_or("no certificate")?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let validity = parsed.validity();
        let (not_before_s, not_after_s) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let from_s = issued_s.filter(|issued_s| (not_before_s..not_after_s).contains(issued_s)).unwrap_or(not_before_s);
        Ok(Self { chain, key, from_s, not_after_s })
    }

    /// The certificates, leaf first.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// Itself, as credentials.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::Certificate(self.chain.clone(), self.key.clone_key())
    }

    /// When it ends, for people.
    #[must_use]
    pub fn until(&self) -> String {
        rfc3339(self.not_after_s * 1000)
    }

    /// Seconds from `now_s` until it should be renewed: at 70 % to 90 % of its life by `random` in 0..1, as upstream.
    #[must_use]
    pub fn renew_in_s(&self, now_s: u64, random: f64) -> u64 {
        let life = (self.not_after_s - self.from_s).max(0);
        let permille = 700 + (random.clamp(0.0, 1.0) * 200.0) as i64;
        let at = self.from_s + life / 1000 * permille;
        u64::try_from(at).unwrap_or(0).saturating_sub(now_s)
    }

    /// True if it names all of these.
    #[must_use]
    pub(super) fn covers(&self, names: &ServingNames) -> bool {
        let Some((_, parsed)) = self.chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok()) else {
            return false;
        };
        let Ok(Some(sans)) = parsed.subject_alternative_name() else { return false };
        let sans = &sans.value.general_names;
        let dns =
            names.dns.iter().all(|name| sans.iter().any(|san| matches!(san, GeneralName::DNSName(dns) if dns == name)));
        let ips = names.ips.iter().all(|ip| {
            let octets = match ip {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            sans.iter().any(|san| matches!(san, GeneralName::IPAddress(bytes) if *bytes == octets))
        });
        dns && ips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_between_seventy_and_ninety_percent_of_its_life() {
        let kept = Kept {
            chain: Vec::new(),
            key: PrivateKeyDer::Pkcs8(Vec::new().into()),
            from_s: 1_000_000,
            not_after_s: 1_100_000,
        };
        assert_eq!(kept.renew_in_s(1_000_000, 0.0), 70_000);
        assert_eq!(kept.renew_in_s(1_000_000, 1.0), 90_000);
        assert_eq!(kept.renew_in_s(5_000_000, 0.5), 0, "an expired one at once");
    }
}
