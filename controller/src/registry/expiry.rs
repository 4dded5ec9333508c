//! Shell: objects in RAM that live an hour (Events): one timer for the earliest, none while there is none.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use bramble_store::{Durability, Precondition, Revision, Store, Write};
use tokio::sync::Notify;

use super::Clock;

/// How long an event lives (upstream's `--event-ttl`).
const LIFE_S: i64 = 3600;
/// How many events are kept: about 2 kB each, so a storm of them costs a board at most a few MB.
const EVENTS_MAX: usize = 2000;

/// When which key ends. A changed event gets a further entry; the former one then fails its precondition.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    queue: Mutex<VecDeque<(i64, String, Revision)>>,
    news: Notify,
}

impl Expiry {
    /// The key was written now.
    pub(super) fn remember(&self, key: String, revision: Revision, now: i64) {
        let mut queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        queue.push_back((now + LIFE_S, key, revision));
        let first = queue.len() == 1 || queue.len() > EVENTS_MAX;
        drop(queue);
        if first {
            self.news.notify_one();
        }
    }

    pub(super) async fn run(&self, store: &Store, clock: Clock) {
        loop {
            let now = i64::try_from(clock().as_secs()).unwrap_or(i64::MAX);
            while let Some((key, revision)) = self.due(now) {
                let delete = Write::delete(key, Precondition::At(revision));
                // A conflict means that the event was written again or deleted: its later entry is in the queue.
                drop(store.write(vec![delete], Durability::Volatile).await);
            }
            match self.pause(now) {
                Some(pause) => drop(tokio::time::timeout(pause, self.news.notified()).await),
                None => self.news.notified().await,
            }
        }
    }

    fn due(&self, now: i64) -> Option<(String, Revision)> {
        let mut queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = queue.len() > EVENTS_MAX || queue.front().is_some_and(|(at, _, _)| *at <= now);
        due.then(|| queue.pop_front()).flatten().map(|(_, key, revision)| (key, revision))
    }

    fn pause(&self, now: i64) -> Option<Duration> {
        let queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        queue.front().map(|(at, _, _)| Duration::from_secs(u64::try_from(at - now).unwrap_or_default().max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_only_when_due() {
        let expiry = Expiry::default();
        expiry.remember("events/a".into(), Revision(1), 100);
        expiry.remember("events/b".into(), Revision(2), 200);
        assert_eq!(expiry.due(100 + LIFE_S - 1), None);
        assert_eq!(expiry.due(100 + LIFE_S), Some(("events/a".into(), Revision(1))));
        assert_eq!(expiry.due(100 + LIFE_S), None);
        assert_eq!(expiry.pause(100 + LIFE_S), Some(Duration::from_secs(100)));
    }
}
