//! Shell: brings a pod's newest status to the API server, one pod at a time in order, as often as it takes.

use std::time::Duration;

use serde_json::json;
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

/// Posts each status that differs from the last one; newer ones overtake. Ends when the sender is dropped or the pod
/// is gone.
pub(crate) async fn statuses(link: Link, address: Address, mut newest: watch::Receiver<Object>, mut known: Object) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    while newest.changed().await.is_ok() {
        loop {
            let wanted = newest.borrow_and_update().clone();
            if wanted == known {
                break;
            }
            match post(&link, &address, Some(&known), &wanted).await {
                Ok(()) => {
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
) -> Result<(), LinkError> {
    let wanted = wanted.value();
    let patch = status::patch(&address.uid, known.map(Object::value).as_ref(), &wanted);
    link.patch(&format!("{}/status", address.path()), PatchKind::Strategic, &patch).await?;
    debug!(pod = %address.name, namespace = %address.namespace, phase = %wanted["phase"], "posted the status");
    Ok(())
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
