//! Shell: `bramble store`, and the stores' part of `bramble check`: what of the files is damaged, and what can be had of
//! them. Both read closed stores, without the daemons; only `rotate` asks the running controller.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bramble_store::{Report, RescueError, salvage, verify};
use serde_json::json;

#[cfg(feature = "controller")]
use super::up;
use super::{Options, StoreVerb, admin};

/// Lines of damage that are shown; a broken disk has thousands.
const LINES_MAX: usize = 20;

const ROTATE: &str = "/bramble/v1/store/rotate";
/// A million sealed records on a small board.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(3600);

pub(crate) fn store(verb: StoreVerb, options: &Options) -> anyhow::Result<ExitCode> {
    match verb {
        StoreVerb::Rotate => rotate(options),
        StoreVerb::Salvage(to) => salvaged(&to, options),
        StoreVerb::Migrate { to_etcd } => migrate(to_etcd, options),
    }
}

#[cfg(feature = "controller")]
fn migrate(to_etcd: bool, options: &Options) -> anyhow::Result<ExitCode> {
    use bramble_controller::serve::{Migration, migrate_store};
    let _supervisor = up::lock(&options.data_dir, up::LOCK_FILE)?;
    let _controller = up::lock(&options.data_dir, &up::daemon_lock("controller"))?;
    let settings = super::daemon::controller_options(options)?;
    let migration = if to_etcd { Migration::ToEtcd } else { Migration::ToFile };
    let (content, revision) = admin::block_on(async { Ok(migrate_store(&settings, migration).await?) })?;
    println!(
        "{} records, {} bytes, the same on both sides: SHA-256 {}",
        content.records, content.bytes, content.sha256
    );
    println!("every object is shown from revision {revision} on; clients list again");
    if to_etcd {
        println!(
            "start every controller with the same --etcd-servers; the others also with --token-file, this one's {}",
            options.data_dir.join("cluster-token").display()
        );
    } else {
        println!(
            "start one controller without --etcd-servers, with this data directory; etcd's copy is yours to remove"
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "controller"))]
fn migrate(_to_etcd: bool, _options: &Options) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this is a worker-only build; the store is the controller's")
}

fn rotate(options: &Options) -> anyhow::Result<ExitCode> {
    let done = admin::block_on(async {
        let link = admin::link(&options.data_dir)?;
        Ok(link.create_within(ROTATE, &json!({}), ROTATE_TIMEOUT).await?)
    })?;
    println!("sealed {} records anew; {} former data keys are gone", done["resealed"], done["keysRemoved"]);
    Ok(ExitCode::SUCCESS)
}

fn salvaged(to: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let from = controllers(&options.data_dir);
    let (report, revision) = salvage(&from, to).with_context(|| format!("salvaging {}", from.display()))?;
    tell(&report);
    println!("{} records written to {}, shown from revision {revision}", report.records, to.display());
    println!("to use it: move {0} and {0}.journal away, then {1} in their place", from.display(), to.display());
    Ok(ExitCode::SUCCESS)
}

fn controllers(data_dir: &Path) -> PathBuf {
    data_dir.join("store.redb")
}

/// The stores below a data directory, the controller's and the agent's checkpoint: false when one is damaged.
pub(crate) fn check(data_dir: &Path) -> anyhow::Result<bool> {
    let mut whole = true;
    for path in [controllers(data_dir), data_dir.join("agent").join("checkpoint.redb")] {
        if !path.exists() {
            continue;
        }
        match verify(&path) {
            Ok(report) if report.lost.is_empty() => {
                println!("ok    {:<18} {}: {} records, all whole", "store", path.display(), report.records);
            }
            Ok(report) => {
                whole = false;
                println!("LACK  {:<18} {}: {} records are whole", "store", path.display(), report.records);
                tell(&report);
                println!("      {:<18} cure: bramble store salvage FILE; the agent's: remove it", "");
            }
            Err(RescueError::Locked(_)) => {
                println!("ok    {:<18} {}: in use, checked when it was opened", "store", path.display());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(whole)
}

fn tell(report: &Report) {
    for line in report.lost.iter().take(LINES_MAX) {
        println!("      {:<18} {line}", "damaged");
    }
    if report.lost.len() > LINES_MAX {
        println!("      {:<18} and {} more", "", report.lost.len() - LINES_MAX);
    }
}
