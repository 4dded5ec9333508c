//! This machine: running programs, and what an instance has left on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// The binary with etcd, of the crates that unit tests are built with: two more are compiled for it. What people run, the
/// release, is what a board's image has. `BRAMBLE_BIN` names another one.
///
/// # Panics
/// It cannot be built.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("BRAMBLE_BIN") {
            return path.into();
        }
        build(&["--workspace", "--all-features"])
    })
}

/// The binary exactly as the README has it built, for figures.
///
/// # Panics
/// It cannot be built.
#[must_use]
pub fn plain_binary() -> PathBuf {
    std::env::var_os("BRAMBLE_BIN").map_or_else(|| build(&["--release"]), PathBuf::from)
}

fn build(more: &[&str]) -> PathBuf {
    let mut build = cargo();
    build.args(["build", "--bin", "bramble", "--message-format=json-render-diagnostics"]).args(more);
    let output = build.current_dir(workspace()).stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(output.status.success(), "the binary does not build");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = messages.lines().rev().find_map(|line| {
        let line = line.split_once("\"executable\":\"")?.1;
        Some(PathBuf::from(line.split('"').next()?))
    });
    path.expect("cargo names the executable")
}

/// cargo as a shell would call it. What cargo tells the test about its package is taken away: build scripts (ring's) watch
/// those variables, and half of the dependencies would be built anew.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_", "CARGO_TARGET_TMPDIR"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|start| name.starts_with(start))) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs a command to its end.
///
/// # Panics
/// It cannot be started.
#[must_use]
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// Standard output of a command that must succeed.
///
/// # Panics
/// It does not.
#[must_use]
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails with the cure when a program is not installed.
///
/// # Panics
/// It is not.
pub fn need(program: &str, package: &str) {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|folder: PathBuf| folder.join(program).exists())
    });
    assert!(found, "this test needs {program}: apt-get install {package}");
}
