//! Shell: asks the board's resolvers for names that are not the cluster's.
//!
//! The same question is asked once at a time, whoever waits for it; a question that comes back to us through a chain of
//! resolvers therefore waits for itself and ends with the first time-out instead of going round.

use super::cache::{Cache, Key};
use super::message::Query;
use super::resolvers;
use domain::base::Message;
use domain::base::iana::Rcode;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Questions on their way; more are refused at once, each holds a socket.
const IN_FLIGHT_MAX: usize = 128;
/// One server's time; a resolver that has to ask further needs about this long.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Rounds over all servers.
const ROUNDS: usize = 2;
/// All of it: askers give up after five seconds themselves.
const WHOLE: Duration = Duration::from_millis(4500);

type Shared = watch::Receiver<Option<Arc<[u8]>>>;

/// Answers from elsewhere.
pub(crate) struct Forwarder {
    resolv_conf: PathBuf,
    own: Vec<SocketAddr>,
    started: Instant,
    state: Mutex<State>,
    random: SystemRandom,
}

#[derive(Default)]
struct State {
    cache: Cache,
    in_flight: BTreeMap<Key, Shared>,
    servers: Vec<SocketAddr>,
    read: Option<SystemTime>,
    /// Tests name servers on other ports.
    fixed: bool,
}

impl Forwarder {
    pub(crate) fn new(resolv_conf: PathBuf, own: Vec<SocketAddr>) -> Self {
        let state = Mutex::new(State::default());
        Self { resolv_conf, own, started: Instant::now(), state, random: SystemRandom::new() }
    }

    /// Asks these instead of the board's.
    #[cfg(test)]
    pub(crate) fn fixed(servers: Vec<SocketAddr>) -> Self {
        let forwarder = Self::new(PathBuf::new(), Vec::new());
        {
            let mut state = forwarder.state();
            (state.servers, state.fixed) = (servers, true);
        }
        forwarder
    }

    /// The answer to this question, with any id; SERVFAIL when nobody answers.
    pub(crate) async fn resolve(self: &Arc<Self>, query: &Query<'_>) -> Vec<u8> {
        let edns = query.edns.map_or((false, false), |edns| (true, edns.dnssec_ok));
        let key = Key { name: query.name.clone(), rtype: query.rtype, edns };
        let mut shared = {
            let mut state = self.state();
            if let Some(answer) = state.cache.get(&key, self.started.elapsed()) {
                return answer;
            }
            match state.in_flight.get(&key) {
                Some(shared) => shared.clone(),
                None if state.in_flight.len() >= IN_FLIGHT_MAX => return query.error(Rcode::SERVFAIL),
                None => {
                    let (sender, shared) = watch::channel(None);
                    state.in_flight.insert(key.clone(), shared.clone());
                    let failure: Arc<[u8]> = query.error(Rcode::SERVFAIL).into();
                    let question = query.forwarded(0);
                    let forwarder = self.clone();
                    // On its own, so that an asker that goes away takes nobody's answer with it.
                    tokio::spawn(async move {
                        let answer = timeout(WHOLE, forwarder.ask_all(&question)).await.ok().flatten();
                        let mut state = forwarder.state();
                        if let Some(answer) = &answer {
                            state.cache.put(key.clone(), answer, forwarder.started.elapsed());
                        }
                        state.in_flight.remove(&key);
                        drop(state);
                        let _ = sender.send(Some(answer.map_or(failure, Into::into)));
                    });
                    shared
                }
            }
        };
        match shared.wait_for(Option::is_some).await {
            Ok(answer) => answer.as_ref().map(|answer| answer.to_vec()).unwrap_or_default(),
            Err(_) => query.error(Rcode::SERVFAIL),
        }
    }

    async fn ask_all(&self, question: &[u8]) -> Option<Vec<u8>> {
        let servers = self.servers();
        let mut last = None;
        for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
            match timeout(ATTEMPT, self.ask(*server, question)).await {
                // A server that cannot is no reason not to ask the next.
                Ok(Ok(answer)) if failed(&answer) => last = Some(answer),
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver does not answer"),
                Err(_) => tracing::debug!(%server, "a resolver does not answer in time"),
            }
        }
        last
    }

    async fn ask(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let mut question = question.to_vec();
        self.random.fill(&mut question[..2]).map_err(|_| io::Error::other("no randomness"))?;
        // Port 0: the kernel chooses one at random for each question.
        let any = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind::<SocketAddr>(any).await?;
        socket.connect(server).await?;
        socket.send(&question).await?;
        let mut buffer = vec![0; 4096];
        let answer = loop {
            let length = socket.recv(&mut buffer).await?;
            if answers(&buffer[..length], &question) {
                buffer.truncate(length);
                break buffer;
            }
        };
        let truncated = answer[2] & 0x02 != 0;
        if truncated { ask_tcp(server, &question).await } else { Ok(answer) }
    }

    /// The board's resolvers, read again when the file has changed.
    fn servers(&self) -> Vec<SocketAddr> {
        let modified = std::fs::metadata(&self.resolv_conf).and_then(|metadata| metadata.modified()).ok();
        let mut state = self.state();
        if !state.fixed && (state.read.is_none() || state.read != modified) {
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            state.servers = resolvers::parse(&text, &self.own);
            state.read = modified;
        }
        state.servers.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, question) { Ok(answer) } else { Err(io::Error::other("another question was answered")) }
}

/// Id and question are the same: what else comes in was made up by somebody.
fn answers(answer: &[u8], question: &[u8]) -> bool {
    match (Message::from_slice(answer), Message::from_slice(question)) {
        (Ok(answer), Ok(question)) => {
            answer.header().qr()
                && answer.header().id() == question.header().id()
                && matches!((answer.sole_question(), question.sole_question()), (Ok(a), Ok(b)) if a == b)
        }
        _ => false,
    }
}

fn failed(answer: &[u8]) -> bool {
    Message::from_slice(answer).is_ok_and(|answer| {
        let rcode = answer.header().rcode();
        rcode == Rcode::SERVFAIL || rcode == Rcode::REFUSED || rcode == Rcode::NOTIMP
    })
}
