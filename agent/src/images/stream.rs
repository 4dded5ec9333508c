//! Shell: a layer's bytes from the asynchronous transport to the blocking unpacker, at most a few chunks ahead.

use std::io::Read;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Chunks between transport and disk: with hyper's 16-64 KiB a chunk this stays below half a megabyte.
const CHUNKS: usize = 4;

/// The transport's end.
pub(super) struct Feed(mpsc::Sender<std::io::Result<Bytes>>);

/// The unpacker's end.
pub(super) struct Wire {
    chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
}

pub(super) fn pipe() -> (Feed, Wire) {
    let (send, chunks) = mpsc::channel(CHUNKS);
    (Feed(send), Wire { chunks, current: Bytes::new() })
}

impl Feed {
    /// Passes a chunk on; false when nobody reads any more, because unpacking failed.
    pub(super) async fn send(&self, chunk: Bytes) -> bool {
        self.0.send(Ok(chunk)).await.is_ok()
    }

    /// Ends the stream in an error, so that a cut layer is not taken for a short one.
    pub(super) async fn fail(self, why: String) {
        let _ = self.0.send(Err(std::io::Error::other(why))).await;
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
