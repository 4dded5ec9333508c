//! Shell: a container's log file to a client, followed without polling the file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::log_line::{LINE_MAX_BYTES, Selection};
use crate::platform::pollable;

/// Read at once; small, because many follow.
const BLOCK_BYTES: usize = 16 * 1024;
/// How often a silent follow looks whether its container has ended; upstream's kubelet looks every 5 s.
const STATE_PERIOD: Duration = Duration::from_secs(1);

/// What to send, from which file.
pub(crate) struct Request {
    pub(crate) path: PathBuf,
    pub(crate) selection: Selection,
    pub(crate) tail_lines: Option<u64>,
    pub(crate) follow: bool,
}

/// Sends the log; a follow goes on until `ended` says that nothing more will be written, or the client goes.
pub(crate) async fn send(
    mut request: Request,
    ended: impl Fn() -> bool,
    client: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut file = File::open(&request.path)?;
    // The watch is set before the first byte is read, so that no line falls between the two.
    let watch = if request.follow { Some(Watch::new(&request.path)?) } else { None };
    if let Some(lines) = request.tail_lines {
        let at = tail_start(&mut file, lines)?;
        file.seek(SeekFrom::Start(at))?;
    }
    let mut pending = Vec::new();
    loop {
        // Asked before reading: what was written before the end is read below.
        let last = ended();
        if !drain(&mut file, &mut pending, &mut request.selection, &client).await? {
            return Ok(());
        }
        let Some(watch) = &watch else { return Ok(()) };
        if rotated(&file, &request.path) {
            file = File::open(&request.path)?;
            continue;
        }
        if last {
            return Ok(());
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            () = tokio::time::sleep(STATE_PERIOD) => {}
            () = client.closed() => return Ok(()),
        }
    }
}

/// Reads to the present end; false when the client is gone or has enough.
async fn drain(
    file: &mut File,
    pending: &mut Vec<u8>,
    selection: &mut Selection,
    client: &mpsc::Sender<Bytes>,
) -> std::io::Result<bool> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok(true);
        }
        pending.extend_from_slice(&block[..count]);
        let mut out = Vec::new();
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if !selection.full() {
                selection.put(&line[..end], &mut out);
            }
        }
        if pending.len() > LINE_MAX_BYTES {
            pending.clear();
        }
        if !out.is_empty() && client.send(Bytes::from(out)).await.is_err() {
            return Ok(false);
        }
        if selection.full() {
            return Ok(false);
        }
    }
}

fn rotated(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => open.ino() != named.ino(),
        _ => false,
    }
}

/// Where the last `lines` lines begin, found from the end.
fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let mut at = file.seek(SeekFrom::End(0))?;
    let (mut found, mut block) = (0, vec![0; BLOCK_BYTES]);
    if lines == 0 {
        return Ok(at);
    }
    let end = at;
    while at > 0 {
        let size = usize::try_from(at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        at -= size as u64;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut block[..size])?;
        for (index, byte) in block[..size].iter().enumerate().rev() {
            // The line feed of the very last line ends it; it does not begin another.
            if *byte == b'\n' && at + index as u64 + 1 != end {
                found += 1;
                if found == lines {
                    return Ok(at + index as u64 + 1);
                }
            }
        }
    }
    Ok(0)
}

/// Tells when a log's folder changes.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn new(path: &Path) -> std::io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        // The folder, because a rotation renames the file away.
        let folder = path.parent().unwrap_or(Path::new("/"));
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, folder, events)?;
        Ok(Self(pollable(fd, Interest::READABLE)?))
    }

    async fn changed(&self) -> std::io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut events = [0; 4096];
        while rustix::io::read(self.0.get_ref(), &mut events).is_ok_and(|count| count > 0) {}
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Log(PathBuf);

    impl Log {
        fn new(name: &str, lines: u32) -> Self {
            let folder = std::env::temp_dir().join(format!("bramble-log-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            let log = Self(folder.join("0.log"));
            (0..lines).for_each(|number| log.write(&number.to_string()));
            log
        }

        fn write(&self, text: &str) {
            let mut file = File::options().create(true).append(true).open(&self.0).unwrap();
            writeln!(file, "2026-11-22T10:00:00Z stdout F {text}").unwrap();
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
        }
    }

    fn request(log: &Log, tail_lines: Option<u64>, follow: bool) -> Request {
        Request { path: log.0.clone(), selection: Selection::default(), tail_lines, follow }
    }

    #[tokio::test]
    async fn the_last_lines_are_found_from_the_end() {
        let log = Log::new("tail", 2000);
        for (tail, expected) in [(Some(2), "1998\n1999\n"), (Some(0), ""), (Some(1), "1999\n")] {
            let (client, mut received) = mpsc::channel(64);
            send(request(&log, tail, false), || true, client).await.unwrap();
            let mut text = Vec::new();
            while let Some(bytes) = received.recv().await {
                text.extend_from_slice(&bytes);
            }
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
        let mut file = File::open(&log.0).unwrap();
        assert_eq!(tail_start(&mut file, 5000).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_follow_crosses_a_rotation_and_ends_with_the_container() {
        let log = Log::new("follow", 1);
        let (client, mut received) = mpsc::channel(64);
        let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = std::sync::Arc::clone(&ended);
        let sending = tokio::spawn(send(
            request(&log, None, true),
            move || flag.load(std::sync::atomic::Ordering::SeqCst),
            client,
        ));
        assert_eq!(received.recv().await.unwrap(), "0\n");
        std::fs::rename(&log.0, log.0.with_extension("log.1")).unwrap();
        log.write("new");
        assert_eq!(received.recv().await.unwrap(), "new\n");
        ended.store(true, std::sync::atomic::Ordering::SeqCst);
        log.write("last");
        assert_eq!(received.recv().await.unwrap(), "last\n");
        sending.await.unwrap().unwrap();
        assert!(received.recv().await.is_none());
    }
}
