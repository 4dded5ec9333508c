//! A board that runs alone, as `up`; and the same card in the emulator's Raspberry Pi.

use std::fs;

use bramble_tests::board::Board;
use bramble_tests::emulator::{Emulator, Machine, Power};
use bramble_tests::host::output;
use bramble_tests::image::Image;

use crate::guest::{NODE_PORT, OUTSIDE, wait_for_answer, workload};
use crate::ssh::{SSH, greeting};
use crate::{Test, step};

impl Test {
    pub(crate) fn runs_alone(&mut self) {
        step("alone, as `up`");
        let board = Board::new("alone");
        let (archive, manifest) = (self.work.join("hello.tar"), self.work.join("hello.json"));
        Image::of_program(&self.program, &["hello"]).docker_archive_for("arm64", "bramble.local/hello:1", &archive);
        fs::write(&manifest, workload("bramble.local/hello:1", None).to_string()).expect("written");
        let card = self.card("alone", "role = \"up\"\nnode-name = \"arm-2\"\n", &[&archive, &manifest]);
        let ports = [(16443, 6443), (OUTSIDE, NODE_PORT), (SSH, 22)];
        let dir = self.work.join("alone");
        let mut emulator = Emulator::start(&board, &dir, &self.power(&card, None, &ports));
        let up = emulator.wait_for("bramble: up.", 1);
        self.seconds("alone: power on to a Ready cluster of its own", up);
        let told = output(board.command("curl").args(["-sk", "--max-time", "20", "https://10.99.0.1:16443/readyz"]));
        assert_eq!(String::from_utf8_lossy(&told.stdout), "ok", "{told:?}");
        wait_for_answer(&board);
        let answer = emulator.seconds();
        assert_eq!(greeting(&board), "", "without a key nobody listens");
        self.seconds("alone: power on to the answer of a preloaded pod", answer);
    }

    pub(crate) fn starts_on_a_pi(&mut self) {
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
            disk: None,
            ports: &[],
        };
        let mut emulator = Emulator::start(&board, &self.work.join("pi"), &power);
        let started = emulator.wait_for("bramble: up.", 1);
        self.seconds("Raspberry Pi 3: power on to a Ready cluster of its own", started);
    }
}
