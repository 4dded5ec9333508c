//! Shell: what an administrator does with the running control plane: a snapshot of its store, new keys for what is sealed at
//! rest, new certificates. Nobody below `system:masters` may, unless a ClusterRole names these paths.

use std::pin::Pin;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::body::unfold;
use super::{Api, Body, Request, answer};
use crate::registry::status::{Answer, ApiError};

use crate::pki::Renewal;

/// Below this path.
pub(super) const PREFIX: &str = "/bramble/v1/";
/// Pieces of a snapshot that wait for a slow client.
const PIECES: usize = 4;
/// Bytes of one piece.
const PIECE_BYTES: usize = 64 << 10;

/// A renewal under way.
pub type Renewing<'a> = Pin<Box<dyn Future<Output = Answer<()>> + Send + 'a>>;

/// The control plane's own keys and certificates.
pub trait Certificates: Send + Sync {
    /// Makes something anew and takes it into use.
    fn renew(&self, what: Renewal) -> Renewing<'_>;
    /// What there is, see [`crate::pki::Pki::describe`].
    fn describe(&self) -> Value;
}

impl Api {
    pub(super) async fn upkeep(&self, request: &Request, verb: &str) -> Answer<http::Response<Body>> {
        match (verb, &request.method) {
            ("store/snapshot", &Method::GET) => Ok(self.snapshot()),
            ("store/rotate", &Method::POST) => self.rotate().await,
            ("certificates", &Method::GET) => Ok(described(self.certificates()?)),
            ("certificates/rotate", &Method::POST) => self.renew(Renewal::Leaves).await,
            ("certificates/rotate-ca", &Method::POST) => self.renew(Renewal::Authority).await,
            ("certificates/retire-ca", &Method::POST) => self.renew(Renewal::OnlyTheNewest).await,
            (
                "store/snapshot"
                | "store/rotate"
                | "certificates"
                | "certificates/rotate"
                | "certificates/rotate-ca"
                | "certificates/retire-ca",
                _,
            ) => Err(ApiError::method_not_allowed()),
            _ => Err(ApiError::no_such_path()),
        }
    }

    /// A stream of the whole store at one revision. It ends early where the store cannot be read: its own checksum tells.
    fn snapshot(&self) -> http::Response<Body> {
        let (send, pieces) = mpsc::channel(PIECES);
        let store = self.registry.store().clone();
        tokio::task::spawn_blocking(move || {
            let out = std::io::BufWriter::with_capacity(PIECE_BYTES, Pieces(send.clone()));
            if let Err(error) = store.snapshot(out) {
                tracing::warn!(error = &error as &dyn std::error::Error, "a snapshot was broken off");
                let _ = send.blocking_send(Err(std::io::Error::other(error.to_string())));
            }
        });
        let next = |mut pieces: mpsc::Receiver<std::io::Result<Bytes>>| async move {
            pieces.recv().await.transpose().map(|piece| piece.map(|bytes| (bytes, pieces)))
        };
        answer::with_body(200, "application/gzip", unfold(pieces, next))
    }

    fn certificates(&self) -> Answer<&dyn Certificates> {
        self.certificates.as_deref().ok_or_else(ApiError::no_such_path)
    }

    async fn renew(&self, what: Renewal) -> Answer<http::Response<Body>> {
        let certificates = self.certificates()?;
        certificates.renew(what).await?;
        Ok(described(certificates))
    }

    async fn rotate(&self) -> Answer<http::Response<Body>> {
        let encryption = self.encryption.as_ref().ok_or_else(ApiError::no_such_path)?;
        let rotation = encryption.rotate(self.registry.store()).await;
        let rotation = rotation.map_err(|error| ApiError::because(&error))?;
        let done = json!({"resealed": rotation.resealed, "keysRemoved": rotation.keys_removed});
        Ok(answer::response(200, "application/json", done.to_string()))
    }
}

fn described(certificates: &dyn Certificates) -> http::Response<Body> {
    answer::response(200, "application/json", certificates.describe().to_string())
}

/// Blocks while the client is slow; fails when it has gone.
struct Pieces(mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
