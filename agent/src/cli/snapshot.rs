//! Shell: `bramble snapshot`: the store as one file: saved from a running controller, looked at, made a store again.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bramble_store::{Summary, inspect, restore};
use http_body_util::BodyExt;

use super::{Options, SnapshotVerb, admin, up};

pub(crate) mod options;

const PATH: &str = "/bramble/v1/store/snapshot";
/// How often a line of progress is printed.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

pub(crate) fn snapshot(verb: SnapshotVerb, options: &Options) -> anyhow::Result<ExitCode> {
    match verb {
        SnapshotVerb::Save(file) => save(&file, options),
        SnapshotVerb::Inspect(file) => {
            let summary = look(&file)?;
            for (resource, (records, bytes)) in &summary.resources {
                println!("{resource:<40} {records:>9} {bytes:>12} bytes");
            }
            print_summary(&file, &summary);
            Ok(ExitCode::SUCCESS)
        }
        SnapshotVerb::Restore(file) => put_back(&file, options),
        SnapshotVerb::List => list(options),
        SnapshotVerb::Fetch { name, file } => fetch(&name, &file, options),
    }
}

#[cfg(feature = "controller")]
fn list(options: &Options) -> anyhow::Result<ExitCode> {
    let mut found = Vec::new();
    if let Some(dir) = options.snapshots.folder(&options.data_dir) {
        let there = bramble_controller::backup::folder::list(&dir);
        found.extend(there.into_iter().map(|(name, size)| (name, size, dir.display().to_string())));
    }
    if let Some(bucket) = options.snapshots.bucket()? {
        let there = admin::block_on(async { Ok(bucket.list().await?) })?;
        found.extend(there.into_iter().map(|(name, size)| (name, size, bucket.to_string())));
    }
    found.sort();
    println!("{:<42} {:>12}  PLACE", "NAME", "BYTES");
    for (name, size, place) in found {
        println!("{name:<42} {size:>12}  {place}");
    }
    Ok(ExitCode::SUCCESS)
}

/// From the bucket if one is named, else from the folder.
#[cfg(feature = "controller")]
fn fetch(name: &str, file: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let bucket = options.snapshots.bucket()?;
    let folder = options.snapshots.folder(&options.data_dir).unwrap_or_default();
    into_new(file, |out| match &bucket {
        Some(bucket) => admin::block_on(async { Ok(bucket.fetch(name, out).await?) }),
        None => {
            let path = folder.join(name);
            let mut from = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            io::copy(&mut from, out).map(|_| ()).context("cannot copy")
        }
    })
}

#[cfg(not(feature = "controller"))]
fn list(_options: &Options) -> anyhow::Result<ExitCode> {
    bail!("this is a worker-only build; snapshots are the controller's")
}

#[cfg(not(feature = "controller"))]
fn fetch(_name: &str, _file: &Path, _options: &Options) -> anyhow::Result<ExitCode> {
    bail!("this is a worker-only build; snapshots are the controller's")
}

fn print_summary(file: &Path, summary: &Summary) {
    let Summary { revision, records, bytes, sealed, sha256, .. } = summary;
    println!("{}: revision {revision}, {records} records ({sealed} sealed), {bytes} bytes", file.display());
    println!("sha256 of the content {sha256}");
}

/// Reads a file and tells how far it is.
struct Watched {
    file: File,
    progress: Progress,
}

impl Read for Watched {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        self.progress.add(read);
        Ok(read)
    }
}

struct Progress {
    what: &'static str,
    bytes: u64,
    of: Option<u64>,
    printed: Instant,
}

impl Progress {
    fn new(what: &'static str, of: Option<u64>) -> Progress {
        Progress { what, bytes: 0, of, printed: Instant::now() }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.printed.elapsed() >= PROGRESS_PERIOD {
            self.printed = Instant::now();
            match self.of.filter(|of| *of > 0) {
                Some(of) => eprintln!("bramble: {} {} %", self.what, self.bytes * 100 / of),
                None => eprintln!("bramble: {} {} KiB", self.what, self.bytes >> 10),
            }
        }
    }
}

fn open(file: &Path, what: &'static str) -> anyhow::Result<BufReader<Watched>> {
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let progress = Progress::new(what, opened.metadata().ok().map(|meta| meta.len()));
    Ok(BufReader::new(Watched { file: opened, progress }))
}

fn look(file: &Path) -> anyhow::Result<Summary> {
    inspect(open(file, "checked")?).with_context(|| format!("{} cannot be used", file.display()))
}

fn save(file: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    into_new(file, |out| {
        admin::block_on(async {
            let mut body = admin::link(&options.data_dir)?.open(PATH).await?;
            while let Some(frame) = body.frame().await {
                if let Ok(bytes) = frame.context("the controller broke off")?.into_data() {
                    out.write_all(&bytes).context("cannot write")?;
                }
            }
            Ok(())
        })
    })
}

/// A file that tells how much of it there is.
struct Growing {
    file: File,
    progress: Progress,
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.progress.add(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Under another name first, and checked, so that a file of that name is always a whole snapshot.
fn into_new(file: &Path, fill: impl FnOnce(&mut Growing) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    if file.exists() {
        bail!("{} exists", file.display());
    }
    let part = PathBuf::from(format!("{}.part", file.display()));
    let cannot = || format!("cannot write {}", part.display());
    let _ = fs::remove_file(&part);
    let out = File::options().write(true).create_new(true).mode(0o600).open(&part).with_context(cannot)?;
    let mut out = Growing { file: out, progress: Progress::new("saved", None) };
    let filled = fill(&mut out).and_then(|()| out.file.sync_all().with_context(cannot)).and_then(|()| look(&part));
    let summary = filled.inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })?;
    fs::rename(&part, file).with_context(cannot)?;
    print_summary(file, &summary);
    Ok(ExitCode::SUCCESS)
}

fn put_back(file: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let _supervisor = up::lock(&options.data_dir, up::LOCK_FILE)?;
    let _controller = up::lock(&options.data_dir, &up::daemon_lock("controller"))?;
    let path = options.data_dir.join("store.redb");
    if path.exists() {
        bail!("{} exists: move it away first, with the controller stopped", path.display());
    }
    let revision =
        restore(&path, open(file, "restored")?).with_context(|| format!("{} was not restored", file.display()))?;
    println!("{}: every object is shown at revision {revision}; clients list again", path.display());
    Ok(ExitCode::SUCCESS)
}
