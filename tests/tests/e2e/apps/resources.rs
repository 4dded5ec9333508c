//! Requests, limits and logs: what a container may use, and what happens beyond.

use std::fs;
use std::path::{Path, PathBuf};

use bramble_tests::board::Board;

use super::{TOOLS, board, field, sh, wait_field, wait_ready};

/// Files of a container's cgroup: of the controller's own hierarchy, or of the unified one, whichever this host has.
fn knob(container_pid: i32, controller: &str, v1: &str, v2: &str) -> String {
    let table = fs::read_to_string(format!("/proc/{container_pid}/cgroup")).expect("it runs");
    let legacy = table.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let names = parts.nth(1)?;
        names.split(',').any(|name| name == controller).then(|| parts.next().unwrap_or_default().to_owned())
    });
    let path: PathBuf = match legacy {
        Some(path) => Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')).join(v1),
        None => {
            let path = table.lines().find_map(|line| line.strip_prefix("0::")).expect("a cgroup");
            Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')).join(v2)
        }
    };
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// The process on the host that sleeps for so long: the whole argument counts, one may be the end of another.
fn pid_of(seconds: &str) -> i32 {
    let processes = fs::read_dir("/proc").expect("listed").flatten();
    let found = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        (line == format!("sleep\0{seconds}\0").as_bytes()).then_some(pid)
    });
    found.min().expect("the container runs")
}

/// Pods of all classes of service but the lowest, one that wants too much, and one that says too much.
fn pods(mark: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: limited}}
spec:
  containers:
  - name: main
    image: {TOOLS}
    command: [sleep, "{mark}"]
    resources: {{requests: {{cpu: 250m, memory: 16Mi}}, limits: {{cpu: 500m, memory: 64Mi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: sure}}
spec:
  containers:
  - {{name: main, image: {TOOLS}, command: [sleep, "1{mark}"], resources: {{limits: {{cpu: 100m, memory: 32Mi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: hungry}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {TOOLS}
    command: [sh, -c, "exec tail /dev/zero"]
    resources: {{limits: {{memory: 24Mi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: talker}}
spec:
  containers:
  - {{name: main, image: {TOOLS}, command: [sh, -c, "echo first; yes 0123456789012345678901234567890123456789 | head -n 260000; echo last; exec sleep infinity"]}}
"#
    )
}

#[test]
fn limits_hold_and_logs_turn_over() {
    let board = board("limits", &[]);
    // A number of seconds that names this test's own container among all processes of the host.
    let mark = format!("{}", 1_000_000_000_u64 + u64::from(std::process::id()));
    board.apply(&pods(&mark));
    cgroups_hold_what_was_asked_for(&board, &mark);
    who_wants_too_much_is_ended(&board);
    a_log_turns_over(&board);
}

fn cgroups_hold_what_was_asked_for(board: &Board, mark: &str) {
    wait_ready(board, "pod/limited");
    wait_ready(board, "pod/sure");
    let (limited, sure) = (pid_of(mark), pid_of(&format!("1{mark}")));
    assert_eq!(knob(limited, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    if Path::new("/sys/fs/cgroup/cpu").exists() {
        assert_eq!(knob(limited, "cpu", "cpu.shares", ""), "256");
        assert_eq!(knob(limited, "cpu", "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(sh(board, "limited", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"), "67108864\n");
        let raise = "echo 1000000000 > /sys/fs/cgroup/memory/memory.limit_in_bytes 2>&1 || echo refused";
        assert!(sh(board, "limited", raise).contains("refused"), "a container cannot raise its own limit");
    } else {
        assert_eq!(knob(limited, "cpu", "", "cpu.max"), "50000 100000");
    }
    assert!(!knob(limited, "pids", "pids.max", "pids.max").is_empty());
    let places = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    assert!(places(limited).contains("kubepods/burstable/pod"), "{}", places(limited));
    assert!(places(sure).contains("kubepods/pod"), "{}", places(sure));
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs");
    assert_eq!(field(board, "pod/limited", ".status.qosClass"), "Burstable");
    assert_eq!(field(board, "pod/sure", ".status.qosClass"), "Guaranteed");
    let burstable: i32 = score(limited).trim().parse().expect("a number");
    assert!((2..1000).contains(&burstable), "{burstable}");
}

fn who_wants_too_much_is_ended(board: &Board) {
    wait_field(board, "pod/hungry", ".status.phase", "Failed");
    let ended = field(board, "pod/hungry", ".status.containerStatuses[0].state.terminated");
    assert!(ended.contains(r#""reason":"OOMKilled""#) && ended.contains(r#""exitCode":137"#), "{ended}");
}

fn a_log_turns_over(board: &Board) {
    // 260,000 lines are over 10 MiB with their time stamps: the log turns over, and is read as one.
    wait_ready(board, "pod/talker");
    board.eventually("the last line is in the log", 40, || {
        (board.kubectl("logs talker --tail=1") == "last\n").then_some(())
    });
    let dir = board.eventually("the log turns over", 40, || {
        let logs = board.dir().join("data/logs");
        let mut stack = vec![logs];
        while let Some(dir) = stack.pop() {
            let entries: Vec<_> = fs::read_dir(&dir).into_iter().flatten().flatten().collect();
            let name = dir.to_string_lossy().into_owned();
            if name.contains("talker") && entries.iter().filter(|entry| entry.path().is_file()).count() > 1 {
                return Some(dir);
            }
            stack.extend(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()));
        }
        None
    });
    let sizes: Vec<u64> =
        fs::read_dir(dir).expect("listed").flatten().map(|it| it.metadata().map_or(0, |meta| meta.len())).collect();
    assert!(sizes.iter().all(|size| *size < 24 << 20), "{sizes:?}");
}
