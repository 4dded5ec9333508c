//! Shell: reads: linearizable, and all pages of a list at one revision.

use bytes::Bytes;
use etcd_client::{GetOptions, GetResponse, KeyValue};

use super::keyring::Opening;
use super::keys::{Range, TICK};
use super::refusal::Refusal;
use super::{Engine, Inner};
use crate::error::ReadError;
use crate::query::{ListQuery, Page};
use crate::record::{Record, Revision};

/// Keys of one call: bounds what etcd and this side hold at once.
const CHUNK_KEYS: usize = 500;

/// A list that outlives its caller's borrow.
#[derive(Clone, Debug)]
pub(crate) struct OwnedQuery {
    prefix: String,
    after: Option<String>,
    limit: usize,
    at: Option<Revision>,
}

impl Engine {
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Record>, ReadError> {
        let key = key.to_owned();
        self.run(|inner| async move { inner.get(&key).await }).await.map_err(|_| ReadError::Closed)?
    }

    pub(crate) async fn list(&self, query: ListQuery<'_>) -> Result<Page, ReadError> {
        let ListQuery { prefix, after, limit, at } = query;
        let query = OwnedQuery { prefix: prefix.to_owned(), after: after.map(str::to_owned), limit, at };
        self.run(|inner| async move { inner.list(query).await }).await.map_err(|_| ReadError::Closed)?
    }

    pub(crate) async fn keys(&self, prefix: &str) -> Result<u64, ReadError> {
        let prefix = prefix.to_owned();
        self.run(|inner| async move { inner.count(&prefix).await }).await.map_err(|_| ReadError::Closed)?
    }

    /// A page for a caller that blocks.
    pub(crate) fn list_blocking(
        &self,
        prefix: &str,
        after: Option<String>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        let query = OwnedQuery { prefix: prefix.to_owned(), after, limit, at };
        self.run_blocking(|inner| async move { inner.list(query).await }).map_err(|_| ReadError::Closed)?
    }
}

/// The revision of the answer.
pub(super) fn header(answer: &GetResponse) -> i64 {
    answer.header().map_or(0, |header| header.revision())
}

impl Inner {
    pub(super) async fn range(&self, range: &Range, options: GetOptions) -> Result<GetResponse, Refusal> {
        let options = options.with_range(range.end.clone());
        self.members.get(&range.start, options).await
    }

    /// The newest revision of the cluster.
    pub(super) async fn newest(&self) -> Result<i64, Refusal> {
        let key = self.keys.outer(TICK);
        let options = GetOptions::new().with_count_only();
        self.members.get(&key, options).await.map(|answer| header(&answer))
    }

    fn told(&self, refusal: Refusal, at: Option<Revision>) -> ReadError {
        refusal.of_read(at, self.shared.state().published)
    }

    async fn open(&self, key: &str, raw: &[u8]) -> Result<Bytes, ReadError> {
        self.open_record(key, raw).await.map_err(|error| match error {
            Opening::Damaged => ReadError::Corrupt { key: key.to_owned() },
            Opening::Keys(refusal) => self.told(refusal, None),
        })
    }

    async fn record(&self, kv: &KeyValue) -> Result<Option<Record>, ReadError> {
        let Some(key) = self.keys.inner(kv.key()) else { return Ok(None) };
        let value = self.open(key, kv.value()).await?;
        Ok(Some(Record { key: key.to_owned(), value, revision: self.keys.shown(kv.mod_revision()) }))
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, ReadError> {
        let outer = self.keys.outer(key);
        let found = self.members.get(&outer, GetOptions::new()).await;
        match found.map_err(|refusal| self.told(refusal, None))?.kvs().first() {
            Some(kv) => self.record(kv).await,
            None => Ok(None),
        }
    }

    async fn count(&self, prefix: &str) -> Result<u64, ReadError> {
        let counted = self.range(&self.keys.range(prefix, None), GetOptions::new().with_count_only()).await;
        let counted = counted.map_err(|refusal| self.told(refusal, None))?;
        Ok(u64::try_from(counted.count()).unwrap_or_default())
    }

    async fn list(&self, query: OwnedQuery) -> Result<Page, ReadError> {
        let OwnedQuery { prefix, after, limit, at } = query;
        let oldest = Revision(self.keys.shown(1).0.max(at.unwrap_or_default().0 + 1));
        let mut own = match at {
            Some(at) => self.keys.own(at).ok_or(ReadError::Compacted { oldest })?,
            None => 0,
        };
        let mut left = if limit == 0 { usize::MAX } else { limit };
        let (mut chunk, mut after, mut records) = (CHUNK_KEYS, after, Vec::new());
        loop {
            let take = left.min(chunk);
            let options = GetOptions::new().with_revision(own).with_limit(take as i64);
            let page = match self.range(&self.keys.range(&prefix, after.as_deref()), options).await {
                Ok(page) => page,
                Err(Refusal::Answer) if take > 1 => {
                    chunk = take / 2;
                    continue;
                }
                Err(refusal) => return Err(self.told(refusal, at)),
            };
            if own == 0 {
                own = header(&page);
            }
            for kv in page.kvs() {
                records.extend(self.record(kv).await?);
            }
            left -= page.kvs().len();
            let remaining = u64::try_from(page.count()).unwrap_or_default().saturating_sub(page.kvs().len() as u64);
            if remaining == 0 || left == 0 || page.kvs().is_empty() {
                self.reach(own).await;
                return Ok(Page { records, revision: self.keys.shown(own), more: remaining > 0, remaining });
            }
            after = records.last().map(|record| record.key.clone());
        }
    }
}
