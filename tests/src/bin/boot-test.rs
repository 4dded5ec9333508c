//! `images/boot-test`: the very image of a card, in an emulator: it joins a controller outside, pulls and serves, comes back
//! without that controller, takes a good update and throws a bad one away, and runs alone.
//!
//! Prints a table of figures at its end. Arguments: the image, its update, a folder for the work, the cross-built binary,
//! U-Boot for the emulator's own machine, U-Boot and device tree for the Pi.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bramble_tests::board::Board;
use bramble_tests::emulator::{Emulator, Machine, Power, card};
use bramble_tests::host::{binary, output, succeed};
use bramble_tests::image::Image;
use bramble_tests::registry::{PASSWORD, Registry, USER};
use serde_json::{Value, json};

/// A card's least size today, in MiB; QEMU's Pi wants a power of two.
const CARD_MIB: u64 = 1024;
/// The port of the namespace that leads to the guest's NodePort.
const OUTSIDE: u16 = 18080;
const NODE_PORT: u16 = 30080;
/// Emulated boards are slow.
const PATIENCE: u64 = 240;
const NODE: &str = "arm-1";

struct Test {
    image: PathBuf,
    update: PathBuf,
    work: PathBuf,
    program: PathBuf,
    boot_loader: PathBuf,
    pi_boot_loader: PathBuf,
    pi_tree: PathBuf,
    figures: Vec<(String, String)>,
}

fn main() {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [image, update, work, program, boot_loader, pi_boot_loader, pi_tree] = paths.try_into().unwrap_or_else(|_| {
        eprintln!("usage: boot-test IMAGE UPDATE FOLDER BINARY U-BOOT PI-U-BOOT PI-TREE; see images/boot-test");
        std::process::exit(2)
    });
    let figures = Vec::new();
    let mut test = Test { image, update, work, program, boot_loader, pi_boot_loader, pi_tree, figures };
    fs::create_dir_all(&test.work).expect("a folder");
    test.joins_serves_and_is_updated();
    test.runs_alone();
    test.starts_on_a_pi();
    println!("\n{:<62} {:>12}", "figure (emulated; load decides)", "value");
    for (name, value) in &test.figures {
        println!("{name:<62} {value:>12}");
    }
    println!("boot-test: ok");
}

fn step(text: &str) {
    println!("boot-test: {text}");
}

impl Test {
    fn figure(&mut self, name: &str, value: impl Into<String>) {
        self.figures.push((name.to_owned(), value.into()));
    }

    fn seconds(&mut self, name: &str, seconds: f64) {
        self.figure(name, format!("{seconds:.1} s"));
    }

    /// A card of its own with this `bramble.toml`, and what lies beside it.
    fn card(&self, name: &str, config: &str, additions: &[&Path]) -> PathBuf {
        let path = self.work.join(format!("{name}.card"));
        card(&self.image, &path, CARD_MIB);
        let file = self.work.join(format!("{name}.toml"));
        fs::write(&file, config).expect("written");
        let mut customise = Command::new(binary());
        customise.args(["image", "customise"]).arg(&path).arg("--config").arg(&file);
        for addition in additions {
            customise.arg("--add").arg(addition);
        }
        let _ = succeed(&mut customise);
        path
    }

    fn power<'a>(&'a self, card: &'a Path, disk: Option<&'a Path>, ports: &'a [(u16, u16)]) -> Power<'a> {
        Power { card, machine: Machine::Virt, boot_loader: &self.boot_loader, device_tree: None, disk, ports }
    }

    fn joins_serves_and_is_updated(&mut self) {
        let mut board = Board::up("image", &[]);
        let registry = Registry::start(&board);
        let image = Image::of_program(&self.program, &["hello"]);
        let _ = registry.push_for("arm64", &image, "hello", "1");
        let config = join_config(&board);
        let card = self.card("joins", &config, &[]);
        step("first boot: joins a controller outside");
        let dir = self.work.join("joins");
        let ports = [(OUTSIDE, NODE_PORT)];
        let updates = self.work.join("update.disk");
        fs::copy(&self.update, &updates).expect("copied");
        let mut emulator = Emulator::start(&board, &dir, &self.power(&card, Some(&updates), &ports));
        let init = emulator.wait_for("bramble: eth0 has", 1);
        wait_for_node(&board);
        let ready = emulator.seconds();
        emulator.wait_for("bramble: slot A is confirmed", 1);
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
        self.seconds("hard reset to the pod's answer, no controller", back);
        board.start(&[]);
        wait_for_node(&board);

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

    fn runs_alone(&mut self) {
        step("alone, as `up`");
        let board = Board::new("alone");
        let (archive, manifest) = (self.work.join("hello.tar"), self.work.join("hello.json"));
        Image::of_program(&self.program, &["hello"]).docker_archive_for("arm64", "bramble.local/hello:1", &archive);
        fs::write(&manifest, workload("bramble.local/hello:1", None).to_string()).expect("written");
        let card = self.card("alone", "role = \"up\"\nnode-name = \"arm-2\"\n", &[&archive, &manifest]);
        let ports = [(16443, 6443), (OUTSIDE, NODE_PORT)];
        let dir = self.work.join("alone");
        let mut emulator = Emulator::start(&board, &dir, &self.power(&card, None, &ports));
        let up = emulator.wait_for("bramble: up.", 1);
        self.seconds("alone: power on to a Ready cluster of its own", up);
        let told = output(board.command("curl").args(["-sk", "--max-time", "20", "https://10.99.0.1:16443/readyz"]));
        assert_eq!(String::from_utf8_lossy(&told.stdout), "ok", "{told:?}");
        wait_for_answer(&board);
        let answer = emulator.seconds();
        self.seconds("alone: power on to the answer of a preloaded pod", answer);
    }

    fn starts_on_a_pi(&mut self) {
        step("the same card in a Raspberry Pi 3, to the agent's start");
        let board = Board::new("pi");
        // QEMU's Pi resets as soon as its watchdog is armed.
        let card = self.card("pi", "node-name = \"pi-3\"\nwatchdog = false\n", &[]);
        let power = Power {
            card: &card,
            machine: Machine::Pi3,
            boot_loader: &self.pi_boot_loader,
            device_tree: Some(&self.pi_tree),
            disk: None,
            ports: &[],
        };
        let mut emulator = Emulator::start(&board, &self.work.join("pi"), &power);
        let started = emulator.wait_for("bramble: up.", 1);
        self.seconds("Raspberry Pi 3: power on to a Ready cluster of its own", started);
    }
}

/// The board joins with a fresh token, and may pull without TLS from the test's registry.
fn join_config(board: &Board) -> String {
    let line = board.bramble("token create");
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| *word == name).unwrap_or_else(|| panic!("{name} in {line}"));
        words[at + 1]
    };
    format!(
        "role = \"agent\"\nnode-name = \"{NODE}\"\n[controller]\naddress = \"{}\"\ntoken = \"{}\"\nca-pin = \"{}\"\n\
         [registries]\ninsecure = [\"10.99.0.1:5000\"]\n",
        value("--server"),
        value("--token"),
        value("--ca-pin"),
    )
}

fn wait_for_node(board: &Board) {
    board.eventually("the node is Ready", PATIENCE, || {
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        (board.try_kubectl(&format!("get node {NODE} -o {ready}")).stdout == b"True").then_some(())
    });
}

fn wait_for_answer(board: &Board) {
    let url = format!("http://10.99.0.1:{OUTSIDE}/");
    board.eventually("the pod answers through its Service", PATIENCE, || {
        let answer = output(board.command("curl").args(["-sS", "--max-time", "5", &url]));
        answer.stdout.starts_with(b"Hello from hello").then_some(())
    });
}

fn deploy(board: &Board) {
    let auth = format!("--docker-server=10.99.0.1:5000 --docker-username={USER} --docker-password={PASSWORD}");
    let _ = board.kubectl(&format!("create secret docker-registry pull {auth}"));
    board.apply(&workload("10.99.0.1:5000/hello:1", Some(NODE)).to_string());
}

/// A pod under a Deployment and its Service, on a node if one is named.
fn workload(image: &str, node: Option<&str>) -> Value {
    let labels = json!({"app": "hello"});
    let spec = json!({
        "nodeName": node, "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"name": "hello", "image": image, "imagePullPolicy": "IfNotPresent"}],
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hello"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    });
    let ports = [json!({"port": 80, "targetPort": 8080, "nodePort": NODE_PORT})];
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello"},
        "spec": {"type": "NodePort", "selector": labels, "ports": ports},
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [deployment, service]})
}

/// A pod that may do everything on its board, as who administers it.
fn administrator(name: &str, arguments: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "hostPID": true, "restartPolicy": "Never", "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "dev", "hostPath": {"path": "/dev"}}],
            "containers": [{
                "name": "bramble", "image": "10.99.0.1:5000/hello:1", "command": ["/bramble"], "args": arguments,
                "securityContext": {"privileged": true},
                "volumeMounts": [{"name": "dev", "mountPath": "/dev"}],
            }],
        },
    })
}

fn run(board: &Board, name: &str, arguments: &[&str]) {
    board.apply(&administrator(name, arguments).to_string());
}

fn install(board: &Board, name: &str, from: &str) {
    run(board, name, &["slot", "install", from]);
    board.eventually("the update is installed", PATIENCE, || {
        let phase = board.kubectl(&format!("get pod {name} -o jsonpath={{.status.phase}}"));
        assert_ne!(phase, "Failed", "the installer failed");
        (phase == "Succeeded").then_some(())
    });
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
