//! A flashed card in QEMU: an aarch64 board whose wire ends in a test board's namespace.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::board::Board;
use crate::host::{need, succeed};

/// Emulation is 15 to 30 times slower than the machine.
const BOOT_SECONDS: u64 = 240;

/// Which machine is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// QEMU's own: fast, with a network.
    Virt,
    /// A Raspberry Pi 3B without its network.
    Pi3,
}

/// A card and the machine that it sits in. Dropping it pulls the plug; the card stays with its folder.
pub struct Emulator {
    dir: PathBuf,
    child: Child,
    started: Instant,
}

/// How to power a machine on.
pub struct Power<'a> {
    /// The card; it is written to.
    pub card: &'a Path,
    /// Which machine.
    pub machine: Machine,
    /// The boot loader: U-Boot for this machine.
    pub boot_loader: &'a Path,
    /// The device tree, for a machine that has firmware in reality.
    pub device_tree: Option<&'a Path>,
    /// What its real-time clock says at the start, where that is not the time.
    pub rtc: Option<&'a str>,
    /// A second disk, read-only.
    pub disk: Option<&'a Path>,
    /// The guest's address, where it is not the one that the emulator's DHCP gives out.
    pub address: Option<&'a str>,
    /// `(port of the namespace, port of the guest)`.
    pub ports: &'a [(u16, u16)],
}

impl Emulator {
    /// Switches it on; the namespace's own address serves the ports. `dir` gets the console's text.
    ///
    /// # Panics
    /// QEMU is missing, or does not start.
    #[must_use]
    pub fn start(board: &Board, dir: &Path, power: &Power<'_>) -> Self {
        need("qemu-system-aarch64", "qemu-system-arm");
        fs::create_dir_all(dir).expect("a folder");
        let text = |path: &Path| path.display().to_string();
        let mut command = board.command("qemu-system-aarch64");
        command.args(["-display", "none", "-no-user-config", "-monitor", "none", "-qmp"]);
        let socket = dir.join("qmp");
        let _ = fs::remove_file(&socket);
        command.arg(format!("unix:{},server=on,wait=off", text(&socket)));
        let console = format!("file:{}", text(&dir.join("console")));
        let card = format!("format=raw,file={}", text(power.card));
        match power.machine {
            Machine::Virt => {
                let guest = power.address.unwrap_or_default();
                let forward = |(from, to): &(u16, u16)| format!(",hostfwd=tcp:10.99.0.1:{from}-{guest}:{to}");
                let forwards: String = power.ports.iter().map(forward).collect();
                command.args(["-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "512", "-bios"]);
                command.arg(power.boot_loader);
                // U-Boot counts disks from the end: the card must be its first.
                if let Some(disk) = power.disk {
                    let drive = format!("if=none,id=extra,format=raw,readonly=on,file={}", text(disk));
                    command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=extra"]);
                }
                command.args(["-drive", &format!("if=none,id=card,{card}"), "-device", "virtio-blk-device,drive=card"]);
                command.args([
                    "-netdev",
                    &format!("user,id=wire{forwards}"),
                    "-device",
                    "virtio-net-device,netdev=wire",
                ]);
                command.args(["-device", "virtio-rng-device", "-device", "i6300esb", "-serial", &console]);
                if let Some(time) = power.rtc {
                    command.args(["-rtc", &format!("base={time}")]);
                }
            }
            Machine::Pi3 => {
                command.args(["-M", "raspi3b", "-kernel"]).arg(power.boot_loader);
                if let Some(tree) = power.device_tree {
                    command.arg("-dtb").arg(tree);
                }
                command.args(["-drive", &format!("if=sd,{card}"), "-serial", "null", "-serial", &console]);
            }
        }
        let log = fs::File::create(dir.join("qemu.log")).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("QEMU starts");
        Self { dir: dir.to_owned(), child, started: Instant::now() }
    }

    /// What the console has shown.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(self.dir.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Seconds since it was switched on.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Waits until the console has shown a text so often since it was switched on; answers the seconds.
    ///
    /// # Panics
    /// It does not come.
    pub fn wait_for(&mut self, text: &str, times: usize) -> f64 {
        let deadline = Instant::now() + Duration::from_secs(BOOT_SECONDS);
        loop {
            if self.console().matches(text).count() >= times {
                return self.seconds();
            }
            let ended = self.child.try_wait().expect("asked");
            let words = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
            assert!(ended.is_none(), "QEMU ended: {words}\n{}", self.console());
            assert!(Instant::now() < deadline, "{text:?} never came:\n{}", self.console());
            // The console is a file; nobody tells when it grows.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A command without arguments, by QEMU's machine protocol. A line that is written and not waited for can be lost:
    /// QEMU forgets what it has not read when the other side hangs up.
    ///
    /// # Panics
    /// It is not obeyed.
    fn execute(&self, command: &str) {
        let mut stream = UnixStream::connect(self.dir.join("qmp")).expect("QEMU's socket");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let mut answers = BufReader::new(stream.try_clone().expect("a second handle")).lines();
        for command in ["qmp_capabilities", command] {
            writeln!(stream, "{{\"execute\": \"{command}\"}}").expect("written");
            // The greeting and events come on the same wire.
            let done = answers.by_ref().map(|line| line.expect("an answer")).find(|line| {
                assert!(!line.contains("\"error\""), "{command}: {line}");
                line.contains("\"return\"")
            });
            assert!(done.is_some(), "QEMU hung up before {command}");
        }
    }

    /// The reset button: nothing is asked before.
    pub fn reset(&mut self) {
        self.execute("system_reset");
        self.started = Instant::now();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let console = self.console();
            let lines: Vec<&str> = console.lines().collect();
            eprintln!("the console's last lines:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// A card of so many MiB made of an image.
///
/// # Panics
/// It cannot be written.
pub fn card(image: &Path, to: &Path, mebibytes: u64) {
    let _ = succeed(Command::new("cp").args(["--sparse=always"]).arg(image).arg(to));
    fs::File::options().write(true).open(to).and_then(|file| file.set_len(mebibytes << 20)).expect("a longer file");
}
