//! `images/boot-test`: the very image of a card, in an emulator: it joins a controller outside, pulls and serves, comes back
//! without that controller, takes a good update and throws a bad one away, runs alone, and joins a network by radio.
//!
//! Prints a table of figures at its end. Arguments: the image, its update, a folder for the work, the cross-built binary,
//! U-Boot for the emulator's own machine, U-Boot and device tree for the Pi; `--figures` behind them measures memory and
//! card writes instead, `--wifi` takes only the step with an access point.

mod alone;
mod figures;
mod guest;
mod joins;
mod ssh;
mod wifi;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bramble_tests::emulator::{Machine, Power, card};
use bramble_tests::host::{binary, succeed};

/// A card's least size today, in MiB; QEMU's Pi wants a power of two.
const CARD_MIB: u64 = 1024;

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
    let mut paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let only_wifi = paths.pop_if(|last| last.as_os_str() == "--wifi").is_some();
    let measures = paths.pop_if(|last| last.as_os_str() == "--figures").is_some();
    let [image, update, work, program, boot_loader, pi_boot_loader, pi_tree] = paths.try_into().unwrap_or_else(|_| {
        eprintln!("usage: boot-test IMAGE UPDATE FOLDER BINARY U-BOOT PI-U-BOOT PI-TREE; see images/boot-test");
        std::process::exit(2)
    });
    let figures = Vec::new();
    let mut test = Test { image, update, work, program, boot_loader, pi_boot_loader, pi_tree, figures };
    fs::create_dir_all(&test.work).expect("a folder");
    if measures {
        test.memory_and_card_writes();
    } else if only_wifi {
        test.joins_by_radio();
    } else {
        test.joins_serves_and_is_updated();
        test.runs_alone();
        test.joins_by_radio();
        test.starts_on_a_pi();
    }
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
        Power {
            card,
            machine: Machine::Virt,
            boot_loader: &self.boot_loader,
            device_tree: None,
            rtc: None,
            disk,
            ports,
        }
    }
}
