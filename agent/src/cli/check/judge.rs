//! Pure: from the facts of a machine to what it lacks, each with a one-line cure.

/// The first kernel with `mount_setattr`, which libcontainer cannot do without.
const KERNEL_MIN: (u32, u32) = (5, 12);
/// 2026-01-01: a clock before the build's year was never set.
const CLOCK_FLOOR: u64 = 1_767_225_600;
/// Images, logs and the store of a small board; below it the first pull may fail.
const DISK_WARN_MIB: u64 = 1024;
/// The store's own cap and a restart's worth of logs.
const DISK_MIN_MIB: u64 = 128;

/// What was read from the machine, mostly as the kernel prints it.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) kernel: String,
    pub(super) root: bool,
    pub(super) cgroups: String,
    pub(super) mounts: String,
    pub(super) unified_controllers: String,
    pub(super) filesystems: String,
    pub(super) modules: String,
    pub(super) seccomp_actions: String,
    pub(super) user_namespaces_max: u64,
    /// What nf_tables did not do, if anything.
    pub(super) netfilter_error: Option<String>,
    pub(super) unix_seconds: u64,
    pub(super) ports_in_use: Vec<String>,
    pub(super) disk_free_mib: u64,
    pub(super) data_dir: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    Warning,
    Missing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) level: Level,
    pub(super) found: String,
    pub(super) cure: &'static str,
}

fn finding(what: &'static str, level: Level, found: impl Into<String>, cure: &'static str) -> Finding {
    Finding { what, level, found: found.into(), cure }
}

fn necessary(good: bool) -> Level {
    if good { Level::Good } else { Level::Missing }
}

fn wished(good: bool) -> Level {
    if good { Level::Good } else { Level::Warning }
}

/// Everything that was looked at, in the order in which a person would mend it.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        finding(
            "root",
            necessary(facts.root),
            if facts.root { "yes" } else { "no" },
            "run it with sudo: namespaces, mounts and cgroups need it",
        ),
        finding(
            "kernel",
            necessary(version(&facts.kernel) >= KERNEL_MIN),
            facts.kernel.clone(),
            "upgrade to Linux 5.12 or later (Raspberry Pi OS bookworm has 6.1)",
        ),
    ];
    findings.extend(["memory", "pids", "cpu"].map(|controller| cgroup(facts, controller)));
    findings.push(kernel_part(facts, "overlay", facts.filesystems.contains("\toverlay\n"), "modprobe overlay"));
    findings.push(finding(
        "nftables",
        necessary(facts.netfilter_error.is_none()),
        facts.netfilter_error.clone().unwrap_or_else(|| "answers".into()),
        "modprobe nf_tables nft_chain_nat nft_ct nft_masq, or a kernel with CONFIG_NF_TABLES_INET",
    ));
    findings.push(finding(
        "seccomp",
        necessary(facts.seccomp_actions.contains("errno")),
        facts.seccomp_actions.trim(),
        "a kernel with CONFIG_SECCOMP_FILTER",
    ));
    findings.push(finding(
        "user namespaces",
        wished(facts.user_namespaces_max > 0),
        format!("at most {}", facts.user_namespaces_max),
        "sysctl -w user.max_user_namespaces=15000; only pods with hostUsers: false need it",
    ));
    findings.push(finding(
        "clock",
        wished(facts.unix_seconds >= CLOCK_FLOOR),
        format!("{} s since 1970", facts.unix_seconds),
        "timedatectl set-ntp true; pods start all the same, and the controller tells the time",
    ));
    findings.push(finding(
        "ports",
        necessary(facts.ports_in_use.is_empty()),
        if facts.ports_in_use.is_empty() {
            "free".into()
        } else {
            format!("in use: {}", facts.ports_in_use.join(", "))
        },
        "stop what listens there (ss -ltnp), or choose --listen and --kubelet-port",
    ));
    findings.push(disk(facts));
    findings
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// A part of the kernel that is there, or can be loaded on demand.
fn kernel_part(facts: &Facts, what: &'static str, present: bool, cure: &'static str) -> Finding {
    let loadable = facts.modules.contains(&format!("/{what}.ko"));
    let found = match (present, loadable) {
        (true, _) => "present",
        (false, true) => "a module, loaded on demand",
        (false, false) => "absent",
    };
    finding(what, necessary(present || loadable), found, cure)
}

fn cgroup(facts: &Facts, controller: &'static str) -> Finding {
    let what = match controller {
        "memory" => "memory cgroup",
        "pids" => "pids cgroup",
        _ => "cpu cgroup",
    };
    let unified = facts.unified_controllers.split_whitespace().any(|name| name == controller);
    let mounted = facts
        .mounts
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3).filter(|_| line.contains(" cgroup ")))
        .any(|options| options.split(',').any(|option| option == controller));
    let known = facts.cgroups.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        (columns.next() == Some(controller)).then(|| columns.nth(2) == Some("1"))
    });
    let found = match (unified, mounted, known) {
        (true, _, _) => "cgroup v2",
        (_, true, _) => "cgroup v1",
        (_, _, Some(true)) => "known to the kernel, mounted nowhere",
        (_, _, Some(false)) => "switched off at boot",
        _ => "absent",
    };
    let cure = if controller == "memory" {
        "append cgroup_enable=memory cgroup_memory=1 to /boot/firmware/cmdline.txt (one line) and reboot"
    } else {
        "mount -t cgroup2 none /sys/fs/cgroup, or a kernel with this controller"
    };
    finding(what, necessary(unified || mounted), found, cure)
}

fn disk(facts: &Facts) -> Finding {
    let level = match facts.disk_free_mib {
        free if free < DISK_MIN_MIB => Level::Missing,
        free if free < DISK_WARN_MIB => Level::Warning,
        _ => Level::Good,
    };
    finding(
        "disk",
        level,
        format!("{} MiB free for {}", facts.disk_free_mib, facts.data_dir),
        "free some space, or choose a --data-dir on a larger disk",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pi() -> Facts {
        Facts {
            kernel: "6.1.21-v8+".into(),
            root: true,
            cgroups: "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n"
                .into(),
            unified_controllers: "cpuset cpu io memory pids".into(),
            filesystems: "nodev\toverlay\n".into(),
            seccomp_actions: "kill_process errno allow".into(),
            user_namespaces_max: 10,
            unix_seconds: CLOCK_FLOOR,
            disk_free_mib: 9000,
            ..Facts::default()
        }
    }

    fn level(facts: &Facts, what: &str) -> Level {
        judge(facts).into_iter().find(|finding| finding.what == what).unwrap().level
    }

    #[test]
    fn a_good_board_lacks_nothing() {
        assert!(judge(&pi()).iter().all(|finding| finding.level == Level::Good), "{:?}", judge(&pi()));
    }

    #[test]
    fn a_missing_boot_flag_is_told_with_its_cure() {
        let facts = Facts { unified_controllers: "cpu pids".into(), cgroups: "memory\t0\t1\t0\n".into(), ..pi() };
        let memory = judge(&facts).into_iter().find(|finding| finding.what == "memory cgroup").unwrap();
        assert_eq!((memory.level, memory.found.as_str()), (Level::Missing, "switched off at boot"));
        assert!(memory.cure.contains("cgroup_enable=memory"));
    }

    #[test]
    fn hybrid_cgroups_count() {
        let mounts = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n".into();
        assert_eq!(level(&Facts { unified_controllers: String::new(), mounts, ..pi() }, "memory cgroup"), Level::Good);
    }

    #[test]
    fn overlay_may_be_a_module() {
        let facts = Facts { filesystems: String::new(), modules: "kernel/fs/overlayfs/overlay.ko:\n".into(), ..pi() };
        assert_eq!(level(&facts, "overlay"), Level::Good);
        assert_eq!(level(&Facts { filesystems: String::new(), ..pi() }, "overlay"), Level::Missing);
    }

    #[test]
    fn an_old_kernel_a_wrong_clock_and_a_taken_port_are_seen() {
        assert_eq!(level(&Facts { kernel: "5.10.0-rpi".into(), ..pi() }, "kernel"), Level::Missing);
        assert_eq!(level(&Facts { unix_seconds: 12, ..pi() }, "clock"), Level::Warning);
        assert_eq!(level(&Facts { ports_in_use: vec!["0.0.0.0:6443".into()], ..pi() }, "ports"), Level::Missing);
        assert_eq!(level(&Facts { disk_free_mib: 500, ..pi() }, "disk"), Level::Warning);
    }
}
