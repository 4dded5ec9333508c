//! Shell: the transport of those who live in this process: the same door, the same authorisation, no wire.

use std::sync::Arc;

use super::{Api, Body};
use crate::client::{ClientError, Pending, Transport};
use crate::identity::Identity;

/// Requests of one identity straight into [`Api::handle`].
pub struct InProcess {
    api: Arc<Api>,
    identity: Identity,
}

impl InProcess {
    /// A transport that asks as this identity.
    pub fn new(api: Arc<Api>, identity: Identity) -> Self {
        Self { api, identity }
    }
}

impl Transport for InProcess {
    fn send(&self, mut request: http::Request<Body>) -> Pending<'_, Result<http::Response<Body>, ClientError>> {
        // The manager of what it writes: `deployment-controller`, `kube-scheduler`.
        let name = self.identity.name.rsplit(':').next().unwrap_or_default();
        if let Ok(name) = http::HeaderValue::from_str(name) {
            request.headers_mut().entry(http::header::USER_AGENT).or_insert(name);
        }
        Box::pin(async move { Ok(self.api.handle(self.identity.clone(), request).await) })
    }
}
