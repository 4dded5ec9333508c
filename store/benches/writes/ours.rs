//! This store.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bramble_store::{Config, Durability, ListQuery, Precondition, Store, Write};

use crate::{CLIENTS, Figures, KEYS, LONE_WRITES, Load, Meter};

async fn write(store: &Store, load: Load, client: usize, index: usize, floor: Durability) {
    let (key, value) = load.write(client, index);
    store.write(vec![Write::put(key, Precondition::Any, value)], floor).await.unwrap();
}

async fn clients(store: &Store, load: Load, floor: Durability) -> Vec<Duration> {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..load.clients {
        let store = store.clone();
        clients.spawn(async move {
            let mut latencies = Vec::new();
            for index in 0..load.writes_per_client {
                let start = Instant::now();
                write(&store, load, client, index, floor).await;
                latencies.push(start.elapsed());
            }
            latencies
        });
    }
    clients.join_all().await.concat()
}

pub(crate) async fn run(dir: &Path, load: Load) -> Figures {
    let dir = dir.join("bramble");
    fs::create_dir_all(&dir).unwrap();
    let store = Store::open(Config::redb(dir.join("store"))).unwrap();
    if load.filled {
        for first in (0..load.keys).step_by(100) {
            let put = |number| Write::put(load.key(number), Precondition::Any, load.value(number));
            store.write((first..first + 100).map(put).collect(), Durability::Durable).await.unwrap();
        }
    }
    let meter = Meter::start(std::process::id(), &dir);
    let begin = Instant::now();
    let latencies = clients(&store, load, Durability::Durable).await;
    let elapsed = begin.elapsed();
    // Closing takes along what is in the journal only.
    drop(store);
    let figures = meter.figures(latencies, elapsed);
    fs::remove_dir_all(&dir).unwrap();
    figures
}

/// What no peer has, or nobody compares: weaker writes, reads, size and memory.
pub(crate) async fn others(dir: &Path) {
    let load = Load::new(2048, CLIENTS);
    let path = dir.join("others");
    let store = Store::open(Config::redb(&path)).unwrap();
    clients(&store, load, Durability::Durable).await;
    println!();
    let lone = Load::new(2048, 1);
    for floor in [Durability::Deferred, Durability::Volatile] {
        let meter = Meter::start(std::process::id(), dir);
        let latencies = clients(&store, lone, floor).await;
        let elapsed = meter.answered();
        store.flush().await.unwrap();
        let figures = meter.figures(latencies, elapsed);
        println!("{floor:?}: {:.0} writes/s, {:.0} bytes a write", figures.per_second, figures.bytes);
    }
    let begin = Instant::now();
    for index in 0..LONE_WRITES {
        store.get(&lone.write(0, index).0).await.unwrap().unwrap();
    }
    println!("get: {:.0}/s", LONE_WRITES as f64 / begin.elapsed().as_secs_f64());
    let (begin, mut pages) = (Instant::now(), 0);
    let (mut after, mut at): (Option<String>, _) = (None, None);
    loop {
        let page = store.list(ListQuery { prefix: "pods/", after: after.as_deref(), limit: 500, at }).await.unwrap();
        pages += 1;
        at = Some(page.revision);
        after = page.records.last().map(|record| record.key.clone());
        if !page.more {
            break;
        }
    }
    println!("list of {KEYS} in {pages} pages: {:.1?}", begin.elapsed());
    drop(store);
    println!("file: {} KiB for {} KiB of values", fs::metadata(&path).unwrap().len() >> 10, (KEYS * 2048) >> 10);
}

/// Records of a large store, and what it must not take: memory that grows with them, time to open it after a kill, and
/// a pause of whoever writes.
pub(crate) async fn large(dir: &Path) {
    const RECORDS: usize = 1_000_000;
    let (path, killed) = (dir.join("large"), dir.join("killed"));
    let before = resident();
    let store = Store::open(Config::redb(&path)).unwrap();
    let mut slowest = Duration::ZERO;
    for first in (0..RECORDS).step_by(100) {
        if first == RECORDS / 10 {
            println!("\n{first} records of 100 B: RSS {} KiB, {before} before", resident());
        }
        let put = |index| Write::put(format!("pods/default/{index:07}"), Precondition::Any, vec![b'x'; 100]);
        let start = Instant::now();
        store.write((first..first + 100).map(put).collect(), Durability::Durable).await.unwrap();
        slowest = slowest.max(start.elapsed());
    }
    println!("{RECORDS} records of 100 B: RSS {} KiB, slowest of their durable batches {slowest:.1?}", resident());
    let journal = |path: &Path| format!("{}.journal", path.display());
    fs::copy(&path, &killed).unwrap();
    fs::copy(journal(&path), journal(&killed)).unwrap();
    // Opening flushes the file; that is not to pay for the copy.
    for path in [killed.display().to_string(), journal(&killed)] {
        fs::File::open(path).unwrap().sync_all().unwrap();
    }
    let begin = Instant::now();
    let reopened = Store::open(Config::redb(&killed)).unwrap();
    let size = fs::metadata(&killed).unwrap().len() >> 20;
    println!("opened after a kill at {size} MiB: {:.1?}", begin.elapsed());
    drop((store, reopened));
}

/// Overwrites and flushes a sector of a file beside the store, now and then, until it is stopped: what whoever flushes on
/// this disk may wait for now, and with whatever else runs on this machine.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Duration, usize)>,
}

impl Probe {
    fn start(dir: &Path) -> Probe {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (stop.clone(), dir.join("probe"));
        let thread = std::thread::spawn(move || {
            let file = fs::File::create(&path).unwrap();
            let (mut longest, mut over) = (Duration::ZERO, 0);
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                file.write_all_at(&[1; 512], 0).unwrap();
                file.sync_data().unwrap();
                longest = longest.max(start.elapsed());
                over += usize::from(start.elapsed() > PAUSE);
                std::thread::sleep(Duration::from_millis(5));
            }
            (longest, over)
        });
        Probe { stop, thread }
    }

    fn stop(self) -> (Duration, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Longer than anybody should wait.
const PAUSE: Duration = Duration::from_millis(50);

/// A million writes and deletes of a working set that fits, under a cap that it would exceed many times over.
pub(crate) async fn churn(dir: &Path) {
    const WRITES: usize = 1_000_000;
    let path = dir.join("churn");
    let mut config = Config::redb(&path);
    config.file_bytes_max = 64 << 20;
    let store = Store::open(config.clone()).unwrap();
    let (mut slowest, mut over, mut largest) = (Duration::ZERO, 0, 0);
    let (begin, probe) = (Instant::now(), Probe::start(dir));
    let load = Load { clients: 1, ..Load::large() };
    for first in (0..WRITES).step_by(50) {
        let write = |number: usize| {
            let key = load.key(number * 7919 % 20_000);
            if number.is_multiple_of(2) {
                Write::put(key, Precondition::Any, load.value(number))
            } else {
                Write::delete(load.key((number / 2) * 104_729 % 20_000), Precondition::Any)
            }
        };
        let mut batch: Vec<Write> = (first..first + 50).map(write).collect();
        batch.sort_by(|a, b| a.key.cmp(&b.key));
        batch.dedup_by(|a, b| a.key == b.key);
        let start = Instant::now();
        store.write(batch, Durability::Durable).await.unwrap();
        slowest = slowest.max(start.elapsed());
        over += usize::from(start.elapsed() > PAUSE);
        if first % 5000 == 0 {
            largest = largest.max(fs::metadata(&path).unwrap().len());
        }
    }
    println!(
        "{WRITES} writes and deletes in {:.1?}, {} batches: largest file {} KiB of {} KiB",
        begin.elapsed(),
        WRITES / 50,
        largest >> 10,
        config.file_bytes_max >> 10
    );
    let (longest, probes_over) = probe.stop();
    println!(
        "longest pause {slowest:.1?}, {over} over {PAUSE:.0?}; of a lone sector beside it {longest:.1?}, {probes_over}"
    );
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
