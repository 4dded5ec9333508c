//! Shell: the one watch of etcd that feeds the history rings: every event, in order, each once.
//!
//! ```text
//!          +---- connection lost, another member ----+
//!          v                                         |
//! resume at the next revision -> events -> rings -> ...
//!          |
//!          |-- compacted, an event without its previous value, etcd set back -> begin again at the newest revision
//!          '-- no member for a while -> begin again where it is: nobody shall wait for events that cannot come
//! ```
//! Where it begins again, every watcher is told to list again; who lists hears then that etcd does not answer.
//! etcd 3.4.23 may report progress before it has sent what happened, so no progress report is believed: the feed is as
//! far as its last event, and `reach` makes one where none comes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{EventType, KeyValue, Txn, TxnOp, WatchOptions, WatchResponse};
use tokio::time::{Instant, sleep, timeout};

use super::keyring::{Opening, opening};
use super::keys::TICK;
use super::refusal::Refusal;
use super::{BEHIND_MAX, Inner, TICK_AFTER};
use crate::error::OpenError;
use crate::history::{Event, EventKind};
use crate::record::Revision;
use crate::state::Publication;
use crate::write::resource;

/// A new controller reads so many revisions back, so that clients of one that died can go on with it.
const PRIME_REVISIONS: i64 = 2000;
/// Pause before the same is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// etcd confirms a watch at once.
const CREATE_TIMEOUT: Duration = Duration::from_secs(3);
/// A member lost and another one found takes less; an election does, too.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Where the feed is.
pub(super) struct Feed {
    /// The revision of etcd to begin with.
    next: i64,
    /// The newest one when the store was opened.
    newest: i64,
}

impl Feed {
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }
}

/// Why one stream of events ended.
enum Ended {
    /// Go on where it was.
    Broken(String),
    /// Events came meanwhile.
    Interrupted(String),
    /// A data key of another controller cannot be had.
    Keys(String),
    /// Events are lost.
    Compacted(i64),
    /// An event's previous value is lost, or a record cannot be opened.
    Gap(String),
}

impl Inner {
    /// Sets the rings up a while before the newest revision.
    pub(super) async fn begin_feed(&self) -> Result<Feed, OpenError> {
        let newest = self.newest().await.map_err(opening)?;
        let next = (newest - PRIME_REVISIONS).max(1);
        self.begin_again(next - 1);
        Ok(Feed { next, newest })
    }

    fn begin_again(&self, base: i64) {
        let base = self.keys.shown(base).max(Revision(1));
        let touched: BTreeSet<String> = self.shared.state().begin_again(base);
        self.shared.announce(base, &touched);
    }

    /// Waits until the feed has passed a revision of etcd, but not for ever. Where no event of ours has it, one is made.
    pub(super) async fn reach(&self, own: i64) {
        let _ = timeout(BEHIND_MAX, self.reach_surely(own)).await;
    }

    async fn reach_surely(&self, own: i64) {
        let wanted = self.keys.shown(own);
        let reached = || self.shared.state().published >= wanted;
        if reached() || timeout(TICK_AFTER, self.shared.wait_until(reached)).await.is_ok() {
            return;
        }
        let _one = self.tick.lock().await;
        if reached() {
            return;
        }
        let key = self.keys.outer(TICK);
        if let Err(refusal) = self.members.txn(Txn::new().and_then([TxnOp::put(key, "", None)])).await {
            tracing::debug!(?refusal, "no tick");
        }
        self.shared.wait_until(reached).await;
    }
}

/// Feeds until the store closes.
pub(super) async fn run(inner: Arc<Inner>, mut feed: Feed) {
    let mut heard = Instant::now();
    loop {
        match follow(&inner, &mut feed).await {
            Ended::Broken(why) => {
                tracing::debug!(why, "the feed tries the next connection");
                sleep(PAUSE).await;
                if heard.elapsed() > SILENCE_MAX {
                    tracing::warn!(why, "etcd does not answer; every watcher lists again");
                    inner.begin_again(feed.next - 1);
                    heard = Instant::now();
                }
                continue;
            }
            Ended::Interrupted(why) => tracing::debug!(why, "the feed goes on with the next connection"),
            Ended::Keys(why) => {
                tracing::error!(why, "a record of another controller cannot be opened: do all have the same keys?");
                sleep(SILENCE_MAX).await;
            }
            // At the start it only asks for less history.
            Ended::Compacted(oldest) if feed.next <= feed.newest && oldest < feed.newest => {
                feed.next = oldest + 1;
                inner.begin_again(oldest);
            }
            Ended::Compacted(_) => lost(&inner, &mut feed, "compacted").await,
            Ended::Gap(why) => lost(&inner, &mut feed, &why).await,
        }
        heard = Instant::now();
    }
}

async fn lost(inner: &Inner, feed: &mut Feed, why: &str) {
    tracing::warn!(why, "events are lost; every watcher lists again");
    loop {
        match inner.newest().await {
            Ok(newest) => {
                *feed = Feed { next: newest + 1, newest };
                return inner.begin_again(newest);
            }
            Err(refusal) => tracing::debug!(?refusal, "etcd does not answer"),
        }
        sleep(PAUSE).await;
    }
}

async fn follow(inner: &Inner, feed: &mut Feed) -> Ended {
    let mut moves = inner.members.moves();
    // etcd put back from a backup is behind; a watch there would wait for revisions that are used twice.
    match inner.newest().await {
        Ok(newest) if newest < feed.next - 1 => return Ended::Gap(format!("etcd was set back to {newest}")),
        Ok(_) => {}
        Err(refusal) => return Ended::Broken(refusal.reason()),
    }
    let (number, mut client) = match inner.members.watcher().await {
        Ok(client) => client,
        Err(refusal) => return Ended::Broken(refusal.reason()),
    };
    let everything = inner.keys.everything();
    let options = WatchOptions::new().with_range(everything.end).with_start_revision(feed.next).with_prev_key();
    let started = timeout(CREATE_TIMEOUT, client.watch(everything.start, Some(options))).await;
    let mut confirmed = false;
    let broken = |why: String, confirmed: bool| {
        inner.members.leave(number, &why);
        if confirmed { Ended::Interrupted(why) } else { Ended::Broken(why) }
    };
    let mut stream = match started {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return broken(error.to_string(), false),
        Err(_) => return broken("no watch".into(), false),
    };
    if *moves.borrow_and_update() != number {
        return Ended::Broken("another member".into());
    }
    let give_up = Instant::now() + CREATE_TIMEOUT;
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = moves.changed() => {
                let why = "another member".to_owned();
                return if confirmed { Ended::Interrupted(why) } else { Ended::Broken(why) };
            }
            () = tokio::time::sleep_until(give_up), if !confirmed => return broken("no watch".into(), false),
        };
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return broken("the stream ended".into(), confirmed),
            Err(error) if Refusal::of(&error) == Refusal::Answer => return Ended::Gap(error.to_string()),
            Err(error) => return broken(error.to_string(), confirmed),
        };
        if response.compact_revision() > 0 {
            return Ended::Compacted(response.compact_revision());
        }
        if response.canceled() {
            return broken(response.cancel_reason().to_owned(), confirmed);
        }
        confirmed = true;
        if let Err(ended) = take_in(inner, feed, &response).await {
            return ended;
        }
    }
}

/// Publishes the events of a response. etcd never divides a revision between two.
async fn take_in(inner: &Inner, feed: &mut Feed, response: &WatchResponse) -> Result<(), Ended> {
    let (mut events, mut last) = (Vec::new(), 0);
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        // What a broken stream had sent already.
        if kv.mod_revision() < feed.next {
            continue;
        }
        last = kv.mod_revision();
        let foreign = |key: &&str| key.starts_with('.') || resource(key).is_none();
        let Some(key) = inner.keys.inner(kv.key()).filter(|key| !foreign(key)) else { continue };
        events.push(read(inner, key, event.event_type(), kv, event.prev_kv()).await?);
    }
    if last == 0 {
        return Ok(());
    }
    feed.next = last + 1;
    publish(inner, events, last);
    Ok(())
}

async fn read(
    inner: &Inner,
    key: &str,
    kind: EventType,
    kv: &KeyValue,
    previous: Option<&KeyValue>,
) -> Result<Event, Ended> {
    let created = kind == EventType::Put && kv.create_revision() == kv.mod_revision();
    let gap = |why: &str| Ended::Gap(format!("{key} at {}: {why}", kv.mod_revision()));
    let previous = match previous {
        _ if created => None,
        Some(previous) => {
            let revision = inner.keys.shown(previous.mod_revision());
            let held = inner.shared.state().remembered(key, revision);
            let value = match held {
                Some(value) => value,
                None => open(inner, key, previous.value()).await?,
            };
            Some((revision, value))
        }
        None => return Err(gap("its previous value is compacted")),
    };
    let (kind, value) = match (kind, &previous) {
        (EventType::Put, _) => (EventKind::Put, open(inner, key, kv.value()).await?),
        (EventType::Delete, Some((_, last))) => (EventKind::Delete, last.clone()),
        (EventType::Delete, None) => return Err(gap("its last value is compacted")),
    };
    Ok(Event { kind, key: key.into(), value, revision: inner.keys.shown(kv.mod_revision()), previous })
}

/// A damaged record must not stop all others: it is shown empty, as a deletion of one is.
async fn open(inner: &Inner, key: &str, raw: &[u8]) -> Result<Bytes, Ended> {
    match inner.open_record(key, raw).await {
        Ok(value) => Ok(value),
        // Never shown: whoever watches lists again, and is told there.
        Err(Opening::Damaged) => Err(Ended::Gap(format!("the record {key} in etcd is damaged"))),
        Err(Opening::Keys(refusal @ (Refusal::Untouched(_) | Refusal::Unknown(_)))) => {
            Err(Ended::Broken(refusal.reason()))
        }
        Err(Opening::Keys(refusal)) => Err(Ended::Keys(refusal.reason())),
    }
}

fn publish(inner: &Inner, events: Vec<Event>, last: i64) {
    let published = inner.keys.shown(last);
    let now = inner.shared.config.clock.now();
    let mut state = inner.shared.state();
    let touched = state.publish(Publication { events, pending: HashMap::new(), committed: None, spilled: false, now });
    // An event of the engine's own moves it as well.
    state.published = published;
    drop(state);
    inner.shared.announce(published, &touched);
}
