//! Shell: a Kubernetes API client over a transport: in process, or HTTPS.
//!
//! Controllers, scheduler and bootstrap read and write the cluster only through here, each as its own identity. Values are
//! whole JSON; nothing is cached.

mod follow;
mod https;
mod options;

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;

pub use follow::{Follow, Step, WatchEvent, WatchStream};
pub use https::{ConnectFailure, Https};
pub use options::{DeleteOptions, ListOptions, PatchKind, encode_query};

use crate::api::Body;

/// The largest answer that is read into memory whole: a page of a list, never a whole cluster.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A future that a door returns.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A door: carries one request to an API server. In-process it is `api::InProcess`, on the wire [`Https`].
pub trait Transport: Send + Sync {
    /// Sends a request whose URI holds only path and query.
    fn send(&self, request: http::Request<Body>) -> Pending<'_, Result<http::Response<Body>, ClientError>>;
}

/// Why a request brought no object.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a `metav1.Status`.
    #[error("{message}")]
    Status {
        /// HTTP status code.
        code: u16,
        /// `NotFound`, `Conflict`, `AlreadyExists`, `Expired` ...
        reason: String,
        /// Upstream's wording.
        message: String,
        /// The whole Status.
        status: Value,
    },
    /// The server was not reached, or the connection ended.
    #[error("transport")]
    Transport(#[source] std::io::Error),
    /// The answer was not what the API promises.
    #[error("cannot read the answer: {0}")]
    Answer(String),
}

impl ClientError {
    /// The status's reason; empty for transport errors.
    pub fn reason(&self) -> &str {
        match self {
            Self::Status { reason, .. } => reason,
            _ => "",
        }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason() == "NotFound"
    }

    /// A precondition (resourceVersion, uid) did not hold: read again, decide again.
    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }

    /// A namesake exists.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    /// The revision asked for is gone: list again.
    pub fn is_expired(&self) -> bool {
        matches!(self.reason(), "Expired" | "Gone")
    }
}

/// A resource in the API: its group, version and plural name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    /// Such as `v1`.
    pub version: Cow<'static, str>,
    /// Such as `pods`.
    pub plural: Cow<'static, str>,
}

impl Resource {
    /// A built-in resource.
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), plural: Cow::Borrowed(plural) }
    }

    /// `/api/v1/namespaces/<namespace>/pods/<name>/<subresource>`, as far as the parts are given.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
            path = path + "/namespaces/" + namespace;
        }
        for part in [Some(self.plural.as_ref()), name, subresource].into_iter().flatten() {
            path = path + "/" + part;
        }
        path
    }
}

/// One page of a list.
#[derive(Debug)]
pub struct List {
    /// The objects; each carries its apiVersion and kind.
    pub items: Vec<Value>,
    /// Watch from here.
    pub resource_version: String,
    /// Give it back in [`ListOptions::continue_token`] for the next page; empty at the end.
    pub continue_token: String,
}

/// A client; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

impl Client {
    /// A client over a transport.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// Reads one object.
    pub async fn get(&self, of: &Resource, namespace: Option<&str>, name: &str) -> Result<Value, ClientError> {
        self.call(http::Method::GET, &of.path(namespace, Some(name), None), None).await
    }

    /// Reads a list, or one page of it when `options.limit` is set. Without a namespace: in all namespaces.
    pub async fn list(
        &self,
        of: &Resource,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List, ClientError> {
        let path = of.path(namespace, None, None) + &options.query(None);
        let mut list = self.call(http::Method::GET, &path, None).await?;
        let text = |list: &Value, field: &str| {
            list["metadata"].get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (resource_version, continue_token) = (text(&list, "resourceVersion"), text(&list, "continue"));
        let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).unwrap_or_default().to_owned();
        let api_version = list["apiVersion"].clone();
        let Value::Array(mut items) = list["items"].take() else {
            return Err(ClientError::Answer(format!("{path}: no items")));
        };
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.entry("apiVersion").or_insert_with(|| api_version.clone());
            item.entry("kind").or_insert_with(|| Value::from(kind.as_str()));
        }
        Ok(List { items, resource_version, continue_token })
    }

    /// Watches from `options.resource_version`, once; [`Client::follow`] lists and resumes by itself.
    pub async fn watch(
        &self,
        of: &Resource,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<WatchStream, ClientError> {
        let path = of.path(namespace, None, None) + &options.query(Some("watch=true&allowWatchBookmarks=true"));
        let response = self.transport.send(request(http::Method::GET, &path, None)).await?;
        if response.status().is_success() {
            return Ok(WatchStream::new(response.into_body()));
        }
        Err(status_error(response).await)
    }

    /// Lists and then watches for ever: every step is told in order, a lost watch resumes, a 410 lists again.
    pub fn follow(&self, of: &Resource, namespace: Option<&str>, options: ListOptions) -> Follow {
        Follow::new(self.clone(), of.clone(), namespace.map(str::to_owned), options)
    }

    /// Creates an object.
    pub async fn create(&self, of: &Resource, namespace: Option<&str>, object: &Value) -> Result<Value, ClientError> {
        self.call(http::Method::POST, &of.path(namespace, None, None), Some(object)).await
    }

    /// Posts to a subresource: `binding`, `eviction`, `token`.
    pub async fn create_subresource(
        &self,
        of: &Resource,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, ClientError> {
        self.call(http::Method::POST, &of.path(namespace, Some(name), Some(subresource)), Some(object)).await
    }

    /// Replaces an object; its `resourceVersion`, when given, must still be current.
    pub async fn update(&self, of: &Resource, object: &Value) -> Result<Value, ClientError> {
        self.put(of, None, object).await
    }

    /// Replaces an object's status only.
    pub async fn update_status(&self, of: &Resource, object: &Value) -> Result<Value, ClientError> {
        self.put(of, Some("status"), object).await
    }

    /// Replaces a subresource: `status`, `approval`, `finalize`, `scale`.
    pub async fn put(&self, of: &Resource, subresource: Option<&str>, object: &Value) -> Result<Value, ClientError> {
        let namespace = object["metadata"]["namespace"].as_str();
        let name = object["metadata"]["name"].as_str();
        self.call(http::Method::PUT, &of.path(namespace, name, subresource), Some(object)).await
    }

    /// Patches an object or one of its subresources.
    pub async fn patch(
        &self,
        of: &Resource,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        patch: (PatchKind, &Value),
    ) -> Result<Value, ClientError> {
        let mut request = request(http::Method::PATCH, &of.path(namespace, Some(name), subresource), Some(patch.1));
        let kind = http::HeaderValue::from_static(patch.0.content_type());
        request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        read(self.transport.send(request).await?).await
    }

    /// Deletes an object; the answer is the object that still has to finish, or a Status.
    pub async fn delete(
        &self,
        of: &Resource,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, ClientError> {
        self.call(http::Method::DELETE, &of.path(namespace, Some(name), None), Some(&options.body())).await
    }

    /// Any request by path and query, JSON in and out.
    pub async fn call(&self, method: http::Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        read(self.transport.send(request(method, path, body)).await?).await
    }

    /// Any request, raw.
    pub async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, ClientError> {
        self.transport.send(request).await
    }
}

/// A request with a JSON body.
fn request(method: http::Method, path: &str, body: Option<&Value>) -> http::Request<Body> {
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    let mut request = http::Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_default();
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert(http::header::ACCEPT, json.clone());
    request.headers_mut().insert(http::header::CONTENT_TYPE, json);
    request
}

/// Reads an answer whole.
async fn read(response: http::Response<Body>) -> Result<Value, ClientError> {
    if !response.status().is_success() {
        return Err(status_error(response).await);
    }
    let bytes = collect(response.into_body()).await?;
    serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer(error.to_string()))
}

/// Reads an error answer.
async fn status_error(response: http::Response<Body>) -> ClientError {
    let code = response.status().as_u16();
    let bytes = match collect(response.into_body()).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = |field: &str| status[field].as_str().map(str::to_owned);
    let message = text("message").unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
    ClientError::Status { code, reason: text("reason").unwrap_or_default(), message, status }
}

async fn collect(body: Body) -> Result<Bytes, ClientError> {
    let limited = Limited::new(body, MAX_ANSWER_BYTES);
    limited.collect().await.map(http_body_util::Collected::to_bytes).map_err(|error| match error.downcast() {
        Ok(io) => ClientError::Transport(*io),
        Err(other) => ClientError::Answer(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let pods = Resource::new("", "v1", "pods");
        let deployments = Resource::new("apps", "v1", "deployments");
        assert_eq!(pods.path(Some("default"), Some("web"), Some("log")), "/api/v1/namespaces/default/pods/web/log");
        assert_eq!(pods.path(None, None, None), "/api/v1/pods");
        assert_eq!(deployments.path(Some("a"), None, None), "/apis/apps/v1/namespaces/a/deployments");
    }
}
