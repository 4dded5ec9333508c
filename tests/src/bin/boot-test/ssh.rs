//! Logins over SSH: with the key that `bramble.toml` names, with another one, and where none is named.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bramble_tests::board::Board;
use bramble_tests::host::{need, output, succeed};

use crate::guest::PATIENCE;

/// The port of the namespace that leads to the guest's SSH.
pub(crate) const SSH: u16 = 10022;

/// A pair of keys, and what is known of the hosts that it was used with.
pub(crate) struct Key {
    file: PathBuf,
    hosts: PathBuf,
}

impl Key {
    pub(crate) fn make(dir: &Path, name: &str) -> Self {
        need("ssh", "openssh-client");
        let (file, hosts) = (dir.join(name), dir.join(format!("{name}.hosts")));
        let _ =
            succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&file));
        Self { file, hosts }
    }

    /// The line for `bramble.toml`, which stands before all tables.
    pub(crate) fn config(&self) -> String {
        let line = fs::read_to_string(self.file.with_extension("pub")).expect("a public key");
        format!("ssh-key = \"{}\"\n", line.trim())
    }

    pub(crate) fn run(&self, board: &Board, line: &str) -> Output {
        output(&mut self.command(board, line))
    }

    /// A host is believed at first and must be the same afterwards; one that is silent for two minutes is gone.
    pub(crate) fn command(&self, board: &Board, line: &str) -> Command {
        let mut ssh = board.command("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=30"]);
        ssh.args([
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-o",
            &format!("UserKnownHostsFile={}", self.hosts.display()),
        ]);
        ssh.args(["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"]);
        ssh.arg("-i").arg(&self.file).args(["-p", &SSH.to_string(), "root@10.99.0.1", line]);
        ssh
    }

    /// Until the board answers, which is what the line prints.
    pub(crate) fn wait_for(&self, board: &Board, line: &str) -> String {
        board.eventually("a login works", PATIENCE, || {
            let answer = self.run(board, line);
            answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
        })
    }
}

/// Another key comes in by no way.
pub(crate) fn refused(board: &Board, other: &Key) {
    let answer = other.run(board, "id");
    let told = String::from_utf8_lossy(&answer.stderr);
    assert!(!answer.status.success() && told.contains("Permission denied (publickey)"), "{answer:?}");
}

/// The first bytes that SSH's port says; nothing where nobody listens behind it.
pub(crate) fn greeting(board: &Board) -> String {
    let mut ask = board.command("timeout");
    ask.args(["20", "bash", "-c", &format!("exec 3<>/dev/tcp/10.99.0.1/{SSH} && head -c 8 <&3")]);
    let mut text = String::new();
    let _ = output(&mut ask).stdout.as_slice().read_to_string(&mut text);
    text
}
