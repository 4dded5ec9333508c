//! Several controllers over one etcd: two boards under `up` and a worker, a member of etcd on each of them, mTLS. What is
//! written through one is seen through the other, and when a whole board dies, the leader and its member with it, the other
//! one goes on, and the worker with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bramble_tests::board::Board;
use bramble_tests::client::{Client, Follower};
use bramble_tests::etcd::Etcd;
use bramble_tests::host::output;
use bramble_tests::image::TOOLS;
use bramble_tests::lan::Lan;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// A client that waits longer takes its write for lost.
const REQUEST: Duration = Duration::from_secs(10);
/// Between two writes, so that they last through everything that happens.
const THINKS: Duration = Duration::from_millis(20);
const SECRET: &str = "hunter2-must-never-lie-on-a-disk";
const PLAIN: &str = "a-config-map-that-anybody-may-read";

fn web() -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 2\n  selector: \
         {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      nodeSelector: {{kubernetes.io/hostname: pi-3}}\n      containers:\n      - \
         name: main\n        image: {TOOLS}\n        command: [sh, -c, \"exec sleep 1000000\"]\n"
    )
}

fn start(board: &mut Board, etcd: &Etcd, more: &[&str]) {
    let flags = etcd.flags();
    let options: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    board.start(&options);
}

/// Addresses behind the Service `kubernetes`, as a board's API server says.
fn servers(board: &Board) -> String {
    let path = "jsonpath={.endpoints[*].addresses[*]}";
    let told = board.try_kubectl(&format!("get endpointslice kubernetes -o {path}"));
    String::from_utf8_lossy(&told.stdout).into_owned()
}

fn files_with(folder: &Path, text: &str) -> usize {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path());
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    entries.map(|path| if path.is_dir() { files_with(&path, text) } else { usize::from(holds(&path)) }).sum()
}

/// Neither Secrets nor the cluster's own keys are in any file of etcd's.
fn nothing_secret_lies_in(etcd: &Etcd, one: &Board) {
    assert!(files_with(etcd.dir(), PLAIN) > 0, "the search itself must be able to find something");
    for secret in [SECRET.to_owned(), BASE64_STANDARD.encode(SECRET)] {
        assert_eq!(files_with(etcd.dir(), &secret), 0);
    }
    for name in ["data/pki/ca.key", "data/pki/service-account/0001.key", "data/cluster-token"] {
        let key = fs::read_to_string(one.dir().join(name)).expect("readable");
        let line = key.lines().find(|line| !line.starts_with("---")).expect("a line of the key");
        assert_eq!(files_with(etcd.dir(), line), 0, "{name} lies in etcd");
    }
}

/// A token that one API server issued is good for the other one.
fn tokens_are_the_clusters(one: &Board, two: &Board) {
    let token = one.kubectl("create token default");
    let ask = |board: &Board| {
        let header = format!("Authorization: Bearer {}", token.trim());
        let told = output(
            board
                .command("curl")
                .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", &header])
                .arg("https://127.0.0.1:6443/api"),
        );
        String::from_utf8_lossy(&told.stdout).into_owned()
    };
    assert_eq!((ask(one).as_str(), ask(two).as_str()), ("200", "200"));
}

/// Keys that one controller makes anew are the other one's too, at once.
fn keys_are_renewed_for_all(one: &Board, two: &Board) {
    let pins = |table: &str| -> Vec<String> {
        let keys = table.lines().filter(|line| line.starts_with("authority") || line.starts_with("service-account"));
        keys.filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
    };
    let _ = one.bramble("certificate rotate");
    let told = pins(&two.bramble("certificate rotate-ca"));
    assert_eq!(told.len(), 4, "two authorities, two keys: {told:?}");
    one.eventually("the other one has them", 20, || {
        (pins(&one.try_bramble("certificate check")) == told).then_some(())
    });
    tokens_are_the_clusters(one, two);
    tokens_are_the_clusters(two, one);
    let worker = "exec deploy/web -- true";
    one.eventually("the worker lets both in", 60, || {
        [one, two].iter().all(|board| board.try_kubectl(worker).status.success()).then_some(())
    });
}

/// Writes through one API server after the other until it is ended; gives the names that were acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl Writer {
    fn start(clients: [Client; 2]) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut acknowledged = BTreeSet::new();
            let mut connections = [None, None];
            for number in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (slot, client) = (&mut connections[number % 2], &clients[number % 2]);
                let name = format!("written-{number}");
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": &name}});
                let connection = slot.take().map_or_else(|| client.connect(), Ok);
                let answer = connection.and_then(|mut connection| {
                    connection.give_up_after(REQUEST)?;
                    let (status, _) = connection.call("POST", CONFIG_MAPS, Some(&object))?;
                    *slot = Some(connection);
                    Ok(status)
                });
                if answer.is_ok_and(|status| status == 201) {
                    acknowledged.insert(name);
                }
                std::thread::sleep(THINKS);
            }
            acknowledged
        });
        Writer { stop, thread }
    }

    fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it writes to the end")
    }
}

/// Which of these names an API server does not list.
fn missing(client: &Client, names: &BTreeSet<String>) -> Vec<String> {
    let list = client.get(CONFIG_MAPS).expect("it answers");
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let there: BTreeSet<String> = list["items"].as_array().into_iter().flatten().map(name).collect();
    names.difference(&there).cloned().collect()
}

fn signal_controller(board: &Board, signal: Signal) {
    let controller = board.pid("controller").and_then(Pid::from_raw).expect("it runs");
    kill_process(controller, signal).expect("it runs");
}

fn leader(board: &Board) -> String {
    board.kubectl("get lease kube-controller-manager -n kube-system -o jsonpath={.spec.holderIdentity}")
}

/// Rolls the deployment through a board's API server; nothing is left over and nothing is missing.
fn rolls(board: &Board, round: u32) {
    let _ = board.kubectl(&format!("set env deployment/web ROUND={round}"));
    let _ = board.kubectl("rollout status deployment/web --timeout=90s");
    board.eventually("two pods, all of the newest template", 30, || {
        let pods = board.try_kubectl("get pods -l app=web -o jsonpath={.items[*].spec.containers[*].env[*].value}");
        (String::from_utf8_lossy(&pods.stdout) == format!("{round} {round}")).then_some(())
    });
}

struct Cluster {
    lan: Lan,
    etcd: Etcd,
    one: Board,
    two: Board,
    three: Board,
}

fn cluster() -> Cluster {
    let lan = Lan::new(1);
    let [mut one, mut two, mut three] = [(); 3].map(|()| lan.board("controllers", 0));
    let etcd = Etcd::start(&[(&one, "10.99.0.1"), (&two, "10.99.0.2"), (&three, "10.99.0.3")]);
    start(&mut one, &etcd, &[]);
    let token = one.dir().join("data/cluster-token").to_string_lossy().into_owned();
    start(&mut two, &etcd, &["--node-name", "pi-2", "--token-file", &token]);
    one.eventually("both are behind the Service kubernetes", 30, || {
        (servers(&one) == "10.99.0.1 10.99.0.2").then_some(())
    });
    // With the line of `token create`, which names both.
    three.join(&one, "pi-3");
    three.load_tools();
    Cluster { lan, etcd, one, two, three }
}

/// The board with the leader and its member dies as in a power cut.
fn dies(cluster: &mut Cluster) {
    let Cluster { one, two, etcd, .. } = cluster;
    assert!(leader(two).starts_with("pi-1_"), "the one that started first leads");
    let controller = one.pid("controller").and_then(Pid::from_raw).expect("it runs");
    one.crash();
    kill_process(controller, Signal::KILL).expect("it runs");
    etcd.kill_member(0);
    let died = Instant::now();
    two.eventually("the other API server writes", 20, || {
        let made = two.try_kubectl("create configmap meanwhile --from-literal=a=b --request-timeout=10s");
        made.status.success().then_some(())
    });
    println!("a write is taken {:.1} s after the board died", died.elapsed().as_secs_f64());
    rolls(two, 2);
    let rolled = died.elapsed();
    println!("a deployment has rolled {:.1} s after the leader died", rolled.as_secs_f64());
    assert!(rolled.as_secs() < 45, "it took {rolled:?}");
    two.eventually("the dead one is no endpoint", 30, || (servers(two) == "10.99.0.2").then_some(()));
    etcd.start_member(0, one);
    start(one, etcd, &[]);
    assert_eq!(one.kubectl("get configmap meanwhile -o jsonpath={.data.a}"), "b");
    two.eventually("both are endpoints again", 30, || (servers(two) == "10.99.0.1 10.99.0.2").then_some(()));
}

/// The leader stops in its tracks, another one leads, and the former one does not when it goes on.
fn pauses(cluster: &Cluster) {
    let Cluster { one, two, .. } = cluster;
    assert!(leader(one).starts_with("pi-2_"), "it took over, and leads still");
    signal_controller(two, Signal::STOP);
    let paused = Instant::now();
    rolls(one, 3);
    println!("a deployment has rolled {:.1} s after the leader was paused", paused.elapsed().as_secs_f64());
    signal_controller(two, Signal::CONT);
    two.eventually("it sees that it leads no more", 30, || leader(two).starts_with("pi-1_").then_some(()));
    rolls(two, 4);
    assert!(leader(two).starts_with("pi-1_"));
}

/// A board's link is down: its API server acknowledges nothing, the others go on.
fn is_cut_off(cluster: &Cluster) {
    let Cluster { lan, one, two, .. } = cluster;
    lan.plug(2, false);
    let told = two.try_kubectl("create configmap unheard --request-timeout=20s --server https://127.0.0.1:6443");
    assert!(!told.status.success(), "without a quorum nothing is acknowledged");
    rolls(one, 5);
    lan.plug(2, true);
    two.eventually("it is back", 60, || {
        two.try_kubectl("get nodes --request-timeout=5s").status.success().then_some(())
    });
    assert_eq!(two.kubectl("get deployment web -o jsonpath={.spec.template.spec.containers[0].env[0].value}"), "5");
    one.eventually("both are endpoints again", 30, || (servers(one) == "10.99.0.1 10.99.0.2").then_some(()));
}

/// The leader is stopped in good order: nobody waits for its Leases to run out, nor for its address.
fn hands_over(cluster: &mut Cluster) {
    let Cluster { one, two, etcd, .. } = cluster;
    assert!(leader(two).starts_with("pi-1_"));
    let asked = Instant::now();
    one.stop();
    // Silent, it would have kept them for 13 to 15 seconds.
    two.eventually("the other one leads", 10, || leader(two).starts_with("pi-2_").then_some(()));
    println!("the other one leads {:.1} s after the leader was asked to stop", asked.elapsed().as_secs_f64());
    two.eventually("who is stopped is no endpoint", 10, || (servers(two) == "10.99.0.2").then_some(()));
    rolls(two, 6);
    start(one, etcd, &[]);
    two.eventually("both are endpoints again", 30, || (servers(two) == "10.99.0.1 10.99.0.2").then_some(()));
}

#[test]
fn controllers_die_are_paused_and_cut_off_and_what_was_acknowledged_stays() {
    let mut cluster = cluster();
    let Cluster { one, two, etcd, .. } = &cluster;
    let _ = one.kubectl(&format!("create secret generic s --from-literal=p={SECRET}"));
    let _ = one.kubectl(&format!("create configmap c --from-literal=p={PLAIN}"));
    assert_eq!(two.kubectl("get secret s -o jsonpath={.data.p}"), BASE64_STANDARD.encode(SECRET));
    nothing_secret_lies_in(etcd, one);
    // New data keys through one; the other one takes them up.
    let said = one.bramble("store rotate");
    assert!(said.contains("former data keys are gone"), "{said}");
    assert_eq!(two.kubectl("get secret s -o jsonpath={.data.p}"), BASE64_STANDARD.encode(SECRET));
    tokens_are_the_clusters(one, two);
    one.apply(&web());
    // A watch on the other one.
    let _ = two.kubectl("wait deployment web --for=condition=Available --timeout=60s");
    keys_are_renewed_for_all(one, two);
    let clients = [Client::of(one), Client::of(two)];
    let followers = clients.clone().map(|client| Follower::start(client, CONFIG_MAPS));
    let writer = Writer::start(clients.clone());

    dies(&mut cluster);
    pauses(&cluster);
    let acknowledged = writer.end();
    is_cut_off(&cluster);
    hands_over(&mut cluster);

    println!("{} writes were acknowledged meanwhile", acknowledged.len());
    assert!(acknowledged.len() > 100);
    for client in &clients {
        assert_eq!(missing(client, &acknowledged), [""; 0], "acknowledged, and lost");
    }
    for story in followers.map(Follower::end) {
        println!("a follower listed {} times and went on {} times", story.listed, story.resumed);
        assert_eq!(story.wrong, [""; 0]);
        let seen: BTreeSet<&str> =
            story.objects.values().filter_map(|object| object["metadata"]["name"].as_str()).collect();
        let unseen: Vec<&String> = acknowledged.iter().filter(|name| !seen.contains(name.as_str())).collect();
        assert!(unseen.is_empty(), "a follower missed {unseen:?}: {:?}", story.troubles);
    }
    drop(cluster.three);
}

#[test]
fn a_cluster_moves_from_its_file_into_etcd_and_back() {
    let lan = Lan::new(1);
    let mut one = lan.board("migrate", 0);
    one.start(&[]);
    let _ = one.kubectl(&format!("create secret generic s --from-literal=p={SECRET}"));
    let _ = one.kubectl("create configmap c --from-literal=p=before");
    let authority = || fs::read(one.dir().join("data/pki/ca.crt")).expect("the authority's certificate");
    let before = authority();
    let version = |board: &Board| -> u64 {
        board.kubectl("get configmap c -o jsonpath={.metadata.resourceVersion}").parse().expect("a number")
    };
    let at_first = version(&one);
    one.stop();

    let etcd = Etcd::start(&[(&one, "10.99.0.1")]);
    let flags = etcd.flags().join(" ");
    let said = one.bramble(&format!("store migrate --from file --to etcd {flags}"));
    assert!(said.contains("the same on both sides"), "{said}");
    start(&mut one, &etcd, &[]);
    assert_eq!(one.kubectl("get secret s -o jsonpath={.data.p}"), BASE64_STANDARD.encode(SECRET));
    let in_etcd = version(&one);
    assert!(in_etcd > at_first + (1 << 36), "no revision comes again: {at_first}, {in_etcd}");
    let _ = one.kubectl("create configmap later --from-literal=p=in-etcd");
    assert_eq!(files_with(etcd.dir(), &BASE64_STANDARD.encode(SECRET)), 0);
    one.stop();

    let said = one.bramble(&format!("store migrate --from etcd --to file {flags}"));
    assert!(said.contains("the same on both sides"), "{said}");
    drop(etcd);
    one.start(&[]);
    assert_eq!(one.kubectl("get configmap later -o jsonpath={.data.p}"), "in-etcd");
    assert_eq!(one.kubectl("get secret s -o jsonpath={.data.p}"), BASE64_STANDARD.encode(SECRET));
    assert!(version(&one) > in_etcd);
    assert_eq!(
        fs::read(one.dir().join("data/pki/ca.crt")).expect("it is there"),
        before,
        "the cluster keeps its authority"
    );
}
