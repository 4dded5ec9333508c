//! Shell: tests with real namespaces, cgroups and mounts; they need root and say so.
//!
//! The program is its own multi-call binary: shims and verbs are made from it. `cargo test -p bramble-runtime --test
//! root [part of a name]`.

#![allow(clippy::unwrap_used, reason = "a test crate; clippy knows only functions marked #[test]")]

#[path = "root/board.rs"]
mod board;
#[path = "root/holes.rs"]
mod holes;
#[path = "root/streams.rs"]
mod streams;
#[path = "root/survival.rs"]
mod survival;

use std::{panic::AssertUnwindSafe, process::ExitCode};

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = bramble_runtime::helper_main(&args) {
        return code;
    }
    if args.get(1).is_some_and(|a| a == "agent") {
        survival::agent(args[2].to_str().expect("a path"), args[3].to_str().expect("an id"));
        return ExitCode::SUCCESS;
    }
    let wanted = args.iter().skip(1).filter_map(|a| a.to_str()).find(|a| !a.starts_with('-')).unwrap_or("");
    if args.iter().any(|a| a == "--list") {
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "these tests need root: they make namespaces, cgroups and mounts");
    let (mut failed, mut passed) = (Vec::new(), 0);
    let tests = [holes::TESTS, streams::TESTS, survival::TESTS].concat();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(wanted)) {
        let begin = std::time::Instant::now();
        // A test that hangs ends the run instead of the machine's patience.
        // SAFETY: a plain system call.
        unsafe { libc::alarm(60) };
        let result = std::panic::catch_unwind(AssertUnwindSafe(test));
        println!("test {name} ... {} ({:?})", if result.is_ok() { "ok" } else { "FAILED" }, begin.elapsed());
        match result {
            Ok(()) => passed += 1,
            Err(_) => failed.push(*name),
        }
    }
    if failed.is_empty() {
        println!("test result: ok. {passed} passed; 0 failed");
        return ExitCode::SUCCESS;
    }
    println!("test result: FAILED. {passed} passed; {} failed: {failed:?}", failed.len());
    ExitCode::FAILURE
}
