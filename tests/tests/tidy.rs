//! The rules of the house that a compiler does not know: arrows between crates, pure files, names, lengths.

use std::fs;
use std::path::{Path, PathBuf};

/// Libraries, and the libraries that each may use.
const ARROWS: [(&str, &[&str]); 4] = [
    ("store", &[]),
    ("runtime", &[]),
    ("controller", &["bramble-store"]),
    // `main.rs` alone may link the controller, behind its feature.
    ("agent", &["bramble-store", "bramble-runtime", "bramble-controller"]),
];

/// What a pure file may not say: everything that waits, or that depends on when and where it runs.
const IMPURE: [&str; 12] = [
    "async fn",
    ".await",
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process::Command",
    "Instant::now",
    "SystemTime::now",
    "std::thread",
    "SystemRandom",
    "std::env::var",
];

/// Lines of a file; a table or a test file may be longer.
const LINES_MAX: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for (krate, _) in ARROWS {
        rust_files(&root().join(krate).join("src"), &mut files);
    }
    assert!(files.len() > 100, "the sources were not found");
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("UTF-8"))).collect()
}

/// The part of a file that is not its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn is_test_file(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    name.contains("tests") || folder == "tests" || name.starts_with("fake") || name.contains("golden")
}

fn fail_if_any(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn arrows_between_crates_are_the_designs() {
    let mut offences = Vec::new();
    for (krate, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("a manifest");
        for line in manifest.lines().filter(|line| line.starts_with("bramble-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&name) {
                offences.push(format!("{krate} -> {name}"));
            }
        }
    }
    for (path, text) in sources() {
        let of = |krate: &str| path.starts_with(root().join(krate));
        let wiring = path.starts_with(root().join("agent/src/cli")) || path.ends_with("agent/src/main.rs");
        if text.contains("bramble_controller") && !of("controller") && !wiring {
            offences.push(format!("{} names the controller", path.display()));
        }
        if text.contains("libcontainer::") && !of("runtime") {
            offences.push(format!("{} calls libcontainer", path.display()));
        }
        if text.contains("tokio") && of("runtime") && text.contains("use tokio") {
            offences.push(format!("{} uses tokio in the synchronous runtime", path.display()));
        }
    }
    fail_if_any("an arrow that DESIGN §3 does not have", &offences);
}

#[test]
fn every_file_says_what_it_is_and_pure_files_are_pure() {
    let mut offences = Vec::new();
    for (path, text) in sources() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "lib.rs" || is_test_file(&path) {
            continue;
        }
        let first = text.lines().next().unwrap_or_default();
        if first.starts_with("//! Pure: ") {
            for word in IMPURE.iter().filter(|word| without_tests(&text).contains(**word)) {
                offences.push(format!("{}: pure, but has `{word}`", path.display()));
            }
        } else if !first.starts_with("//! Shell: ") {
            offences.push(format!("{}: its first line is neither `//! Pure: ` nor `//! Shell: `", path.display()));
        }
    }
    fail_if_any("pure or shell (STYLE 2)", &offences);
}

#[test]
fn files_have_honest_names_and_are_read_in_one_sitting() {
    let mut offences = Vec::new();
    for (path, text) in sources() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ["mod", "utils", "util", "common", "helpers", "manager", "misc"].contains(&stem.as_str()) {
            offences.push(format!("{}: its name says nothing", path.display()));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX && !is_test_file(&path) {
            offences.push(format!("{}: {lines} lines", path.display()));
        }
    }
    fail_if_any("names and lengths (STYLE 3, 4, 5)", &offences);
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    // Written apart, so that this file does not find itself.
    let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ign", "ore"), concat!("dbg", "!(")];
    let mut files = Vec::new();
    for folder in ["store", "controller", "runtime", "agent", "tests"] {
        rust_files(&root().join(folder), &mut files);
    }
    let mut offences = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("UTF-8");
        offences.extend(
            words.iter().filter(|word| text.contains(**word)).map(|word| format!("{}: {word}", path.display())),
        );
    }
    fail_if_any("left undone", &offences);
}

#[test]
fn what_is_not_run_under_qemu_user_exists_and_says_why() {
    let list = fs::read_to_string(root().join("cross/untested")).expect("the list of `cross/build --test`");
    let sources = sources();
    let mut offences = Vec::new();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let (test, reason) = line.split_once(' ').unwrap_or((line, ""));
        let function = format!("fn {}(", test.rsplit("::").next().unwrap_or_default());
        if reason.is_empty() || !sources.iter().any(|(_, text)| text.contains(&function)) {
            offences.push(format!("{test}: {}", if reason.is_empty() { "no reason" } else { "no such test" }));
        }
    }
    fail_if_any("cross/untested", &offences);
}
