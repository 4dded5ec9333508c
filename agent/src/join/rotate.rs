//! Shell: certificates are renewed while they live, and taken into use without a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use tokio::sync::watch;
use tracing::{info, warn};

use super::certificate::Kept;
use super::{Authorities, JoinError, Joined, ServingNames, files, request};
use crate::link::backoff::Backoff;
use crate::link::{Clock, Link, Trust};

/// Timers of the monotonic clock are looked at again after this time, because trusted time may have moved.
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// Between two renewals.
const LEAST_INTERVAL: Duration = Duration::from_secs(60);

/// What every rotation needs.
#[derive(Clone)]
pub struct Rotation {
    /// Where certificates are kept.
    pub dir: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// The board's clocks.
    pub clock: Arc<Clock>,
    /// The API client.
    pub link: Link,
    /// The authorities that this board trusts; what others signed is renewed when they change.
    pub authorities: watch::Receiver<Authorities>,
}

impl Rotation {
    /// Waits until `kept` is due. Without authenticated time nothing is due: the first answer of the server brings it.
    async fn due(&self, kept: &Kept) {
        let random = crate::link::random();
        let mut unknown = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let wait = match self.clock.trusted_s() {
                Some(now_s) => match kept.renew_in_s(now_s, random) {
                    0 => return,
                    seconds => Duration::from_secs(seconds).min(LOOK_AGAIN),
                },
                None => unknown.advance(random),
            };
            tokio::time::sleep(wait).await;
        }
    }
}

impl Rotation {
    /// The same, but what was just signed is not signed again soon, whatever the dates say: no signer is asked in a tight loop.
    async fn due_after(&self, kept: &Kept, just_signed: bool) {
        if just_signed {
            tokio::time::sleep(LEAST_INTERVAL).await;
        }
        self.due(kept).await;
    }
}

fn retries() -> Backoff {
    Backoff::new(Duration::from_secs(2), Duration::from_secs(300))
}

/// Renews the client certificate for ever: when it grows old and when the cluster's authorities change.
pub async fn rotate_client(rotation: Rotation, joined: Joined) {
    let mut kept = joined.client.clone();
    let mut authorities = rotation.authorities.clone();
    let mut backoff = retries();
    let show = |kept: &Kept| {
        let trust = Trust::Pinned(rotation.authorities.borrow().clone());
        if let Err(error) = joined.connection.replace(&trust, kept.identity()) {
            warn!(%error, "the new credentials");
        }
    };
    let (mut renewed_here, mut of_former) = (false, false);
    loop {
        if !of_former {
            tokio::select! {
                () = rotation.due_after(&kept, renewed_here) => {}
                Ok(()) = authorities.changed() => of_former = true,
            }
        }
        if of_former {
            authorities.mark_unchanged();
            show(&kept);
        }
        match renew_client(&rotation, &kept).await {
            Ok(renewed) => {
                show(&renewed);
                info!(until = %renewed.until(), "renewed the client certificate");
                (kept, renewed_here, of_former) = (renewed, true, false);
                backoff.reset();
            }
            Err(error) => {
                warn!(%error, "renewing the client certificate");
                tokio::time::sleep(backoff.advance(crate::link::random())).await;
            }
        }
    }
}

/// Over the same key: it is what the board is.
async fn renew_client(rotation: &Rotation, kept: &Kept) -> Result<Kept, JoinError> {
    let key = KeyPair::try_from(&kept.key())
        .map_err(|error| JoinError::Unusable(format!("the key of the client certificate: {error}")))?;
    let wanted = request::Wanted::client(&rotation.node_name, kept.chain().first());
    let chain = request::obtain(&rotation.link, &key, &wanted).await?;
    files::save_client(&rotation.dir, &chain, &key, rotation.clock.trusted_s())
}

/// Gets the serving certificate, then renews it for ever: when it grows old and when the node's names change.
pub async fn rotate_serving(
    rotation: Rotation,
    mut names: watch::Receiver<ServingNames>,
    serving: watch::Sender<Option<Kept>>,
) {
    let mut kept = files::serving(&rotation.dir).unwrap_or_else(|error| {
        warn!(%error, "the serving certificate");
        None
    });
    if let Some(kept) = &kept {
        serving.send_replace(Some(kept.clone()));
    }
    let mut authorities = rotation.authorities.clone();
    let (mut backoff, mut of_former) = (retries(), false);
    loop {
        let wanted = names.borrow_and_update().clone();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.covers(&wanted) && !of_former) {
            tokio::select! {
                () = rotation.due_after(kept, true) => {}
                Ok(()) = names.changed() => continue,
                Ok(()) = authorities.changed() => of_former = true,
            }
        }
        if wanted == ServingNames::default() {
            if names.changed().await.is_err() {
                return;
            }
            continue;
        }
        match renew_serving(&rotation, &wanted).await {
            Ok(renewed) => {
                info!(until = %renewed.until(), "serving certificate");
                serving.send_replace(Some(renewed.clone()));
                kept = Some(renewed);
                of_former = false;
                backoff.reset();
            }
            Err(error) => {
                warn!(%error, "asking for a serving certificate");
                tokio::time::sleep(backoff.advance(crate::link::random())).await;
            }
        }
    }
}

async fn renew_serving(rotation: &Rotation, names: &ServingNames) -> Result<Kept, JoinError> {
    let pending = rotation.dir.join("serving.pending.key");
    let key = files::pending_key(&pending)?;
    let chain = request::obtain(&rotation.link, &key, &request::Wanted::serving(&rotation.node_name, names)).await?;
    let kept = files::save_serving(&rotation.dir, &chain, &key, rotation.clock.trusted_s())?;
    files::forget(&pending);
    Ok(kept)
}
