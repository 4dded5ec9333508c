//! Shell: the front door on the wire: authenticates, then hands to the API, and dates what it answers.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::HeaderValue;
use http::header::DATE;
use tokio::sync::watch;

use super::{listener, wall_clock};
use crate::api::{Api, Body, InProcess};
use crate::authn::{Authenticator, PeerCertificate};
use crate::authz::Authorizer;
use crate::client::Client;
use crate::identity::Identity;
use crate::pki::authorities::Authorities;
use crate::registry::status::ApiError;

/// The header that tells boards which authorities are trusted; there is none before the first rollover.
const AUTHORITIES: &str = "bramble-authorities";

/// The front door on the wire: authenticates, then hands to the API.
pub(super) struct Front {
    pub(super) api: Arc<Api>,
    pub(super) authenticator: Authenticator,
    pub(super) authorizer: Authorizer,
    pub(super) authorities: watch::Receiver<Arc<Authorities>>,
}

impl Front {
    /// A client in this process: the API server itself has all rights, a component its own.
    pub(super) fn client(&self, name: &str) -> Client {
        self.as_identity(match name {
            "system:apiserver" => Identity::user(name, &["system:masters"]),
            component => Identity::component(component),
        })
    }

    pub(super) fn as_identity(&self, identity: Identity) -> Client {
        Client::new(Arc::new(InProcess::new(self.api.clone(), identity)))
    }
}

impl listener::Handler for Front {
    async fn shut_out(self: Arc<Self>, peer: PeerCertificate) {
        self.authenticator.shut_out(&peer).await;
    }

    async fn answer(
        self: Arc<Self>,
        mut request: http::Request<Body>,
        peer: Option<PeerCertificate>,
    ) -> http::Response<Body> {
        let identity = self.authenticator.authenticate(request.headers(), peer.as_ref()).await;
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let mut response = match identity {
            Ok(identity) => {
                // A board that knows other authorities than these asks for them.
                let authorities = self.authorities.borrow().clone();
                let told = authorities.digest().filter(|_| identity.name.starts_with("system:node:"));
                let mut response = self.api.handle(identity, request).await;
                if let Some(value) = told.and_then(|digest| HeaderValue::try_from(digest).ok()) {
                    response.headers_mut().insert(AUTHORITIES, value);
                }
                response
            }
            Err(error) => {
                tracing::debug!(%error, "not authenticated");
                crate::api::refuse(&ApiError::unauthorized())
            }
        };
        // Boards take it for the time; the HTTP library would ask the system's clock itself.
        if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(UNIX_EPOCH + wall_clock())) {
            response.headers_mut().insert(DATE, date);
        }
        response
    }
}
