//! Shell: the cluster's authorities change while a board is part of it.
//!
//! The server of a cluster that ever rolled its authority over tells every board, with each answer, a digest of those that it
//! trusts. A board that knows others asks for them, over the connection that those it knows vouch for: a server of a newer
//! authority shows the way back to the older ones in its chain. Then the board renews what the former ones signed.

use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{JoinError, Rotation, files, request};
use crate::link::backoff::Backoff;
use crate::link::{Connection, LinkError};

const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
/// A cluster has one, and a few more for a while; what claims more is damaged.
const AUTHORITIES_MAX: usize = 16;

/// The authorities (DER) that a board trusts, the one that signs first.
pub type Authorities = Vec<CertificateDer<'static>>;

/// What the server tells of them: sixteen hexadecimal digits of the SHA-256 of their DER.
fn told_as(authorities: &[CertificateDer<'_>]) -> String {
    let all: Vec<u8> = authorities.iter().flat_map(|one| one.to_vec()).collect();
    digest::digest(&digest::SHA256, &all).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes over the cluster's authorities whenever they change, for ever.
pub async fn follow_authorities(rotation: Rotation, connection: Arc<Connection>, known: watch::Sender<Authorities>) {
    let mut told = connection.authorities();
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(300));
    loop {
        let others = told.wait_for(|told| told.as_ref().is_some_and(|told| *told != told_as(&known.borrow())));
        let Ok(wanted) = others.await.map(|told| told.clone().unwrap_or_default()) else { return };
        match take(&rotation, &known, &wanted).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                warn!(%error, "taking over the cluster's authorities");
                tokio::time::sleep(backoff.advance(crate::link::random())).await;
            }
        }
    }
}

async fn take(rotation: &Rotation, known: &watch::Sender<Authorities>, wanted: &str) -> Result<(), JoinError> {
    let answer = rotation.link.get(CLUSTER_INFO).await?;
    let authorities = request::authorities_of_cluster_info(&answer);
    if authorities.len() > AUTHORITIES_MAX || told_as(&authorities) != wanted {
        // It is published a moment after it is told.
        return Err(LinkError::Request("kube-public/cluster-info does not name the authorities yet".to_owned()).into());
    }
    files::save_authority(&rotation.dir, &authorities)?;
    info!(count = authorities.len(), digest = wanted, "trusting the cluster's authorities of today");
    known.send_replace(authorities);
    Ok(())
}
