//! Shell: what an administrator does with the running store: a snapshot, new keys. Nobody below `system:masters` may, unless a
//! ClusterRole names these paths.

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::sync::mpsc;

use super::body::unfold;
use super::{Api, Body, Request, answer};
use crate::registry::status::{Answer, ApiError};

/// Below this path.
pub(super) const PREFIX: &str = "/bramble/v1/store/";
/// Pieces of a snapshot that wait for a slow client.
const PIECES: usize = 4;
/// Bytes of one piece.
const PIECE_BYTES: usize = 64 << 10;

impl Api {
    pub(super) async fn upkeep(&self, request: &Request, verb: &str) -> Answer<http::Response<Body>> {
        match (verb, &request.method) {
            ("snapshot", &Method::GET) => Ok(self.snapshot()),
            ("rotate", &Method::POST) => self.rotate().await,
            ("snapshot" | "rotate", _) => Err(ApiError::method_not_allowed()),
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

    async fn rotate(&self) -> Answer<http::Response<Body>> {
        let encryption = self.encryption.as_ref().ok_or_else(ApiError::no_such_path)?;
        let rotation = encryption.rotate(self.registry.store()).await.map_err(|error| {
            let chain: Vec<String> =
                std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
                    .map(ToString::to_string)
                    .collect();
            ApiError::internal(chain.join(": "))
        })?;
        let done = json!({"resealed": rotation.resealed, "keysRemoved": rotation.keys_removed});
        Ok(answer::response(200, "application/json", done.to_string()))
    }
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
