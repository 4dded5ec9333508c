//! Shell: the transport over TLS: one HTTP/2 connection, made again when it ends.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use super::{ClientError, Pending, Transport};
use crate::api::Body;

/// Why no connection stands.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The TCP or TLS connection failed.
    #[error("cannot connect to {address}")]
    Connect {
        /// `host:port`.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server's name cannot be verified.
    #[error("{0} is no server name")]
    Name(String),
}

/// An API server on the wire.
pub struct Https {
    address: String,
    name: ServerName<'static>,
    tls: Arc<rustls::ClientConfig>,
    bearer: Option<http::HeaderValue>,
    connection: Mutex<Option<http2::SendRequest<Body>>>,
}

impl Https {
    /// A transport to `host:port`; a client certificate belongs into `tls` (which must offer ALPN `h2`), a token into
    /// `bearer`. Nothing is connected yet.
    pub fn new(address: &str, tls: Arc<rustls::ClientConfig>, bearer: Option<&str>) -> Result<Self, ConnectFailure> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectFailure::Name(host.to_owned()))?;
        let bearer = bearer.and_then(|token| http::HeaderValue::try_from(format!("Bearer {token}")).ok());
        Ok(Self { address: address.to_owned(), name, tls, bearer, connection: Mutex::new(None) })
    }

    async fn connected(&self) -> Result<http2::SendRequest<Body>, std::io::Error> {
        let mut slot = self.connection.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(self.tls.clone()).connect(self.name.clone(), stream).await?;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // The task ends with the connection: when the server closes it or the last sender is dropped.
        tokio::spawn(connection);
        *slot = Some(sender.clone());
        Ok(sender)
    }
}

impl Transport for Https {
    fn send(&self, mut request: http::Request<Body>) -> Pending<'_, Result<http::Response<Body>, ClientError>> {
        Box::pin(async move {
            let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            let uri = format!("https://{}{path}", self.address);
            *request.uri_mut() = uri.parse().map_err(|_| ClientError::Answer(format!("{uri} is no URI")))?;
            if let Some(bearer) = &self.bearer {
                request.headers_mut().insert(http::header::AUTHORIZATION, bearer.clone());
            }
            let mut sender = self.connected().await.map_err(ClientError::Transport)?;
            let response = sender.send_request(request).await.map_err(broken)?;
            Ok(response.map(|body: hyper::body::Incoming| {
                body.map_frame(|frame| frame.map_data(|data: Bytes| data)).map_err(std::io::Error::other).boxed_unsync()
            }))
        })
    }
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Transport(std::io::Error::other(error))
}
