//! Shell: a client with the administrator's kubeconfig, for the verbs that speak to the API server.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bramble_agent::link::{Clock, Connection, Endpoint, Identity, Link, Trust};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

/// Where the controller writes it.
pub(crate) const KUBECONFIG: &str = "admin.kubeconfig";

/// Runs `work` on one thread.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// A client by the kubeconfig of this data directory; needs a running event loop.
pub(crate) fn link(data_dir: &Path) -> anyhow::Result<Link> {
    let path = data_dir.join(KUBECONFIG);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: has `bramble up` run here, as root?", path.display()))?;
    let config: Value = serde_yaml_ng::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().context("the kubeconfig names no server")?;
    let pem = |value: &Value| -> anyhow::Result<Vec<u8>> {
        STANDARD.decode(value.as_str().unwrap_or_default()).context("the kubeconfig is damaged")
    };
    let authority = pem(&config["clusters"][0]["cluster"]["certificate-authority-data"])?;
    let user = &config["users"][0]["user"];
    let (chain, key) = (pem(&user["client-certificate-data"])?, pem(&user["client-key-data"])?);
    let identity = Identity::Certificate(
        CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>()?,
        PrivateKeyDer::from_pem_slice(&key)?,
    );
    let trust = Trust::Pinned(CertificateDer::pem_slice_iter(&authority).collect::<Result<_, _>>()?);
    let endpoint = Endpoint::parse(server).map_err(|message| anyhow!(message))?;
    let connection = Connection::new(vec![endpoint], &trust, identity, Arc::new(Clock::default()));
    Ok(Link::new(Arc::new(connection.map_err(|message| anyhow!(message))?)))
}
