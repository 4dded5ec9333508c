//! A file system of its own loses power: its image is copied while a process writes to it, and every copy is mounted (its
//! own journal is replayed then), opened and looked at. Needs root and loop devices.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use bramble_store::{Config, Durability, Precondition, Store, Write};

use crate::dice::Dice;

const COPIES: u64 = 6;
/// Sectors that a copy may miss because the kernel still wrote meanwhile: it is taken again then.
const TRIES: usize = 50;
/// Says to this test, in a process of its own, what to do, with which store.
const TASK: &str = "BRAMBLE_IMAGE_TASK";
const TEST: &str = "image::copies_of_a_file_system_hold_what_was_acknowledged";

fn config(path: &Path) -> Config {
    let mut config = Config::redb(path);
    // Checkpoints come often, so that many a copy hits one.
    config.checkpoint_bytes = 96 << 10;
    config.journal_bytes = 128 << 10;
    config.step_bytes = 32 << 10;
    config
}

const KEYS: u64 = 300;

fn value(number: u64) -> Vec<u8> {
    number.to_string().repeat(100 + (number % 200) as usize).into_bytes()
}

/// Mounted in a mount namespace of its own, which goes with its process: nothing stays behind, whatever happens.
fn mounted(image: &Path, at: &Path, task: &str) -> Child {
    let script = r#"mount -o loop "$1" "$2" && echo "device $(findmnt -n -o SOURCE "$2")" && exec "$3" --exact "$4" --nocapture"#;
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .args([image, at, &std::env::current_exe().unwrap()])
        .arg(TEST)
        .env(TASK, format!("{task} {}", at.join("store").display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Writes until it is killed; says which number is acknowledged.
async fn write_on(path: &Path) {
    let store = Store::open(config(path)).unwrap();
    for number in 1.. {
        let names = ["pods", "nodes"];
        let batch = names.map(|name| Write::put(format!("{name}/{}", number % KEYS), Precondition::Any, value(number)));
        store.write(batch.to_vec(), Durability::Durable).await.unwrap();
        println!("at rest {number}");
    }
}

/// Says the newest number of a store, all of whose batches up to it are whole.
async fn look(path: &Path) {
    let store = Store::open(config(path)).unwrap();
    let mut numbers = Vec::new();
    for key in 0..KEYS {
        let pod = store.get(&format!("pods/{key}")).await.unwrap().map(|record| record.value);
        let node = store.get(&format!("nodes/{key}")).await.unwrap().map(|record| record.value);
        assert_eq!(pod, node, "half of a batch");
        let Some(found) = pod else { continue };
        let digits = (1..=found.len()).find_map(|digits| {
            let number = std::str::from_utf8(&found[..digits]).unwrap().parse().unwrap();
            (number % KEYS == key && value(number) == found).then_some(number)
        });
        numbers.push(digits.expect("no value of that key"));
    }
    numbers.sort_unstable();
    let newest = numbers.last().copied().unwrap_or(0);
    let first = newest.saturating_sub(KEYS - 1).max(1);
    assert_eq!(numbers, (first..=newest).collect::<Vec<u64>>(), "some of the newest batches are missing");
    println!("newest {newest}");
}

struct Writer {
    child: Child,
    lines: BufReader<ChildStdout>,
    device: String,
    acknowledged: u64,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Writer {
    fn read(&mut self) -> bool {
        let mut line = String::new();
        if self.lines.read_line(&mut line).unwrap() == 0 {
            return false;
        }
        if let Some(device) = line.trim().strip_prefix("device ") {
            self.device = device.to_owned();
        }
        if let Some(number) = line.trim().strip_prefix("at rest ") {
            self.acknowledged = number.parse().unwrap();
        }
        true
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Sectors that the device has written.
    fn written(&self) -> u64 {
        let name = self.device.trim_start_matches("/dev/");
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        stat.split_whitespace().nth(6).unwrap().parse().unwrap()
    }
}

/// Whether loop devices are missing; said loudly, and no excuse in CI.
fn is_impossible(writer: &mut Writer) -> bool {
    while writer.device.is_empty() {
        if !writer.read() {
            assert!(std::env::var_os("CI").is_none(), "CI has no loop devices to mount");
            println!("SKIPPED: no image can be mounted here; {TEST} needs root and loop devices");
            return true;
        }
    }
    false
}

#[tokio::test]
async fn copies_of_a_file_system_hold_what_was_acknowledged() {
    if let Ok(task) = std::env::var(TASK) {
        let (what, path) = task.split_once(' ').unwrap();
        return if what == "write" { write_on(Path::new(path)).await } else { look(Path::new(path)).await };
    }
    let mut dice = Dice::roll();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let image = path("image");
    fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().unwrap();
    assert!(made.success());
    for at in ["at", "copy-at"] {
        fs::create_dir(path(at)).unwrap();
    }
    let mut child = mounted(&image, &path("at"), "write");
    let lines = BufReader::new(child.stdout.take().unwrap());
    let mut writer = Writer { child, lines, device: String::new(), acknowledged: 0 };
    if is_impossible(&mut writer) {
        return;
    }
    let mut taken = Vec::new();
    for number in 0..COPIES {
        let enough = writer.acknowledged + 20 + dice.below(700);
        while writer.acknowledged < enough {
            assert!(writer.read(), "the writer ended by itself");
        }
        let copy = path(&format!("copy-{number}"));
        copy_stopped(&writer, &image, &copy);
        // What was on its way here was said before the copy began; it may be more than this.
        taken.push((copy, writer.acknowledged));
    }
    drop(writer);
    for (copy, acknowledged) in taken {
        let output = mounted(&copy, &path("copy-at"), "look").wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let newest = text.lines().find_map(|line| line.strip_prefix("newest ")).unwrap().parse::<u64>().unwrap();
        println!("acknowledged {acknowledged}, found {newest}");
        assert!(newest >= acknowledged, "{} of {acknowledged} are lost", acknowledged - newest);
    }
}

/// A copy of the image as it is at one moment: the writer stands still, and the kernel wrote nothing meanwhile.
fn copy_stopped(writer: &Writer, image: &Path, copy: &Path) {
    for _ in 0..TRIES {
        writer.signal("-STOP");
        let before = writer.written();
        fs::copy(image, copy).unwrap();
        let still = writer.written() == before;
        writer.signal("-CONT");
        if still {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the kernel never stopped writing");
}
