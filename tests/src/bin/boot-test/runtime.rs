//! Tests inside a board, with a cluster that runs beside them: the runtime's own end-to-end tests, on a kernel with nothing
//! but cgroup v2 and Bramble as process 1; and the agent's that wants WireGuard.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use bramble_tests::board::Board;
use bramble_tests::emulator::Emulator;

use crate::ssh::{Key, SSH};
use crate::{Test, step};

/// Where the guest has the tests' program and everything that they make: on the card, as containers are.
const PLACE: &str = "/data/tests";
/// The agent's test that wants WireGuard.
const APART: &str = "network::peering::apart";
/// Only tests whose names have one of these parts; all of them where it is not set.
const PARTS: &str = "PARTS";
/// Left out where all are wanted, and why: it is told aloud. By name (`PARTS`) it runs.
const LEFT_OUT: (&str, &str) =
    ("a_tiny_cpu_quota_is_clamped", "a hundredth of an emulated CPU takes two minutes to start a container");
/// What the tests are told of the emulator's pace.
const SLOWER: u32 = 10;
/// A disk's sector.
const SECTOR: u64 = 512;

impl Test {
    pub(crate) fn passes_the_runtimes_tests(&self) {
        step("the runtime's end-to-end tests inside a board, on cgroup v2 alone");
        let (name, why) = LEFT_OUT;
        let parts = std::env::var(PARTS).unwrap_or_else(|_| {
            println!("boot-test: NOT RUN inside a board: {name} ({why})");
            format!("--skip {name}")
        });
        let begun = Instant::now();
        let lines = self.runs_inside("runtime", &self.runtime_tests, &format!("BRAMBLE_TEST_SLOWER={SLOWER}"), &parts);
        assert!(lines.iter().any(|line| line.ends_with("on cgroup v2")), "not on cgroup v2");
        self.figure("runtime's tests inside a board, passed", passed(&lines, &parts));
        self.seconds("runtime's tests inside a board, with its boot", begun.elapsed().as_secs_f64());
    }

    pub(crate) fn joins_what_is_apart(&self) {
        step("boards that are apart, joined by this kernel's WireGuard");
        let begun = Instant::now();
        let lines = self.runs_inside("apart", &self.agent_tests, "BRAMBLE_NEEDS_WIREGUARD=1", APART);
        assert_eq!(passed(&lines, APART), "1");
        self.seconds("boards joined by WireGuard inside a board, with its boot", begun.elapsed().as_secs_f64());
    }

    /// Boots a board with a cluster of its own, and runs a program of tests on it. What it printed.
    fn runs_inside(&self, name: &str, tests: &Path, environment: &str, parts: &str) -> Vec<String> {
        let board = Board::new(name);
        let key = Key::make(&self.work, &format!("{name}-key"));
        let config = format!("{}role = \"up\"\nnode-name = \"arm-4\"\n", key.config());
        let card = self.card(name, &config, &[]);
        let (disk, bytes) = self.disk_with(name, tests);
        let ports = [(SSH, 22)];
        let power = self.power(&card, Some(&disk), &ports);
        let mut emulator = Emulator::start(&board, &self.work.join(name), &power);
        let _ = emulator.wait_for("bramble: up.", 1);
        let program = format!("{PLACE}/tests");
        let _ = key.wait_for(
            &board,
            &format!(
                "mkdir -p {PLACE} && head -c {bytes} /dev/vdb >{program} && chmod 755 {program} && {program} --list"
            ),
        );
        let lines = run(&board, &key, &format!("TMPDIR={PLACE} {environment} RUST_BACKTRACE=0 {program} {parts} 2>&1"));
        assert!(!emulator.console().contains("bramble: the daemon ended"), "the board's own cluster suffered");
        lines
    }

    /// A program as a disk, and how many bytes it has.
    fn disk_with(&self, name: &str, program: &Path) -> (PathBuf, u64) {
        let disk = self.work.join(format!("{name}.disk"));
        let bytes = fs::copy(program, &disk).expect("copied");
        let file = fs::File::options().write(true).open(&disk).expect("opened");
        file.set_len(bytes.next_multiple_of(SECTOR)).expect("whole sectors");
        (disk, bytes)
    }
}

/// Shows every line as it comes, and answers them all.
///
/// # Panics
/// A test failed.
fn run(board: &Board, key: &Key, line: &str) -> Vec<String> {
    let mut ssh = key.command(board, line).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("ssh starts");
    let mut lines = Vec::new();
    for line in BufReader::new(ssh.stdout.take().expect("piped")).lines() {
        let line = line.expect("UTF-8");
        println!("guest: {line}");
        lines.push(line);
    }
    let status = ssh.wait().expect("waited for");
    assert!(status.success(), "the tests inside the board: {status}; their lines stand above");
    lines
}

/// How many tests passed.
///
/// # Panics
/// None did.
fn passed(lines: &[String], parts: &str) -> String {
    let passed = lines.iter().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    let passed = passed.expect("a result").to_owned();
    assert!(passed != "0", "no test has such a name: {parts}");
    passed
}
