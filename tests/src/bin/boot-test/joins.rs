//! A board that joins a controller outside: it serves, is reset, takes a good update and throws a bad one away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use bramble_tests::board::Board;
use bramble_tests::emulator::{Emulator, Power};
use bramble_tests::host::succeed;
use bramble_tests::image::Image;
use bramble_tests::registry::Registry;
use serde_json::{Value, json};

use crate::guest::{NODE_PORT, OUTSIDE, PATIENCE, deploy, install, join_config, run, wait_for_answer, wait_for_node};
use crate::ssh::{Key, SSH, greeting, refused};
use crate::{Test, step};

impl Test {
    pub(crate) fn joins_serves_and_is_updated(&mut self) {
        let mut board = Board::up("image", &[]);
        let registry = Registry::start(&board);
        let image = Image::of_program(&self.program, &["hello"]);
        let _ = registry.push_for("arm64", &image, "hello", "1");
        let (key, other) = (Key::make(&self.work, "key"), Key::make(&self.work, "other"));
        let config = format!("{}{}", key.config(), join_config(&board));
        let card = self.card("joins", &config, &[]);
        step("first boot: joins a controller outside");
        let dir = self.work.join("joins");
        let ports = [(OUTSIDE, NODE_PORT), (SSH, 22)];
        let updates = self.work.join("update.disk");
        fs::copy(&self.update, &updates).expect("copied");
        // A clock that runs ahead is told better by the controller, and expires nothing where there is none.
        let power = Power { rtc: Some("2040-01-01T00:00:00"), ..self.power(&card, Some(&updates), &ports) };
        let mut emulator = Emulator::start(&board, &dir, &power);
        let init = emulator.wait_for("bramble: eth0 has", 1);
        wait_for_node(&board);
        let ready = emulator.seconds();
        emulator.wait_for("bramble: slot A is confirmed", 1);
        step("the clock is the controller's");
        let off_s = |told: &str| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            now.abs_diff(told.trim().parse().expect("seconds"))
        };
        let clock_is_right = |board: &Board| {
            let is_right = || (off_s(&key.wait_for(board, "date +%s")) < 60).then_some(());
            board.eventually("the clock is the controller's", PATIENCE, is_right);
        };
        clock_is_right(&board);
        step("lets in who has the key, and nobody else");
        let slots = key.wait_for(&board, "bramble slot status");
        assert!(runs_a(&slots), "{slots}");
        refused(&board, &other);
        assert_eq!(greeting(&board), "SSH-2.0-");
        let _ = key.wait_for(&board, "kill $(cat /run/dropbear.pid)");
        emulator.wait_for("bramble: ssh ended", 1);
        assert_eq!(key.wait_for(&board, "stat -c %a /data/ssh /data/ssh/host-key"), "700\n600\n");
        step("pulls an image for its architecture and serves it through a Service");
        deploy(&board);
        wait_for_answer(&board);
        let answer = emulator.seconds();
        // As soon as a person could think of pulling the plug.
        for _ in 0..20 {
            wait_for_answer(&board);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        self.seconds("first boot: power on to network", init);
        self.seconds("first boot: power on to Ready in the controller", ready);
        self.seconds("first boot: power on to the first answer of a new pod", answer);

        step("a hard reset without the controller");
        // From here on the image is on the board.
        drop(registry);
        board.stop();
        emulator.reset();
        // Until then it may be the old system that answers.
        emulator.wait_for("bramble: slot A, attempts left", 2);
        wait_for_answer(&board);
        let back = emulator.seconds();
        // It is the same host: its key was kept.
        assert!(runs_a(&key.wait_for(&board, "bramble slot status")));
        assert!(off_s(&key.wait_for(&board, "date +%s")) > 1_000_000, "nobody has told it yet");
        self.seconds("hard reset to the pod's answer, no controller", back);
        board.start(&[]);
        wait_for_node(&board);
        // The board comes back when it tries next.
        clock_is_right(&board);

        step("a good update");
        install(&board, "good", "/dev/vdb");
        run(&board, "again", &["reboot"]);
        emulator.wait_for("bramble: slot B is confirmed", 1);
        wait_for_answer(&board);
        drop(emulator);

        step("a failing update");
        fs::copy(spoiled(&self.update, &self.work), &updates).expect("copied");
        let mut emulator = Emulator::start(&board, &dir, &self.power(&card, Some(&updates), &ports));
        emulator.wait_for("bramble: slot B is confirmed", 1);
        wait_for_node(&board);
        install(&board, "bad", "/dev/vdb");
        run(&board, "once-more", &["reboot"]);
        emulator.wait_for("bramble: slot A, attempts left A=0", 1);
        // By whose hashes the system is read: not a block of it is believed.
        emulator.wait_for("dm-verity device corrupted", 1);
        emulator.wait_for("bramble: slot B is confirmed", 2);
        wait_for_answer(&board);
        step("rolled back by itself");
        // Pods that asked for the reboot and may run once have not asked again.
        let again = board.kubectl("get pods again once-more -o jsonpath={.items[*].status.phase}");
        assert_eq!(again, "Failed Failed");
    }
}

/// The same update with another root of its system's hashes: it arrives whole, and does not boot.
fn spoiled(update: &Path, work: &Path) -> PathBuf {
    let dir = work.join("spoiled");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder");
    let _ = succeed(Command::new("tar").arg("-xf").arg(update).arg("-C").arg(&dir));
    let kernel = dir.join("kernel.img");
    let mut bytes = fs::read(&kernel).expect("a kernel");
    let mark = b"bramble.verity=";
    let at = bytes.windows(mark.len()).position(|part| part == mark).expect("the arguments");
    let root = at + bytes[at..].iter().position(|byte| *byte == b':').expect("the root") + 1;
    bytes[root] = if bytes[root] == b'0' { b'1' } else { b'0' };
    fs::write(&kernel, bytes).expect("written");
    let text = fs::read_to_string(dir.join("manifest.json")).expect("a manifest");
    let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
    let sum = succeed(Command::new("sha256sum").arg(&kernel));
    manifest["kernel"]["sha256"] = json!(sum.split(' ').next().expect("a sum"));
    fs::write(dir.join("manifest.json"), manifest.to_string()).expect("written");
    let spoiled = work.join("spoiled.update");
    let mut pack = Command::new("tar");
    pack.args(["--format=ustar", "-cf"]).arg(&spoiled).arg("-C").arg(&dir);
    let _ = succeed(pack.args(["manifest.json", "kernel.img", "system.img"]));
    spoiled
}

/// Whether slot A runs, as `bramble slot status` says it.
fn runs_a(slots: &str) -> bool {
    slots.lines().any(|line| line.starts_with("A ") && line.contains("running"))
}
