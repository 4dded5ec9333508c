//! Shell: the members of the cluster: one connection to one of them, and the next one where that fails.

use std::fmt;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity, KvClient, TlsOptions, Txn, TxnResponse,
    WatchClient,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::refusal::Refusal;
use crate::config::Etcd;

/// A member that does not take a connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// etcd refuses pings that come faster than every five seconds.
const PING_PERIOD: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// A read that takes longer goes to the next member: three of a board's fsyncs at their worst.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// A write that takes longer is given up, with an unknown outcome: just below etcd's own time of seven seconds, and far
/// above an election. After a read's time the member must show that it lives.
const WRITE_TIMEOUT: Duration = Duration::from_secs(6);
/// A member that is asked for nothing but an answer has this time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call goes from member to member, where that is safe.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after all members were asked; an election takes a second or two.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// A cluster that is down is tried many times a second, and told in the log less often.
const TELL_PERIOD: Duration = Duration::from_secs(10);
/// Foreign bytes are bounded: a page of a list, or what etcd gathers for a watch that is behind.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What may be done where nobody knows whether a call happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// Ask again.
    Read,
    /// Tell the caller.
    Write,
}

/// The connection in use. Each connection has a number of its own.
struct Current {
    number: u64,
    client: Option<Client>,
    /// When a change of members was last told.
    told: Option<Instant>,
}

pub(super) struct Members {
    servers: Vec<String>,
    options: ConnectOptions,
    current: Mutex<Current>,
    /// The number of the connection that is to be used; the feed moves with it.
    number: watch::Sender<u64>,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Members {
    pub(super) fn new(etcd: &Etcd) -> Result<Members, String> {
        if etcd.servers.is_empty() {
            return Err("no etcd server was named".into());
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_PERIOD, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if let Some(tls) = &etcd.tls {
            let mut given = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
            if let Some((certificate, key)) = &tls.identity_pem {
                given = given.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(given);
        }
        let current = Mutex::new(Current { number: 0, client: None, told: None });
        Ok(Members { servers: etcd.servers.clone(), options, current, number: watch::Sender::new(0) })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told when another member is asked from now on.
    pub(super) fn moves(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    async fn client(&self) -> Result<(u64, Client), Refusal> {
        let number = {
            let current = self.current();
            if let Some(client) = &current.client {
                return Ok((current.number, client.clone()));
            }
            current.number
        };
        let server = &self.servers[number as usize % self.servers.len()];
        // It connects with the first call.
        let client = Client::connect([server], Some(self.options.clone())).await;
        let client = client.map_err(|error| Refusal::Refused(format!("{server}: {error}")))?;
        let mut current = self.current();
        if current.number == number {
            current.client.get_or_insert_with(|| client.clone());
        }
        Ok((number, client))
    }

    /// That connection is of no use: the next member's turn. Told by many calls at once, it moves on once.
    pub(super) fn leave(&self, number: u64, why: &str) {
        let mut current = self.current();
        if current.number != number {
            return;
        }
        let told = current.told.filter(|told| told.elapsed() < TELL_PERIOD);
        *current = Current { number: number + 1, client: None, told: told.or_else(|| Some(Instant::now())) };
        drop(current);
        let server = &self.servers[number as usize % self.servers.len()];
        match told {
            None => tracing::warn!(server, why, "etcd: the next member is asked"),
            Some(_) => tracing::debug!(server, why, "etcd: the next member is asked"),
        }
        self.number.send_replace(number + 1);
    }

    /// Linearizable, unless the options say otherwise.
    pub(super) async fn get(&self, key: &[u8], options: GetOptions) -> Result<GetResponse, Refusal> {
        self.ask(Care::Read, |mut kv| {
            let (key, options) = (key.to_owned(), options.clone());
            async move { kv.get(key, Some(options)).await }
        })
        .await
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnResponse, Refusal> {
        self.ask(Care::Write, |mut kv| {
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        })
        .await
    }

    /// Versions before a revision are gone afterwards.
    pub(super) async fn compact(&self, revision: i64) -> Result<(), Refusal> {
        self.ask(Care::Read, |mut kv| async move { kv.compact(revision, None).await.map(drop) }).await
    }

    /// Calls a member; others, while that is safe and time is left.
    async fn ask<T, F>(&self, care: Care, call: impl Fn(KvClient) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut tries = 0;
        loop {
            let (number, client) = self.client().await?;
            let kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            let mut call = pin!(call(kv));
            let mut answer = timeout(READ_TIMEOUT, call.as_mut()).await;
            if answer.is_err() && care == Care::Write && self.lives(&client).await {
                answer = timeout(WRITE_TIMEOUT - READ_TIMEOUT, call).await;
            }
            let refusal = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Refusal::of(&error),
                Err(_) => Refusal::Unknown("no answer in time".into()),
            };
            let again = match &refusal {
                Refusal::Untouched(why) => Some(why),
                Refusal::Unknown(why) => {
                    self.leave(number, why);
                    Some(why).filter(|_| care == Care::Read)
                }
                _ => None,
            };
            let Some(why) = again.filter(|_| Instant::now() < deadline) else { return Err(refusal) };
            self.leave(number, why);
            tries += 1;
            if tries % self.servers.len() == 0 {
                sleep(ROUND_PAUSE).await;
            }
        }
    }

    /// Whether the member answers at all, be it without a quorum: if not, a write need not wait for an election.
    async fn lives(&self, client: &Client) -> bool {
        let options = GetOptions::new().with_serializable().with_count_only();
        timeout(PROBE_TIMEOUT, client.kv_client().get("\0", Some(options))).await.is_ok()
    }

    /// A client for a watch, and its connection's number.
    pub(super) async fn watcher(&self) -> Result<(u64, WatchClient), Refusal> {
        let (number, client) = self.client().await?;
        Ok((number, client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX)))
    }
}
