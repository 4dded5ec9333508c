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

/// An emulated board that has joined a controller outside.
pub(crate) struct Joined {
    pub(crate) emulator: Emulator,
    pub(crate) key: Key,
    card: PathBuf,
    /// The second disk: updates.
    updates: PathBuf,
}

const PORTS: [(u16, u16); 2] = [(OUTSIDE, NODE_PORT), (SSH, 22)];

impl Test {
    pub(crate) fn joins_serves_and_is_updated(&self) {
        let mut board = Board::up("image", &[]);
        let registry = Registry::start(&board);
        let image = Image::of_program(&self.program, &["hello"]);
        let _ = registry.push_for("arm64", &image, "hello", "1");
        let mut joined = self.joins(&board);
        joined.lets_in_by_key(&board, &self.work);
        self.serves(&board, &joined);
        // From here on the image is on the board.
        drop(registry);
        self.is_reset(&mut board, &mut joined);
        joined.gives_way_while_on_trial(&mut board);
        self.is_updated(&board, joined);
    }

    fn joins(&self, board: &Board) -> Joined {
        let key = Key::make(&self.work, "key");
        let card = self.card("joins", &format!("{}{}", key.config(), join_config(board)), &[]);
        let updates = self.work.join("update.disk");
        fs::copy(&self.update, &updates).expect("copied");
        step("first boot: joins a controller outside");
        // A clock that runs ahead is told better by the controller, and expires nothing where there is none.
        let power = Power { rtc: Some("2040-01-01T00:00:00"), ..self.power(&card, Some(&updates), &PORTS) };
        let mut emulator = Emulator::start(board, &self.work.join("joins"), &power);
        let init = emulator.wait_for("bramble: eth0 has", 1);
        wait_for_node(board);
        let ready = emulator.seconds();
        emulator.wait_for("bramble: slot A is confirmed", 1);
        self.seconds("first boot: power on to network", init);
        self.seconds("first boot: power on to Ready in the controller", ready);
        let joined = Joined { emulator, key, card, updates };
        step("the clock is the controller's");
        joined.wait_for_the_right_time(board);
        joined
    }

    fn serves(&self, board: &Board, joined: &Joined) {
        step("pulls an image for its architecture and serves it through a Service");
        deploy(board);
        wait_for_answer(board);
        self.seconds("first boot: power on to the first answer of a new pod", joined.emulator.seconds());
        // As soon as a person could think of pulling the plug.
        for _ in 0..20 {
            wait_for_answer(board);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    fn is_reset(&self, board: &mut Board, joined: &mut Joined) {
        step("a hard reset without the controller");
        board.stop();
        joined.emulator.reset();
        // Until then it may be the old system that answers.
        joined.emulator.wait_for("bramble: slot A, attempts left", 2);
        wait_for_answer(board);
        self.seconds("hard reset to the pod's answer, no controller", joined.emulator.seconds());
        // It is the same host: its key was kept.
        assert!(runs(&joined.key.wait_for(board, "bramble slot status"), 'A'));
        assert!(joined.clock_off_s(board) > 1_000_000, "nobody has told it yet");
        board.start(&[]);
        wait_for_node(board);
        // The board comes back when it tries next.
        joined.wait_for_the_right_time(board);
    }

    fn is_updated(&self, board: &Board, joined: Joined) {
        let Joined { mut emulator, card, updates, .. } = joined;
        step("a good update");
        install(board, "good", "/dev/vdb");
        run(board, "again", &["reboot"]);
        emulator.wait_for("bramble: slot B is confirmed", 1);
        wait_for_answer(board);
        drop(emulator);

        step("a failing update");
        fs::copy(spoiled(&self.update, &self.work), &updates).expect("copied");
        let power = self.power(&card, Some(&updates), &PORTS);
        let mut emulator = Emulator::start(board, &self.work.join("joins"), &power);
        emulator.wait_for("bramble: slot B is confirmed", 1);
        wait_for_node(board);
        install(board, "bad", "/dev/vdb");
        run(board, "once-more", &["reboot"]);
        emulator.wait_for("bramble: slot A, attempts left A=0", 1);
        // By whose hashes the system is read: not a block of it is believed.
        emulator.wait_for("dm-verity device corrupted", 1);
        emulator.wait_for("bramble: slot B is confirmed", 2);
        wait_for_answer(board);
        step("rolled back by itself");
        // Pods that asked for the reboot and may run once have not asked again.
        // Whether the board saw their command end, or only that it is over, the reboot decides.
        let again = board.kubectl("get pods again once-more -o jsonpath={.items[*].status.phase}");
        let over = again.split(' ').filter(|phase| matches!(*phase, "Succeeded" | "Failed")).count();
        assert_eq!(over, 2, "{again}");
    }
}

impl Joined {
    fn lets_in_by_key(&mut self, board: &Board, work: &Path) {
        step("lets in who has the key, and nobody else");
        let slots = self.key.wait_for(board, "bramble slot status");
        assert!(runs(&slots, 'A'), "{slots}");
        refused(board, &Key::make(work, "other"));
        assert_eq!(greeting(board), "SSH-2.0-");
        let _ = self.key.wait_for(board, "kill $(cat /run/dropbear.pid)");
        self.emulator.wait_for("bramble: ssh ended", 1);
        assert_eq!(self.key.wait_for(board, "stat -c %a /data/ssh /data/ssh/host-key"), "700\n600\n");
    }

    /// By how much the guest's clock is off.
    fn clock_off_s(&self, board: &Board) -> u64 {
        let told = self.key.wait_for(board, "date +%s");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        now.abs_diff(told.trim().parse().expect("seconds"))
    }

    fn wait_for_the_right_time(&self, board: &Board) {
        let is_right = || (self.clock_off_s(board) < 60).then_some(());
        board.eventually("the clock is the controller's", PATIENCE, is_right);
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

/// Whether this slot runs, as `bramble slot status` says it.
pub(crate) fn runs(slots: &str, slot: char) -> bool {
    slots.lines().any(|line| line.starts_with(&format!("{slot} ")) && line.contains("running"))
}
