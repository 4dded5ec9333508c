//! Shell: streams that are counted as long as somebody holds them, also when what they speak changes.

use std::io::Result;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// One of the streams that are counted, until this is dropped.
pub(super) struct Counted(Arc<watch::Sender<usize>>);

impl Counted {
    /// One more, if there are fewer than `most`.
    pub(super) fn one_more(streams: Arc<watch::Sender<usize>>, most: usize) -> Option<Self> {
        let counted = streams.send_if_modified(|count| {
            let free = *count < most;
            *count += usize::from(free);
            free
        });
        counted.then(|| Self(streams))
    }

    /// The stream that it stands for.
    pub(super) fn with<S>(self, stream: S) -> CountedStream<S> {
        CountedStream { stream, _counted: self }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A stream that counts.
pub(super) struct CountedStream<S> {
    stream: S,
    _counted: Counted,
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_and_count_as_long_as_they_are_held() {
        let streams = Arc::new(watch::Sender::new(0));
        let one = Counted::one_more(Arc::clone(&streams), 2).unwrap().with(tokio::io::empty());
        let two = Counted::one_more(Arc::clone(&streams), 2).unwrap();
        assert!(Counted::one_more(Arc::clone(&streams), 2).is_none());
        drop(one);
        let three = Counted::one_more(Arc::clone(&streams), 2).unwrap();
        drop((two, three));
        assert_eq!(*streams.borrow(), 0);
    }
}
