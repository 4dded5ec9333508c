//! Shell: where the cluster's memory is: a file of this board's, or an etcd that several controllers share.

use std::path::PathBuf;

use bramble_store::{Config, Store};

use super::{Options, ServeError};
use crate::encryption::{ClusterToken, Encryption};

/// The etcd cluster that several controllers share.
#[derive(Clone, Debug, Default)]
pub struct EtcdServers {
    /// URLs of its members, `https://10.0.0.1:2379`.
    pub servers: Vec<String>,
    /// Who signs their certificates, PEM.
    pub cafile: Option<PathBuf>,
    /// Our certificate, PEM.
    pub certfile: Option<PathBuf>,
    /// Its key, PEM.
    pub keyfile: Option<PathBuf>,
    /// What all keys begin with.
    pub prefix: String,
}

/// The store, opened, and the keys that seal it.
pub(super) async fn open(options: &Options) -> Result<(Store, Encryption), ServeError> {
    let Some(etcd) = &options.etcd else {
        return open_file(options).await;
    };
    open_etcd(options, etcd, 0).await
}

/// Where the file lies.
pub(super) fn file(options: &Options) -> PathBuf {
    options.data_dir.join("store.redb")
}

pub(super) async fn open_file(options: &Options) -> Result<(Store, Encryption), ServeError> {
    let encryption = Encryption::new(&options.data_dir, options.encryption_provider_config.as_deref());
    let store = encryption.open(Config::redb(file(options))).await?;
    Ok((store, encryption))
}

pub(super) async fn open_etcd(
    options: &Options,
    etcd: &EtcdServers,
    origin: u64,
) -> Result<(Store, Encryption), ServeError> {
    let config = config(etcd, origin)?;
    let token = ClusterToken::open(&options.data_dir, options.token_file.as_deref())?;
    let encryption = Encryption::shared(token, options.encryption_provider_config.as_deref());
    let store = encryption.open(config).await?;
    Ok((store, encryption))
}

/// What the store is told of an etcd. Revisions of one that is empty begin above `origin`.
#[cfg(feature = "etcd")]
pub(super) fn config(etcd: &EtcdServers, origin: u64) -> Result<Config, ServeError> {
    use bramble_store::{Backend, Etcd, EtcdTls};
    let read = |path: &PathBuf| std::fs::read(path).map_err(|source| ServeError::File { path: path.clone(), source });
    let mut told = Etcd::new(etcd.servers.clone());
    told.prefix.clone_from(&etcd.prefix);
    told.origin = origin;
    let identity_pem = match (&etcd.certfile, &etcd.keyfile) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        (None, None) => None,
        _ => return Err(ServeError::EtcdFlags("--etcd-certfile and --etcd-keyfile belong together")),
    };
    told.tls = match &etcd.cafile {
        Some(ca) => Some(EtcdTls { ca_pem: read(ca)?, identity_pem }),
        None if identity_pem.is_some() => return Err(ServeError::EtcdFlags("--etcd-certfile needs --etcd-cafile")),
        None => None,
    };
    let secure = |server: &String| server.starts_with("https://");
    if told.tls.is_some() != told.servers.iter().all(secure) || told.tls.is_none() && told.servers.iter().any(secure) {
        return Err(ServeError::EtcdFlags("https:// servers need --etcd-cafile, and http:// servers have no TLS"));
    }
    Ok(Config::new(Backend::Etcd(told)))
}

/// What the store is told of an etcd: nothing, in this build.
#[cfg(not(feature = "etcd"))]
pub(super) fn config(_etcd: &EtcdServers, _origin: u64) -> Result<Config, ServeError> {
    Err(ServeError::NoEtcd)
}
