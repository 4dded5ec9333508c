//! Shell: listens on the cluster DNS address over UDP and TCP.

use super::forward::Forwarder;
use super::message::{Query, Via};
use super::zone::{Answer, Data, Zone};
use crate::network::Cidr;
use crate::services::Index;
use domain::base::iana::Rcode;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Questions over UDP that wait for other servers; more are dropped, their askers ask again.
const WAITING_MAX: usize = 512;
/// Connections over TCP.
const CONNECTIONS_MAX: usize = 64;
/// A connection without a question is closed (RFC 7766 asks for seconds).
const IDLE: Duration = Duration::from_secs(10);
/// After an error of a listening socket.
const PAUSE: Duration = Duration::from_millis(100);
/// Aliases that lead to aliases.
const ALIASES_MAX: usize = 8;

/// What the answerer needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cluster DNS; the pod network gives the board these addresses.
    pub addresses: Vec<IpAddr>,
    /// 53, but for tests.
    pub port: u16,
    /// `cluster.local`
    pub domain: String,
    /// Ranges of services and pods, whose reverse names are the cluster's.
    pub ranges: Vec<Cidr>,
    /// The board's resolvers, usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// The answerer cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("cannot listen for DNS on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

pub(crate) struct Answerer {
    pub(crate) zone: Zone,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) waiting: Arc<Semaphore>,
    /// Whose turn it is to come first among several addresses.
    pub(crate) turn: AtomicUsize,
}

/// Answers for ever; wakes only for questions.
///
/// # Errors
/// [`Error::Listen`] before anything is answered.
pub async fn run(options: Options, index: Arc<RwLock<Index>>) -> Result<(), Error> {
    let own: Vec<SocketAddr> = options.addresses.iter().map(|ip| SocketAddr::new(*ip, options.port)).collect();
    let domain = options.domain.trim_matches('.').to_ascii_lowercase();
    let answerer = Arc::new(Answerer {
        zone: Zone { domain, ranges: options.ranges },
        index,
        forwarder: Arc::new(Forwarder::new(options.resolv_conf, own.clone())),
        waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        turn: AtomicUsize::new(0),
    });
    let mut listeners = tokio::task::JoinSet::new();
    for address in own {
        let listen = |source| Error::Listen { address, source };
        let udp = UdpSocket::bind(address).await.map_err(listen)?;
        let tcp = TcpListener::bind(address).await.map_err(listen)?;
        listeners.spawn(answerer.clone().serve_udp(Arc::new(udp)));
        listeners.spawn(answerer.clone().serve_tcp(tcp));
    }
    while listeners.join_next().await.is_some() {}
    Ok(())
}

impl Answerer {
    pub(crate) async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // The interface went down, for instance: not in a tight loop.
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            match self.at_once(&buffer[..length], Via::Udp) {
                Some(answer) if answer.is_empty() => {}
                Some(answer) => drop(socket.send_to(&answer, peer).await),
                None => {
                    let Ok(permit) = self.waiting.clone().try_acquire_owned() else { continue };
                    let (answerer, socket, question) = (self.clone(), socket.clone(), buffer[..length].to_vec());
                    tokio::spawn(async move {
                        let answer = answerer.later(&question, Via::Udp).await;
                        let _ = socket.send_to(&answer, peer).await;
                        drop(permit);
                    });
                }
            }
        }
    }

    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answerer = self.clone();
                    tokio::spawn(async move {
                        // A connection that breaks is its asker's business.
                        let _ = answerer.connection(stream).await;
                        drop(permit);
                    });
                }
                // Out of descriptors, for instance: not in a tight loop.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let Ok(length) = timeout(IDLE, stream.read_u16()).await else { return Ok(()) };
            let mut question = vec![0; usize::from(length?)];
            timeout(IDLE, stream.read_exact(&mut question)).await??;
            let answer = match self.at_once(&question, Via::Tcp) {
                Some(answer) => answer,
                None => self.later(&question, Via::Tcp).await,
            };
            let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
            if length == 0 {
                return Ok(());
            }
            timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())).await??;
        }
    }

    /// The answer where no other server has to be asked; empty when there is to be none.
    fn at_once(&self, bytes: &[u8], via: Via) -> Option<Vec<u8>> {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(refused) => return Some(refused.unwrap_or_default()),
        };
        let (answer, known) = self.look_up(&query);
        if answer == Answer::Foreign || alias(&answer, &query).is_some() {
            return None;
        }
        // Until the services have been listed, a name that is not found may well be there.
        if answer == Answer::NoSuchName && !known {
            return Some(query.error(Rcode::SERVFAIL));
        }
        Some(query.answer(&self.zone, &answer, None, via))
    }

    /// The answer where other servers have to be asked.
    async fn later(&self, bytes: &[u8], via: Via) -> Vec<u8> {
        let Ok(query) = Query::parse(bytes) else { return Vec::new() };
        let (mut answer, _) = self.look_up(&query);
        if answer == Answer::Foreign {
            return query.relayed(self.forwarder.resolve(&query).await, via);
        }
        // An alias of ours: what it stands for is added, from here or from elsewhere.
        for _ in 0..ALIASES_MAX {
            let Some(target) = alias(&answer, &query) else { break };
            let Some(question) = query.about(&target) else { break };
            let Ok(behind) = Query::parse(&question) else { break };
            match self.look_up(&behind).0 {
                Answer::Foreign => {
                    let more = self.forwarder.resolve(&behind).await;
                    return query.answer(&self.zone, &answer, Some(&more), via);
                }
                Answer::Records { answers: more, .. } if !more.is_empty() => {
                    if let Answer::Records { answers, .. } = &mut answer {
                        answers.extend(more);
                    }
                }
                _ => break,
            }
        }
        query.answer(&self.zone, &answer, None, via)
    }

    fn look_up(&self, query: &Query<'_>) -> (Answer, bool) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut answer = self.zone.answer(&index, &query.name, query.kind());
        if let Answer::Records { answers, .. } = &mut answer
            && answers.len() > 1
        {
            // Many askers take the first.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
            answers.rotate_left(turn);
        }
        (answer, index.is_listed())
    }
}

/// Where the last record leads, if it is an alias and the asker wants what is behind it.
fn alias(answer: &Answer, query: &Query<'_>) -> Option<String> {
    let Answer::Records { answers, .. } = answer else { return None };
    match answers.last() {
        Some((_, Data::Alias(target))) if query.kind() != super::zone::Kind::Cname => Some(target.clone()),
        _ => None,
    }
}
