//! Durable writes: rate, latency and bytes written, for one client and for a hundred, of small and of larger values, by
//! this store, SQLite (WAL, synchronous=FULL) and etcd, and a raw append with fdatasync, on the same disk in the same
//! run. Prints figures, asserts nothing. `BENCH_DIR` decides which disk; the default is cargo's target folder.
//!
//! Bytes are `write_bytes` of the writing process (`/proc/<pid>/io`), from an empty store to a closed one where it
//! closes, and beside them the sectors that the disk itself counts (`/sys/dev/block`), which others on it add to: run it
//! on a file system of its own. Needs Debian's `sqlite3` and `etcd-server`.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

mod etcd;
mod ours;
mod sqlite;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A heartbeat or an endpoint, and a small pod.
const VALUES_BYTES: [usize; 2] = [200, 2048];
/// Written over and over, like the objects of a cluster.
const KEYS: usize = 2000;
const LONE_WRITES: usize = 3000;
const CLIENTS: usize = 100;
const WRITES_PER_CLIENT: usize = 200;
/// Of everything that is compared.
const ROUNDS: usize = 3;
/// A store that no cache holds, for the longest pause: every write hits another page.
const LARGE_KEYS: usize = 100_000;
const LARGE_VALUE_BYTES: usize = 500;
const LARGE_WRITES_PER_CLIENT: usize = 1000;

/// What is written, by how many.
#[derive(Clone, Copy)]
struct Load {
    value_bytes: usize,
    clients: usize,
    keys: usize,
    writes_per_client: usize,
    /// Every key is there before.
    filled: bool,
}

impl Load {
    fn new(value_bytes: usize, clients: usize) -> Load {
        let writes_per_client = if clients == 1 { LONE_WRITES } else { WRITES_PER_CLIENT };
        Load { value_bytes, clients, keys: KEYS, writes_per_client, filled: false }
    }

    fn large() -> Load {
        Load {
            value_bytes: LARGE_VALUE_BYTES,
            clients: CLIENTS,
            keys: LARGE_KEYS,
            writes_per_client: LARGE_WRITES_PER_CLIENT,
            filled: true,
        }
    }

    /// The key and the value of a client's write; a large prime scatters the keys.
    fn write(&self, client: usize, index: usize) -> (String, Vec<u8>) {
        let number = (index * self.clients + client) * 7919;
        (self.key(number), self.value(number))
    }

    fn key(&self, number: usize) -> String {
        format!("pods/default/{:06}", number % self.keys)
    }

    /// A pod as clients write it, so far as it fits: names, hashes and times differ.
    fn value(&self, number: usize) -> Vec<u8> {
        let mut state = number as u64;
        let mut hash = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 20
        };
        let (uid, node, image) = (hash(), number % 10, hash());
        let mut text = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"web-{number}-{:x}","namespace":"default","uid":"{uid:x}-{:x}","labels":{{"app":"web","pod-template-hash":"{:x}"}}}},"spec":{{"nodeName":"pi-{node}","containers":[{{"name":"web","image":"registry.local/web@sha256:{image:x}{:x}","#,
            hash(),
            hash(),
            hash(),
            hash()
        );
        while text.len() < self.value_bytes {
            text.push_str(&format!(
                r#"{{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-0{}T10:{:02}:{:02}Z","observedGeneration":{},"message":"{:x}"}},"#,
                hash() % 9 + 1, hash() % 60, hash() % 60, hash() % 100, hash()
            ));
        }
        text.truncate(self.value_bytes);
        text.into_bytes()
    }
}

/// What a run took.
struct Figures {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    p999: Duration,
    longest: Duration,
    bytes: f64,
    device_bytes: f64,
}

/// Counts what a process and the disk write, and the time, from here on.
struct Meter {
    pid: u32,
    dir: PathBuf,
    begin: Instant,
    bytes: u64,
    device_bytes: u64,
}

impl Meter {
    fn start(pid: u32, dir: &Path) -> Meter {
        let (bytes, device_bytes) = (written(pid), device_written(dir));
        Meter { pid, dir: dir.to_owned(), begin: Instant::now(), bytes, device_bytes }
    }

    /// The clients have their answers; what is written from here on still counts.
    fn answered(&self) -> Duration {
        self.begin.elapsed()
    }

    fn figures(&self, mut latencies: Vec<Duration>, elapsed: Duration) -> Figures {
        latencies.sort_unstable();
        let count = latencies.len();
        Figures {
            per_second: count as f64 / elapsed.as_secs_f64(),
            p50: latencies[count / 2],
            p99: latencies[count * 99 / 100],
            p999: latencies[count * 999 / 1000],
            longest: latencies[count - 1],
            bytes: (written(self.pid) - self.bytes) as f64 / count as f64,
            device_bytes: (device_written(&self.dir) - self.device_bytes) as f64 / count as f64,
        }
    }
}

/// Bytes that a process has sent towards a disk.
fn written(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

/// Bytes that the disk of a folder has written; zero where the kernel does not tell.
fn device_written(dir: &Path) -> u64 {
    let dev = fs::metadata(dir).unwrap().dev();
    let (major, minor) = ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xf_ff00));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    stat.split_whitespace().nth(6).map_or(0, |sectors| sectors.parse::<u64>().unwrap() * 512)
}

fn raw(dir: &Path, load: Load) -> Figures {
    let mut file = File::create(dir.join("raw")).unwrap();
    let meter = Meter::start(std::process::id(), dir);
    let latencies: Vec<Duration> = (0..load.writes_per_client)
        .flat_map(|index| {
            let start = Instant::now();
            let group: Vec<u8> = (0..load.clients).flat_map(|client| load.write(client, index).1).collect();
            file.write_all(&group).unwrap();
            file.sync_data().unwrap();
            vec![start.elapsed(); load.clients]
        })
        .collect();
    meter.figures(latencies, meter.answered())
}

fn main() {
    let dir = std::env::var_os("BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = dir.join("store-writes");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // `-- large`, `-- pauses` and so on print only that part.
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    println!("load average: {}", fs::read_to_string("/proc/loadavg").unwrap().trim());
    for value_bytes in VALUES_BYTES.iter().copied().filter(|_| wanted("writes")) {
        for clients in [1, CLIENTS] {
            compare(&dir, &runtime, Load::new(value_bytes, clients));
        }
    }
    if wanted("pauses") {
        compare(&dir, &runtime, Load::large());
    }
    if wanted("others") {
        runtime.block_on(ours::others(&dir));
    }
    if wanted("large") {
        runtime.block_on(ours::large(&dir));
    }
    if wanted("churn") {
        runtime.block_on(ours::churn(&dir));
    }
    println!("load average: {}", fs::read_to_string("/proc/loadavg").unwrap().trim());
    fs::remove_dir_all(&dir).unwrap();
}

fn compare(dir: &Path, runtime: &tokio::runtime::Runtime, load: Load) {
    let Load { value_bytes, clients, keys, filled, .. } = load;
    println!("\n{value_bytes} B, {clients} client(s), {keys} keys{}", if filled { ", all there before" } else { "" });
    println!(
        "{:<8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>13}{:>14}{:>11}{:>12}",
        "", "writes/s", "p50", "p99", "p99.9", "longest", "bytes/write", "device/write", "rate/etcd", "bytes/etcd"
    );
    // In turn: a disk that others use is faster at one time than at another. What counts is the round in the middle.
    let mut rounds: [Vec<Figures>; 4] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(runtime.block_on(ours::run(dir, load)));
        rounds[1].push(sqlite::run(dir, load));
        rounds[2].push(raw(dir, load));
        rounds[3].push(runtime.block_on(etcd::run(dir, load)));
    }
    let [ours, sqlite, raw, etcd] = rounds.map(|mut figures| {
        figures.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        figures.swap_remove(ROUNDS / 2)
    });
    for (name, figures) in [("bramble", &ours), ("SQLite", &sqlite), ("raw", &raw), ("etcd", &etcd)] {
        print(name, figures, &etcd);
    }
}

fn print(name: &str, figures: &Figures, etcd: &Figures) {
    println!(
        "{name:<8}{:>10.0}{:>10.1?}{:>10.1?}{:>10.1?}{:>10.1?}{:>13.0}{:>14.0}{:>11.2}{:>12.2}",
        figures.per_second,
        figures.p50,
        figures.p99,
        figures.p999,
        figures.longest,
        figures.bytes,
        figures.device_bytes,
        figures.per_second / etcd.per_second,
        figures.bytes / etcd.bytes
    );
}
