//! Several boards of one cluster, each in a namespace of its own: two on one link, one behind a router.

use bramble_tests::board::{Board, Traces};
use bramble_tests::host::output;
use bramble_tests::lan::Lan;

use crate::teller::teller;

const NODES: [&str; 3] = ["pi-1", "pi-2", "pi-3"];

/// A pod on each board that tells its name, behind one Service that is also a node port.
const TELLERS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: teller}
spec:
  type: NodePort
  selector: {app: teller}
  ports: [{port: 80, targetPort: 8080, nodePort: 30081}]
"#;

/// What a pod fetches; what went wrong when there is no answer.
fn fetch(controller: &Board, pod: &str, url: &str) -> String {
    let told = controller.try_kubectl(&format!("exec {pod} -- curl -sS --max-time 3 {url}"));
    String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).trim().to_owned()
}

/// A cluster with a teller on each of its boards: two on one link, the third behind a router.
fn cluster(test: &str, lan: &Lan) -> [Board; 3] {
    let mut one = lan.board(test, 0);
    one.start(&[]);
    let (mut two, mut three) = (lan.board(test, 0), lan.board(test, 1));
    two.join(&one, NODES[1]);
    three.join(&one, NODES[2]);
    for board in [&one, &two, &three] {
        board.load_tools();
    }
    one.apply(TELLERS);
    for node in NODES {
        one.apply(&teller(node));
    }
    let _ = one.kubectl("wait pod -l app=teller --for=condition=Ready --timeout=60s");
    [one, two, three]
}

/// Who answers on the node port of an address, seen from a board.
fn ask(board: &Board, address: &str) -> String {
    let url = format!("http://{address}:30081/");
    let told = output(board.command("curl").args(["-sS", "--max-time", "3", &url]));
    String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).trim().to_owned()
}

/// Where a Service says so, its traffic stays in the zone, or on the board.
fn traffic_stays_near(one: &Board) {
    let zone = |node: &str, zone: &str| {
        let _ = one.kubectl(&format!("label node {node} topology.kubernetes.io/zone={zone}"));
    };
    let near = |what: &str, patch: &str, from: &dyn Fn() -> String, wanted: &[&str]| {
        let _ = one.kubectl(&format!("patch service teller -p {patch}"));
        one.eventually(what, 30, || (0..8).all(|_| wanted.contains(&from().as_str())).then_some(()));
    };
    let pod = || fetch(one, "teller-pi-2", "http://teller.default.svc.cluster.local/");
    let node_port = || ask(one, "10.99.0.2");
    [("pi-1", "cellar"), ("pi-2", "attic"), ("pi-3", "attic")].into_iter().for_each(|(node, name)| zone(node, name));
    near("it stays in its zone", r#"{"spec":{"trafficDistribution":"PreferClose"}}"#, &pod, &["pi-2", "pi-3"]);
    near("it stays on its board", r#"{"spec":{"trafficDistribution":"PreferSameNode"}}"#, &pod, &["pi-2"]);
    let local = r#"{"spec":{"trafficDistribution":null,"internalTrafficPolicy":"Local"}}"#;
    near("it must stay on its board", local, &pod, &["pi-2"]);
    let local = r#"{"spec":{"internalTrafficPolicy":"Cluster","externalTrafficPolicy":"Local"}}"#;
    near("a node port leads to its board's pods", local, &node_port, &["pi-2"]);
    let _ = one.kubectl(r#"patch service teller -p {"spec":{"externalTrafficPolicy":"Cluster"}}"#);
}

#[test]
fn pods_and_services_reach_across_links_and_a_board_that_leaves_leaves_nothing() {
    let lan = Lan::new(2);
    let [one, two, _three] = cluster("boards", &lan);
    let nodes = NODES;
    for to in nodes {
        let ip = one.kubectl(&format!("get pod teller-{to} -o jsonpath={{.status.podIP}}"));
        for from in nodes {
            let mut told = String::new();
            let found = one.try_eventually(30, || {
                told = fetch(&one, &format!("teller-{from}"), &format!("http://{ip}:8080/"));
                (told == to).then_some(())
            });
            assert!(found.is_some(), "{from} does not reach the pod of {to}: {told}");
        }
    }
    for from in nodes {
        let mut answers = std::collections::BTreeSet::new();
        one.eventually(&format!("{from} is served by all three"), 60, || {
            answers.insert(fetch(&one, &format!("teller-{from}"), "http://teller.default.svc.cluster.local/"));
            nodes.iter().all(|node| answers.contains(*node)).then_some(())
        });
    }
    // A node port answers on every board, whoever has the pods.
    for address in ["10.99.0.1", "10.99.0.2", "10.99.1.3"] {
        let answer = ask(&one, address);
        assert!(nodes.contains(&answer.as_str()), "{address}: {answer}");
    }
    traffic_stays_near(&one);
    assert_eq!(one.kubectl("logs teller-pi-3"), "");
    assert!(one.kubectl("exec teller-pi-2 -- hostname").starts_with("teller-pi-2"));

    // `down` also stops an agent that runs alone.
    let _ = two.bramble("down --purge");
    assert_eq!(two.traces(), Traces::default());
    assert!(!two.succeed(&["ip", "route"]).contains("10.42."), "routes to others are gone");
}

#[test]
fn a_board_that_starts_without_its_controller_runs_and_routes_what_it_knew() {
    let lan = Lan::new(2);
    let [mut one, mut two, three] = cluster("alone", &lan);
    let before = one.kubectl("get pod teller-pi-3 -o jsonpath={.status.containerStatuses[0].containerID}");
    one.stop();
    // As after a power cut: nothing runs on it, its kernel knows nothing of us.
    let _ = two.bramble("down");
    assert_eq!(two.traces(), Traces::default());
    two.start_alone("10.99.0.1", NODES[1]);
    let mut answers = std::collections::BTreeSet::new();
    let found = two.try_eventually(60, || {
        answers.insert(ask(&two, "10.99.0.2"));
        ["pi-2", "pi-3"].iter().all(|node| answers.contains(*node)).then_some(())
    });
    assert!(found.is_some(), "its own pod and the one behind the router answer: {answers:?}; the log:\n{}", two.log());
    let dig = ["dig", "+short", "+time=2", "+tries=2", "@10.43.0.10", "teller.default.svc.cluster.local"];
    assert!(two.succeed(&dig).starts_with("10.43."), "names are answered");

    one.start(&[]);
    one.eventually("all three are Ready again", 60, || {
        let ready = one.try_kubectl("get pods -l app=teller -o jsonpath={.items[*].status.containerStatuses[*].ready}");
        (ready.stdout == b"true true true").then_some(())
    });
    let after = one.kubectl("get pod teller-pi-3 -o jsonpath={.status.containerStatuses[0].containerID}");
    assert_eq!(before, after, "a board that went on is not disturbed");
    drop(three);
}
