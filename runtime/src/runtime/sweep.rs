//! Shell: what nobody owns any more goes: after a crash, and at the end.

use std::{collections::BTreeSet, fs, path::Path};

use super::{Runtime, locked, subdirectories};
use crate::{
    cgroup::{self, Hierarchy},
    error::Error,
    layout::Layout,
    rootfs,
    status::SweepReport,
};

impl Runtime {
    /// Removes every leftover of this instance that belongs to no sandbox in `keep`, and counts it.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> Result<SweepReport, Error> {
        let mut report = SweepReport::default();
        self.sweep_into(keep, &mut report).map(|()| report)
    }

    /// One that does not go keeps no other; the first error is told at the end.
    fn sweep_into(&self, keep: &BTreeSet<String>, report: &mut SweepReport) -> Result<(), Error> {
        let mut first = Ok(());
        let known: Vec<String> = locked(&self.sandboxes).keys().cloned().collect();
        for id in known.iter().filter(|id| !keep.contains(*id)) {
            report.containers += self.container_records().iter().filter(|(_, c)| c.sandbox_id == **id).count();
            report.sandboxes += 1;
            first = first.and(self.remove_sandbox(id));
        }
        let kept: BTreeSet<String> = locked(&self.sandboxes).keys().cloned().collect();
        first = first.and(self.sweep_cgroups(&kept, report));
        for dir in subdirectories(&self.layout.sandboxes_dir()) {
            let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if kept.contains(name) {
                first = first.and(self.sweep_containers(&dir, report));
            } else {
                report.sandboxes += 1;
                first = first.and(remove_tree(&dir, report));
            }
        }
        self.sweep_exits();
        first
    }

    /// Directories of containers whose making was cut short.
    fn sweep_containers(&self, sandbox_dir: &Path, report: &mut SweepReport) -> Result<(), Error> {
        for dir in subdirectories(&sandbox_dir.join("c")) {
            let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if !locked(&self.containers).contains_key(name) {
                report.containers += 1;
                remove_tree(&dir, report)?;
            }
        }
        Ok(())
    }

    fn sweep_exits(&self) {
        for entry in fs::read_dir(self.layout.exits_dir()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|n| n.strip_suffix(".exit")?.split_once('.')).map(|(_, id)| id.to_string());
            if !id.is_some_and(|id| locked(&self.containers).contains_key(&id)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Pods' groups (`.../pod<uid>`) that no kept sandbox uses; the levels above them are the agent's.
    fn sweep_cgroups(&self, kept: &BTreeSet<String>, report: &mut SweepReport) -> Result<(), Error> {
        let records: Vec<_> = locked(&self.sandboxes).values().cloned().collect();
        let used: Vec<String> = records
            .iter()
            .filter(|record| kept.contains(&record.config.id))
            .map(|record| format!("/{}", self.layout.pod_cgroup(&record.config.cgroup_parent)))
            .collect();
        let mut stale: BTreeSet<String> = BTreeSet::new();
        for dir in cgroup::all_below(&self.host.hierarchy, &self.layout.cgroup_root) {
            let Some(path) = below_mount(&dir, &self.layout.cgroup_root) else { continue };
            let pod = path.split('/').position(|part| part.starts_with("pod"));
            if let Some(at) = pod {
                let path = path.split('/').take(at + 1).collect::<Vec<_>>().join("/");
                if !used.contains(&path) {
                    stale.insert(path);
                }
            }
        }
        for path in stale {
            report.processes += cgroup::kill(&self.host.hierarchy, &path, &[]);
            report.cgroups += cgroup::remove(&self.host.hierarchy, &path, &path)?;
        }
        Ok(())
    }

    /// Removes everything of this instance; images stay. The runtime is of no use afterwards.
    pub fn purge(&self) -> Result<SweepReport, Error> {
        let mut report = SweepReport::default();
        let swept = self.sweep_into(&BTreeSet::new(), &mut report);
        let cleared = clear(&self.host.hierarchy, &self.layout, &mut report);
        swept.and(cleared)?;
        // Last: as long as something is left, the next one must find whose boot it is of.
        let _ = fs::remove_file(self.layout.run_dir.join("boot_id"));
        Ok(report)
    }
}

/// Ends and removes by place what the instance has, whatever the records say: all in its cgroup, all mounts and files
/// below its run directory. One that does not go keeps no other; the first error is told.
pub(super) fn clear(hierarchy: &Hierarchy, layout: &Layout, report: &mut SweepReport) -> Result<(), Error> {
    let root = &layout.cgroup_root;
    report.processes += cgroup::kill(hierarchy, root, &[]);
    let mut first = cgroup::remove(hierarchy, root, root).map(|count| report.cgroups += count);
    for dir in [layout.sandboxes_dir(), layout.exits_dir()] {
        first = first.and(remove_tree(&dir, report));
    }
    first
}

/// The path from a hierarchy's mount on, if it lies below the instance's root.
fn below_mount(dir: &Path, root: &str) -> Option<String> {
    let text = dir.to_str()?;
    let marker = format!("/{}/", root.trim_matches('/'));
    text.find(&marker).map(|at| text[at..].to_string())
}

fn remove_tree(dir: &Path, report: &mut SweepReport) -> Result<(), Error> {
    for mount in rootfs::mounts_below(dir) {
        report.mounts += rootfs::unmount(&mount);
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir)(e)),
        _ => Ok(()),
    }
}
