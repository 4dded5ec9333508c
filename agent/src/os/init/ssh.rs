//! Shell: a login over SSH, for boards whose file names a key: Debian's dropbear, by keys alone.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::sync::mpsc;

use super::DATA;
use super::programs::start_program;
use crate::platform;

/// root's home, in memory: nothing that somebody puts there changes the board.
const HOME: &str = "/run/root";
/// Before it is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(5);
/// How long a board may take to make a key.
const KEY_PATIENCE: Duration = Duration::from_secs(60);

/// Lets these keys in until the task is aborted. What goes wrong is told.
pub(super) async fn run(keys: Vec<String>, lines: mpsc::Sender<Vec<u8>>) {
    loop {
        let told = match once(&keys, &lines).await {
            Ok(()) => "ended".to_owned(),
            Err(error) => error.to_string(),
        };
        let line = format!("bramble: the login over SSH: {told}; it starts again in {RESTART_PAUSE:?}");
        if lines.send(line.into_bytes()).await.is_err() {
            return;
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

async fn once(keys: &[String], lines: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    admit(Path::new(HOME), keys)?;
    let host_key = Path::new(DATA).join("ssh/host-key");
    if !host_key.exists() {
        make_host_key(&host_key, lines).await?;
    }
    let mut dropbear = Command::new("/bin/dropbear");
    // In the foreground, its words on standard error; no passwords, no forwarding of ports in either direction.
    dropbear.args(["-F", "-E", "-s", "-j", "-k", "-r"]).arg(&host_key);
    until_it_ends(dropbear, lines).await
}

/// The board's own key, made once and whole: a person compares it when the board is met again.
async fn make_host_key(path: &Path, lines: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new(DATA));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let making = path.with_extension("new");
    // What a power cut left would not be overwritten.
    let _ = fs::remove_file(&making);
    let mut tool = Command::new("/bin/dropbearkey");
    tool.args(["-t", "ed25519", "-f"]).arg(&making);
    let begun = Instant::now();
    until_it_ends(tool, lines).await?;
    if begun.elapsed() > KEY_PATIENCE || !making.exists() {
        return Err(io::Error::other("no host key was made"));
    }
    fs::File::open(&making)?.sync_all()?;
    fs::rename(&making, path)?;
    fs::File::open(dir)?.sync_all()
}

/// Process 1 buries all children, so their end is heard of otherwise.
async fn until_it_ends(program: Command, lines: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let pid = start_program(program, lines)?;
    let Ok(end) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let end = platform::pollable(end, Interest::READABLE)?;
    end.readable().await.map(drop)
}

/// Only these keys may log in.
fn admit(home: &Path, keys: &[String]) -> io::Result<()> {
    let dir = home.join(".ssh");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let path = dir.join("authorized_keys");
    let mut file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    keys.iter().try_for_each(|key| writeln!(file, "{key}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_named_keys_are_let_in() {
        let home = std::env::temp_dir().join(format!("bramble-ssh-{}", std::process::id()));
        for keys in [vec!["one".to_owned(), "two".to_owned()], vec!["three".to_owned()]] {
            admit(&home, &keys).unwrap();
            let path = home.join(".ssh/authorized_keys");
            assert_eq!(fs::read_to_string(&path).unwrap().lines().collect::<Vec<_>>(), keys);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::remove_dir_all(home).unwrap();
    }
}
