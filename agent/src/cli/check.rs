//! Shell: gathers what this machine has; `judge` says what it lacks, each with its cure.

mod judge;

use std::net::{TcpListener, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::bail;
use judge::{Facts, Finding, Level};

use super::Options;

/// `bramble check`: prints a table; fails when something necessary is missing, or a store is damaged.
pub(crate) fn check(options: &Options) -> anyhow::Result<ExitCode> {
    let findings = judge::judge(&gather(options));
    for finding in &findings {
        let mark = match finding.level {
            Level::Good => "ok  ",
            Level::Warning => "warn",
            Level::Missing => "LACK",
        };
        println!("{mark}  {:<18} {}", finding.what, finding.found);
        if finding.level != Level::Good {
            println!("      {:<18} cure: {}", "", finding.cure);
        }
    }
    let stores = super::store::check(&options.data_dir)?;
    let missing = findings.iter().filter(|finding| finding.level == Level::Missing).count();
    if missing > 0 {
        println!("{missing} necessary thing(s) missing; `bramble up` would not work");
        return Ok(ExitCode::FAILURE);
    }
    if !stores {
        println!("the machine lacks nothing, but a store is damaged: see above");
        return Ok(ExitCode::FAILURE);
    }
    println!("this machine can run Bramble");
    Ok(ExitCode::SUCCESS)
}

/// What `bramble up` asks before it touches anything; ports and disk are left to those who use them.
pub(crate) fn essential() -> anyhow::Result<()> {
    let mut facts = gather(&Options::default());
    facts.ports_in_use.clear();
    let missing: Vec<Finding> =
        judge::judge(&facts).into_iter().filter(|finding| finding.level == Level::Missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing
        .iter()
        .map(|finding| format!("  {}: {}\n    cure: {}", finding.what, finding.found, finding.cure))
        .collect();
    bail!("this machine lacks something that Bramble needs:\n{}", lines.join("\n"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn gather(options: &Options) -> Facts {
    let uname = rustix::system::uname();
    let data = existing_parent(&options.data_dir);
    Facts {
        kernel: uname.release().to_string_lossy().into_owned(),
        root: rustix::process::geteuid().is_root(),
        cgroups: read("/proc/cgroups"),
        mounts: read("/proc/self/mounts"),
        unified_controllers: read("/sys/fs/cgroup/cgroup.controllers"),
        filesystems: read("/proc/filesystems"),
        modules: modules(&uname.release().to_string_lossy()),
        seccomp_actions: read("/proc/sys/kernel/seccomp/actions_avail"),
        user_namespaces_max: read("/proc/sys/user/max_user_namespaces").trim().parse().unwrap_or(0),
        netfilter_error: bramble_agent::services::probe().err(),
        unix_seconds: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        ports_in_use: ports_in_use(options),
        disk_free_mib: rustix::fs::statvfs(data).map_or(0, |stat| stat.f_bavail * stat.f_frsize / (1 << 20)),
        data_dir: options.data_dir.display().to_string(),
    }
}

/// Modules that the running kernel could load or has built in.
fn modules(release: &str) -> String {
    let folder = Path::new("/lib/modules").join(release);
    ["modules.builtin", "modules.dep"]
        .iter()
        .map(|name| std::fs::read_to_string(folder.join(name)).unwrap_or_default())
        .collect()
}

fn existing_parent(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn ports_in_use(options: &Options) -> Vec<String> {
    let mut wanted = options.listen.clone();
    if wanted.is_empty() {
        wanted.push("0.0.0.0:6443".into());
    }
    wanted.push(format!("0.0.0.0:{}", options.kubelet_port));
    wanted.retain(|address| match address.to_socket_addrs() {
        Ok(mut addresses) => addresses.any(|address| TcpListener::bind(address).is_err()),
        Err(_) => true,
    });
    wanted
}
