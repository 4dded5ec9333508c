//! Pure: answers of other servers, kept as long as they allow within a bound; time is an argument.

use super::lifetime;
use domain::base::iana::Rtype;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of all answers; some hundred names that a board's pods use.
const BYTES_MAX: usize = 128 * 1024;
/// Longer is not believed: a board may move to another network.
const KEEP_MAX_S: u32 = 600;

/// What makes two questions the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) rtype: Rtype,
    /// EDNS was used, and with the DNSSEC bit.
    pub(crate) edns: (bool, bool),
}

struct Entry {
    answer: Box<[u8]>,
    since: Duration,
    until: Duration,
}

/// The cache; `now` is any clock that never goes back.
#[derive(Default)]
pub(crate) struct Cache {
    entries: BTreeMap<Key, Entry>,
    bytes: usize,
}

impl Cache {
    /// A kept answer with what is left of its lifetime.
    pub(crate) fn get(&self, key: &Key, now: Duration) -> Option<Vec<u8>> {
        let entry = self.entries.get(key).filter(|entry| now < entry.until)?;
        let mut answer = entry.answer.to_vec();
        lifetime::age(&mut answer, u32::try_from((now - entry.since).as_secs()).unwrap_or(u32::MAX));
        Some(answer)
    }

    /// Keeps an answer if it may be kept; makes room by what has passed, then by what passes first.
    pub(crate) fn put(&mut self, key: Key, answer: &[u8], now: Duration) {
        let seconds = lifetime::seconds(answer).unwrap_or(0).min(KEEP_MAX_S);
        let cost = cost(&key, answer);
        if seconds == 0 || cost > BYTES_MAX / 8 {
            return;
        }
        self.remove(&key);
        if self.bytes + cost > BYTES_MAX {
            let passed: Vec<Key> =
                self.entries.iter().filter(|(_, entry)| entry.until <= now).map(|(key, _)| key.clone()).collect();
            passed.iter().for_each(|key| self.remove(key));
        }
        while self.bytes + cost > BYTES_MAX {
            let Some(first) = self.entries.iter().min_by_key(|(_, entry)| entry.until).map(|(key, _)| key.clone())
            else {
                break;
            };
            self.remove(&first);
        }
        self.bytes += cost;
        let until = now + Duration::from_secs(u64::from(seconds));
        self.entries.insert(key, Entry { answer: answer.into(), since: now, until });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= cost(key, &entry.answer);
        }
    }
}

fn cost(key: &Key, answer: &[u8]) -> usize {
    let overhead = 120;
    key.name.len() + answer.len() + overhead
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ttl: u8, padding: usize) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0];
        let length = u16::try_from(padding).unwrap().to_be_bytes();
        bytes.extend([0, 0, 16, 0, 1, 0, 0, 0, ttl, length[0], length[1]]);
        bytes.extend(vec![0; padding]);
        bytes
    }

    fn key(number: usize) -> Key {
        Key { name: format!("n{number}.example"), rtype: Rtype::A, edns: (false, false) }
    }

    #[test]
    fn an_answer_lives_as_long_as_it_says() {
        let mut cache = Cache::default();
        cache.put(key(1), &answer(30, 4), Duration::from_secs(100));
        assert_eq!(lifetime::seconds(&cache.get(&key(1), Duration::from_secs(110)).unwrap()), Some(20));
        assert!(cache.get(&key(1), Duration::from_secs(130)).is_none());
        assert!(cache.get(&key(2), Duration::from_secs(100)).is_none());
        cache.put(key(3), &answer(0, 4), Duration::from_secs(100));
        assert!(cache.get(&key(3), Duration::from_secs(100)).is_none());
    }

    #[test]
    fn it_stays_within_its_bound() {
        let mut cache = Cache::default();
        for number in 0..2000 {
            cache.put(key(number), &answer(60, 400), Duration::from_secs(number as u64 / 100));
            assert!(cache.bytes <= BYTES_MAX);
        }
        assert!(cache.get(&key(1999), Duration::from_secs(20)).is_some());
        assert!(cache.get(&key(0), Duration::from_secs(20)).is_none());
        let sum: usize = cache.entries.iter().map(|(key, entry)| cost(key, &entry.answer)).sum();
        assert_eq!(cache.bytes, sum);
    }
}
