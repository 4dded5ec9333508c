//! The runtime's own end-to-end tests inside a board: a kernel with nothing but cgroup v2, Bramble as process 1, and a
//! cluster that runs beside them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use bramble_tests::board::Board;
use bramble_tests::emulator::Emulator;

use crate::ssh::{Key, SSH};
use crate::{Test, step};

/// Where the guest has the tests' program and everything that they make: on the card, as containers are.
const PLACE: &str = "/data/runtime-tests";
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
    pub(crate) fn passes_the_runtimes_tests(&mut self) {
        step("the runtime's end-to-end tests inside a board, on cgroup v2 alone");
        let board = Board::new("runtime");
        let key = Key::make(&self.work, "runtime-key");
        let config = format!("{}role = \"up\"\nnode-name = \"arm-4\"\n", key.config());
        let card = self.card("runtime", &config, &[]);
        let (disk, bytes) = self.disk_with_tests();
        let ports = [(SSH, 22)];
        let power = self.power(&card, Some(&disk), &ports);
        let mut emulator = Emulator::start(&board, &self.work.join("runtime"), &power);
        let _ = emulator.wait_for("bramble: up.", 1);
        let program = format!("{PLACE}/root");
        let _ = key.wait_for(
            &board,
            &format!(
                "mkdir -p {PLACE} && head -c {bytes} /dev/vdb >{program} && chmod 755 {program} && {program} --list"
            ),
        );
        let begun = Instant::now();
        let result = run(&board, &key, &program);
        assert!(!emulator.console().contains("bramble: the daemon ended"), "the board's own cluster suffered");
        self.figure("runtime's tests inside a board, passed", result);
        self.seconds("runtime's tests inside a board", begun.elapsed().as_secs_f64());
    }

    /// The tests' program as a disk, and how many bytes it has.
    fn disk_with_tests(&self) -> (PathBuf, u64) {
        let disk = self.work.join("runtime-tests.disk");
        let bytes = fs::copy(&self.runtime_tests, &disk).expect("copied");
        let file = fs::File::options().write(true).open(&disk).expect("opened");
        file.set_len(bytes.next_multiple_of(SECTOR)).expect("whole sectors");
        (disk, bytes)
    }
}

/// Shows every line as it comes; answers how many tests passed.
///
/// # Panics
/// One failed, none ran, or they did not run where they should.
fn run(board: &Board, key: &Key, program: &str) -> String {
    let (name, why) = LEFT_OUT;
    let parts = std::env::var(PARTS).unwrap_or_else(|_| {
        println!("boot-test: NOT RUN inside a board: {name} ({why})");
        format!("--skip {name}")
    });
    let line = format!("TMPDIR={PLACE} BRAMBLE_TEST_SLOWER={SLOWER} RUST_BACKTRACE=0 {program} {parts} 2>&1");
    let mut ssh = key.command(board, &line).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("ssh starts");
    let mut lines = Vec::new();
    for line in BufReader::new(ssh.stdout.take().expect("piped")).lines() {
        let line = line.expect("UTF-8");
        println!("guest: {line}");
        lines.push(line);
    }
    let status = ssh.wait().expect("waited for");
    assert!(status.success(), "the runtime's tests inside the board: {status}; their lines stand above");
    assert!(lines.iter().any(|line| line.ends_with("on cgroup v2")), "not on cgroup v2");
    let passed = lines.iter().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    let passed = passed.expect("a result").to_owned();
    assert!(passed != "0", "no test has such a name: {parts}");
    passed
}
