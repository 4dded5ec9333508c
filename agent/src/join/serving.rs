//! Pure: the certificate with which the kubelet's server answers; renewed in place.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Kept;

/// Holds nothing until the cluster has signed one; handshakes fail until then, as upstream's do.
#[derive(Debug, Default)]
pub struct ServingCertificate(RwLock<Option<Arc<CertifiedKey>>>);

impl ServingCertificate {
    pub(super) fn put(&self, kept: &Kept) {
        if let Ok(key) = any_supported_type(&kept.key) {
            let certified = Arc::new(CertifiedKey::new(kept.chain.clone(), key));
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(certified);
        }
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
