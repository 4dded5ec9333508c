//! Shell: the agent's connection to the API server: what may be asked, and what comes back.
//!
//! One TLS connection, HTTP/2, carries every request and every watch of the agent, in JSON and on plain Kubernetes
//! paths only, so that it works against any conformant API server. The connection itself is a door ([`Transport`]);
//! tests answer from memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;

pub mod backoff;
mod clock;
mod connection;
mod error;
mod gather;
mod object;
mod reflect;
mod verifier;

pub use clock::Clock;
pub(crate) use clock::kept_seconds;
pub(crate) use connection::unverified_tls;
pub use connection::{Connection, Endpoint, Identity, Look, NoUpgrade, Trust};
pub use error::LinkError;
pub use object::Object;
pub use reflect::{Delta, Interest, Reflection};
pub(crate) use reflect::{escape, random, random_number};
pub use verifier::{Pin as KeyPin, spki_pin};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An answer that comes later.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, LinkError>> + Send + 'a>>;

/// The largest answer to a request that is no watch; a page of a list stays far below.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A request that is no watch must be answered in this time; upstream's kubelet waits ten seconds for a lease and
/// longer for the rest.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Carries a request whose URI is only path and query.
pub trait Transport: Send + Sync {
    /// Sends; resolves when the head of the answer is there.
    fn send(&self, request: Request<Full<Bytes>>) -> Sending<'_>;

    /// Resolves when the transport connects anew, so that whoever backs off may try at once.
    fn reconnected(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

/// The way a patch is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, by the merge keys of the schema.
    Strategic,
    /// RFC 6902.
    Json,
    /// Server-side apply; the path names the field manager.
    Apply,
}

impl PatchKind {
    fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Json => "application/json-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// The agent's API client; clones share the connection.
#[derive(Clone)]
pub struct Link {
    transport: Arc<dyn Transport>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Link")
    }
}

impl Link {
    /// A client over `transport`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// GET of an object, e.g. `/api/v1/nodes/pi-1`.
    ///
    /// # Errors
    /// Any [`LinkError`].
    pub async fn get(&self, path: &str) -> Result<Value, LinkError> {
        self.call(Method::GET, path, None, None).await
    }

    /// POST of a new object to a collection or of a request to a subresource.
    ///
    /// # Errors
    /// Any [`LinkError`]; [`LinkError::is_already_exists`].
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, LinkError> {
        self.call(Method::POST, path, Some("application/json"), Some(object)).await
    }

    /// The same for what may take longer than other requests.
    ///
    /// # Errors
    /// Any [`LinkError`].
    pub async fn create_within(&self, path: &str, object: &Value, timeout: Duration) -> Result<Value, LinkError> {
        let request = request(Method::POST, path, Some("application/json"), Some(object))?;
        Self::parsed(path, &self.answered(path, request, timeout).await?)
    }

    /// PUT of a whole object; with a resourceVersion in it only if nobody wrote since.
    ///
    /// # Errors
    /// Any [`LinkError`]; [`LinkError::is_conflict`].
    pub async fn update(&self, path: &str, object: &Value) -> Result<Value, LinkError> {
        self.call(Method::PUT, path, Some("application/json"), Some(object)).await
    }

    /// PATCH.
    ///
    /// # Errors
    /// Any [`LinkError`].
    pub async fn patch(&self, path: &str, kind: PatchKind, patch: &Value) -> Result<Value, LinkError> {
        self.call(Method::PATCH, path, Some(kind.content_type()), Some(patch)).await
    }

    /// PATCH whose outcome is known beforehand: the server is asked for no more than its success (RFC 7240).
    ///
    /// # Errors
    /// Any [`LinkError`].
    pub async fn patch_only(&self, path: &str, kind: PatchKind, patch: &Value) -> Result<(), LinkError> {
        let mut request = request(Method::PATCH, path, Some(kind.content_type()), Some(patch))?;
        request.headers_mut().insert("prefer", header::HeaderValue::from_static("return=minimal"));
        self.answered(path, request, REQUEST_TIMEOUT).await.map(drop)
    }

    /// DELETE with `metav1.DeleteOptions`.
    ///
    /// # Errors
    /// Any [`LinkError`].
    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value, LinkError> {
        self.call(Method::DELETE, path, Some("application/json"), Some(options)).await
    }

    /// Lists, then watches for ever; see [`Reflection::next`]. Dropping the reflection ends the watch.
    #[must_use]
    pub fn reflect(&self, interest: Interest) -> Reflection {
        Reflection::start(self.clone(), interest)
    }

    /// GET whose answer is read as it comes: watches, logs, snapshots.
    ///
    /// # Errors
    /// Any [`LinkError`].
    pub async fn open(&self, path: &str) -> Result<Body, LinkError> {
        let answer = self.transport.send(request(Method::GET, path, None, None)?).await?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let bytes = collect(body).await?;
        Err(LinkError::from_answer(head.status, &head.headers, &bytes))
    }

    /// Resolves when the transport connects anew.
    pub(crate) async fn reconnected(&self) {
        self.transport.reconnected().await;
    }

    /// GET of whatever is there, as the text that came.
    pub(crate) async fn bytes(&self, path: &str) -> Result<Bytes, LinkError> {
        self.exchange(Method::GET, path, None, None).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, LinkError> {
        Self::parsed(path, &self.exchange(method, path, content_type, body).await?)
    }

    fn parsed(path: &str, bytes: &Bytes) -> Result<Value, LinkError> {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(bytes).map_err(|error| LinkError::Malformed { path: path.to_owned(), error })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Bytes, LinkError> {
        let request = request(method, path, content_type, body)?;
        self.answered(path, request, REQUEST_TIMEOUT).await
    }

    async fn answered(&self, path: &str, request: Request<Full<Bytes>>, timeout: Duration) -> Result<Bytes, LinkError> {
        // On the heap while it lasts: most tasks that may ask one day wait all their life.
        let answered = Box::pin(async {
            let (head, body) = self.transport.send(request).await?.into_parts();
            Ok::<_, LinkError>((head, collect(body).await?))
        });
        let (head, bytes) = tokio::time::timeout(timeout, answered)
            .await
            .map_err(|_| LinkError::Unreachable(format!("{path}: no answer in {} s", timeout.as_secs())))??;
        if !head.status.is_success() {
            return Err(LinkError::from_answer(head.status, &head.headers, &bytes));
        }
        Ok(if head.status == StatusCode::NO_CONTENT { Bytes::new() } else { bytes })
    }
}

async fn collect(body: Body) -> Result<Bytes, LinkError> {
    match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(error) => Err(LinkError::Unreachable(format!("reading the answer: {error}"))),
    }
}

fn request(
    method: Method,
    path: &str,
    content_type: Option<&str>,
    body: Option<&Value>,
) -> Result<Request<Full<Bytes>>, LinkError> {
    let mut builder = Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
    if let Some(content_type) = content_type {
        builder = builder.header(header::CONTENT_TYPE, content_type);
    }
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    builder.body(Full::new(bytes)).map_err(|error| LinkError::Request(format!("{path}: {error}")))
}

#[cfg(test)]
pub(crate) mod fakes;
