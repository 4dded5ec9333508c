//! A board that runs alone, as `up`; and the same card in the emulator's Raspberry Pi.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use bramble_tests::board::Board;
use bramble_tests::emulator::{Emulator, Machine, Power};
use bramble_tests::host::{output, succeed};
use bramble_tests::image::Image;

use crate::guest::{NODE_PORT, OUTSIDE, wait_for_answer, workload};
use crate::ssh::{SSH, greeting};
use crate::{Test, step};

/// An address of the emulator's network that its DHCP does not give out.
const ADDRESS: &str = "10.0.2.77";
const CONFIG: &str = "role = \"up\"\nnode-name = \"arm-2\"\ncolour = \"red\"\n[network]\naddress = \"10.0.2.77/24\"\n\
                      gateway = \"10.0.2.2\"\ndns = [\"10.0.2.3\"]\n";

impl Test {
    pub(crate) fn runs_alone(&self) {
        step("alone, as `up`");
        let board = Board::new("alone");
        let (archive, manifest) = (self.work.join("hello.tar"), self.work.join("hello.json"));
        Image::of_program(&self.program, &["hello"]).docker_archive_for("arm64", "bramble.local/hello:1", &archive);
        fs::write(&manifest, workload("bramble.local/hello:1", None).to_string()).expect("written");
        let card = self.card("alone", "", &[&archive, &manifest]);
        // On another computer, which knows no better: our own tool refuses such a file.
        let config = self.work.join("mistaken.toml");
        fs::write(&config, CONFIG).expect("written");
        let _ = succeed(mtools("mcopy", &card).arg("-o").arg(&config).arg("::bramble.toml"));
        let ports = [(16443, 6443), (OUTSIDE, NODE_PORT), (SSH, 22)];
        let dir = self.work.join("alone");
        let power = Power { address: Some(ADDRESS), ..self.power(&card, None, &ports) };
        let mut emulator = Emulator::start(&board, &dir, &power);
        let init = emulator.wait_for("bramble: version", 1);
        self.seconds("alone: power on to process 1", init);
        // A mistake is told, and the rest of the file holds.
        emulator.wait_for("bramble.toml, line 3: unknown field `colour`", 1);
        let network = emulator.wait_for(&format!("bramble: eth0 has {ADDRESS}/24"), 1);
        self.seconds("alone: power on to network", network);
        let agent = emulator.wait_for("bramble_agent", 1);
        self.seconds("alone: power on to the agent", agent);
        let up = emulator.wait_for("bramble: up.", 1);
        self.seconds("alone: power on to a Ready cluster of its own", up);
        let told = output(board.command("curl").args(["-sk", "--max-time", "20", "https://10.99.0.1:16443/readyz"]));
        assert_eq!(String::from_utf8_lossy(&told.stdout), "ok", "{told:?}");
        wait_for_answer(&board);
        let answer = emulator.seconds();
        let status = status(&card);
        for line in ["node     arm-2", "state    ready", "slot     A", "line 3: unknown field `colour`", "cure: "] {
            assert!(status.contains(line), "{line:?} is missing:\n{status}");
        }
        assert_eq!(greeting(&board), "", "without a key nobody listens");
        self.seconds("alone: power on to the answer of a preloaded pod", answer);
    }

    pub(crate) fn starts_on_a_pi(&self) {
        step("the same card in a Raspberry Pi 3, to the agent's start");
        let board = Board::new("pi");
        // QEMU's Pi resets as soon as its watchdog is armed.
        let card = self.card("pi", "node-name = \"pi-3\"\nwatchdog = false\n", &[]);
        let power = Power {
            card: &card,
            machine: Machine::Pi3,
            boot_loader: &self.pi_boot_loader,
            device_tree: Some(&self.pi_tree),
            rtc: None,
            address: None,
            disk: None,
            ports: &[],
        };
        let mut emulator = Emulator::start(&board, &self.work.join("pi"), &power);
        let started = emulator.wait_for("bramble: up.", 1);
        self.seconds("Raspberry Pi 3: power on to a Ready cluster of its own", started);
    }
}

/// What `bramble-status.txt` on the card says, as another computer reads it.
fn status(card: &Path) -> String {
    succeed(mtools("mtype", card).arg("::bramble-status.txt"))
}

/// A program of mtools, on the card's first partition.
fn mtools(program: &str, card: &Path) -> Command {
    let mut table = [0; 512];
    fs::File::open(card).and_then(|mut card| card.read_exact(&mut table)).expect("a partition table");
    let sector = u32::from_le_bytes(table[454..458].try_into().expect("four bytes"));
    let mut command = Command::new(program);
    command.arg("-i").arg(format!("{}@@{}", card.display(), u64::from(sector) * 512));
    command
}
