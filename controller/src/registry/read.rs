//! Shell: get and list: stored bytes, a page at a time, from one revision.

use std::sync::Arc;

use bramble_store::{ListQuery, ReadError, Record, Revision};

use super::filter::Filter;
use super::token::Token;
use super::{Answer, ApiError, Registry, Target, Written, read_error, record};
use crate::object::Object;

/// How many records one read of the store brings: bounds the memory of a list of any length.
const PAGE_RECORDS: usize = 256;
/// How long a read waits for a revision that is still to come.
const TOO_NEW_WAIT: std::time::Duration = std::time::Duration::from_secs(3);

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Match {
    /// Not said: at least as new as the revision.
    #[default]
    Unset,
    /// At least as new.
    NotOlderThan,
    /// Exactly.
    Exact,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Which objects.
    pub filter: Filter,
    /// `resourceVersion`; `None` for the newest.
    pub revision: Option<u64>,
    /// How that revision is meant.
    pub matching: Match,
    /// 0 for all.
    pub limit: usize,
    /// The token of the former page; empty for the first.
    pub continue_token: String,
}

/// A list on its way, page by page from one revision.
pub struct Lister {
    registry: Arc<Registry>,
    prefix: String,
    filter: Filter,
    after: Option<String>,
    at: Option<Revision>,
    revision: u64,
    limit: usize,
    told: usize,
    remaining: u64,
    done: bool,
    consistent: bool,
}

impl Registry {
    /// Reads one object.
    pub async fn get(&self, target: &Target, revision: Option<u64>) -> Answer<Written> {
        self.reach(revision).await?;
        let record = self.record(target).await?.ok_or_else(|| ApiError::not_found(&target.kind, &target.name))?;
        Ok(Written { value: record.value, revision: record.revision.0, created: false })
    }

    /// Reads one object, parsed.
    pub async fn object(&self, target: &Target) -> Answer<Object> {
        Ok(self.current(target).await?.object)
    }

    /// Waits until a revision is published that a client says it has seen.
    pub(super) async fn reach(&self, revision: Option<u64>) -> Answer<()> {
        let Some(asked) = revision.filter(|asked| *asked > self.store.revision().0) else { return Ok(()) };
        let waiting = self.store.wait_for(Revision(asked));
        tokio::time::timeout(TOO_NEW_WAIT, waiting)
            .await
            .map_err(|_| ApiError::too_large_resource_version(asked, self.store.revision().0))
    }

    /// Starts a list.
    pub async fn list(self: &Arc<Self>, target: &Target, request: ListRequest) -> Answer<Lister> {
        let mut prefix = target.key();
        if let Some(namespace) = request.filter.namespace().filter(|_| target.namespace.is_empty()) {
            prefix = Target { namespace: namespace.to_owned(), ..target.clone() }.key();
        }
        if let Some(name) =
            request.filter.name().filter(|_| prefix.matches('/').count() > usize::from(target.kind.namespaced))
        {
            prefix += name;
        }
        let (mut after, mut at, mut consistent) = (None, None, true);
        if request.continue_token.is_empty() {
            let exact = request.matching == Match::Exact || (request.matching == Match::Unset && request.limit > 0);
            self.reach(request.revision).await?;
            if let Some(revision) = request.revision.filter(|revision| exact && *revision > 0) {
                at = Some(Revision(revision));
            }
        } else {
            let token = Token::decode(&request.continue_token, &prefix)?;
            consistent = token.revision.is_some();
            at = token.revision.map(Revision);
            after = Some(token.after);
        }
        Ok(Lister {
            registry: self.clone(),
            prefix,
            filter: request.filter,
            after,
            at,
            revision: 0,
            limit: request.limit,
            told: 0,
            remaining: 0,
            done: false,
            consistent,
        })
    }
}

impl Lister {
    /// The next records that the filter wants; `None` at the end of the list or of the limit.
    pub async fn next(&mut self) -> Answer<Option<Vec<Record>>> {
        if self.done {
            return Ok(None);
        }
        let left = if self.limit == 0 { usize::MAX } else { self.limit - self.told };
        let limit = if self.filter.is_everything() { left.min(PAGE_RECORDS) } else { PAGE_RECORDS };
        let query = ListQuery { prefix: &self.prefix, after: self.after.as_deref(), limit, at: self.at };
        let page = self.registry.store.list(query).await.map_err(|error| self.refused(error))?;
        self.revision = page.revision.0;
        self.at = Some(page.revision);
        self.done = !page.more;
        self.remaining = page.remaining;
        let last = page.records.len();
        let mut wanted = Vec::with_capacity(last);
        for (at, record) in page.records.into_iter().enumerate() {
            if self.filter.wants(record::json(&record.value))? {
                self.told += 1;
                self.after = Some(record.key.clone());
                wanted.push(record);
                if self.limit > 0 && self.told == self.limit {
                    self.done = true;
                    self.remaining += (last - at - 1) as u64;
                    return Ok(Some(wanted));
                }
            } else {
                self.after = Some(record.key);
            }
        }
        if self.done {
            self.after = None;
        }
        Ok(Some(wanted))
    }

    /// The list's resourceVersion; known after the first page.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The token of the next page, when the limit ended this one before the list's end.
    pub fn continue_token(&self) -> Option<String> {
        let after = self.after.clone().filter(|_| self.done && self.remaining > 0)?;
        Some(Token { revision: Some(self.revision), after }.encode())
    }

    /// How many objects follow; upstream tells it only without selectors.
    pub fn remaining(&self) -> Option<u64> {
        (self.filter.is_everything() && self.remaining > 0 && self.done).then_some(self.remaining)
    }

    fn refused(&self, error: ReadError) -> ApiError {
        let (ReadError::Compacted { .. }, Some(after), true) = (&error, &self.after, self.consistent) else {
            return read_error(error);
        };
        let mut expired = ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
             results. Continuing with the provided token results in an inconsistent list - objects that were created, \
             modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        );
        let token = Token { revision: None, after: after.clone() }.encode();
        expired.metadata.insert("continue".to_owned(), token.into());
        expired
    }
}
