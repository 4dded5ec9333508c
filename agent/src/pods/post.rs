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
    (mut newest, mut foreign): (watch::Receiver<Object>, watch::Receiver<Foreign>),
    mut known: Object,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut answers = Backoff::new(ANSWER.0, ANSWER.1);
    let mut version = 0;
    loop {
        let ours = tokio::select! {
            changed = newest.changed() => changed.map(|()| true),
            changed = foreign.changed() => changed.map(|()| false),
        };
        match ours {
            Ok(true) => answers.reset(),
            Ok(false) => {
                let theirs = foreign.borrow_and_update().clone();
                // What was written before our last one is no answer to it.
                let Some((_, theirs)) = theirs.filter(|(theirs, _)| *theirs > version) else { continue };
                known = theirs;
                tokio::select! {
                    () = tokio::time::sleep(answers.advance(crate::link::random())) => {}
                    changed = newest.changed() => match changed {
                        Ok(()) => answers.reset(),
                        Err(_) => return,
                    }
                }
            }
            Err(_) => return,
        }
        loop {
            let wanted = newest.borrow_and_update().clone();
            if wanted == known {
                break;
            }
            match post(&link, &address, Some(&known), &wanted).await {
                Ok(written) => {
                    version = written;
                    known = wanted;
                    backoff.reset();
                    break;
                }
                Err(error) if error.is_not_found() || error.is_conflict() => return,
                Err(error) => {
                    warn!(pod = %address.name, namespace = %address.namespace, %error, "posting the status");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.advance(crate::link::random())) => {}
                        () = link.reconnected() => {}
                    }
                }
            }
        }
    }
}

pub(crate) async fn post(
    link: &Link,
    address: &Address,
    known: Option<&Object>,
    wanted: &Object,
) -> Result<u64, LinkError> {
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
