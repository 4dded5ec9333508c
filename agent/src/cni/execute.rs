//! Shell: runs one plugin: its input on standard input, its answer bounded, its end within a time.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::result::complaint;

/// As long as upstream's kubelet waits for a sandbox.
const TIMEOUT: Duration = Duration::from_mins(2);
/// The longest result that is believed.
const STDOUT_MAX: u64 = 1 << 20;
/// What is kept of a complaint; the rest is read and dropped, so that nobody waits for a full pipe.
const STDERR_MAX: usize = 16 << 10;
/// Where programs are looked for that plugins start themselves, if the agent was told nothing.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds a plugin.
///
/// # Errors
/// A sentence in upstream's words.
pub(super) fn find(program: &str, folders: &[PathBuf]) -> Result<PathBuf, String> {
    let found = folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| format!("failed to find plugin {program:?} in path {folders:?}"))
}

/// Runs a plugin and answers what it wrote to standard output.
///
/// # Errors
/// What it complains of, or why it could not be run; a sentence for the user.
pub(super) async fn run(program: &Path, variables: &[(&str, String)], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_else(|| SEARCH_PATH.into());
    command.env_clear().env("PATH", path).envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Its own group: what it started itself ends with it.
    let mut child = command
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    let end = || {
        if let Some(group) = group {
            // It may have ended meanwhile.
            let _ = kill_process_group(group, Signal::KILL);
        }
    };
    let answer = match tokio::time::timeout(TIMEOUT, talk(&mut child, input)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it did not end within {} s", TIMEOUT.as_secs())),
    };
    let (status, stdout, stderr) = answer.inspect_err(|_| end())?;
    if !status.success() {
        return Err(complaint(&stdout, &stderr, &status.to_string()));
    }
    Ok(stdout)
}

type Answer = (std::process::ExitStatus, Vec<u8>, Vec<u8>);

async fn talk(child: &mut Child, input: &[u8]) -> std::io::Result<Answer> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(std::io::Error::other("it has no pipes"));
    };
    let write = async move {
        // One that does not read its input says itself what it misses.
        let _ = stdin.write_all(input).await;
    };
    let read = async move {
        let mut bytes = Vec::new();
        stdout.take(STDOUT_MAX + 1).read_to_end(&mut bytes).await.map(|_| bytes)
    };
    let ((), stdout, stderr) = tokio::join!(write, read, beginning(stderr));
    let stdout = stdout?;
    if stdout.len() as u64 > STDOUT_MAX {
        return Err(std::io::Error::other("it wrote more than 1 MiB"));
    }
    Ok((child.wait().await?, stdout, stderr?))
}

async fn beginning(mut from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(kept);
        }
        let room = STDERR_MAX - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}
