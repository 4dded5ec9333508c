//! Shell: `bramble down`: stops this instance and removes every trace of it on the host.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bramble_agent::cni;
use bramble_agent::instance::Instance;
use bramble_agent::network;
use bramble_runtime::{Layout, Runtime};
use rustix::process::{Pid, Signal, kill_process};

use super::{Options, up};

/// A supervisor ends its children within its own limit of 20 s each.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);

pub(crate) fn down(options: &Options, purge: bool) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("`bramble down` removes namespaces, mounts and cgroups: run it as root (sudo)");
    }
    if !options.data_dir.exists() && !options.run_dir.exists() {
        eprintln!("bramble: nothing is left of {}", options.data_dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    let lock = stop_running(options, up::LOCK_FILE)?;
    // Those that ran without a supervisor, or outlived a killed one.
    let only =
        (stop_running(options, &up::daemon_lock("agent"))?, stop_running(options, &up::daemon_lock("controller"))?);
    let instance = Instance::new(&options.data_dir, &options.run_dir, options.cgroup_root.as_deref());
    let layout = Layout {
        data_dir: options.data_dir.clone(),
        run_dir: options.run_dir.clone(),
        cgroup_root: instance.cgroup_root.clone(),
        instance: instance.name.clone(),
    };
    // All of it is tried, so that one stubborn thing does not keep the others; each failure is told.
    let mut failures = Vec::new();
    match Runtime::open(layout).and_then(|runtime| runtime.purge()) {
        Ok(report) => eprintln!("bramble: removed {report:?}"),
        Err(error) => failures.push(anyhow!(error).context("containers")),
    }
    if let Err(error) = super::daemon::runtime()?.block_on(cni::down(&instance)) {
        failures.push(anyhow!(error).context("what CNI plugins made for pods"));
    }
    if let Err(error) = network::down(&instance) {
        failures.push(anyhow!(error).context("network"));
    }
    if let Err(error) = bramble_agent::volumes::purge(&instance) {
        failures.push(anyhow!(error).context("volumes"));
    }
    // What containers wrote goes with them; images and the store stay, unless asked otherwise.
    for folder in ["images/containers", "agent/pods", "logs"] {
        remove(&options.data_dir.join(folder), &mut failures);
    }
    // It says what still runs, so it stays as long as something does.
    if failures.is_empty() {
        remove(&options.run_dir, &mut failures);
    }
    if purge && failures.is_empty() {
        drop((lock, only));
        remove(&options.data_dir, &mut failures);
    }
    for failure in &failures {
        eprintln!("bramble: {failure:#}");
    }
    if failures.is_empty() {
        eprintln!("bramble: down{}", if purge { ", data removed" } else { "; the data stays (--purge removes it)" });
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{} thing(s) could not be removed", failures.len())
}

fn remove(path: &std::path::Path, failures: &mut Vec<anyhow::Error>) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            failures.push(anyhow!(error).context(format!("cannot remove {}", path.display())));
        }
        _ => {}
    }
}

/// Asks whoever holds a lock of the data directory to end, and takes it.
fn stop_running(options: &Options, name: &str) -> anyhow::Result<std::fs::File> {
    let path = options.data_dir.join(name);
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut asked = false;
    loop {
        let owner = std::fs::read_to_string(&path).unwrap_or_default();
        match up::lock(&options.data_dir, name) {
            Ok(lock) => return Ok(lock),
            Err(error) if Instant::now() >= deadline => return Err(error.context("it does not end")),
            Err(_) if !asked => {
                let pid = owner.trim().parse().ok().and_then(Pid::from_raw);
                let pid = pid.with_context(|| format!("{} does not say who holds it", path.display()))?;
                eprintln!("bramble: stopping process {}", pid.as_raw_nonzero());
                kill_process(pid, Signal::TERM).context("cannot stop it")?;
                // One that is frozen hears of it only when it goes on.
                let _ = kill_process(pid, Signal::CONT);
                asked = true;
            }
            // Nothing tells when a foreign process gives up its lock.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
