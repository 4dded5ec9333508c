//! Shell: bodies: read whole within a bound, written from memory or piece by piece.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Frame};

use super::Body;
use crate::registry::status::{Answer, ApiError};

/// The largest body of a request; upstream's bound.
pub(crate) const MAX_BODY_BYTES: usize = 3 << 20;

/// Reads a request's body.
pub(crate) async fn read(body: Body) -> Answer<Bytes> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(MAX_BODY_BYTES)),
        Err(error) => Err(ApiError::bad_request(format!("cannot read the body: {error}"))),
    }
}

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The next piece and what makes the piece after it.
type Piece<S> = std::io::Result<Option<(Bytes, S)>>;

/// A body that is made while it is read: `step` brings the next piece, `None` ends it. Nothing is made ahead of the reader.
pub(crate) fn unfold<S, F, Fut>(state: S, step: F) -> Body
where
    S: Send + 'static,
    F: Fn(S) -> Fut + Send + Unpin + 'static,
    Fut: Future<Output = Piece<S>> + Send + 'static,
{
    Unfold { next: Some(Box::pin(step(state))), step }.boxed_unsync()
}

struct Unfold<F, Fut> {
    next: Option<Pin<Box<Fut>>>,
    step: F,
}

impl<S, F, Fut> HttpBody for Unfold<F, Fut>
where
    F: Fn(S) -> Fut + Unpin,
    Fut: Future<Output = Piece<S>>,
{
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let Some(next) = this.next.as_mut() else { return Poll::Ready(None) };
        match ready!(next.as_mut().poll(cx)) {
            Ok(Some((bytes, state))) => {
                next.set((this.step)(state));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Ok(None) => {
                this.next = None;
                Poll::Ready(None)
            }
            Err(error) => {
                this.next = None;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unfolds_to_the_end() {
        let body = unfold(0_u8, |at| async move { Ok((at < 3).then(|| (Bytes::from(vec![b'a' + at]), at + 1))) });
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn large_bodies_are_refused() {
        let error = read(full(vec![0; MAX_BODY_BYTES + 1])).await.unwrap_err();
        assert_eq!(error.code, 413);
    }
}
