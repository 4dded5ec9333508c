//! Shell: a volume over the whole of `/dev`, such as the host's own in a privileged pod. libcontainer furnishes what lies at
//! `/dev`: it replaces `ptmx` and sets links, and would do so in the host's folder. So the container keeps a `/dev` of its own
//! and gets the volume's entries into it, one by one; what appears in the volume's top folder later is not seen.

use std::{fs, path::Path};

use crate::config::Mount;

/// What every container has of its own.
const OWN: [&str; 16] = [
    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
    "tty", "urandom", "zero",
];

/// Mounts over `/dev` taken apart; all others as they are.
pub(super) fn spread(mounts: Vec<Mount>) -> Vec<Mount> {
    let over_dev = |mount: &Mount| mount.target.components().eq(Path::new("/dev").components());
    mounts.into_iter().flat_map(|mount| if over_dev(&mount) { entries(&mount) } else { vec![mount] }).collect()
}

fn entries(mount: &Mount) -> Vec<Mount> {
    let entries = fs::read_dir(&mount.source).into_iter().flatten().flatten();
    let names = entries.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_symlink())).map(|it| it.file_name());
    let mut names: Vec<_> = names.filter(|name| !OWN.iter().any(|own| name == own)).collect();
    names.sort();
    let one = |name| Mount { source: mount.source.join(&name), target: mount.target.join(&name), ..mount.clone() };
    names.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_over_dev_is_taken_apart() {
        let mount =
            |source: &str, target: &str| Mount { source: source.into(), target: target.into(), ..Mount::default() };
        let spread = spread(vec![mount("/etc", "/etc"), mount("/dev", "/dev/"), mount("/dev/null", "/dev/my")]);
        assert_eq!(spread.first().map(|mount| mount.target.clone()), Some("/etc".into()));
        assert_eq!(spread.last().map(|mount| mount.target.clone()), Some("/dev/my".into()));
        let targets: Vec<_> = spread.iter().map(|mount| mount.target.as_path()).collect();
        assert!(!targets.contains(&Path::new("/dev")) && !targets.contains(&Path::new("/dev/ptmx")));
        assert!(spread.iter().all(|mount| mount.source.exists()));
    }
}
