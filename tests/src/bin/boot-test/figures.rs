//! Figures that take their time: a plain Debian's boot to compare with, memory of a board of 512 MB without and with pods, and
//! what an idle one writes to its card.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bramble_tests::board::Board;
use bramble_tests::emulator::{Emulator, card};
use bramble_tests::image::Image;

use crate::guest::{PATIENCE, workload};
use crate::ssh::{Key, SSH};
use crate::{Test, step};

/// Where the guest's API server is outside.
const API_OUTSIDE: u16 = 16443;
/// As `images/debian` makes it.
const DEBIAN_MIB: u64 = 1536;
const PODS: u32 = 10;
/// What an emulated board needs until nothing of its start goes on any more.
const SETTLE: Duration = Duration::from_secs(90);
const IDLE: Duration = Duration::from_secs(600);

impl Test {
    /// What `images/debian` made: no orchestrator, no container, in the same machine by the same boot loader.
    pub(crate) fn debian(&self, made: &Path) {
        step("a plain Debian beside it");
        let board = Board::new("debian");
        let own = self.work.join("debian.card");
        card(made, &own, DEBIAN_MIB);
        let mut emulator = Emulator::start(&board, &self.work.join("debian"), &self.power(&own, None, &[]));
        for (text, name) in [
            ("Welcome to", "plain Debian: power on to process 1"),
            ("debian: network", "plain Debian: power on to network"),
            ("debian login:", "plain Debian: power on to a login"),
        ] {
            let seconds = emulator.wait_for(text, 1);
            self.seconds(name, seconds);
        }
    }

    pub(crate) fn memory_and_card_writes(&self) {
        step("memory and card writes; takes a quarter of an hour");
        let board = Board::new("figures");
        let archive = self.work.join("hello.tar");
        Image::of_program(&self.program, &["hello"]).docker_archive_for("arm64", "bramble.local/hello:1", &archive);
        let key = Key::make(&self.work, "figures-key");
        let config = format!("{}role = \"up\"\nnode-name = \"arm-3\"\n", key.config());
        let card = self.card("figures", &config, &[&archive]);
        let ports = [(API_OUTSIDE, 6443), (SSH, 22)];
        let dir = self.work.join("figures");
        let mut emulator = Emulator::start(&board, &dir, &self.power(&card, None, &ports));
        let _ = emulator.wait_for("bramble: up.", 1);
        take_kubeconfig(&board, &key);
        std::thread::sleep(SETTLE);
        let (total, used) = memory(&board, &key);
        self.figure("memory of the guest", format!("{total} MB"));
        self.figure("memory in use, no pods", format!("{used} MB"));

        let mut list = workload("bramble.local/hello:1", None);
        list["items"][0]["spec"]["replicas"] = PODS.into();
        board.apply(&list.to_string());
        board.eventually("all pods are ready", PATIENCE * 3, || {
            let ready = board.try_kubectl("get deployment hello -o jsonpath={.status.readyReplicas}");
            (ready.stdout == PODS.to_string().as_bytes()).then_some(())
        });
        std::thread::sleep(SETTLE);
        let (_, used) = memory(&board, &key);
        self.figure(&format!("memory in use, {PODS} pods"), format!("{used} MB"));

        step("ten idle minutes");
        let (before, begun) = (written_bytes(&board, &key), Instant::now());
        std::thread::sleep(IDLE);
        let bytes = written_bytes(&board, &key) - before;
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        self.figure(
            &format!("written to the card in {minutes:.1} idle minutes"),
            format!("{:.1} kB", bytes as f64 / 1e3),
        );
    }
}

/// The guest's administrator, from outside: its certificate knows other addresses than the emulator's.
fn take_kubeconfig(board: &Board, key: &Key) {
    let text = key.wait_for(board, "cat /data/bramble/admin.kubeconfig");
    let lines = text.lines().map(|line| match line.split_once("server: ") {
        Some((indent, _)) => {
            format!("{indent}server: https://10.99.0.1:{API_OUTSIDE}\n{indent}tls-server-name: localhost")
        }
        None => line.to_owned(),
    });
    let dir = board.dir().join("data");
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(dir.join("admin.kubeconfig"), lines.collect::<Vec<_>>().join("\n")).expect("written");
}

/// All of it, and what is in use, in MB.
fn memory(board: &Board, key: &Key) -> (u64, u64) {
    let text = key.wait_for(board, "cat /proc/meminfo");
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect("a line of meminfo");
        line.split_ascii_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    (of("MemTotal:") * 1024 / 1_000_000, (of("MemTotal:") - of("MemAvailable:")) * 1024 / 1_000_000)
}

/// Since the guest's start; the card is its only disk.
fn written_bytes(board: &Board, key: &Key) -> u64 {
    let text = key.wait_for(board, "cat /sys/block/vda/stat");
    let sectors = text.split_ascii_whitespace().nth(6).and_then(|number| number.parse::<u64>().ok());
    sectors.expect("a number of sectors") * 512
}
