//! Shell: brings a pod's newest status to the API server, one pod at a time in order, as often as it takes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::status;
use crate::link::backoff::Backoff;
use crate::link::{Link, LinkError, Object, PatchKind};

/// A pod as the API knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Address {
    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }
}

/// A status that the API holds in place of ours, with its version: somebody else wrote it.
pub(crate) type Foreign = Option<(u64, Object)>;

/// Whoever writes over ours (the node controller, as long as it does not hear of this board) is answered so soon, and
/// ever later if it insists.
const ANSWER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Posts each status that differs from the last one, or from what others made of it; newer ones overtake. Ends when the
/// sender is dropped or the pod is gone.
pub(crate) async fn statuses(
    link: Link,
    address: Address,
    (newest, foreign): (watch::Receiver<Object>, watch::Receiver<Foreign>),
    known: Object,
) {
    let answers = Backoff::new(ANSWER.0, ANSWER.1);
    let mut poster = Poster { link, address, newest, foreign, known, version: 0, answers };
    while poster.wait().await.is_some() && poster.bring().await.is_some() {}
}

struct Poster {
    link: Link,
    address: Address,
    newest: watch::Receiver<Object>,
    foreign: watch::Receiver<Foreign>,
    /// What the API holds, as far as it is known here.
    known: Object,
    /// The version of our last one.
    version: u64,
    answers: Backoff,
}

impl Poster {
    /// Until there may be something to post; none: there is nobody any more who would say so.
    async fn wait(&mut self) -> Option<()> {
        tokio::select! {
            changed = self.newest.changed() => changed.ok()?,
            changed = self.foreign.changed() => {
                changed.ok()?;
                let theirs = self.foreign.borrow_and_update().clone();
                // What was written before our last one is no answer to it.
                let Some((_, theirs)) = theirs.filter(|(version, _)| *version > self.version) else { return Some(()) };
                self.known = theirs;
                tokio::select! {
                    () = tokio::time::sleep(self.answers.advance(crate::link::random())) => return Some(()),
                    changed = self.newest.changed() => changed.ok()?,
                }
            }
        }
        self.answers.reset();
        Some(())
    }

    /// The newest, as often as it takes; none: the pod is gone.
    async fn bring(&mut self) -> Option<()> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let wanted = self.newest.borrow_and_update().clone();
            if wanted == self.known {
                return Some(());
            }
            match post(&self.link, &self.address, Some(&self.known), &wanted).await {
                Ok(version) => {
                    (self.known, self.version) = (wanted, version);
                    return Some(());
                }
                Err(error) if error.is_not_found() || error.is_conflict() => return None,
                Err(error) => {
                    warn!(pod = %self.address.name, namespace = %self.address.namespace, %error, "posting the status");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.advance(crate::link::random())) => {}
                        () = self.link.reconnected() => {}
                    }
                }
            }
        }
    }
}

/// Answers the version that it got.
async fn post(link: &Link, address: &Address, known: Option<&Object>, wanted: &Object) -> Result<u64, LinkError> {
    let wanted = wanted.value();
    let patch = status::patch(&address.uid, known.map(Object::value).as_ref(), &wanted);
    let written = link.patch(&format!("{}/status", address.path()), PatchKind::Strategic, &patch).await?;
    debug!(pod = %address.name, namespace = %address.namespace, phase = %wanted["phase"], "posted the status");
    Ok(written["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).unwrap_or_default())
}

/// Whether a pod is ready, as a status says it.
pub(crate) fn is_ready(status: &Value) -> Option<&Value> {
    status["conditions"].as_array()?.iter().find(|one| one["type"] == "Ready").map(|one| &one["status"])
}

/// The last status, then the final delete. Repeats until the API says that the pod is gone.
pub(crate) async fn farewell(link: &Link, address: &Address, last: &Object) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": address.uid}});
    loop {
        let outcome = async {
            post(link, address, None, last).await?;
            link.delete(&address.path(), &options).await.map(drop)
        };
        match outcome.await {
            Ok(()) => return,
            Err(error) if error.is_not_found() || error.is_conflict() => return,
            Err(error) => {
                warn!(pod = %address.name, namespace = %address.namespace, %error, "the final delete");
                tokio::select! {
                    () = tokio::time::sleep(backoff.advance(crate::link::random())) => {}
                    () = link.reconnected() => {}
                }
            }
        }
    }
}
