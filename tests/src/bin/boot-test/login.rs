//! A login over SSH: only where the board's file names a key, and only with that key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bramble_tests::board::Board;
use bramble_tests::host::{output, succeed};

use crate::Test;
use crate::guest::PATIENCE;

/// The port of the namespace that leads to the guest's SSH.
pub(crate) const SSH_OUTSIDE: u16 = 10022;

impl Test {
    /// Two keys of people: who may come in, and who may not.
    pub(crate) fn keys(&self) -> [PathBuf; 2] {
        ["friend", "stranger"].map(|name| {
            let path = self.work.join(name);
            let _ = fs::remove_file(&path);
            let mut make = Command::new("ssh-keygen");
            let _ = succeed(make.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path));
            path
        })
    }

    /// The line that lets a key in.
    pub(crate) fn ssh_key(key: &Path) -> String {
        let line = fs::read_to_string(key.with_extension("pub")).expect("the public half");
        format!("ssh-key = \"{}\"\n", line.trim())
    }
}

/// A command on the guest.
pub(crate) fn ssh(board: &Board, key: &Path, words: &[&str]) -> Output {
    let mut command = board.command("ssh");
    for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10"] {
        command.args(["-o", option]);
    }
    command.args(["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-p", &SSH_OUTSIDE.to_string(), "-i"]).arg(key);
    output(command.arg("root@10.99.0.1").args(words))
}

/// The named key comes in, and finds a shell and our own tool; the other one does not.
pub(crate) fn let_in_by_key_alone(board: &Board, [friend, stranger]: &[PathBuf; 2]) {
    let told = board.eventually("a login over SSH", PATIENCE, || {
        let told = ssh(board, friend, &["bramble slot status && id -un && ps | wc -l"]);
        told.status.success().then(|| String::from_utf8_lossy(&told.stdout).into_owned())
    });
    assert!(told.contains("ATTEMPTS LEFT") && told.lines().any(|line| line == "root"), "{told}");
    let told = ssh(board, stranger, &["true"]);
    let words = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && words.contains("Permission denied (publickey)"), "{words}");
}

/// Nobody listens where no key was named.
pub(crate) fn nobody_is_let_in(board: &Board, key: &Path) {
    let told = ssh(board, key, &["true"]);
    let words = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && !words.contains("Permission denied"), "{words}");
}
