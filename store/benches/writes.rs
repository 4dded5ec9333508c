//! Durable writes: rate, latency and bytes on the disk, for one client and for a hundred, beside a raw append with
//! fdatasync on the same disk in the same run. Prints figures, asserts nothing.
//!
//! `cargo bench -p bramble-store`; the folder of `BENCH_DIR` decides which disk, default is cargo's target folder.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bramble_store::{Config, Durability, ListQuery, Precondition, Store, Write};

/// A small pod.
const VALUE_BYTES: usize = 2048;
const KEYS: usize = 2000;
const LONE_WRITES: usize = 3000;
const CLIENTS: usize = 100;
const WRITES_PER_CLIENT: usize = 200;

struct Figures {
    name: &'static str,
    per_second: f64,
    p50: Duration,
    p99: Duration,
    bytes: f64,
}

fn main() {
    let dir = std::env::var_os("BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = dir.join("store-writes");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let raw = raw(&dir.join("raw"));
    let (lone, many, deferred, volatile) = runtime.block_on(async {
        let store = Store::open(Config::redb(dir.join("store"))).unwrap();
        for index in 0..KEYS {
            write(&store, index, Durability::Deferred).await;
        }
        store.flush().await.unwrap();
        let lone = clients("durable, 1 client", &store, 1, LONE_WRITES, Durability::Durable).await;
        let many = clients("durable, 100 clients", &store, CLIENTS, WRITES_PER_CLIENT, Durability::Durable).await;
        let deferred = clients("deferred, 1 client", &store, 1, LONE_WRITES, Durability::Deferred).await;
        let volatile = clients("volatile, 1 client", &store, 1, LONE_WRITES, Durability::Volatile).await;
        reads(&store).await;
        (lone, many, deferred, volatile)
    });
    println!(
        "{:<24}{:>10}{:>12}{:>12}{:>14}{:>12}{:>12}",
        "", "writes/s", "p50", "p99", "bytes/write", "rate/raw", "bytes/raw"
    );
    for figures in [&raw, &lone, &many, &deferred, &volatile] {
        println!(
            "{:<24}{:>10.0}{:>12.1?}{:>12.1?}{:>14.0}{:>12.2}{:>12.2}",
            figures.name,
            figures.per_second,
            figures.p50,
            figures.p99,
            figures.bytes,
            figures.per_second / raw.per_second,
            figures.bytes / raw.bytes
        );
    }
    println!("RSS of the whole bench: {} KiB", status_kib("VmRSS:"));
    println!(
        "store file: {} KiB for {} KiB of values",
        fs::metadata(dir.join("store")).unwrap().len() >> 10,
        (KEYS * VALUE_BYTES) >> 10
    );
    fs::remove_dir_all(&dir).unwrap();
}

fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Bytes that this process has sent towards a disk.
fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

fn figures(name: &'static str, mut latencies: Vec<Duration>, elapsed: Duration, bytes: u64) -> Figures {
    latencies.sort_unstable();
    let count = latencies.len();
    Figures {
        name,
        per_second: count as f64 / elapsed.as_secs_f64(),
        p50: latencies[count / 2],
        p99: latencies[count * 99 / 100],
        bytes: bytes as f64 / count as f64,
    }
}

fn raw(path: &Path) -> Figures {
    let mut file = File::create(path).unwrap();
    let value = vec![b'x'; VALUE_BYTES];
    let mut latencies = Vec::with_capacity(LONE_WRITES);
    let (begin, before) = (Instant::now(), written());
    for _ in 0..LONE_WRITES {
        let start = Instant::now();
        file.write_all(&value).unwrap();
        file.sync_data().unwrap();
        latencies.push(start.elapsed());
    }
    figures("raw append+fdatasync", latencies, begin.elapsed(), written() - before)
}

async fn write(store: &Store, index: usize, floor: Durability) {
    let key = format!("pods/default/{:05}", index % KEYS);
    let value = vec![b'a' + (index % 26) as u8; VALUE_BYTES];
    store.write(vec![Write::put(key, Precondition::Any, value)], floor).await.unwrap();
}

async fn clients(name: &'static str, store: &Store, clients: usize, writes: usize, floor: Durability) -> Figures {
    let (begin, before) = (Instant::now(), written());
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            local.spawn_local(async move {
                let mut latencies = Vec::with_capacity(writes);
                for index in 0..writes {
                    let start = Instant::now();
                    // A large prime scatters the keys.
                    write(&store, (index * clients + client) * 7919, floor).await;
                    latencies.push(start.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut watch = store.watch("pods/", store.revision()).unwrap();
    let watcher = local.spawn_local(async move {
        for events in 0.. {
            match watch.next().await {
                Ok(_) if events + 1 == clients * writes => return format!("{name}: a watcher saw every event"),
                Ok(_) => {}
                Err(error) => return format!("{name}: a watcher saw {events} events: {error}"),
            }
        }
        String::new()
    });
    let mut latencies = Vec::new();
    local
        .run_until(async {
            for task in tasks {
                latencies.extend(task.await.unwrap());
            }
            println!("{}", watcher.await.unwrap());
        })
        .await;
    store.flush().await.unwrap();
    figures(name, latencies, begin.elapsed(), written() - before)
}

async fn reads(store: &Store) {
    let begin = Instant::now();
    for index in 0..KEYS {
        store.get(&format!("pods/default/{:05}", (index * 7919) % KEYS)).await.unwrap().unwrap();
    }
    println!("get: {:.0}/s", KEYS as f64 / begin.elapsed().as_secs_f64());
    let (begin, mut pages) = (Instant::now(), 0);
    let mut after: Option<String> = None;
    let mut at = None;
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
}
