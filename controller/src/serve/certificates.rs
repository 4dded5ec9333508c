//! Shell: keys and certificates are made anew while the server runs, and everybody who uses them follows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bramble_store::{Store, WatchError};
use serde_json::Value;
use tokio::sync::watch;

use super::{KUBECONFIG, ServeError, common_keys, now};
use crate::api::{Certificates, Renewing};
use crate::bootstrap::{self, Facts};
use crate::client::Client;
use crate::pki::{self, Pki, PkiError, Renewal};
use crate::registry::status::ApiError;

/// How often certificates are looked at for their age; a wake-up a day.
const LOOK_AGAIN: Duration = Duration::from_secs(86_400);
/// How long after a failed read of what controllers share, or when authorities could not be published, it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often a renewal begins again because another controller's came between.
const TRIES: usize = 5;

/// The keys of this controller, and where those lie that it shares.
pub(super) struct Keys {
    pub(super) pki: Arc<Pki>,
    /// None where there is one controller.
    pub(super) shared: Option<Store>,
}

impl Keys {
    async fn renew_common(&self, what: Renewal) -> Result<(), ServeError> {
        for _ in 0..TRIES {
            let present = self.pki.common()?;
            let files = self.pki.renewed(what, now())?;
            let agreed = match &self.shared {
                Some(store) => common_keys::replace(store, &present, &files).await?,
                None => true,
            };
            if agreed {
                return Ok(self.pki.take(&files, now())?);
            }
            self.take_shared().await?;
        }
        Err(ServeError::Contended)
    }

    async fn take_shared(&self) -> Result<(), ServeError> {
        let Some(store) = &self.shared else { return Ok(()) };
        match common_keys::read(store).await? {
            Some(files) if files != self.pki.common()? => Ok(self.pki.take(&files, now())?),
            _ => Ok(()),
        }
    }

    async fn renew(&self, what: Renewal) -> Result<(), ServeError> {
        self.renew_common(what).await?;
        if what == Renewal::Leaves {
            self.pki.renew_own_keys(now())?;
        }
        tracing::info!(?what, "keys and certificates");
        Ok(())
    }

    /// Takes over what other controllers renew, and looks at the age of what is this one's own, until it is dropped.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            let others = async {
                match &self.shared {
                    Some(store) => changed(store).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = others => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {
                    if let Err(error) = self.pki.refresh(now()) {
                        tracing::error!(error = &error as &dyn std::error::Error, "certificates are not renewed");
                    }
                }
            }
            if let Err(error) = self.take_shared().await {
                tracing::error!(error = &error as &dyn std::error::Error, "the keys that controllers share");
            }
        }
    }
}

/// Until what is shared may have changed.
async fn changed(store: &Store) {
    let ended = match store.watch(&common_keys::key(), store.revision()) {
        Ok(mut watch) => watch.next().await.err(),
        Err(error) => Some(error),
    };
    match ended {
        None => {}
        Some(WatchError::Closed) => std::future::pending().await,
        Some(_) => tokio::time::sleep(RETRY).await,
    }
}

/// Writes the administrator's kubeconfig for this server's address.
pub(super) fn write_kubeconfig(data_dir: &Path, pki: &Pki, advertised: SocketAddr) -> Result<(), PkiError> {
    let kubeconfig = pki.admin_kubeconfig(advertised, now())?;
    pki::write_secret_file(&data_dir.join(KUBECONFIG), &kubeconfig)
}

/// Tells the cluster of its authorities whenever they change, until it is dropped.
pub(super) async fn publish_authorities(
    pki: Arc<Pki>,
    admin: Client,
    mut facts: Facts,
    data_dir: PathBuf,
    pins: watch::Sender<Vec<String>>,
) {
    let mut authorities = pki.follow_authorities();
    // The last word is told again where it could not be.
    let mut told = true;
    loop {
        if told && authorities.changed().await.is_err() {
            return;
        }
        facts.authority_pem = authorities.borrow_and_update().bundle_pem();
        pins.send_replace(pki.authorities().pins());
        let written = write_kubeconfig(&data_dir, &pki, facts.advertised).map_err(ServeError::from);
        let published = bootstrap::ensure(&admin, &facts).await.map_err(ServeError::from);
        told = written.is_ok() && published.is_ok();
        if let Some(error) = written.err().or(published.err()) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the authorities are not published; trying again"
            );
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl Certificates for Keys {
    fn renew(&self, what: Renewal) -> Renewing<'_> {
        Box::pin(async move { self.renew(what).await.map_err(|error| ApiError::because(&error)) })
    }

    fn describe(&self) -> Value {
        self.pki.describe()
    }
}
