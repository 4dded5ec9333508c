//! Shell: kills at bad moments, and what is left over.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
};

use bramble_runtime::{ContainerState, EventKind, Rootfs, Runtime};

use crate::{
    Test,
    board::{Board, kernel_keeps_exit_codes},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_killed_shim_is_replaced_and_the_exit_code_kept", shim_killed),
    ("without_exit_info_the_exit_is_unknown", shim_killed_on_an_old_kernel),
    ("a_container_that_ended_without_a_shim_is_unknown", ended_without_shim),
    ("terminals_and_stdin_outlive_a_shim", keepers),
    ("a_new_runtime_finds_everything_as_it_was", reopened),
    ("a_killed_agent_leaves_its_containers_running", agent_killed),
    ("a_sandbox_that_was_never_whole_is_not_adopted", half_made),
    ("what_no_record_tells_of_goes_all_the_same", records_lost),
    ("a_sweep_removes_what_nobody_owns", sweep),
    ("stopping_keeps_statuses_and_removing_removes", stop_and_remove),
    ("twenty_rounds_leave_nothing", rounds),
];

/// The shim, and whether its end was told.
fn kill_shim(board: &Board, sandbox: &str) {
    let pid = board.runtime.sandbox(sandbox).unwrap().shim_pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let mut polls = [rustix::event::PollFd::new(&board.events, rustix::event::PollFlags::IN)];
    for _ in 0..100 {
        rustix::event::poll(&mut polls, None).unwrap();
        if board.events.drain().unwrap().iter().any(|e| e.kind == EventKind::ShimLost && e.sandbox_id == sandbox) {
            return;
        }
    }
    panic!("the end of the shim was not told");
}

const CHATTY: &str = "i=0; while [ ! -e /tmp/end ]; do echo $i; i=$((i+1)); sleep 0.01; done; echo last; exit 42";

fn killed_and_adopted(board: &Board, runtime: &Runtime) -> (bramble_runtime::ContainerStatus, String) {
    let sandbox = board.sandbox();
    let config = board.config(CHATTY);
    let id = board.start(&sandbox, &config);
    board.until(|| (board.log(&id).lines().count() > 3).then_some(()));
    let pid = board.runtime.container(&id).unwrap().pid;
    kill_shim(board, &sandbox);
    let seen = board.log(&id).lines().count();
    let fresh;
    let runtime = if std::ptr::eq(runtime, &board.runtime) {
        runtime.adopt(&sandbox).unwrap();
        runtime
    } else {
        fresh = Runtime::open_without_exit_info(board.layout.clone()).unwrap();
        &fresh
    };
    board.until(|| (board.log(&id).lines().count() > seen + 3).then_some(()));
    assert_eq!(runtime.container(&id).unwrap().pid, pid, "it goes on");
    assert_eq!(board.exec(&id, "true").0, 0, "and can be entered");
    // From outside: a process within would be killed by the end that it brings about, before or after its own.
    fs::write(format!("/proc/{}/root/tmp/end", pid.unwrap()), "").unwrap();
    let status = board.ended(&id);
    let log = board.log(&id);
    let numbers: Vec<&str> = log.lines().filter(|l| *l != "last").collect();
    assert!(numbers.iter().enumerate().all(|(at, line)| *line == at.to_string()), "no line is lost: {log}");
    assert!(log.ends_with("last\n"), "{log}");
    (status, log)
}

fn shim_killed() {
    let board = Board::new();
    let (status, _) = killed_and_adopted(&board, &board.runtime);
    let told = (status.state, status.exit_code);
    if kernel_keeps_exit_codes() {
        assert_eq!(told, (ContainerState::Exited, Some(42)));
    } else {
        // Nothing is made up.
        assert_eq!(told, (ContainerState::Unknown, None));
    }
}

fn shim_killed_on_an_old_kernel() {
    let board = Board::new();
    let other = Board::new();
    let (status, _) = killed_and_adopted(&board, &other.runtime);
    assert_eq!((status.state, status.exit_code), (ContainerState::Unknown, None));
    assert!(status.finished_at >= status.started_at);
}

fn ended_without_shim() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("sleep 1000"));
    let pid = board.runtime.container(&id).unwrap().pid.unwrap();
    kill_shim(&board, &sandbox);
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    board.until(|| {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(Some(()), |s| s.contains(") Z").then_some(()))
    });
    board.runtime.adopt(&sandbox).unwrap();
    let status = board.ended(&id);
    assert!(
        matches!(
            (status.state, status.exit_code),
            (ContainerState::Unknown, None) | (ContainerState::Exited, Some(137))
        ),
        "{status:?}"
    );
    // The pod is of use again.
    assert_eq!(board.says(&sandbox, &board.config("echo again")), "again\n");
}

fn keepers() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut config = board.config("while read line; do echo got $line; done; echo eof");
    config.stdin = true;
    let piped = board.start(&sandbox, &config);
    let mut config = board.config("while read line; do echo got $line; done");
    config.tty = true;
    let terminal = board.start(&sandbox, &config);
    kill_shim(&board, &sandbox);
    for id in [&piped, &terminal] {
        let session = board.runtime.attach(id, true).unwrap();
        fs::File::from(session.stdin.unwrap()).write_all(b"there\n").unwrap();
        board.until(|| board.log(id).contains("got there").then_some(()));
    }
    board.runtime.close_stdin(&piped).unwrap();
    assert_eq!(board.ended(&piped).exit_code, kernel_keeps_exit_codes().then_some(0));
    assert!(board.log(&piped).ends_with("eof\n"));
}

fn reopened() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let running = board.start(&sandbox, &board.config("sleep 1000"));
    let ended = board.start(&sandbox, &board.config("exit 9"));
    let created = board.runtime.create_container(&sandbox, &board.config("exit 0")).unwrap();
    board.ended(&ended);
    let again = board.reopen();
    assert_eq!(again.sandboxes().unwrap(), board.runtime.sandboxes().unwrap());
    assert_eq!(again.containers().unwrap(), board.runtime.containers().unwrap());
    let state = |id: &str| again.container(id).unwrap().state;
    let wanted = [ContainerState::Running, ContainerState::Exited, ContainerState::Created];
    assert_eq!([&running, &ended, &created].map(|id| state(id)), wanted);
    assert_eq!(again.container(&ended).unwrap().exit_code, Some(9));
    again.start_container(&created).unwrap();
    again.signal_container(&running, libc::SIGKILL).unwrap();
    assert_eq!(board.ended(&running).signal, Some(9));
}

/// Plays the agent in a process of its own: starts a container, says so, and waits to be killed.
pub(crate) fn agent(board_dir: &str, sandbox: &str) {
    let layout = layout_of(board_dir);
    let runtime = Runtime::open(layout).unwrap();
    let dir = std::path::Path::new(board_dir);
    let id = bramble_runtime::new_id();
    let config = bramble_runtime::ContainerConfig {
        id: id.clone(),
        rootfs: Rootfs::Layers {
            lower: vec![dir.join("base")],
            upper: dir.join("upper").join(&id),
            work: dir.join("work").join(&id),
        },
        args: ["sh", "-c", CHATTY].map(String::from).to_vec(),
        log_path: "0.log".into(),
        ..bramble_runtime::ContainerConfig::default()
    };
    runtime.create_container(sandbox, &config).unwrap();
    runtime.start_container(&id).unwrap();
    println!("{id}");
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn layout_of(board_dir: &str) -> bramble_runtime::Layout {
    let dir = std::path::Path::new(board_dir);
    let name = dir.file_name().unwrap().to_str().unwrap().to_string();
    bramble_runtime::Layout {
        data_dir: dir.join("data"),
        run_dir: dir.join("run"),
        cgroup_root: format!("bramble-test/{name}"),
        instance: name,
    }
}

fn agent_killed() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let mut child = Command::new("/proc/self/exe")
        .args(["agent", board.dir.to_str().unwrap(), &sandbox])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut id).unwrap();
    let id = id.trim();
    child.kill().unwrap();
    child.wait().unwrap();
    let again = board.reopen();
    let status = again.container(id).unwrap();
    assert_eq!(status.state, ContainerState::Running);
    let log = || fs::read_to_string(&status.log_path).unwrap_or_default().lines().count();
    let before = log();
    board.until(|| (log() > before + 3).then_some(()));
    again.signal_container(id, libc::SIGTERM).unwrap();
    again.signal_container(id, libc::SIGKILL).unwrap();
    board.until(|| (again.container(id).unwrap().state == ContainerState::Exited).then_some(()));
}

fn sweep() {
    let board = Board::new();
    let kept = board.sandbox();
    let running = board.start(&kept, &board.config("sleep 1000"));
    let lost = board.sandbox();
    board.start(&lost, &board.config("sleep 1000"));
    // As a crash would leave them: a container without a record, a sandbox without one.
    let half = board.layout.container_dir(&kept, "half").join("rootfs");
    fs::create_dir_all(&half).unwrap();
    rustix::mount::mount_bind(board.dir.join("base"), &half).unwrap();
    let nothing = board.layout.sandbox_dir("nothing").join("ns");
    fs::create_dir_all(&nothing).unwrap();
    let report = board.runtime.sweep(&BTreeSet::from([kept.clone()])).unwrap();
    assert_eq!((report.sandboxes, report.containers, report.mounts), (2, 2, 1), "{report:?}");
    assert!(!half.exists() && !nothing.exists());
    assert_eq!(board.runtime.container(&running).unwrap().state, ContainerState::Running);
    assert_eq!(board.exec(&running, "true").0, 0);
    assert!(board.runtime.sweep(&BTreeSet::from([kept])).unwrap().is_clean());
}

fn half_made() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("sleep 1000"));
    kill_shim(&board, &sandbox);
    // As a crash in the middle of its making leaves it.
    fs::remove_file(board.layout.sandbox_dir(&sandbox).join("shim")).unwrap();
    let again = board.reopen();
    let status = again.sandbox(&sandbox).unwrap();
    assert!(!status.ready && status.shim_pid.is_none(), "{status:?}");
    // Nobody attends what may run in it: it ends all the same.
    again.signal_container(&id, libc::SIGTERM).unwrap();
    let status = again.container(&id).unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Unknown, None));
    again.remove_sandbox(&sandbox).unwrap();
    assert!(board.traces().is_empty(), "{:#?}", board.traces());
}

fn records_lost() {
    let board = Board::new();
    let sandboxes = [board.sandbox(), board.sandbox_with(|s| s.share_process_namespace = true)];
    for sandbox in &sandboxes {
        board.start(sandbox, &board.config("sleep 1000"));
        for record in ["sandbox.json", "shim"] {
            fs::remove_file(board.layout.sandbox_dir(sandbox).join(record)).unwrap();
        }
    }
    // As a removal leaves it that got no further than the mounts.
    fs::remove_file(board.layout.run_dir.join("boot_id")).unwrap();
    assert!(board.reopen().sandboxes().unwrap().is_empty());
    assert!(board.traces().is_empty(), "{:#?}", board.traces());
    let report = board.reopen().purge().unwrap();
    assert!(report.is_clean(), "{report:?}");
}

fn stop_and_remove() {
    let board = Board::new();
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("trap '' TERM; sleep 1000"));
    let netns = board.runtime.sandbox(&sandbox).unwrap().netns_path.unwrap();
    board.runtime.stop_sandbox(&sandbox).unwrap();
    board.runtime.stop_sandbox(&sandbox).unwrap();
    let status = board.runtime.container(&id).unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, Some(137)));
    let sandbox_status = board.runtime.sandbox(&sandbox).unwrap();
    assert!(!sandbox_status.ready && sandbox_status.shim_pid.is_none());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(netns.to_str().unwrap()));
    board.runtime.remove_sandbox(&sandbox).unwrap();
    board.runtime.remove_sandbox(&sandbox).unwrap();
    assert!(board.traces().is_empty(), "{:#?}", board.traces());
}

fn rounds() {
    let board = Board::new();
    let fds = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = fds();
    for round in 0..20 {
        let sandbox = board.sandbox_with(|s| s.share_process_namespace = round % 5 == 0);
        let id = board.start(&sandbox, &board.config("sleep 1000"));
        assert_eq!(board.exec(&id, "true").0, 0);
        if round % 4 == 0 {
            kill_shim(&board, &sandbox);
        }
        board.runtime.remove_sandbox(&sandbox).unwrap();
    }
    assert!(board.traces().is_empty(), "{:#?}", board.traces());
    assert_eq!(fds(), before, "descriptors of the caller");
}
