//! The figures of several boards, measured on this machine and printed: `cargo bench -p bramble-tests --bench boards`.
//! `-- few` and `-- many` print a part. Nothing here fails because a machine is slow. `BRAMBLE_FIGURES_IDLE_S` changes the idle
//! minute.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bramble_tests::board::Board;
use bramble_tests::client::{Client, Connection};
use bramble_tests::lan::Lan;
use bramble_tests::spent::{memory, quantiles, row, spent};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// How many Services there are while one of them changes.
const CROWDS: [usize; 3] = [10, 1_000, 10_000];
/// Changes of endpoints that are measured with each.
const CHANGES: usize = 20;
/// Who make the crowd.
const CLIENTS: usize = 16;
const FEW: usize = 3;
const MANY: usize = 20;
/// Pods of a board that counts as lost go after so many seconds more.
const TOLERATED_S: u32 = 5;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|one| one == part);
    println!("| figure | measured |\n| --- | --- |");
    if wants("few") {
        few();
    }
    if wants("many") {
        many();
    }
}

fn few() {
    let lan = Lan::new(1);
    let mut one = lan.board("figures", 0);
    one.start(&[]);
    one.load_tools();
    let mut boards = Vec::new();
    joins(&lan, &one, &mut boards);
    idle(&one, &boards, FEW);
    let viewer = Viewer { client: Client::of(&one), from: within(&boards[0]) };
    for crowd in CROWDS {
        programming(&viewer, crowd);
    }
    crowd_costs(&one, &boards[0]);
    reconverges(&one, &viewer);
    fails_over(&one, &boards[0]);
}

/// One after the other: power on to Ready.
fn joins(lan: &Lan, one: &Board, boards: &mut Vec<Board>) {
    let mut times = Vec::new();
    for number in 2..=FEW {
        let mut board = lan.board("figures", 0);
        let line = one.bramble("token create");
        let name = format!("pi-{number}");
        let words: Vec<&str> = line.split_whitespace().skip(2).chain(["--node-name", &name]).collect();
        let client = Client::of(one);
        let begun = Instant::now();
        board.begin(&words);
        one.eventually("it is Ready", 60, || is_ready(&client, &name).then_some(()));
        times.push(begun.elapsed());
        board.load_tools();
        boards.push(board);
    }
    row("`bramble agent --token` to Ready: median, longest (looked at each 0.1 s)", &quantiles(&mut times));
}

fn is_ready(client: &Client, name: &str) -> bool {
    let node = client.get(&format!("/api/v1/nodes/{name}")).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// What boards and their controller cost while nobody asks for anything.
fn idle(one: &Board, boards: &[Board], count: usize) {
    let seconds: u64 = std::env::var("BRAMBLE_FIGURES_IDLE_S").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    // What the joining has set in motion comes to rest.
    std::thread::sleep(Duration::from_secs(20));
    let controller = one.pid("controller").expect("it runs");
    let agents: Vec<i32> = boards.iter().map(|board| board.pid("agent").expect("it runs")).collect();
    let cost = |pid: i32| spent(pid).0;
    let before = (cost(controller), agents.iter().copied().map(cost).sum::<u64>(), bytes(&boards[0]));
    std::thread::sleep(Duration::from_secs(seconds));
    let after = (cost(controller), agents.iter().copied().map(cost).sum::<u64>(), bytes(&boards[0]));
    let per_minute = |milliseconds: u64| milliseconds as f64 / 1e3 * 60.0 / seconds as f64;
    let [rss, pss, _] = memory(controller);
    row(
        &format!("controller of {count} idle boards: RSS, PSS; CPU a minute"),
        &format!("{rss:.1}, {pss:.1} MB; {:.2} s", per_minute(after.0 - before.0)),
    );
    let all: Vec<[f64; 3]> = agents.iter().map(|pid| memory(*pid)).collect();
    let mean = |at: usize| all.iter().map(|one| one[at]).sum::<f64>() / all.len() as f64;
    row(
        &format!("an agent among {count} idle boards: RSS, PSS; CPU a minute"),
        &format!("{:.1}, {:.1} MB; {:.2} s", mean(0), mean(1), per_minute(after.1 - before.1) / all.len() as f64),
    );
    let hourly = (after.2 - before.2) as f64 * 3600.0 / seconds as f64 / 1e3;
    row(
        &format!("on the wire of an idle board among {count}, with all headers: an hour; a day"),
        &format!("{hourly:.0} kB; {:.2} MB", hourly * 24.0 / 1e3),
    );
}

/// Bytes that went over a board's wire both ways.
fn bytes(board: &Board) -> u64 {
    let counters = "/sys/class/net/eth0/statistics/";
    // The mount of /sys shows the namespace in which it was mounted.
    let read = format!("mount -t sysfs none /sys && cat {counters}rx_bytes {counters}tx_bytes");
    let told = board.succeed(&["unshare", "--mount", "sh", "-c", &read]);
    told.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum()
}

/// Changes Services by the API, and looks from another board.
struct Viewer {
    client: Client,
    from: Client,
}

/// The same client, in another board's namespace; only for plain connections.
fn within(board: &Board) -> Client {
    Client::plain(Path::new("/run/netns").join(board.netns()))
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"port": 80, "targetPort": 6443}]}})
}

fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"port": 6443}], "endpoints": endpoints})
}

fn create(connection: &mut Connection, path: &str, object: &Value) -> Value {
    let (status, answer) = connection.call("POST", path, Some(object)).expect("an answer");
    assert!(status == 201 || status == 409, "{answer}");
    answer
}

/// Fills the cluster up to so many Services, each with an endpoint.
fn fill(client: &Client, crowd: usize) {
    std::thread::scope(|scope| {
        for first in 0..CLIENTS {
            scope.spawn(move || {
                let mut connection = client.connect().expect("a connection");
                for number in (first..crowd).step_by(CLIENTS) {
                    let name = format!("one-of-many-{number}");
                    let _ = create(&mut connection, SERVICES, &service(&name));
                    let _ = create(&mut connection, SLICES, &slice(&name, &["192.0.2.1"]));
                }
            });
        }
    });
}

/// From an endpoint's appearance in the API to the first connection through the Service on another board.
fn programming(viewer: &Viewer, crowd: usize) {
    fill(&viewer.client, crowd);
    let mut connection = viewer.client.connect().expect("a connection");
    let _ = create(&mut connection, SERVICES, &service("moving"));
    let (_, moving) = connection.call("GET", &format!("{SERVICES}/moving"), None).expect("an answer");
    let ip = moving["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).expect("an address");
    let address = SocketAddr::new(ip, 80);
    let _ = create(&mut connection, SLICES, &slice("moving", &[]));
    let mut put = |addresses: &[&str]| {
        let (status, answer) =
            connection.call("PUT", &format!("{SLICES}/moving"), Some(&slice("moving", addresses))).expect("an answer");
        assert_eq!(status, 200, "{answer}");
    };
    let until = |reached: bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while viewer.from.reach(address).is_ok() != reached {
            assert!(Instant::now() < deadline, "the Service never came to be reached: {reached}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let mut times = Vec::new();
    for _ in 0..CHANGES {
        put(&[]);
        until(false);
        let begun = Instant::now();
        put(&["10.99.0.1"]);
        until(true);
        times.push(begun.elapsed());
    }
    row(
        &format!("endpoint applied to the first connection on another board, {crowd} Services: median, p99"),
        &quantiles(&mut times),
    );
}

fn crowd_costs(one: &Board, board: &Board) {
    let rss = |board: &Board, daemon: &str| memory(board.pid(daemon).expect("it runs"))[0];
    let crowd = CROWDS[CROWDS.len() - 1];
    row(
        &format!("RSS with {crowd} Services: controller, agent"),
        &format!("{:.1}, {:.1} MB", rss(one, "controller"), rss(board, "agent")),
    );
}

/// The controller is killed; its supervisor starts it again.
fn reconverges(one: &Board, viewer: &Viewer) {
    let pid = one.pid("controller").and_then(rustix::process::Pid::from_raw).expect("it runs");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let begun = Instant::now();
    one.eventually("the API answers", 60, || {
        viewer.client.get("/readyz").map(|_| ()).or_else(|| ready(&viewer.client))
    });
    row("controller killed to its API's next answer", &format!("{:.1} s", begun.elapsed().as_secs_f64()));
    programming(&Viewer { client: viewer.client.clone(), from: viewer.from.clone() }, 10);
}

/// `/readyz` is no JSON.
fn ready(client: &Client) -> Option<()> {
    client.get("/api").map(drop)
}

/// A board's plug is pulled: its pods are replaced on another.
fn fails_over(one: &Board, board: &Board) {
    one.apply(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: moved}}
spec:
  selector: {{matchLabels: {{app: moved}}}}
  template:
    metadata: {{labels: {{app: moved}}}}
    spec:
      # The environment of a pod that is told of ten thousand Services is longer than a kernel takes.
      enableServiceLinks: false
      affinity: {{nodeAffinity: {{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 100, preference: {{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [pi-2]}}]}}}}]}}}}
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: {TOLERATED_S}}}
      containers: [{{name: main, image: "tests.local/tools:1", command: [sleep, "1000"]}}]
"#
    ));
    let _ = one.kubectl("rollout status deployment moved --timeout=60s");
    assert_eq!(one.kubectl("get pod -l app=moved -o jsonpath={.items[*].spec.nodeName}"), "pi-2");
    let _ = board.succeed(&["ip", "link", "set", "eth0", "down"]);
    let begun = Instant::now();
    let running =
        "get pod -l app=moved -o jsonpath={range.items[?(@.status.phase==\"Running\")]}{.spec.nodeName}{\"\\n\"}{end}";
    one.eventually("another one runs elsewhere", 240, || {
        one.kubectl(running).lines().any(|node| node != "pi-2").then_some(())
    });
    row(
        &format!(
            "plug pulled to its pod Running elsewhere (lost as its Lease of 100 s says, tolerated {TOLERATED_S} s)"
        ),
        &format!("{:.1} s", begun.elapsed().as_secs_f64()),
    );
}

/// The same with many boards that come at once.
fn many() {
    let lan = Lan::new(1);
    let mut one = lan.board("figures", 0);
    one.start(&[]);
    let mut boards: Vec<Board> = (1..MANY).map(|_| lan.board("figures", 0)).collect();
    let line = one.bramble("token create");
    let words: Vec<&str> = line.split_whitespace().skip(2).collect();
    let begun = Instant::now();
    for (number, board) in boards.iter_mut().enumerate() {
        board.begin(&[&words[..], &["--node-name", &format!("pi-{}", number + 2)]].concat());
    }
    let client = Client::of(&one);
    one.eventually("all are Ready", 120, || {
        (2..=MANY).all(|number| is_ready(&client, &format!("pi-{number}"))).then_some(())
    });
    row(
        &format!("{} boards that join at once: until the last is Ready", MANY - 1),
        &format!("{:.1} s", begun.elapsed().as_secs_f64()),
    );
    idle(&one, &boards, MANY);
}
