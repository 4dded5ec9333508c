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
    fn send(&self, request: http::Request<Body>) -> Pending<'_, Result<http::Response<Body>, ClientError>> {
        Box::pin(async move { Ok(self.api.handle(self.identity.clone(), request).await) })
    }
}
