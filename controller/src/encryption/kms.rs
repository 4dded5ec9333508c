//! Shell: the client of a KMS v2 plugin: gRPC over a unix socket (KEP-3299), as much of it as four messages need.

mod message;

use std::sync::Arc;

use bramble_store::{KeyService, KeyServiceError};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UnixStream;

use self::message::{Decrypt, Encrypted};
use super::config::Place;

/// The largest answer: a wrapped key with its annotations is at most a few kilobytes (upstream's bounds add up to 35).
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// One plugin.
struct Plugin {
    name: String,
    place: Place,
}

/// The client of a plugin; nothing is connected yet.
pub(super) fn open(place: Place) -> Arc<dyn KeyService> {
    Arc::new(Plugin { name: format!("kms:{}", place.name), place })
}

/// The key that the plugin uses now.
pub(super) async fn key_id(place: &Place) -> Result<String, KeyServiceError> {
    let status = message::status(&call(place, "Status", Vec::new()).await?).ok_or_else(garbled)?;
    if status.healthz != "ok" {
        return Err(KeyServiceError::Unavailable(format!("it says that it is not well: {}", status.healthz)));
    }
    Ok(status.key_id)
}

impl KeyService for Plugin {
    fn name(&self) -> &str {
        &self.name
    }

    fn wrap(&self, key: &[u8]) -> Result<Vec<u8>, KeyServiceError> {
        let request = message::encrypt(key, &uid());
        let answer = self.blocking("Encrypt", request)?;
        let encrypted = Encrypted::parse(&answer).filter(|it| !it.ciphertext.is_empty() && !it.key_id.is_empty());
        // Kept as the plugin gave it: ciphertext, key id and annotations are what it wants back.
        encrypted.map(|_| answer.to_vec()).ok_or_else(garbled)
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Vec<u8>, KeyServiceError> {
        let encrypted = Encrypted::parse(wrapped).ok_or(KeyServiceError::Wrong)?;
        let answer = self.blocking("Decrypt", Decrypt { encrypted: &encrypted, uid: &uid() }.bytes())?;
        message::plaintext(&answer).ok_or_else(garbled)
    }
}

impl Plugin {
    /// On a thread of its own: whoever asks may stand in an event loop that must not be entered again.
    fn blocking(&self, method: &str, request: Vec<u8>) -> Result<Bytes, KeyServiceError> {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| unavailable(&error))?.block_on(call(&self.place, method, request))
        };
        std::thread::scope(|scope| scope.spawn(work).join())
            .unwrap_or_else(|_| Err(KeyServiceError::Unavailable("its thread ended".into())))
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> KeyServiceError {
    KeyServiceError::Unavailable(error.to_string())
}

fn garbled() -> KeyServiceError {
    KeyServiceError::Unavailable("its answer is not that of a KMS v2 plugin".into())
}

/// For the plugin's log only.
fn uid() -> String {
    let mut bytes = [0; 8];
    let _ = SystemRandom::new().fill(&mut bytes);
    format!("{:016x}", u64::from_le_bytes(bytes))
}

async fn call(place: &Place, method: &str, request: Vec<u8>) -> Result<Bytes, KeyServiceError> {
    let answer = tokio::time::timeout(place.timeout, exchange(place, method, request)).await;
    answer.unwrap_or_else(|_| Err(KeyServiceError::Unavailable(format!("no answer in {:?}", place.timeout))))
}

/// One call over a connection of its own: they are few.
async fn exchange(place: &Place, method: &str, request: Vec<u8>) -> Result<Bytes, KeyServiceError> {
    let stream = UnixStream::connect(&place.socket).await;
    let stream = stream.map_err(|error| KeyServiceError::Unavailable(format!("{}: {error}", place.socket)))?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| unavailable(&error))?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://localhost/v2.KeyManagementService/{method}"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(Full::new(message::frame(&request)))
        .map_err(|error| unavailable(&error))?;
    let response = sender.send_request(request).await.map_err(|error| unavailable(&error))?;
    let (parts, body) = response.into_parts();
    let body =
        http_body_util::Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| unavailable(&error))?;
    connection.abort();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let said = |name: &str| {
        let value = trailers.get(name).or_else(|| parts.headers.get(name))?;
        value.to_str().ok().map(str::to_owned)
    };
    match said("grpc-status").as_deref() {
        Some("0") => message::unframe(body.to_bytes()).ok_or_else(garbled),
        status => {
            let text = said("grpc-message").unwrap_or_default();
            Err(KeyServiceError::Unavailable(format!("status {}: {text}", status.unwrap_or("missing"))))
        }
    }
}
