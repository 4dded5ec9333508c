//! Shell: tests with real namespaces, cgroups and mounts; they need root and say so.
//!
//! The program is its own multi-call binary: shims and verbs are made from it. `cargo test -p bramble-runtime --test
//! root [PART-OF-A-NAME...] [-- --skip PART-OF-A-NAME]...`. `images/boot-test` runs it inside a board of its own, where
//! there is nothing but cgroup v2. `BRAMBLE_TEST_SLOWER=20` is for a machine that is so many times slower.

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
    if args.iter().any(|a| a == "--list") {
        return ExitCode::SUCCESS;
    }
    let is_wanted = filter(args.iter().skip(1).filter_map(|a| a.to_str()));
    assert!(rustix::process::geteuid().is_root(), "these tests need root: they make namespaces, cgroups and mounts");
    let (mut failed, mut passed) = (Vec::new(), 0);
    let all = [holes::TESTS, streams::TESTS, survival::TESTS].concat();
    let tests: Vec<&Test> = all.iter().filter(|(name, _)| is_wanted(name)).collect();
    let version = if board::is_cgroup2() { "v2" } else { "v1" };
    println!("running {} of {} tests on cgroup {version}", tests.len(), all.len());
    for (name, test) in tests {
        let begin = std::time::Instant::now();
        // A test that hangs ends the run instead of the machine's patience.
        // SAFETY: a plain system call.
        unsafe { libc::alarm(60 * board::slower()) };
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

/// As the standard test runner has it: any of the parts, and none of those to skip.
fn filter<'a>(args: impl Iterator<Item = &'a str>) -> impl Fn(&str) -> bool {
    let (mut wanted, mut skipped) = (Vec::new(), Vec::new());
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg {
            "--skip" => skipped.extend(args.next()),
            _ if arg.starts_with('-') => {}
            _ => wanted.push(arg),
        }
    }
    move |name| {
        (wanted.is_empty() || wanted.iter().any(|part| name.contains(part)))
            && !skipped.iter().any(|part| name.contains(part))
    }
}
