//! Shell: the one TLS connection, made when it is needed, made anew when it breaks or the certificate changes.

mod upgrade;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tracing::{debug, info};

use super::backoff::Backoff;
use super::clock::Clock;
use super::gather::Gathered;
use super::reflect::random;
use super::verifier::{LookingVerifier, PinnedVerifier};
use super::{KeyPin, LinkError, Sending, Transport};
use crate::discovery;

pub use upgrade::NoUpgrade;

/// A connection that does not come up in this time is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where there is another server, its turn comes sooner: before the node is taken for dead.
const NEXT_TIMEOUT: Duration = Duration::from_secs(4);
const NEXT_PING_INTERVAL: Duration = Duration::from_secs(10);
const NEXT_PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What the server trusts, told to boards once its authority was ever rolled over.
const AUTHORITIES: &str = "bramble-authorities";
/// A longer value is no digest.
const AUTHORITIES_BYTES_MAX: usize = 64;

/// Pings find a peer that vanished without a word: so long after it was last heard. A board that renews its Lease more often
/// needs none.
const PING_INTERVAL: Duration = Duration::from_secs(45);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes in flight per stream and connection; hyper's 2 MiB and 5 MiB are for fast networks and large machines.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Where the API server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Reads `https://host:port`, `host:port` or `host`; the port is 6443 unless said otherwise.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.trim().trim_end_matches('/');
        if bare.starts_with("http://") {
            return Err(format!("{text}: the API server speaks only TLS, write https://"));
        }
        let bare = bare.strip_prefix("https://").unwrap_or(bare);
        let uri: Uri = format!("https://{bare}").parse().map_err(|error| format!("{text}: {error}"))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| format!("{text}: no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(6443) })
    }

    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Whom to believe.
#[derive(Debug, Clone)]
pub enum Trust {
    /// These authorities (DER); dates are checked by the clock's trusted time only.
    Pinned(Vec<CertificateDer<'static>>),
    /// Nobody: only to look for the authority that matches a pin. No credentials may be used with it.
    Look(Look),
}

/// What was seen while looking.
#[derive(Debug, Clone)]
pub struct Look(Arc<LookingVerifier>);

impl Look {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(LookingVerifier::new(Arc::new(provider::default_provider()))))
    }

    /// The chain that the server showed.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.chain()
    }
}

impl Default for Look {
    fn default() -> Self {
        Self::new()
    }
}

/// Who we are to the server.
pub enum Identity {
    /// Nobody.
    Anonymous,
    /// A bootstrap token.
    Bearer(String),
    /// A client certificate, its chain and its key.
    Certificate(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
}

/// The transport over the network.
pub struct Connection {
    /// API servers of the cluster; they are asked in turn until one takes the connection.
    endpoints: Lock<Vec<Endpoint>>,
    /// Where nobody said where they are, they are looked for on the link, by these pins of their authority.
    found_by: Option<Vec<KeyPin>>,
    /// The one whose turn it is.
    turn: AtomicUsize,
    clock: Arc<Clock>,
    credentials: Lock<Credentials>,
    current: Mutex<Current>,
    connected: watch::Sender<u64>,
    authorities: watch::Sender<Option<String>>,
    /// [`PING_INTERVAL`], or longer.
    ping_after: Lock<Duration>,
}

#[derive(Clone)]
struct Credentials {
    tls: Arc<ClientConfig>,
    bearer: Option<HeaderValue>,
    generation: u64,
}

struct Current {
    sender: Option<(u64, SendRequest<Full<Bytes>>)>,
    backoff: Backoff,
    /// After a failure: what it was, and when to try again.
    refused: Option<(Instant, String, bool)>,
}

impl Connection {
    /// Prepares a connection; nothing is sent before the first request.
    ///
    /// # Errors
    /// A sentence about certificates that cannot be used.
    pub fn new(endpoints: Vec<Endpoint>, trust: &Trust, identity: Identity, clock: Arc<Clock>) -> Result<Self, String> {
        let credentials = credentials(trust, identity, &clock, 0)?;
        let current = Current {
            sender: None,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            refused: None,
        };
        Ok(Self {
            endpoints: Lock::new(endpoints),
            found_by: None,
            turn: AtomicUsize::new(0),
            clock,
            credentials: Lock::new(credentials),
            current: Mutex::new(current),
            connected: watch::Sender::new(0),
            authorities: watch::Sender::new(None),
            ping_after: Lock::new(PING_INTERVAL),
        })
    }

    /// Looks for its servers on the link, by these pins of their authority, whenever none of those it knows answers.
    #[must_use]
    pub fn or_found(mut self, pins: Vec<KeyPin>) -> Self {
        self.found_by = Some(pins);
        self
    }

    /// Something is asked so often anyway: the next connections need no pings in between.
    pub fn asked_every(&self, pause: Duration) {
        let mut after = self.ping_after.lock().unwrap_or_else(PoisonError::into_inner);
        *after = PING_INTERVAL.max(pause + Duration::from_secs(5));
    }

    /// New requests use these credentials over a new connection; what is under way ends on the old one.
    ///
    /// # Errors
    /// A sentence about certificates that cannot be used; the former ones stay.
    pub fn replace(&self, trust: &Trust, identity: Identity) -> Result<(), String> {
        let mut slot = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = credentials(trust, identity, &self.clock, slot.generation + 1)?;
        Ok(())
    }

    fn endpoints(&self) -> MutexGuard<'_, Vec<Endpoint>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server that this connects to now, as `host:port`; empty where none is known yet.
    #[must_use]
    pub fn server(&self) -> String {
        self.endpoint().map(|endpoint| endpoint.authority()).unwrap_or_default()
    }

    fn endpoint(&self) -> Option<Endpoint> {
        let endpoints = self.endpoints();
        endpoints.get(self.turn.load(Ordering::Relaxed) % endpoints.len().max(1)).cloned()
    }

    /// The first server that takes the connection, from the one whose turn it is.
    async fn connect(&self, credentials: &Credentials) -> Result<SendRequest<Full<Bytes>>, (String, bool)> {
        let last = match self.connect_known(credentials).await {
            Ok(sender) => return Ok(sender),
            Err(failed) => failed,
        };
        let Some(pins) = &self.found_by else { return Err(last) };
        let found = discovery::find(pins).await.map_err(|message| (message, false))?;
        *self.endpoints() = found;
        self.connect_known(credentials).await
    }

    async fn connect_known(&self, credentials: &Credentials) -> Result<SendRequest<Full<Bytes>>, (String, bool)> {
        let count = self.endpoints().len();
        let (timeout, pings) = match count {
            1 => (CONNECT_TIMEOUT, (*self.ping_after.lock().unwrap_or_else(PoisonError::into_inner), PING_TIMEOUT)),
            _ => (NEXT_TIMEOUT, (NEXT_PING_INTERVAL, NEXT_PING_TIMEOUT)),
        };
        let mut last = (String::new(), false);
        for _ in 0..count {
            let Some(endpoint) = self.endpoint() else { break };
            let made = tokio::time::timeout(timeout, connect(&endpoint, credentials, pings));
            match made.await.unwrap_or_else(|_| Err((format!("{}: no answer", endpoint.authority()), false))) {
                Ok(sender) => return Ok(sender),
                Err(failed) => last = failed,
            }
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
        Err(last)
    }

    async fn sender(&self, credentials: &Credentials) -> Result<SendRequest<Full<Bytes>>, LinkError> {
        let mut current = self.current.lock().await;
        if let Some((generation, sender)) = &current.sender
            && *generation == credentials.generation
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        if let Some((until, error, untrusted)) = &current.refused
            && Instant::now() < *until
        {
            return Err(failure(error.clone(), *untrusted));
        }
        match self.connect(credentials).await {
            Ok(sender) => {
                info!(server = %self.server(), "connected to the API server");
                current.sender = Some((credentials.generation, sender.clone()));
                current.refused = None;
                current.backoff.reset();
                self.connected.send_modify(|count| *count += 1);
                Ok(sender)
            }
            Err((error, untrusted)) => {
                let pause = current.backoff.advance(random());
                current.refused = Some((Instant::now() + pause, error.clone(), untrusted));
                Err(failure(error, untrusted))
            }
        }
    }

    /// The server cannot reach the cluster's memory: where there is another one, its turn comes.
    async fn leave(&self) {
        if self.endpoints().len() > 1 && self.current.lock().await.sender.take().is_some() {
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the server last told of the authorities that its cluster trusts: a digest of them.
    #[must_use]
    pub fn authorities(&self) -> watch::Receiver<Option<String>> {
        self.authorities.subscribe()
    }

    fn note_authorities(&self, value: Option<&HeaderValue>) {
        let told = value.and_then(|value| value.to_str().ok()).filter(|told| told.len() <= AUTHORITIES_BYTES_MAX);
        let Some(told) = told else { return };
        self.authorities.send_if_modified(|known| {
            known.as_deref() != Some(told) && {
                *known = Some(told.to_owned());
                true
            }
        });
    }

    fn note_date(&self, value: Option<&HeaderValue>) {
        if let Some(unix_s) = value.and_then(|value| value.to_str().ok()).and_then(http_date) {
            self.clock.authenticate(unix_s);
        }
    }
}

fn failure(message: String, untrusted: bool) -> LinkError {
    if untrusted { LinkError::Untrusted(message) } else { LinkError::Unreachable(message) }
}

impl Transport for Connection {
    fn send(&self, mut request: Request<Full<Bytes>>) -> Sending<'_> {
        Box::pin(async move {
            let credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut sender = self.sender(&credentials).await?;
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = format!("https://{}{path}", self.server());
            *request.uri_mut() = uri.parse().map_err(|error| LinkError::Request(format!("{uri}: {error}")))?;
            if let Some(bearer) = &credentials.bearer {
                request.headers_mut().insert(header::AUTHORIZATION, bearer.clone());
            }
            let user_agent = HeaderValue::from_static(concat!("bramble-agent/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().insert(header::USER_AGENT, user_agent);
            let answer = sender.send_request(request).await.map_err(|error| LinkError::Unreachable(chain(&error)))?;
            self.note_date(answer.headers().get(header::DATE));
            self.note_authorities(answer.headers().get(AUTHORITIES));
            if matches!(answer.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
                self.leave().await;
            }
            Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
        })
    }

    fn reconnected(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut seen = self.connected.subscribe();
        Box::pin(async move {
            if seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// The error and whether it says that the server is not whom we trust.
async fn connect(
    endpoint: &Endpoint,
    credentials: &Credentials,
    (interval, timeout): (Duration, Duration),
) -> Result<SendRequest<Full<Bytes>>, (String, bool)> {
    let tls = secured(endpoint, Arc::clone(&credentials.tls)).await?;
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(Gathered::new(tls)))
        .await
        .map_err(|error| (format!("{}: {}", endpoint.authority(), chain(&error)), false))?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            debug!(error = %chain(&error), "the connection to the API server ended");
        }
    });
    Ok(sender)
}

/// TLS with a server; the error and whether it says that the server is not whom we trust.
async fn secured(endpoint: &Endpoint, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, (String, bool)> {
    let server = endpoint.authority();
    let plain = |error: &dyn std::error::Error| (format!("{server}: {}", chain(error)), false);
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(|error| plain(&error))?;
    tcp.set_nodelay(true).map_err(|error| plain(&error))?;
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| plain(&error))?;
    tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let untrusted = matches!(inner, Some(rustls::Error::InvalidCertificate(_)));
        (format!("{server}: {}", chain(&error)), untrusted)
    })
}

fn credentials(trust: &Trust, identity: Identity, clock: &Arc<Clock>, generation: u64) -> Result<Credentials, String> {
    let crypto: Arc<CryptoProvider> = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&crypto))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous();
    let builder = match trust {
        Trust::Pinned(roots) => {
            builder.with_custom_certificate_verifier(Arc::new(PinnedVerifier::new(roots, Arc::clone(clock), crypto)?))
        }
        Trust::Look(Look(verifier)) => {
            if !matches!(identity, Identity::Anonymous) {
                return Err("credentials are never shown to a server that is not trusted yet".to_owned());
            }
            builder.with_custom_certificate_verifier(Arc::clone(verifier) as Arc<_>)
        }
    };
    let mut bearer = None;
    let mut tls = match identity {
        Identity::Anonymous => builder.with_no_client_auth(),
        Identity::Bearer(token) => {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            bearer = Some(value);
            builder.with_no_client_auth()
        }
        Identity::Certificate(chain, key) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("the client certificate: {error}"))?
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Credentials { tls: Arc::new(tls), bearer, generation })
}

/// A client that checks nobody's certificate, for probes of containers only.
pub(crate) fn unverified_tls() -> ClientConfig {
    let crypto = Arc::new(provider::default_provider());
    let verifier = Arc::new(LookingVerifier::new(Arc::clone(&crypto)));
    ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

/// The whole chain of an error, for one log line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        source = next.source();
    }
    text
}

/// `Sun, 22 Nov 2026 03:46:56 GMT` in Unix seconds (RFC 9110, IMF-fixdate).
fn http_date(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace().skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = i64::try_from(names.iter().position(|name| *name == month)?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<i64>);
    let (hours, minutes, seconds) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let days = crate::pods::time::days_from_civil(year, month, day);
    u64::try_from(days * 86_400 + hours * 3600 + minutes * 60 + seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_in_every_spelling() {
        let parse = |text: &str| Endpoint::parse(text).map(|endpoint| endpoint.authority());
        assert_eq!(parse("https://pi-1:6443/").unwrap(), "pi-1:6443");
        assert_eq!(parse("10.0.0.5").unwrap(), "10.0.0.5:6443");
        assert_eq!(parse("https://[fd00::1]:443").unwrap(), "[fd00::1]:443");
        assert!(parse("http://pi-1").unwrap_err().contains("TLS"));
    }

    #[test]
    fn the_date_header_is_read() {
        assert_eq!(http_date("Sun, 22 Nov 2026 03:46:56 GMT"), Some(1_795_319_216));
        assert_eq!(http_date("nonsense"), None);
    }
}
