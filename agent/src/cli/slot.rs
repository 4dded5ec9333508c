//! Shell: `bramble slot status | install FILE | confirm`: the two systems of a flashed board.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use anyhow::Context;
use bramble_agent::os::card::{read_state, write_state};
use bramble_agent::os::disk::{Disk, FileCard};
use bramble_agent::os::install::install;
use bramble_agent::os::slots::Slot;

use super::{Options, SlotVerb};

pub(crate) fn slot(verb: SlotVerb, options: &Options) -> anyhow::Result<ExitCode> {
    let mut card = open(options)?;
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let running = Slot::of_command_line(&line).context("this system does not run from a slot: it is no flashed board");
    match verb {
        SlotVerb::Status => {
            let state = read_state(&mut card)?;
            let mut next = state.clone();
            println!("SLOT  ATTEMPTS LEFT  STATE");
            let next = next.boot();
            for slot in [Slot::A, Slot::B] {
                let runs = running.as_ref().is_ok_and(|running| *running == slot);
                let words =
                    [(runs, "running"), (next == slot, "boots next"), (runs && state.is_trial(slot), "on trial")];
                let words: Vec<&str> = words.iter().filter(|(holds, _)| *holds).map(|(_, word)| *word).collect();
                println!("{slot}     {:<13}  {}", state.left(slot), words.join(", "));
            }
        }
        SlotVerb::Install(path) => {
            let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            let mut told = 0;
            let mut progress = |done: u64, all: u64| {
                let percent = done * 100 / all.max(1);
                if percent >= told + 5 {
                    told = percent;
                    eprintln!("bramble: {percent:>3} %  {} of {} MiB", done >> 20, all >> 20);
                }
            };
            let (slot, manifest) = install(&mut card, running?, BufReader::new(file), &mut progress)?;
            eprintln!("bramble: {} stands in slot {slot}; `bramble reboot` tries it once", manifest.version);
        }
        SlotVerb::Confirm => {
            let mut state = read_state(&mut card)?;
            state.confirm(running?);
            write_state(&mut card, &state)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(options: &Options) -> anyhow::Result<FileCard> {
    let Some(path) = &options.card else {
        return Disk::wait().and_then(|disk| disk.open()).context("this board's card (--card names another)");
    };
    let file = File::options().read(true).write(true).open(path);
    Ok(FileCard(file.with_context(|| format!("cannot open {}", path.display()))?))
}
