//! A transport that answers from a script or a closure.

use std::sync::Mutex;

use super::*;

type Answer = Box<dyn FnMut(&Method, &str, &[u8]) -> (u16, Vec<Bytes>) + Send>;

/// Answers each request by a closure: method, path with query, body -> code, chunks of the body.
pub(crate) struct FakeTransport {
    answer: Mutex<Answer>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl FakeTransport {
    pub(crate) fn new(answer: impl FnMut(&Method, &str, &[u8]) -> (u16, Vec<Bytes>) + Send + 'static) -> Arc<Self> {
        Arc::new(Self { answer: Mutex::new(Box::new(answer)), asked: Mutex::new(Vec::new()) })
    }
}

impl Transport for FakeTransport {
    fn send(&self, request: Request<Full<Bytes>>) -> Sending<'_> {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a body in memory").to_bytes();
            let path = head.uri.to_string();
            self.asked.lock().expect("unpoisoned").push(format!("{} {path}", head.method));
            let (code, chunks) = (self.answer.lock().expect("unpoisoned"))(&head.method, &path, &body);
            let frames = chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(hyper::body::Frame::data(chunk)));
            let body = Chunks(frames.collect::<Vec<_>>().into_iter()).boxed_unsync();
            Ok(Response::builder().status(code).body(body).expect("a plain response"))
        })
    }
}

struct Chunks(std::vec::IntoIter<Result<hyper::body::Frame<Bytes>, std::io::Error>>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, std::io::Error>>> {
        std::task::Poll::Ready(self.0.next())
    }
}
