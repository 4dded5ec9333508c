//! Shell: the processes of a board: started with their lines told, buried, ended.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long everything may take to end, before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(25);

/// Sends every line of a stream, with what it shall begin with.
pub(super) fn forward(
    stream: impl AsyncRead + Unpin + Send + 'static,
    start: &'static str,
    lines: &mpsc::Sender<Vec<u8>>,
) {
    let lines = lines.clone();
    tokio::spawn(async move {
        let mut stream = BufReader::new(stream);
        let mut line = start.as_bytes().to_vec();
        while stream.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
            line.truncate(line.trim_ascii_end().len());
            if lines.send(std::mem::replace(&mut line, start.as_bytes().to_vec())).await.is_err() {
                return;
            }
        }
    });
}

/// Starts this binary again, its lines told with the others'.
pub(super) fn start(words: &[String], lines: &mpsc::Sender<Vec<u8>>) -> io::Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    command.args(words);
    spawn(command, "", lines)
}

/// Starts a program with nothing of ours but its search path.
pub(super) fn spawn(mut command: Command, start: &'static str, lines: &mpsc::Sender<Vec<u8>>) -> io::Result<Pid> {
    command.current_dir("/").env_clear().envs(BTreeMap::from([("PATH", "/bin")]));
    if let Ok(level) = std::env::var("BRAMBLE_LOG") {
        command.env("BRAMBLE_LOG", level);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(stdout) = child.stdout.take() {
        forward(ChildStdout::from_std(stdout)?, start, lines);
    }
    if let Some(stderr) = child.stderr.take() {
        forward(ChildStderr::from_std(stderr)?, start, lines);
    }
    // It is waited for with all others, by `reap`.
    Ok(Pid::from_child(&child))
}

/// Buries children and orphans; tells who ended, and how.
pub(super) fn reap() -> Vec<(Pid, String)> {
    let mut told = Vec::new();
    while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        told.push((pid, how));
    }
    told
}

/// The supervisor ends its daemons in order; containers go on until then.
pub(super) async fn stop(daemon: Pid) {
    let _ = kill_process(daemon, Signal::TERM);
    let deadline = Instant::now() + END_PATIENCE;
    while reap().iter().all(|(pid, _)| *pid != daemon) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks every process to end, and kills what has not by then.
pub(super) async fn end_all() {
    for (ask, patience) in [(Signal::TERM, END_PATIENCE), (Signal::KILL, Duration::from_secs(2))] {
        let deadline = Instant::now() + patience;
        for pid in processes() {
            let _ = kill_process(pid, ask);
        }
        while !processes().is_empty() && Instant::now() < deadline {
            let _ = reap();
            // Nothing tells of the end of other people's children.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Processes of programs: the kernel's own have no memory, shims end with their containers.
fn processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_program = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid > 1 && !line.is_empty() && !is_shim(&line)
    };
    pids.filter(of_program).filter_map(Pid::from_raw).collect()
}

fn is_shim(command_line: &[u8]) -> bool {
    command_line.split(|byte| *byte == 0).nth(1) == Some(bramble_runtime::SHIM_VERB.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_are_told_from_programs() {
        let verb = bramble_runtime::SHIM_VERB;
        assert!(is_shim(format!("/proc/self/exe\0{verb}\0/run/x\0").as_bytes()));
        assert!(!is_shim(b"bramble\0agent\0"));
    }
}
