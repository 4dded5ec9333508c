//! Shell: each hole that libcontainer leaves open, closed.

use std::fs;

use bramble_runtime::{
    Capabilities, ContainerConfig, ContainerState, DeviceMapping, Error, EventKind, ExecConfig, IdMap, Mount,
    Propagation, Resources, Rlimit, Rootfs, Seccomp, Security, Size,
};

use crate::{Test, board::Board};

pub(crate) const TESTS: &[Test] = &[
    ("a_container_runs_and_its_end_is_told", a_container_runs),
    ("exec_keeps_the_seccomp_profile_and_drops_capabilities", exec_keeps_seccomp),
    ("exec_into_a_user_namespace_is_not_the_hosts_root", exec_in_userns),
    ("propagation_goes_as_far_as_asked", propagation),
    ("a_container_cannot_raise_its_own_limit", cgroup_read_only),
    ("sigpipe_kills_again", sigpipe),
    ("no_group_of_ours_is_inherited", groups),
    ("stdio_belongs_to_the_containers_user", stdio_owner),
    ("a_missing_working_dir_is_made", working_dir),
    ("an_oom_kill_is_told", oom),
    ("a_tiny_cpu_quota_is_clamped", quota),
    ("no_new_privileges_and_seccomp_go_together", no_new_privileges),
    ("a_profile_of_ones_own_is_loaded", localhost_seccomp),
    ("nothing_asks_for_apparmor", apparmor),
    ("a_terminal_has_its_size_and_owner", terminal),
    ("what_we_may_not_grant_is_clamped", resource_clamp),
    ("deleting_running_containers_under_load_works", delete_under_load),
    ("a_hundred_layers_are_mounted", many_layers),
    ("the_pods_namespaces_are_shared_and_its_sysctls_set", sandbox_namespaces),
    ("one_pid_namespace_for_all_when_asked", shared_pids),
    ("a_read_only_rootfs_and_masked_paths", read_only),
    ("devices_are_those_given", devices),
    ("a_program_that_is_not_there_is_said_so", start_errors),
    ("statistics_count", statistics),
    ("a_pods_limit_can_be_changed", update),
];

fn secure(config: ContainerConfig, security: Security) -> ContainerConfig {
    ContainerConfig { security, ..config }
}

fn status_field(log: &str, name: &str) -> String {
    let line = log.lines().find_map(|l| l.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {log}")).trim_start_matches(':').trim().to_string()
}

fn a_container_runs() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("echo hello; hostname; cat /etc/hostname; exit 7"));
    let mut kinds = Vec::new();
    let status = board.until(|| {
        kinds.extend(board.events.drain().unwrap().into_iter().map(|e| e.kind));
        let status = board.runtime.container(&id).unwrap();
        (status.state == ContainerState::Exited).then_some(status)
    });
    kinds.extend(board.events.drain().unwrap().into_iter().map(|e| e.kind));
    assert_eq!(status.exit_code, Some(7));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at, "{status:?}");
    assert_eq!(board.log(&id), "hello\nweb-0\nweb-0\n");
    assert!(kinds.contains(&EventKind::Started), "{kinds:?}");
    assert!(!kinds.contains(&EventKind::ShimLost), "{kinds:?}");
}

fn exec_keeps_seccomp() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("grep -E 'Seccomp|Cap' /proc/1/status; sleep 1000"));
    let (code, inside) = board.exec(&id, "grep -E 'Seccomp|Cap' /proc/self/status");
    assert_eq!(code, 0, "{inside}");
    board.until(|| board.log(&id).contains("Seccomp_filters").then_some(()));
    let own = board.log(&id);
    assert_eq!(status_field(&own, "Seccomp:"), "2");
    for field in ["Seccomp:", "Seccomp_filters:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(status_field(&own, field), status_field(&inside, field), "{field}");
    }
    let (code, said) = board.exec(&id, "unshare -m true");
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
    let (code, said) = board.exec(&id, "mount -t tmpfs x /mnt");
    assert_ne!(code, 0, "{said}");
    let leftovers = board.layout.sandbox_dir(&sandbox).join("x");
    assert_eq!(fs::read_dir(leftovers).unwrap().count(), 0, "an exec leaves nothing behind");
}

fn exec_in_userns() {
    let board = Board::new();
    let map = IdMap { host_id: 2_000_000, size: 65_536 };
    let sandbox = board.sandbox_with(|s| s.userns = Some(map));
    let config =
        board.config("id -u; cat /proc/self/uid_map; touch /root/x && ls -ln /bin/busybox; echo up; sleep 1000");
    let id = board.start(&sandbox, &config);
    board.until(|| board.log(&id).contains("up").then_some(()));
    let log = board.log(&id);
    assert!(log.starts_with("0\n") && log.contains("2000000"), "{log}");
    assert!(log.contains(" 0        0 ") || log.contains("1 0        0") || log.contains(" 0 "), "{log}");
    let (code, said) = board.exec(&id, "cat /proc/self/uid_map; touch /root/y; echo $?");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("2000000"), "{said}");
    let pid = board.runtime.container(&id).unwrap().pid.unwrap();
    let real = |pid: u32| status_field(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap(), "Uid:");
    assert!(real(pid).starts_with("2000000"), "{}", real(pid));
    let Rootfs::Layers { upper, .. } = &config.rootfs else { unreachable!() };
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(upper.join("root/y")).unwrap().uid(), 2_000_000);
    // As root of the container, a file of the host's root is out of reach.
    let (_, said) = board.exec(&id, "echo 1 > /proc/sys/kernel/hostname || echo 1 > /proc/sysrq-trigger; echo no");
    assert!(said.contains("Permission denied") || said.contains("Read-only"), "{said}");
}

fn propagation() {
    use rustix::mount::{MountPropagationFlags, UnmountFlags};
    let board = Board::new();
    let sandbox = board.sandbox();
    let shared = board.dir.join("shared");
    fs::create_dir_all(&shared).unwrap();
    rustix::mount::mount_bind(&shared, &shared).unwrap();
    rustix::mount::mount_change(&shared, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::PRIVATE)
        .or_else(|_| rustix::mount::mount_change(&shared, MountPropagationFlags::PRIVATE))
        .unwrap();
    rustix::mount::mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
    fs::create_dir_all(shared.join("late")).unwrap();
    fs::create_dir_all(shared.join("up")).unwrap();
    let with = |propagation| {
        let mut config = board.config("while true; do sleep 1; done");
        config.mounts = vec![Mount { source: shared.clone(), target: "/mnt".into(), propagation, ..Mount::default() }];
        config.security.privileged = true;
        board.start(&sandbox, &config)
    };
    let private = with(Propagation::Private);
    let slave = with(Propagation::HostToContainer);
    let both = with(Propagation::Bidirectional);
    rustix::mount::mount("late", shared.join("late"), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    fs::write(shared.join("late/file"), "x").unwrap();
    let sees = |id: &str| board.exec(id, "test -e /mnt/late/file").0 == 0;
    assert_eq!([sees(&private), sees(&slave), sees(&both)], [false, true, true]);
    let mounts_up = |id: &str| {
        let (code, said) = board.exec(id, "mount -t tmpfs up /mnt/up && touch /mnt/up/file");
        assert_eq!(code, 0, "{said}");
        shared.join("up/file").exists()
    };
    assert!(!mounts_up(&private));
    assert!(!mounts_up(&slave));
    assert!(mounts_up(&both));
    for mount in ["late", "up", ""] {
        let _ = rustix::mount::unmount(shared.join(mount), UnmountFlags::DETACH);
    }
}

fn cgroup_read_only() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config(
        "f=/sys/fs/cgroup/memory/memory.limit_in_bytes; [ -e $f ] || f=/sys/fs/cgroup/memory.max; cat $f; \
         echo 900000000 > $f || echo refused; cat $f",
    );
    config.resources.memory_limit = Some(64 << 20);
    let said = board.says(&sandbox, &config);
    assert!(said.contains("Read-only file system") && said.contains("refused"), "{said}");
    assert_eq!(said.matches("67108864").count(), 2, "{said}");
}

fn sigpipe() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let said = board.says(&sandbox, &board.config("grep SigIgn /proc/self/status; yes | head -n 1"));
    assert_eq!(status_field(&said, "SigIgn:"), "0000000000000000");
    let id = board.start(&sandbox, &board.config("sleep 1000"));
    let (_, said) = board.exec(&id, "grep SigIgn /proc/self/status; grep SigBlk /proc/self/status");
    assert_eq!(status_field(&said, "SigIgn:"), "0000000000000000");
    assert_eq!(status_field(&said, "SigBlk:"), "0000000000000000");
}

fn groups() {
    let board = Board::new();
    let sandbox = board.sandbox();
    // A supplementary group of our own, as a service manager might give one.
    // SAFETY: a valid list of one; other tests do not run at the same time.
    unsafe { libc::setgroups(1, [4711].as_ptr()) };
    let plain = board.config("id -G; sleep 1000");
    let named = secure(
        board.config("id -u; id -g; id -G; echo $HOME"),
        Security { user: Some("web".into()), supplemental_groups: vec![2000], ..Security::default() },
    );
    let id = board.start(&sandbox, &plain);
    let (_, inside) = board.exec(&id, "id -G");
    let said = board.says(&sandbox, &named);
    // SAFETY: an empty list is valid.
    unsafe { libc::setgroups(0, std::ptr::null()) };
    board.until(|| (board.log(&id) == "0\n").then_some(()));
    assert_eq!(inside, "0\n");
    assert_eq!(said, "33\n34\n34 997 2000\n/srv\n");
}

fn stdio_owner() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let script = "echo one > /dev/stdout; echo two > /dev/stderr; id -u";
    let user = Security { run_as_user: Some(1234), run_as_group: Some(1234), ..Security::default() };
    let said = board.says(&sandbox, &secure(board.config(script), user.clone()));
    for wanted in ["one\n", "two\n", "1234\n"] {
        assert!(said.contains(wanted), "{said}");
    }
    let id = board.start(&sandbox, &secure(board.config("sleep 1000"), user));
    let (code, said) = board.exec(&id, script);
    assert_eq!((code, said.as_str()), (0, "one\n1234\ntwo\n"));
}

fn working_dir() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("pwd; touch here && echo made");
    config.working_dir = "/srv/app/data".into();
    config.security.run_as_user = Some(1000);
    assert_eq!(board.says(&sandbox, &config), "/srv/app/data\nmade\n");
    let volume = board.dir.join("volume");
    fs::create_dir_all(&volume).unwrap();
    let mut config = board.config("pwd");
    config.working_dir = "/data/in/it".into();
    config.mounts = vec![Mount { source: volume.clone(), target: "/data".into(), ..Mount::default() }];
    assert_eq!(board.says(&sandbox, &config), "/data/in/it\n");
    assert!(volume.join("in/it").is_dir());
}

fn oom() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("exec tail -c 200000000 /dev/zero");
    config.resources.memory_limit = Some(16 << 20);
    let (status, log) = board.run(&sandbox, &config);
    assert!(status.oom_killed, "{status:?} {log}");
    assert_eq!((status.exit_code, status.signal), (Some(137), Some(9)));
    let (status, _) = board.run(&sandbox, &board.config("kill -9 $$"));
    assert!(!status.oom_killed, "a kill is no OOM");
}

fn quota() {
    let board = Board::new();
    let sandbox = board.sandbox_with(|s| s.resources = Resources { cpu_quota: Some(5), ..Resources::default() });
    let mut config =
        board.config("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max");
    config.resources.cpu_quota = Some(10);
    assert_eq!(board.says(&sandbox, &config), "1000\n");
}

fn no_new_privileges() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let script = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; sleep 1000";
    let with = |on| secure(board.config(script), Security { no_new_privileges: on, ..Security::default() });
    for (on, wanted) in [(true, "1"), (false, "0")] {
        let id = board.start(&sandbox, &with(on));
        board.until(|| board.log(&id).contains("Seccomp").then_some(()));
        let (code, inside) = board.exec(&id, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status");
        assert_eq!(code, 0, "{inside}");
        for log in [board.log(&id), inside] {
            assert_eq!(status_field(&log, "NoNewPrivs:"), wanted);
            assert_eq!(status_field(&log, "Seccomp:"), "2");
        }
    }
}

fn localhost_seccomp() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let profile = board.dir.join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
    fs::write(&profile, text).unwrap();
    let script = "mkdir /tmp/x; echo $?; unshare -u true; echo $?";
    let security = Security { seccomp: Seccomp::Localhost(profile), ..Security::default() };
    let said = board.says(&sandbox, &secure(board.config(script), security));
    // The C library's words for the 38 (ENOSYS) that the profile answers with.
    assert!(said.contains("Function not implemented"), "{said}");
    let security = Security { seccomp: Seccomp::Unconfined, ..Security::default() };
    let said = board.says(&sandbox, &secure(board.config("grep Seccomp: /proc/self/status"), security));
    assert_eq!(status_field(&said, "Seccomp:"), "0");
}

fn apparmor() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("sleep 1000"));
    let spec = fs::read_to_string(board.layout.container_dir(&sandbox, &id).join("config.json")).unwrap();
    assert!(!spec.contains("apparmorProfile"), "{spec}");
    assert_eq!(board.exec(&id, "true").0, 0);
}

fn terminal() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("tty; while read line; do stty size; echo got $line; done; exit 4");
    config.tty = true;
    config.security.run_as_user = Some(1000);
    let id = board.start(&sandbox, &config);
    board.runtime.resize(&id, Size { width: 99, height: 33 }).unwrap();
    let session = board.runtime.attach(&id, true).unwrap();
    rustix::io::write(session.stdin.as_ref().unwrap(), b"one\n").unwrap();
    board.until(|| board.log(&id).contains("got one").then_some(()));
    assert!(board.log(&id).contains("33 99"), "{}", board.log(&id));
    rustix::io::write(session.stdin.as_ref().unwrap(), b"\x04").unwrap();
    assert_eq!(session.wait().unwrap().unwrap().code, 4);
    let id = board.start(&sandbox, &secure(board.config("sleep 1000"), config.security));
    let exec = ExecConfig {
        args: ["sh", "-c", "stty size; tty; echo hi > $(tty) && exit 5"].map(String::from).to_vec(),
        tty: Some(Size { width: 120, height: 40 }),
        ..ExecConfig::default()
    };
    let session = board.runtime.exec(&id, &exec).unwrap();
    let status = session.wait().unwrap().unwrap();
    let mut said = vec![0; 4096];
    let mut count = 0;
    while let Ok(more) = rustix::io::read(session.stdout.as_ref().unwrap(), &mut said[count..]) {
        count += more;
        if more == 0 {
            break;
        }
    }
    let said = String::from_utf8_lossy(&said[..count]).into_owned();
    assert_eq!(status.code, 5, "{said}");
    assert!(said.contains("40 120") && said.contains("hi"), "{said}");
}

fn resource_clamp() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("cat /proc/self/oom_score_adj; ulimit -Hn; grep CapBnd /proc/self/status");
    config.resources.oom_score_adj = Some(-998);
    config.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1 << 40, hard: 1 << 40 }];
    config.security.capabilities = Capabilities { add: vec!["SYS_RESOURCE".into()], drop: vec![] };
    let (status, log) = board.run(&sandbox, &config);
    assert_eq!(status.exit_code, Some(0), "{log}");
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let bound = status_field(&fs::read_to_string("/proc/self/status").unwrap(), "CapBnd:");
    let may = u64::from_str_radix(&bound, 16).unwrap() >> 24 & 1 == 1;
    let wanted = if may { "-998" } else { own.trim() };
    assert_eq!(log.lines().next(), Some(wanted));
    let given = u64::from_str_radix(&status_field(&log, "CapBnd:"), 16).unwrap() >> 24 & 1 == 1;
    assert_eq!(given, may);
}

fn delete_under_load() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let ids: Vec<String> = (0..6)
        .map(|_| {
            board.start(&sandbox, &board.config("for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait"))
        })
        .collect();
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| board.runtime.remove_container(id).unwrap_or_else(|e| panic!("{}", e.chain())));
        }
    });
    assert!(board.runtime.containers().unwrap().is_empty());
}

fn many_layers() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("cat /layers/*");
    let Rootfs::Layers { lower, .. } = &mut config.rootfs else { unreachable!() };
    let folder = board.dir.join("a-rather-long-name-as-content-addressed-layers-have-them-0123456789abcdef0123456789");
    for layer in 0..100 {
        let dir = folder.join(format!("{layer:03}"));
        fs::create_dir_all(dir.join("layers")).unwrap();
        fs::write(dir.join(format!("layers/{layer:03}")), format!("{layer}\n")).unwrap();
        lower.insert(0, dir);
    }
    assert_eq!(board.says(&sandbox, &config).lines().count(), 100);
}

fn sandbox_namespaces() {
    let board = Board::new();
    let sandbox = board.sandbox_with(|s| {
        s.sysctls.insert("net.ipv4.ip_local_port_range".into(), "2000 3000".into());
        s.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    });
    let one = board.start(&sandbox, &board.config("echo x > /dev/shm/x; ip link; sleep 1000"));
    board.until(|| board.exec(&one, "test -e /dev/shm/x").0.eq(&0).then_some(()));
    let script = "cat /dev/shm/x /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced; ip addr; \
                  for n in net ipc uts pid; do readlink /proc/self/ns/$n; done";
    let two = board.says(&sandbox, &board.config(script));
    let (_, three) = board.exec(&one, "for n in net ipc uts; do readlink /proc/self/ns/$n; done");
    assert!(two.starts_with("x\n2000\t3000\n1\n"), "{two}");
    assert!(two.contains("127.0.0.1"), "lo is up: {two}");
    for line in three.lines().take(3) {
        assert!(two.contains(line), "{line} in {two}");
    }
    let held = board.runtime.sandbox(&sandbox).unwrap().netns_path.unwrap();
    use std::os::unix::fs::MetadataExt;
    assert!(two.contains(&format!("net:[{}]", fs::metadata(held).unwrap().ino())), "{two}");
}

fn shared_pids() {
    let board = Board::new();
    let sandbox = board.sandbox_with(|s| s.share_process_namespace = true);
    let one = board.start(&sandbox, &board.config("sleep 4321 & sleep 1000"));
    board.until(|| board.exec(&one, "ps").1.contains("sleep 4321").then_some(()));
    let two = board.says(&sandbox, &board.config("ps; echo $$"));
    assert!(two.contains("sleep 1000") && two.contains("bramble-reaper"), "{two}");
    // When its first process ends, the rest of the container goes too; the others stay.
    board.runtime.signal_container(&one, libc::SIGKILL).unwrap();
    assert_eq!(board.ended(&one).exit_code, Some(137));
    let three = board.says(&sandbox, &board.config("ps"));
    assert!(!three.contains("sleep 4321"), "{three}");
}

fn read_only() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let script = "touch /x || echo ro; cat /proc/kcore | wc -c; echo 1 > /proc/sys/vm/overcommit_memory || echo sys; \
                  mount | grep ' /sys '; ls /sys/firmware | wc -l; touch /tmp/y && echo tmp";
    let volume = board.dir.join("tmp");
    fs::create_dir_all(&volume).unwrap();
    let mut config = secure(board.config(script), Security { read_only_rootfs: true, ..Security::default() });
    config.mounts = vec![Mount { source: volume, target: "/tmp".into(), ..Mount::default() }];
    let said = board.says(&sandbox, &config);
    for wanted in ["ro\n", "sys\n", "0\n", "tmp\n", "(ro,nosuid,nodev,noexec"] {
        assert!(said.contains(wanted), "{wanted:?} in {said}");
    }
}

fn devices() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let script = "ls /dev; head -c 1 /dev/urandom | wc -c; mknod /tmp/mem c 1 1; head -c 1 /tmp/mem; echo $?; \
                  head -c 1 /dev/fuse2; echo $?";
    let said = board.says(&sandbox, &board.config(script));
    assert!(said.contains("null\n") && said.contains("/tmp/mem: Operation not permitted"), "{said}");
    assert!(!said.contains("fuse2\n") || said.contains("fuse2: No such"), "{said}");
    let mut config = board.config("ls -l /dev/mine; : < /dev/mine && echo open");
    config.devices = vec![DeviceMapping {
        host_path: "/dev/net/tun".into(),
        container_path: "/dev/mine".into(),
        permissions: "rw".into(),
    }];
    let said = board.says(&sandbox, &config);
    assert!(said.contains("10, 200") && said.contains("open"), "{said}");
    let privileged = Security { privileged: true, ..Security::default() };
    let said =
        board.says(&sandbox, &secure(board.config("ls /dev; mount -t tmpfs x /mnt && echo mounted"), privileged));
    assert!(said.contains("kmsg\n") && said.contains("mounted"), "{said}");
    // The host's whole /dev, as administrators' pods have it: seen, and left as it is.
    use std::os::unix::fs::FileTypeExt;
    let before = fs::read_dir("/dev").unwrap().count();
    let mut config = board.config("ls /dev; head -c 1 /dev/zero | wc -c; test -c /dev/kmsg && echo there");
    config.mounts = vec![Mount { source: "/dev".into(), target: "/dev".into(), ..Mount::default() }];
    let said = board.says(&sandbox, &secure(config, Security { privileged: true, ..Security::default() }));
    assert!(said.contains("there\n") && said.contains("1\n") && said.contains("null\n"), "{said}");
    assert!(fs::symlink_metadata("/dev/ptmx").unwrap().file_type().is_char_device(), "the host's /dev was changed");
    assert_eq!(fs::read_dir("/dev").unwrap().count(), before);
}

fn start_errors() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("");
    config.args = vec!["no-such-program".into()];
    let id = board.runtime.create_container(&sandbox, &config).unwrap();
    let error = board.runtime.start_container(&id).unwrap_err();
    assert_eq!(error.to_string(), r#"exec: "no-such-program": executable file not found in $PATH"#);
    let status = board.ended(&id);
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, Some(128)));
    assert_eq!(status.message, error.to_string());
    let mut config = board.config("");
    config.args = vec!["/etc/passwd".into()];
    let id = board.runtime.create_container(&sandbox, &config).unwrap();
    let error = board.runtime.start_container(&id).unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    let mut config = board.config("true");
    config.security.user = Some("nobody-here".into());
    assert!(matches!(board.runtime.create_container(&sandbox, &config), Err(Error::Invalid(_))));
    let mut config = board.config("true");
    config.mounts = vec![Mount { source: "/no/such/source".into(), target: "/x".into(), ..Mount::default() }];
    assert!(board.runtime.create_container(&sandbox, &config).is_err());
    let id = board.start(&sandbox, &board.config("sleep 1000"));
    let exec = ExecConfig { args: vec!["nope".into()], ..ExecConfig::default() };
    let error = board.runtime.exec(&id, &exec).unwrap_err();
    assert_eq!(error.to_string(), r#"exec: "nope": executable file not found in $PATH"#);
    let slow = ExecConfig { args: vec!["sleep".into(), "1000".into()], timeout_ms: Some(100), ..ExecConfig::default() };
    assert_eq!(crate::board::finish(board.runtime.exec(&id, &slow).unwrap()).0, 137);
}

fn statistics() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id =
        board.start(&sandbox, &board.config("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 1000"));
    board.until(|| board.log(&id).contains("done").then_some(()));
    let container = board.runtime.container_stats(&id).unwrap();
    let pod = board.runtime.sandbox_stats(&sandbox).unwrap();
    assert!(container.cpu_usage_ns > 1_000_000 && container.pids >= 1, "{container:?}");
    assert!(container.memory_working_set_bytes > 0, "{container:?}");
    assert!(pod.cpu_usage_ns >= container.cpu_usage_ns && pod.pids > container.pids, "{pod:?} {container:?}");
}

fn update() {
    let board = Board::new();
    let sandbox = board.sandbox_with(|s| s.resources.memory_limit = Some(100 << 20));
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    let id = board.start(&sandbox, &board.config("sleep 1000"));
    let limit = Resources { memory_limit: Some(50 << 20), cpu_shares: Some(512), ..Resources::default() };
    board.runtime.update_resources(&id, &limit).unwrap();
    assert_eq!(board.exec(&id, script).1, "52428800\n");
    board.runtime.update_sandbox_resources(&sandbox, &limit).unwrap();
}
