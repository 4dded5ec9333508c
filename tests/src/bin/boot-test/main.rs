//! `images/boot-test`: the very image of a card, in an emulator: it joins a controller outside, pulls and serves, comes back
//! without that controller, takes a good update and throws a bad one away, runs alone, and joins a network by radio; the
//! runtime's tests run inside, and so does the one of boards that WireGuard joins.
//!
//! Prints a table of figures at its end. Arguments: the image, its update, a folder for the work, the cross-built binary,
//! U-Boot for the emulator's own machine, U-Boot and device tree for the Pi, the runtime's tests and the agent's as programs; behind them
//! `--only STEP,...`, or `--figures` and a card of plain Debian: they measure the way to the first pod beside Debian's boot, memory
//! and card writes instead.

mod alone;
mod figures;
mod guest;
mod joins;
mod runtime;
mod ssh;
mod trial;
mod wifi;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bramble_tests::emulator::{Machine, Power, card};
use bramble_tests::host::{binary, succeed};

/// A card's least size today, in MiB; QEMU's Pi wants a power of two.
const CARD_MIB: u64 = 1024;

/// A step's name and what it does.
type Step = (&'static str, fn(&Test));

/// What is done with the image, each with a card and a namespace of its own; those that take longest come first.
const STEPS: [Step; 6] = [
    ("runtime", Test::passes_the_runtimes_tests),
    ("joins", Test::joins_serves_and_is_updated),
    ("wifi", Test::joins_by_radio),
    ("apart", Test::joins_what_is_apart),
    ("alone", Test::runs_alone),
    ("pi", Test::starts_on_a_pi),
];

/// Steps at a time: most of a board's life in the emulator takes one core.
const AT_ONCE: usize = 2;

struct Test {
    image: PathBuf,
    update: PathBuf,
    work: PathBuf,
    program: PathBuf,
    boot_loader: PathBuf,
    pi_boot_loader: PathBuf,
    pi_tree: PathBuf,
    runtime_tests: PathBuf,
    agent_tests: PathBuf,
    figures: Mutex<Vec<(String, String)>>,
}

fn main() {
    let mut paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let flag = paths.iter().position(|path| path.as_os_str().as_encoded_bytes().starts_with(b"--"));
    let (mode, operand) = match flag.map(|at| paths.split_off(at)).as_deref() {
        Some([mode, operand]) => (mode.display().to_string(), operand.clone()),
        _ => Default::default(),
    };
    let usage = || {
        let steps = STEPS.map(|(name, _)| name).join(", ");
        eprintln!("usage: images/boot-test [--figures | --only STEP[,STEP...]] [IMG]; steps: {steps}");
        std::process::exit(2)
    };
    let [image, update, work, program, boot_loader, pi_boot_loader, pi_tree, runtime_tests, agent_tests] =
        paths.try_into().unwrap_or_else(|_| usage());
    let figures = Mutex::default();
    let test = Test {
        image,
        update,
        work,
        program,
        boot_loader,
        pi_boot_loader,
        pi_tree,
        runtime_tests,
        agent_tests,
        figures,
    };
    let wanted = operand.display().to_string();
    let is_step = |word: &str| STEPS.iter().any(|(name, _)| *name == word);
    if mode == "--only" && !wanted.split(',').all(is_step) {
        usage();
    }
    fs::create_dir_all(&test.work).expect("a folder");
    if mode == "--figures" {
        test.debian(&operand);
        test.runs_alone();
        test.memory_and_card_writes();
    } else {
        let is_wanted = |name: &str| mode != "--only" || wanted.split(',').any(|step| step == name);
        test.run(STEPS.into_iter().filter(|(name, _)| is_wanted(name)));
    }
    println!("\n{:<62} {:>12}", "figure (emulated; load decides)", "value");
    for (name, value) in test.figures().iter() {
        println!("{name:<62} {value:>12}");
    }
    println!("boot-test: ok");
}

fn step(text: &str) {
    println!("boot-test: {text}");
}

impl Test {
    /// Runs the steps, so many at a time.
    ///
    /// # Panics
    /// One of them failed.
    fn run(&self, steps: impl Iterator<Item = Step> + Send) {
        let steps = Mutex::new(steps);
        let next = || steps.lock().unwrap_or_else(PoisonError::into_inner).next();
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some((name, step)) = next() {
                        let begun = Instant::now();
                        step(self);
                        println!("boot-test: {name} took {} s", begun.elapsed().as_secs());
                    }
                });
            }
        });
    }

    fn figures(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn figure(&self, name: &str, value: impl Into<String>) {
        self.figures().push((name.to_owned(), value.into()));
    }

    fn seconds(&self, name: &str, seconds: f64) {
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
            address: None,
            disk,
            ports,
        }
    }
}
