//! Shell: a bucket of an S3-compatible store: what lies in it, one object up (in parts, so that no snapshot is ever held
//! whole), one down, one away.

use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;
use http::Method;
use tokio::runtime::Handle;

use super::names::is_ours;

mod address;
mod answer;
mod signature;
mod wire;

use address::Address;
use answer::{parts, text, texts};
use wire::{Ask, Wire};

pub use wire::BucketError;

/// The least that S3 takes as a part that is not the last; so much of a snapshot is in memory at once.
const PART_BYTES: usize = 5 << 20;
/// One page of a list.
const PAGE: &str = "500";
/// A list that has no end is broken off.
const PAGES_MAX: usize = 100;

/// Where snapshots go, and how one gets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    address: Address,
    region: String,
    credentials: PathBuf,
    ca: Option<PathBuf>,
}

impl Bucket {
    /// `url` is `https://host[:port]/bucket[/prefix]`; `credentials` a file as the AWS tools keep it, read anew each time;
    /// `ca` an authority besides the machine's own.
    pub fn new(url: &str, region: &str, credentials: PathBuf, ca: Option<PathBuf>) -> Result<Bucket, String> {
        Ok(Bucket { address: Address::parse(url)?, region: region.to_owned(), credentials, ca })
    }

    fn open(&self) -> Result<Wire, BucketError> {
        Wire::open(self.address.clone(), &self.region, &self.credentials, self.ca.as_deref())
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.address.prefix)
    }

    /// Names and sizes of the snapshots in it.
    pub async fn list(&self) -> Result<Vec<(String, u64)>, BucketError> {
        let wire = self.open()?;
        let (mut found, mut next) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let prefix = &self.address.prefix;
            let mut query = vec![("list-type", "2"), ("delimiter", "/"), ("max-keys", PAGE), ("prefix", prefix)];
            query.extend(next.as_deref().map(|token| ("continuation-token", token)));
            let ask = Ask { method: &Method::GET, key: "", query: &query };
            let page = wire.ask(ask, Bytes::new()).await?.text;
            if !page.contains("<ListBucketResult") {
                return Err(wire.lacks(ask, "a list"));
            }
            let sizes = texts(&page, "Size").into_iter().map(|size| size.parse().unwrap_or(0));
            let names = texts(&page, "Key").into_iter().map(|key| key.strip_prefix(prefix).map(str::to_owned));
            found.extend(names.zip(sizes).filter_map(|(name, size)| Some((name.filter(|name| is_ours(name))?, size))));
            next = text(&page, "NextContinuationToken");
            if next.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// Removes one.
    pub async fn remove(&self, name: &str) -> Result<(), BucketError> {
        let ask = Ask { method: &Method::DELETE, key: &self.key(name), query: &[] };
        self.open()?.ask(ask, Bytes::new()).await.map(|_| ())
    }

    /// Brings one, as it comes.
    pub async fn fetch(&self, name: &str, mut out: impl Write) -> Result<(), BucketError> {
        let wire = self.open()?;
        let ask = Ask { method: &Method::GET, key: &self.key(name), query: &[] };
        let mut body = wire.send(ask, Bytes::new()).await?.into_body();
        while let Some(bytes) = wire.next(&mut body).await? {
            out.write_all(&bytes).map_err(|source| BucketError::File { path: name.into(), source })?;
        }
        Ok(())
    }

    /// Begins one; it is there when [`Upload::finish`] says so. Needs a running event loop, and a thread that may block.
    pub(super) fn upload(&self, name: &str) -> Result<Upload, BucketError> {
        let (wire, key) = (self.open()?, self.key(name));
        Ok(Upload { wire, key, id: None, tags: Vec::new(), part: Vec::new(), runtime: Handle::current(), why: None })
    }

    /// Ends what `old` says of uploads that nobody finished: their parts cost space and are in no list.
    pub(super) async fn sweep(&self, old: impl Fn(&str) -> bool) -> Result<(), BucketError> {
        let wire = self.open()?;
        let query = [("uploads", ""), ("prefix", self.address.prefix.as_str())];
        let ask = Ask { method: &Method::GET, key: "", query: &query };
        let page = wire.ask(ask, Bytes::new()).await?.text;
        for (key, id) in texts(&page, "Key").iter().zip(texts(&page, "UploadId")) {
            if key.strip_prefix(&self.address.prefix).is_some_and(&old) {
                let ask = Ask { method: &Method::DELETE, key, query: &[("uploadId", &id)] };
                wire.ask(ask, Bytes::new()).await?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(formatter)
    }
}

/// One object on its way up.
pub(super) struct Upload {
    wire: Wire,
    key: String,
    /// Set once there is more than one part.
    id: Option<String>,
    tags: Vec<String>,
    part: Vec<u8>,
    runtime: Handle,
    /// What broke it; a writer can only hand on an `io::Error`.
    why: Option<BucketError>,
}

impl Upload {
    /// The rest of it, and its end.
    pub(super) fn finish(&mut self) -> Result<(), BucketError> {
        let Some(id) = self.id.clone() else {
            let ask = Ask { method: &Method::PUT, key: &self.key, query: &[] };
            let body = Bytes::from(std::mem::take(&mut self.part));
            return self.runtime.block_on(self.wire.ask(ask, body)).map(|_| ());
        };
        self.send_part()?;
        let ask = Ask { method: &Method::POST, key: &self.key, query: &[("uploadId", &id)] };
        let answer = self.runtime.block_on(self.wire.ask(ask, parts(&self.tags).into()))?;
        // S3 may fail after it has begun to answer 200.
        if !answer.text.contains("<CompleteMultipartUploadResult") {
            return Err(self.wire.lacks(ask, "the upload's result"));
        }
        self.id = None;
        Ok(())
    }

    /// Takes back what is there of it, and says what broke it.
    pub(super) fn abort(self) -> Option<BucketError> {
        if let Some(id) = &self.id {
            let ask = Ask { method: &Method::DELETE, key: &self.key, query: &[("uploadId", id)] };
            if let Err(error) = self.runtime.block_on(self.wire.ask(ask, Bytes::new())) {
                tracing::warn!(%error, "parts of a snapshot stay in the bucket until the next day's");
            }
        }
        self.why
    }

    fn send_part(&mut self) -> Result<(), BucketError> {
        let id = match &self.id {
            Some(id) => id.clone(),
            None => self.begin()?,
        };
        let number = (self.tags.len() + 1).to_string();
        let ask = Ask { method: &Method::PUT, key: &self.key, query: &[("partNumber", &number), ("uploadId", &id)] };
        let body = Bytes::from(std::mem::take(&mut self.part));
        let answer = self.runtime.block_on(self.wire.ask(ask, body))?;
        self.tags.push(answer.tag.ok_or_else(|| self.wire.lacks(ask, "an ETag"))?);
        Ok(())
    }

    fn begin(&mut self) -> Result<String, BucketError> {
        let ask = Ask { method: &Method::POST, key: &self.key, query: &[("uploads", "")] };
        let answer = self.runtime.block_on(self.wire.ask(ask, Bytes::new()))?;
        let id = text(&answer.text, "UploadId").ok_or_else(|| self.wire.lacks(ask, "an UploadId"))?;
        self.id = Some(id.clone());
        Ok(id)
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only when more comes is a full part surely not the last.
        if self.part.len() >= PART_BYTES
            && let Err(error) = self.send_part()
        {
            let told = io::Error::other(error.to_string());
            self.why = Some(error);
            return Err(told);
        }
        let taken = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(bytes.get(..taken).unwrap_or(bytes));
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
