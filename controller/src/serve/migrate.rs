//! Shell: a cluster's memory from a file into an etcd that several controllers share, and back, with no controller running.

use bramble_store::{Content, Revision, begin, migrate};

use super::{Options, ServeError, backing, common_keys, now};
use crate::encryption::token::CLUSTER_PREFIX;

/// Where a cluster's memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Out of the file in the data directory, which is renamed to `store.redb.migrated`.
    ToEtcd,
    /// Into a file in the data directory; what etcd holds stays.
    ToFile,
}

/// Copies and compares; gives what both hold, and the revision from which it is shown.
pub async fn migrate_store(options: &Options, migration: Migration) -> Result<(Content, Revision), ServeError> {
    let etcd = options.etcd.as_ref().ok_or(ServeError::EtcdFlags("say which etcd: --etcd-servers URL[,URL]"))?;
    match migration {
        Migration::ToEtcd => {
            if !backing::file(options).exists() {
                return Err(ServeError::NoFile(backing::file(options)));
            }
            let (from, _) = backing::open_file(options).await?;
            let origin = from.revision().0 + bramble_store::RESTORE_JUMP;
            let (to, _) = backing::open_etcd(options, etcd, origin).await?;
            let content = migrate(&from, &to, CLUSTER_PREFIX).await?;
            // The cluster keeps its authority, whichever controller starts first.
            common_keys::open(&to, &options.data_dir, now()).await?;
            drop(from);
            set_aside(options)?;
            Ok((content, to.revision()))
        }
        Migration::ToFile => {
            let (from, _) = backing::open_etcd(options, etcd, 0).await?;
            common_keys::open(&from, &options.data_dir, now()).await?;
            let revision = begin(&backing::file(options), from.revision())?;
            let (to, _) = backing::open_file(options).await?;
            match migrate(&from, &to, CLUSTER_PREFIX).await {
                Ok(content) => Ok((content, revision)),
                Err(error) => {
                    // Half a copy must not be taken for a store.
                    drop(to);
                    set_aside(options)?;
                    Err(error.into())
                }
            }
        }
    }
}

/// A store that must not be opened by mistake; the bytes stay.
fn set_aside(options: &Options) -> Result<(), ServeError> {
    for end in ["", ".journal"] {
        let path = backing::file(options).with_file_name(format!("store.redb{end}"));
        if path.exists() {
            let aside = path.with_file_name(format!("store.redb.migrated{end}"));
            std::fs::rename(&path, aside).map_err(|source| ServeError::File { path, source })?;
        }
    }
    Ok(())
}
