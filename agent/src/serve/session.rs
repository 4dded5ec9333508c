//! Shell: moves bytes between a client and a process in a container.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bramble_runtime::{Session, Size};
use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::remote::{Input, Output, Remote, exit_status, failure_status};
use crate::platform::pollable;

/// A pipe's capacity: reading it at once costs one wake-up.
const BUFFER_BYTES: usize = 16 * 1024;
/// After the process has ended its children may still hold its output; upstream's runtime waits no longer either.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A descriptor of ours, read and written without blocking the one thread.
struct Pollable(AsyncFd<OwnedFd>);

impl Pollable {
    fn new(fd: OwnedFd, interest: Interest) -> std::io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self(pollable(fd, interest)?))
    }

    /// `None` at the end; a terminal's end is an error of its own.
    async fn read(&self) -> Option<Bytes> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut ready = self.0.readable().await.ok()?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
                Ok(Ok(0)) => return None,
                Ok(Ok(count)) => {
                    buffer.truncate(count);
                    return Some(Bytes::from(buffer));
                }
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Ok(Err(_)) => return None,
                Err(_would_block) => {}
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Ok(count)) => bytes = &bytes[count..],
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// Runs a session to its end: when the process ends, or (an attach) when the client goes.
pub(crate) async fn run(session: Session, remote: Remote, attached: bool) {
    let output = remote.output.clone();
    if let Err(error) = pump(session, remote, attached).await {
        let _ = output.send(Output::Status(failure_status(&error.to_string()))).await;
    }
}

async fn pump(mut session: Session, remote: Remote, attached: bool) -> std::io::Result<()> {
    let Remote { input, output } = remote;
    let exit = pollable(session.exit_fd().try_clone_to_owned()?, Interest::READABLE)?;
    let stdin = session.stdin.take().map(|fd| Pollable::new(fd, Interest::WRITABLE)).transpose()?;
    let mut copies = Vec::new();
    for (fd, wrap) in [
        (session.stdout.take(), Output::Stdout as fn(Bytes) -> Output),
        (session.stderr.take(), Output::Stderr as fn(Bytes) -> Output),
    ] {
        if let Some(fd) = fd {
            copies.push(tokio::spawn(copy(Pollable::new(fd, Interest::READABLE)?, output.clone(), wrap)));
        }
    }
    let client = feed(input, stdin, &session);
    tokio::pin!(client);
    let gone = tokio::select! {
        _ = exit.readable() => false,
        () = &mut client => true,
    };
    if gone && attached {
        // The container lives on; only this view of it ends.
        copies.iter().for_each(tokio::task::JoinHandle::abort);
        return Ok(());
    }
    if gone {
        let _ = exit.readable().await;
    }
    for mut task in copies {
        if timeout(DRAIN_TIMEOUT, &mut task).await.is_err() {
            task.abort();
        }
    }
    let status = match session.wait() {
        // An attach saw the output to its end; the exit code is the container's status to tell, as upstream has it.
        Ok(Some(_)) if attached => exit_status(0),
        Ok(Some(status)) => exit_status(status.code),
        Ok(None) => failure_status("the process ended, but its exit code was not seen"),
        Err(error) => failure_status(&error.to_string()),
    };
    let _ = output.send(Output::Status(status)).await;
    Ok(())
}

async fn copy(from: Pollable, to: mpsc::Sender<Output>, wrap: fn(Bytes) -> Output) {
    while let Some(bytes) = from.read().await {
        if to.send(wrap(bytes)).await.is_err() {
            // Nobody listens any more, but the process must not block on a full pipe.
            while from.read().await.is_some() {}
        }
    }
}

/// Passes the client's input on; ends when the client is gone.
async fn feed(mut input: mpsc::Receiver<Input>, mut stdin: Option<Pollable>, session: &Session) {
    while let Some(message) = input.recv().await {
        match message {
            Input::Stdin(bytes) => {
                if let Some(pipe) = &stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Input::StdinEnd => stdin = None,
            Input::Resize(width, height) => {
                let _ = session.resize(Size { width, height });
            }
        }
    }
}
