//! The figures of the README, measured on this machine and printed: `cargo bench -p bramble-tests --bench figures`.
//! Nothing here fails because a machine is slow. `BRAMBLE_FIGURES_IDLE_S` changes the idle minute. `-- wire` measures the line of
//! an idle board alone, which takes ten minutes more (`BRAMBLE_FIGURES_WIRE_S`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bramble_tests::board::Board;
use bramble_tests::client::Client;
use bramble_tests::host::plain_binary;
use bramble_tests::spent::{field, memory, quantiles, row, spent};
use serde_json::{Value, json};

#[path = "figures/sizes.rs"]
mod sizes;
#[path = "figures/wire.rs"]
mod wire;

const PODS: usize = 50;
const COLLECTION: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// How long each rate is measured.
const RATE: Duration = Duration::from_secs(3);

fn main() {
    println!("| figure | measured |\n| --- | --- |");
    if std::env::args().any(|word| word == "wire") {
        return wire::idle_board(row);
    }
    if std::env::var_os("BRAMBLE_BIN").is_none() {
        for (name, size) in sizes::by_crate() {
            row(&format!("of the binary: {name}"), &format!("{size:.2} MB"));
        }
    }
    let size = fs::metadata(plain_binary()).expect("the binary").len();
    row("binary", &format!("{:.1} MB", size as f64 / 1e6));
    let board = Board::up("figures", &["--demo"]);
    board.wait_for_line("bramble: demo: http://");
    let _ = board.kubectl("delete deployment,service hello --wait=true");
    board.eventually("the demonstration is gone", 60, || board.shims().is_empty().then_some(()));
    let client = Client::of(&board);
    idle(&board, "idle, no pods");
    start_pods(&board, &client);
    memory_of_shims(&board);
    idle(&board, &format!("idle, {PODS} pods"));
    for clients in [1, 50] {
        rates(&client, clients);
    }
    drop(board);
    wire::idle_board(row);
}

/// Files below a folder with the moment of their last change.
fn changes(folder: &Path, found: &mut BTreeMap<String, SystemTime>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            changes(&entry.path(), found);
        } else if let Ok(changed) = meta.modified() {
            found.insert(entry.path().to_string_lossy().into_owned(), changed);
        }
    }
}

fn idle(board: &Board, when: &str) {
    let seconds = std::env::var("BRAMBLE_FIGURES_IDLE_S").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    // What the burst before has set in motion comes to rest.
    std::thread::sleep(Duration::from_secs(15));
    let data = board.dir().join("data");
    let daemons = ["controller", "agent"].map(|name| (name, board.pid(name).expect("it runs")));
    let before = daemons.map(|(_, pid)| spent(pid));
    let mut files = BTreeMap::new();
    changes(&data, &mut files);
    std::thread::sleep(Duration::from_secs(seconds));
    let mut after = BTreeMap::new();
    changes(&data, &mut after);
    for ((name, pid), before) in daemons.into_iter().zip(before) {
        let spent = spent(pid);
        let [rss, pss, private] = memory(pid);
        row(&format!("{name}, {when}: RSS, PSS, private"), &format!("{rss:.1}, {pss:.1}, {private:.1} MB"));
        row(
            &format!("{name}, {when}: in {seconds} s"),
            &format!(
                "{:.2} CPU s, {} wake-ups, {} bytes written",
                (spent.0 - before.0) as f64 / 1e3,
                spent.1 - before.1,
                spent.2 - before.2,
            ),
        );
    }
    let root = data.to_string_lossy().into_owned();
    let changed: Vec<&str> = after
        .iter()
        .filter(|(path, at)| files.get(*path) != Some(*at))
        .map(|(path, _)| path.trim_start_matches(&root))
        .collect();
    row(&format!("files changed below the data dir, {when}"), &format!("{} {}", changed.len(), changed.join(" ")));
}

fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("figure-{number}"), "labels": {"app": "figure"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "main", "image": "bramble.local/hello:demo", "imagePullPolicy": "Never"},
        ]},
    })
}

/// One after the other, so that each number is that of one pod: create, Running, first answer.
fn start_pods(board: &Board, client: &Client) {
    let mut connection = client.connect().expect("a connection");
    let (mut running, mut answering) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let path = format!("{COLLECTION}?fieldSelector=metadata.name%3Dfigure-{number}");
        let seen = Waiter::start(client.clone(), &path);
        let begin = Instant::now();
        let (status, answer) = connection.call("POST", COLLECTION, Some(&pod(number))).expect("created");
        assert_eq!(status, 201, "{answer}");
        let ip = seen.running();
        running.push(begin.elapsed());
        board.eventually("the pod answers", 20, || first_answer(client, SocketAddr::new(ip, 8080)));
        answering.push(begin.elapsed());
    }
    row("create -> Running: median, p99", &quantiles(&mut running));
    row("create -> first HTTP answer: median, p99", &quantiles(&mut answering));
}

fn first_answer(client: &Client, address: SocketAddr) -> Option<()> {
    let mut stream = client.reach(address).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.contains("Hello").then_some(())
}

/// A watch that is there before the pod is.
struct Waiter(std::thread::JoinHandle<IpAddr>);

impl Waiter {
    fn start(client: Client, path: &str) -> Self {
        let (ready, begun) = std::sync::mpsc::channel();
        let path = path.to_owned();
        let thread = std::thread::spawn(move || {
            let mut connection = client.connect().expect("a connection");
            let mut address = None;
            let watching = connection.watch(
                &format!("{path}&watch=1"),
                || ready.send(()).expect("somebody waits"),
                |event| {
                    let status = &event["object"]["status"];
                    if status["phase"] == "Running" {
                        address = status["podIP"].as_str().and_then(|ip| ip.parse().ok());
                    }
                    address.is_none()
                },
            );
            watching.expect("a watch");
            address.expect("an address")
        });
        begun.recv().expect("the watch begins");
        Self(thread)
    }

    fn running(self) -> IpAddr {
        self.0.join().expect("it was seen")
    }
}

fn memory_of_shims(board: &Board) {
    let mut private: Vec<u64> = board
        .shims()
        .into_iter()
        .map(|pid| field(pid, "smaps_rollup", "Private_Dirty") + field(pid, "smaps_rollup", "Private_Clean"))
        .collect();
    private.sort_unstable();
    let median = private.get(private.len() / 2).copied().unwrap_or(0);
    row("private memory of a shim: median, largest", &format!("{median}, {} kB", private.last().unwrap_or(&0)));
}

/// Durable creates and gets a second.
fn rates(client: &Client, clients: usize) {
    for verb in ["creates", "gets"] {
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..clients)
            .map(|one| {
                let (client, stop) = (client.clone(), stop.clone());
                std::thread::spawn(move || {
                    let mut connection = client.connect().expect("a connection");
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let name = format!("{verb}-{clients}-{one}-{done}");
                        let (status, _) = if verb == "creates" {
                            let map = json!({"metadata": {"name": name}, "data": {"k": "v"}});
                            connection.call("POST", MAPS, Some(&map)).expect("an answer")
                        } else {
                            connection.call("GET", &format!("{COLLECTION}/figure-0"), None).expect("an answer")
                        };
                        assert!(status < 300, "{verb}: {status}");
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        std::thread::sleep(RATE);
        stop.store(true, Ordering::Relaxed);
        let done: u32 = threads.into_iter().map(|thread| thread.join().expect("a client")).sum();
        row(
            &format!("durable {verb}/s, {clients} clients").replace("durable gets", "gets"),
            &format!("{:.0}", f64::from(done) / RATE.as_secs_f64()),
        );
    }
}
