//! Several controllers over one etcd: two boards under `up` and a worker, a member of etcd on each of them, mTLS. What is
//! written through one is seen through the other, and when a whole board dies, the leader and its member with it, the other
//! one goes on, and the worker with it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bramble_tests::board::Board;
use bramble_tests::etcd::Etcd;
use bramble_tests::host::output;
use bramble_tests::image;
use bramble_tests::lan::Lan;

const TOOLS: &str = "tests.local/tools:1";
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

#[test]
fn a_board_with_the_leader_dies_and_the_other_controller_goes_on() {
    let lan = Lan::new(1);
    let [mut one, mut two, mut three] = [(); 3].map(|()| lan.board("controllers", 0));
    let mut etcd = Etcd::start(&[(&one, "10.99.0.1"), (&two, "10.99.0.2"), (&three, "10.99.0.3")]);
    start(&mut one, &etcd, &[]);
    let token = one.dir().join("data/cluster-token").to_string_lossy().into_owned();
    start(&mut two, &etcd, &["--node-name", "pi-2", "--token-file", &token]);
    three.join_any(&one, "pi-3", &["https://10.99.0.1:6443", "https://10.99.0.2:6443"]);
    let archive = three.dir().join("image.tar");
    image::tools().docker_archive(TOOLS, &archive);
    let _ = three.bramble(&format!("image import {}", archive.display()));

    let _ = one.kubectl(&format!("create secret generic s --from-literal=p={SECRET}"));
    let _ = one.kubectl(&format!("create configmap c --from-literal=p={PLAIN}"));
    assert_eq!(two.kubectl("get secret s -o jsonpath={.data.p}"), BASE64_STANDARD.encode(SECRET));
    nothing_secret_lies_in(&etcd, &one);
    tokens_are_the_clusters(&one, &two);
    one.apply(&web());
    // A watch on the other one.
    let _ = two.kubectl("wait deployment web --for=condition=Available --timeout=60s");
    two.eventually("both are behind the Service kubernetes", 30, || {
        (servers(&two) == "10.99.0.1 10.99.0.2").then_some(())
    });

    let holder = two.kubectl("get lease kube-controller-manager -n kube-system -o jsonpath={.spec.holderIdentity}");
    assert!(holder.starts_with("pi-1_"), "the one that started first leads: {holder}");
    let controller = one.pid("controller").and_then(rustix::process::Pid::from_raw).expect("it runs");
    one.crash();
    rustix::process::kill_process(controller, rustix::process::Signal::KILL).expect("it runs");
    etcd.kill_member(0);
    let died = Instant::now();
    two.eventually("the other API server writes", 20, || {
        two.try_kubectl("create configmap meanwhile --from-literal=a=b --request-timeout=10s")
            .status
            .success()
            .then_some(())
    });
    println!("a write is taken {:.1} s after the board died", died.elapsed().as_secs_f64());
    let _ = two.kubectl("set env deployment/web ROUND=2");
    let _ = two.kubectl("rollout status deployment/web --timeout=60s");
    let rolled = died.elapsed();
    println!("a deployment has rolled {:.1} s after the leader died", rolled.as_secs_f64());
    assert!(rolled.as_secs() < 45, "it took {rolled:?}");
    two.eventually("the dead one is no endpoint", 30, || (servers(&two) == "10.99.0.2").then_some(()));

    etcd.start_member(0, &one);
    start(&mut one, &etcd, &[]);
    assert_eq!(one.kubectl("get configmap meanwhile -o jsonpath={.data.a}"), "b");
    two.eventually("both are endpoints again", 30, || (servers(&two) == "10.99.0.1 10.99.0.2").then_some(()));
    let _ = one.kubectl("rollout restart deployment/web");
    let _ = one.kubectl("rollout status deployment/web --timeout=60s");
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
