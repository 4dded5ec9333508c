//! Shell: a stream whose small writes go out together: a request's head and its body as one packet, not two.
//!
//! HTTP/2 flushes the head before it is given the body, which is ready a moment later. The first flush therefore lets the other
//! tasks run once. On an idle board's line that saves a quarter of all bytes.

use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What waits at most: as much as one TLS record takes.
const WAITING_BYTES: usize = 16 << 10;
/// What is kept for the next writes.
const KEPT_BYTES: usize = 1 << 10;

/// The stream.
pub(super) struct Gathered<S> {
    inner: S,
    waiting: Vec<u8>,
    /// The others had their turn since something waits.
    yielded: bool,
}

impl<S> Gathered<S> {
    /// Gathers what is written to `inner`.
    pub(super) fn new(inner: S) -> Self {
        Self { inner, waiting: Vec::new(), yielded: false }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.waiting.drain(..written);
        }
        self.waiting.shrink_to(KEPT_BYTES);
        self.yielded = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.waiting.len() >= WAITING_BYTES {
            ready!(self.poll_drain(context))?;
        }
        let taken = bytes.len().min(WAITING_BYTES - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.waiting.is_empty() && !self.yielded {
            self.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Counts writes.
    struct Counting(Vec<Vec<u8>>);

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_comes_while_others_have_their_turn_goes_along() {
        let mut stream = Gathered::new(Counting(Vec::new()));
        stream.write_all(b"head ").await.unwrap();
        let waker = std::task::Waker::noop();
        let first = Pin::new(&mut stream).poll_flush(&mut Context::from_waker(waker));
        assert!(first.is_pending() && stream.inner.0.is_empty());
        stream.write_all(b"body").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.inner.0, [b"head body".to_vec()]);
    }

    #[tokio::test]
    async fn much_goes_through_in_order_and_is_not_kept() {
        let (near, mut far) = tokio::io::duplex(1000);
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let sent = bytes.clone();
        let writer = tokio::spawn(async move {
            let mut stream = Gathered::new(near);
            stream.write_all(&sent).await.unwrap();
            stream.flush().await.unwrap();
            assert!(stream.waiting.capacity() <= KEPT_BYTES);
            stream.shutdown().await.unwrap();
        });
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        writer.await.unwrap();
        assert!(read == bytes);
    }
}
