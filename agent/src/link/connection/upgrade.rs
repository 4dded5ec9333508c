//! Shell: a further connection to one server, on which another protocol is spoken after an HTTP/1.1 upgrade.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{CONNECT_TIMEOUT, Connection, Endpoint, chain, secured};

/// Why there is no such connection.
#[derive(Debug, thiserror::Error)]
pub enum NoUpgrade {
    /// The server is not there, or not the one that we trust.
    #[error("{0}")]
    Unreachable(String),
    /// It answered, and did not switch.
    #[error("the server answered {0}")]
    Refused(StatusCode),
}

impl Connection {
    /// The servers that it knows, the present one first.
    #[must_use]
    pub fn servers(&self) -> Vec<Endpoint> {
        let mut all = self.endpoints().clone();
        if let Some(at) = self.endpoint().and_then(|present| all.iter().position(|one| *one == present)) {
            all.rotate_left(at);
        }
        all
    }

    /// Asks `server` at `path` to speak `protocol`, with this board's certificate.
    ///
    /// # Errors
    /// It does not.
    pub async fn upgrade(&self, server: &Endpoint, path: &str, protocol: &str) -> Result<Upgraded, NoUpgrade> {
        let credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut tls = (*credentials.tls).clone();
        // HTTP/2 has no upgrades.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let unreachable = |error: &dyn std::error::Error| NoUpgrade::Unreachable(chain(error));
        let request = Request::get(path)
            .header(header::HOST, server.authority())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, protocol)
            .body(Empty::<Bytes>::new())
            .map_err(|error| unreachable(&error))?;
        let exchange = async {
            let stream = secured(server, Arc::new(tls)).await.map_err(|(why, _)| NoUpgrade::Unreachable(why))?;
            let handshake = http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, driver) = handshake.map_err(|error| unreachable(&error))?;
            tokio::spawn(driver.with_upgrades());
            let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
            match answer.status() {
                StatusCode::SWITCHING_PROTOCOLS => {
                    hyper::upgrade::on(answer).await.map_err(|error| unreachable(&error))
                }
                status => Err(NoUpgrade::Refused(status)),
            }
        };
        let late = |_| NoUpgrade::Unreachable(format!("{}: no answer", server.authority()));
        timeout(CONNECT_TIMEOUT, exchange).await.map_err(late)?
    }
}
