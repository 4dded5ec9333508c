//! Shell: etcd keeps every version until somebody says what may go: what is older than a period, as kube-apiserver says.
//!
//! Each controller tries once a period; the version of one key lets one of them through. What it compacts is the revision
//! that the same key's last winner saw, so clients have at least one whole period to come back.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use tokio::time::sleep;

use super::Inner;
use super::keys::COMPACT;
use super::refusal::Refusal;

/// Compacts for ever.
pub(super) async fn run(inner: Arc<Inner>, period: Duration) {
    let (mut turn, mut seen) = (0, 0);
    loop {
        sleep(period).await;
        match once(&inner, turn, seen).await {
            Ok((next, newest)) => (turn, seen) = (next, newest),
            Err(refusal) => tracing::warn!(reason = refusal.reason(), "etcd was not compacted"),
        }
    }
}

/// One turn; gives the next one's number and the newest revision now.
async fn once(inner: &Inner, turn: i64, seen: i64) -> Result<(i64, i64), Refusal> {
    let key = inner.keys.outer(COMPACT);
    let txn = Txn::new()
        .when([Compare::version(key.clone(), CompareOp::Equal, turn)])
        .and_then([TxnOp::put(key.clone(), seen.to_string(), None)])
        .or_else([TxnOp::get(key.clone(), None)]);
    let done = inner.members.txn(txn).await?;
    let newest = done.header().map_or(0, |header| header.revision());
    if !done.succeeded() {
        // Another controller had this turn.
        let version = done.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(got) => got.kvs().first().map(etcd_client::KeyValue::version),
            _ => None,
        });
        return Ok((version.unwrap_or_default(), newest));
    }
    if seen > 0 {
        match inner.members.compact(seen).await {
            Ok(()) => tracing::debug!(revision = seen, "etcd was compacted"),
            // Somebody was faster.
            Err(Refusal::Compacted) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok((turn + 1, newest))
}
