//! Shell: the REST front door.
//!
//! [`Api::handle`] is the one way in, from the wire and in process: route, authorise, decode, hand to the registry, answer in the
//! client's form. It knows no kind by name: rows say what is served.

mod answer;
mod below;
mod body;
mod decode;
mod discovery;
mod health;
mod in_process;
mod kubelet;
mod lists;
mod negotiate;
mod objects;
mod openapi;
mod path;
mod proxy;
mod query;
mod reviews;
mod table;
mod tunnels;
mod upkeep;
mod watches;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::upgrade::OnUpgrade;

use crate::authn::{Authenticator, PeerCertificate, answer as refusal, impersonation};
use crate::authz::{Attributes, Authorizer};
use crate::encryption::Encryption;
use crate::identity::Identity;
use crate::registry::Registry;
use crate::registry::status::{Answer, ApiError};
use negotiate::Form;
use path::{ResourcePath, Route};
use query::Query;

pub use health::Readiness;
pub use in_process::InProcess;
pub use kubelet::Kubelets;
pub use upkeep::{Certificates, Renewing};

/// A request's or an answer's body, in process and on the wire.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The API: a registry behind authorisation.
pub struct Api {
    registry: Arc<Registry>,
    authorizer: Authorizer,
    authenticator: Option<Authenticator>,
    kubelets: Option<Kubelets>,
    encryption: Option<Encryption>,
    certificates: Option<Arc<dyn Certificates>>,
    readiness: Readiness,
    clock: fn() -> Duration,
    advertised: SocketAddr,
}

/// One request on its way.
struct Request {
    identity: Identity,
    method: Method,
    path: String,
    query: Query,
    headers: http::HeaderMap,
    upgrade: Option<OnUpgrade>,
    /// What the client showed on its connection; none in this process.
    peer: Option<PeerCertificate>,
}

impl Api {
    /// An API over a registry. Without an authenticator there are no tokens.
    pub fn new(
        registry: Arc<Registry>,
        authorizer: Authorizer,
        authenticator: Option<Authenticator>,
        clock: fn() -> Duration,
        advertised: SocketAddr,
    ) -> Self {
        let readiness = Readiness::default();
        Self {
            registry,
            authorizer,
            authenticator,
            kubelets: None,
            encryption: None,
            certificates: None,
            readiness,
            clock,
            advertised,
        }
    }

    /// The same with a way to the nodes.
    pub fn with_kubelets(self, kubelets: Kubelets) -> Self {
        Self { kubelets: Some(kubelets), ..self }
    }

    /// The same with keys that can be rotated.
    pub fn with_encryption(self, encryption: Encryption) -> Self {
        Self { encryption: Some(encryption), ..self }
    }

    /// The same with certificates that can be renewed.
    pub fn with_certificates(self, certificates: Arc<dyn Certificates>) -> Self {
        Self { certificates: Some(certificates), ..self }
    }

    /// The registry behind it.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What `/readyz` asks.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Answers one request of an authenticated user.
    pub async fn handle(self: &Arc<Self>, identity: Identity, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let accept = header(&parts.headers, http::header::ACCEPT).to_owned();
        let identity = match self.impersonate(identity, &parts.headers) {
            Ok(identity) => identity,
            Err(error) => return refuse(&error),
        };
        let request = Request {
            identity,
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            upgrade: parts.extensions.get::<OnUpgrade>().cloned(),
            peer: parts.extensions.get::<PeerCertificate>().cloned(),
            headers: parts.headers,
        };
        match self.route(request, body).await {
            Ok(response) => response,
            Err(error) => {
                if error.code == 500 {
                    tracing::error!(error = %error.message, "request failed");
                }
                answer::error(negotiate::form(&accept, false).unwrap_or_default(), &error)
            }
        }
    }

    async fn route(self: &Arc<Self>, request: Request, body: Body) -> Answer<http::Response<Body>> {
        match path::parse(&request.path) {
            Route::Resource(target) => {
                self.allow(&request, &attributes(&request, &target))?;
                self.resource(&request, body, target).await
            }
            // Whose it is says the path: no rule of RBAC could.
            Route::Other if request.path.starts_with(tunnels::PREFIX) => {
                self.tunnel(&request, &request.path[tunnels::PREFIX.len()..])
            }
            other => {
                let verb = request.method.as_str().to_ascii_lowercase();
                let attributes = Attributes { verb, path: request.path.clone(), ..Attributes::default() };
                self.allow(&request, &attributes)?;
                match request.path.strip_prefix(upkeep::PREFIX) {
                    Some(verb) => self.upkeep(&request, verb).await,
                    None => self.other(&request, &other),
                }
            }
        }
    }

    /// Who asks, or whom they may and want to act as.
    fn impersonate(&self, identity: Identity, headers: &http::HeaderMap) -> Answer<Identity> {
        let wanted = impersonation::apply(headers, &identity, &self.authorizer);
        let wanted = wanted.map_err(|refused| refusal::impersonation(&identity, refused))?;
        Ok(wanted.unwrap_or(identity))
    }

    fn allow(&self, request: &Request, attributes: &Attributes) -> Answer<()> {
        let decision = self.authorizer.authorize(&request.identity, attributes);
        if decision.is_allowed() {
            return Ok(());
        }
        Err(refusal::forbidden(&request.identity, attributes, decision.reason()))
    }

    /// Discovery, health, version: everything that is no resource.
    fn other(&self, request: &Request, route: &Route) -> Answer<http::Response<Body>> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(ApiError::method_not_allowed());
        }
        let accept = request.header(http::header::ACCEPT);
        let kinds = self.registry.kinds();
        let document = match route {
            Route::LegacyVersions | Route::Groups => {
                let core = *route == Route::LegacyVersions;
                if let Some(version) = discovery::aggregated_version(accept) {
                    return Ok(aggregated(request, &discovery::aggregated(&kinds, core, version), version));
                }
                if core {
                    discovery::legacy_versions(&self.advertised.to_string())
                } else {
                    discovery::group_list(&kinds)
                }
            }
            Route::Group(name) => discovery::group(&kinds, name).ok_or_else(ApiError::no_such_path)?,
            Route::Resources(group, version) => {
                discovery::resource_list(&kinds, group, version).ok_or_else(ApiError::no_such_path)?
            }
            Route::Resource(_) | Route::Other => return health::answer(self, request),
        };
        Ok(answer::value(200, negotiate::form(accept, false)?, &document))
    }
}

/// An error as an answer in JSON, for those in front of the door.
pub(crate) fn refuse(error: &ApiError) -> http::Response<Body> {
    answer::error(Form::default(), error)
}

impl Request {
    pub(super) fn header(&self, name: http::HeaderName) -> &str {
        header(&self.headers, name)
    }

    /// The form that the client accepts; tables only for reads.
    fn form(&self) -> Answer<Form> {
        let shaped = true;
        negotiate::form(self.header(http::header::ACCEPT), shaped)
    }
}

fn header(headers: &http::HeaderMap, name: http::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The whole discovery, or 304 for who has it already.
fn aggregated(request: &Request, document: &serde_json::Value, version: &str) -> http::Response<Body> {
    let text = document.to_string();
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let tag = digest.as_ref().iter().fold(String::from("\""), |tag, byte| tag + &format!("{byte:02X}")) + "\"";
    let known = request.header(http::header::IF_NONE_MATCH).split(',').any(|known| known.trim() == tag);
    let mut response = if known {
        answer::response(304, "application/json", "")
    } else {
        answer::response(200, "application/json", text)
    };
    let headers = response.headers_mut();
    if known {
        headers.remove(http::header::CONTENT_TYPE);
    } else if let Ok(value) = http::HeaderValue::try_from(discovery::aggregated_type(version)) {
        headers.insert(http::header::CONTENT_TYPE, value);
    }
    if let Ok(tag) = http::HeaderValue::try_from(tag) {
        headers.insert(http::header::ETAG, tag);
    }
    headers.insert(http::header::VARY, http::HeaderValue::from_static("Accept"));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("public"));
    response
}

/// What a resource request wants, in the words of RBAC.
fn attributes(request: &Request, target: &ResourcePath) -> Attributes {
    let collection = target.name.is_empty();
    let watches = collection && request.query.flag("watch");
    let verb = match request.method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ if watches => "watch",
        _ if collection => "list",
        _ => "get",
    };
    Attributes {
        verb: verb.to_owned(),
        api_group: target.group.clone(),
        api_version: target.version.clone(),
        resource: target.resource.clone(),
        subresource: target.subresource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        path: request.path.clone(),
        field_selector: request.query.text("fieldSelector").to_owned(),
    }
}

#[cfg(test)]
mod tests;
