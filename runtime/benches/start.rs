//! Shell: prints what starting costs: create -> first instruction, sandbox, exec; and the private memory of a shim.
//!
//! `cargo bench -p bramble-runtime --bench start -- [rounds]`, as root. It times nothing as a test; it prints figures.

#![allow(clippy::unwrap_used, reason = "a figure program: a failure is to end it")]

#[path = "../tests/root/board.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the root tests, of which this uses a part")]
mod board;

use std::{
    fs,
    io::Read,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bramble_runtime::{ContainerConfig, ContainerState, ExecConfig, Seccomp};

use crate::board::Board;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = bramble_runtime::helper_main(&args) {
        return code;
    }
    if args.get(1).is_some_and(|a| a == "first-instruction") {
        println!("{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos());
        return ExitCode::SUCCESS;
    }
    let rounds = args.iter().filter_map(|a| a.to_str()?.parse().ok()).next().unwrap_or(40);
    let board = Board::new();
    fs::copy("/proc/self/exe", board.dir.join("base/bin/clock")).unwrap();
    sandboxes(&board, rounds);
    starts(&board, rounds, Seccomp::RuntimeDefault);
    starts(&board, rounds, Seccomp::Unconfined);
    execs(&board, rounds);
    memory(&board);
    ExitCode::SUCCESS
}

fn figure(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize].as_secs_f64() * 1000.0;
    println!("{name:<58} median {:6.1} ms  p99 {:6.1} ms  n={}", at(0.5), at(0.99), times.len());
}

fn sandboxes(board: &Board, rounds: usize) {
    let (mut made, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begin = Instant::now();
        let id = board.sandbox();
        made.push(begin.elapsed());
        let begin = Instant::now();
        board.runtime.remove_sandbox(&id).unwrap();
        gone.push(begin.elapsed());
    }
    figure("sandbox: namespaces, cgroup, shim", made);
    figure("sandbox: removed", gone);
}

fn starts(board: &Board, rounds: usize, seccomp: Seccomp) {
    let sandbox = board.sandbox();
    let name = if seccomp == Seccomp::Unconfined { "without seccomp" } else { "with seccomp" };
    let (mut created, mut first, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut config = ContainerConfig { args: vec!["clock".into(), "first-instruction".into()], ..board.config("") };
        config.security.seccomp = seccomp.clone();
        let wall = SystemTime::now();
        let begin = Instant::now();
        let id = board.runtime.create_container(&sandbox, &config).unwrap();
        created.push(begin.elapsed());
        board.runtime.start_container(&id).unwrap();
        board.ended(&id);
        let ran = UNIX_EPOCH + Duration::from_nanos(board.log(&id).trim().parse().unwrap());
        first.push(ran.duration_since(wall).unwrap_or_default());
        let begin = Instant::now();
        board.runtime.remove_container(&id).unwrap();
        removed.push(begin.elapsed());
    }
    figure(&format!("container {name}: created (overlay, specification)"), created);
    figure(&format!("container {name}: create to first instruction"), first);
    figure(&format!("container {name}: removed"), removed);
}

fn execs(board: &Board, rounds: usize) {
    let sandbox = board.sandbox();
    let id = board.start(&sandbox, &board.config("sleep 1000"));
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        let config = ExecConfig { args: vec!["true".into()], ..ExecConfig::default() };
        board.runtime.exec(&id, &config).unwrap().wait().unwrap();
        times.push(begin.elapsed());
    }
    figure("exec: asked to ended", times);
}

/// One pod with two chatty containers, another that is quiet.
fn memory(board: &Board) {
    for (name, script) in [("quiet", "sleep 1000"), ("after 28 MB of log", "seq 1 400000; sleep 1000")] {
        let sandbox = board.sandbox();
        let ids: Vec<String> = (0..2).map(|_| board.start(&sandbox, &board.config(script))).collect();
        if name != "quiet" {
            for id in &ids {
                board.until(|| {
                    let mut tail = String::new();
                    fs::File::open(board.log_path(id)).unwrap().read_to_string(&mut tail).unwrap();
                    tail.contains(" 400000\n").then_some(())
                });
            }
        }
        assert!(ids.iter().all(|id| board.runtime.container(id).unwrap().state == ContainerState::Running));
        let pid = board.runtime.sandbox(&sandbox).unwrap().shim_pid.unwrap();
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let field = |name: &str| -> u64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").trim().parse().unwrap()
        };
        if std::env::var_os("SMAPS").is_some() {
            println!("{}", fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap());
        }
        println!(
            "shim of two containers, {name}: private {} kB (clean {}), PSS {} kB, RSS {} kB",
            field("Private_Dirty:"),
            field("Private_Clean:"),
            field("Pss:"),
            field("Rss:")
        );
    }
}
