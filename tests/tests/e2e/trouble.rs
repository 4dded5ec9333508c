//! Bad lines, lines that carry one way only, frozen agents, and an outage of most of a site with twenty boards.

use std::collections::BTreeSet;
use std::time::Instant;

use bramble_tests::board::Board;
use bramble_tests::image::TOOLS;
use bramble_tests::lan::Lan;
use bramble_tests::line::{Line, Way};
use rustix::process::{Pid, Signal, kill_process};

use crate::teller::HOLDER;

/// Shorter than upstream's fifty seconds, and boards that promise as much: they renew their Leases each eight.
const GRACE: [&str; 4] = ["--node-monitor-grace-period", "20s", "--node-lease-duration", "20s"];

/// A web server that tells its pod's name; it bears a lost board for so many seconds.
fn tellers(replicas: usize, patience: u32, more: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: teller}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: teller}}}}
  template:
    metadata: {{labels: {{app: teller}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: {patience}}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: {patience}}}
{more}
      containers:
      - name: main
        image: {TOOLS}
        command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
---
apiVersion: v1
kind: Service
metadata: {{name: teller}}
spec:
  selector: {{app: teller}}
  ports: [{{port: 80, targetPort: 8080}}]
"#
    )
}

const PREFERS_THE_SECOND: &str = r#"
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [pi-2]}]}
"#;

const ONE_A_BOARD: &str = r#"
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname
            labelSelector: {matchLabels: {app: teller}}
"#;

/// What the nodes' Ready conditions say, a word each.
fn readiness(one: &Board) -> Vec<String> {
    let path = "get nodes -o jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    let told = one.try_kubectl(path);
    String::from_utf8_lossy(&told.stdout).split_whitespace().map(str::to_owned).collect()
}

fn wait_for_readiness(one: &Board, wanted: &[&str]) {
    let mut last = Vec::new();
    let found = one.try_eventually(60, || {
        last = readiness(one);
        (last == wanted).then_some(())
    });
    assert!(found.is_some(), "the nodes' readiness is {last:?}, not {wanted:?}");
}

/// Name and node of the tellers that are not on their way out.
fn places(one: &Board) -> BTreeSet<(String, String)> {
    let path = "get pods -l app=teller --no-headers -o \
                custom-columns=N:.metadata.name,W:.spec.nodeName,G:.metadata.deletionTimestamp";
    let told = one.kubectl(path);
    let words = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words[2] == "<none>").map(|words| (words[0].to_owned(), words[1].to_owned())).collect()
}

fn signal(board: &Board, signal: Signal) {
    let agent = board.pid("agent").and_then(Pid::from_raw).expect("the agent runs");
    kill_process(agent, signal).expect("it is ours");
}

#[test]
fn a_bad_line_is_borne_and_a_board_that_is_not_heard_is_replaced() {
    let lan = Lan::new(1);
    let mut one = lan.board("trouble", 0);
    one.start(&GRACE);
    let (mut two, line) = lan.board_on_a_line("trouble", 0);
    let mut three = lan.board("trouble", 0);
    for way in [Way::Out, Way::In] {
        line.spoil(way, 30, 60);
    }
    for (board, name) in [(&mut two, "pi-2"), (&mut three, "pi-3")] {
        board.always(&GRACE[2..]);
        board.join(&one, name);
    }
    [&one, &two, &three].into_iter().for_each(Board::load_tools);
    one.apply(HOLDER);
    one.apply(&tellers(1, 1, PREFERS_THE_SECOND));
    let _ = one.kubectl("wait pod holder --for=condition=Ready --timeout=60s");
    let _ = one.kubectl("rollout status deployment teller --timeout=60s");
    let first = places(&one);
    assert!(first.iter().all(|(_, node)| node == "pi-2"), "{first:?}");
    assert_eq!(one.kubectl("logs holder"), "begun\n");
    for _ in 0..20 {
        let told = one.kubectl("exec holder -- curl -sS --max-time 10 http://teller.default.svc.cluster.local/");
        assert!(told.starts_with("teller-"), "{told}");
    }
    for way in [Way::Out, Way::In] {
        let counts = line.counts(way);
        assert!(counts[1] > 0 && counts[2] > 0, "frames, lost, overtaken {way:?}: {counts:?}");
        println!("{way:?}: {} frames, {} lost, {} overtaken", counts[0], counts[1], counts[2]);
        line.spoil(way, 0, 0);
    }
    let before = one.kubectl(CONTAINER);
    one_that_is_not_heard_is_replaced(&one, &two, &line);
    assert_eq!(one.kubectl(CONTAINER), before, "and nothing else");
    one_that_hears_nothing_goes_on(&one, &three, &line);
    assert_eq!(one.kubectl(CONTAINER), before, "nothing was restarted");
    assert_eq!(one.kubectl("get pod holder -o jsonpath={.status.containerStatuses[0].restartCount}"), "0");
    draining_asks_the_budget(&one);
}

const CONTAINER: &str = "get pod holder -o jsonpath={.status.containerStatuses[0].containerID}";

/// Its pod is replaced elsewhere, while what it has goes on.
fn one_that_is_not_heard_is_replaced(one: &Board, two: &Board, line: &Line) {
    let shims = two.shims();
    line.spoil(Way::Out, 1000, 0);
    let silent = Instant::now();
    wait_for_readiness(one, &["True", "Unknown", "True"]);
    println!("a board that is not heard is Unknown after {:.1} s", silent.elapsed().as_secs_f64());
    one.eventually("its pod is replaced", 60, || {
        let now = places(one);
        now.iter().any(|(_, node)| node != "pi-2").then_some(())
    });
    let _ = one.kubectl("rollout status deployment teller --timeout=60s");
    assert_eq!(two.shims(), shims, "what it has goes on");
    line.spoil(Way::Out, 0, 0);
    wait_for_readiness(one, &["True"; 3]);
    one.eventually("it clears away what was replaced", 60, || (two.shims().len() == 1).then_some(()));
}

/// The other way round, beside an agent that stands still.
fn one_that_hears_nothing_goes_on(one: &Board, three: &Board, line: &Line) {
    line.spoil(Way::In, 1000, 0);
    signal(three, Signal::STOP);
    wait_for_readiness(one, &["True", "Unknown", "Unknown"]);
    line.spoil(Way::In, 0, 0);
    signal(three, Signal::CONT);
    wait_for_readiness(one, &["True"; 3]);
}

/// Of one pod none may go; of two, one after the other.
fn draining_asks_the_budget(one: &Board) {
    let before = places(one);
    let node = before.iter().map(|(_, node)| node.clone()).next().expect("a pod");
    let _ = one.kubectl("create poddisruptionbudget teller --selector=app=teller --min-available=1");
    let shown = |wanted: &str| {
        one.eventually(wanted, 10, || {
            let told = one.kubectl("get pdb teller --no-headers");
            told.split_whitespace().take(4).eq(wanted.split(' ')).then_some(())
        });
    };
    shown("teller 1 N/A 0");
    let told = one.try_kubectl(&format!("drain {node} --ignore-daemonsets --timeout=4s"));
    let words = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success() && words.contains("would violate the pod's disruption budget"), "{words}");
    assert_eq!(places(one), before);
    let _ = one.kubectl("scale deployment teller --replicas=2");
    let _ = one.kubectl("rollout status deployment teller --timeout=60s");
    shown("teller 1 N/A 1");
    let _ = one.kubectl(&format!("drain {node} --ignore-daemonsets --timeout=60s"));
    assert!(places(one).iter().all(|(_, other)| *other != node), "{:?}", places(one));
    let _ = one.kubectl(&format!("uncordon {node}"));
}

const BOARDS: usize = 20;
/// More than upstream's 55 %.
const LOST: usize = 15;

#[test]
fn an_outage_of_most_of_a_site_of_twenty_boards_moves_nothing() {
    let lan = Lan::new(1);
    let mut one = lan.board("site", 0);
    one.start(&GRACE);
    one.load_tools();
    let mut boards: Vec<Board> = (1..BOARDS).map(|_| lan.board("site", 0)).collect();
    let line = one.bramble("token create");
    let words: Vec<&str> = line.split_whitespace().skip(2).collect();
    let begun = Instant::now();
    for (number, board) in boards.iter_mut().enumerate() {
        let name = format!("pi-{}", number + 2);
        board.always(&GRACE[2..]);
        board.begin(&[&words[..], &["--node-name", &name]].concat());
    }
    wait_for_readiness(&one, &["True"; BOARDS]);
    println!("{} boards at once joined within {:.1} s", boards.len(), begun.elapsed().as_secs_f64());
    boards.iter().for_each(Board::load_tools);
    one.apply(&tellers(BOARDS, 30, ONE_A_BOARD));
    let _ = one.kubectl("rollout status deployment teller --timeout=120s");
    let before = places(&one);
    let nodes: BTreeSet<&String> = before.iter().map(|(_, node)| node).collect();
    assert_eq!(nodes.len(), BOARDS, "one on each board: {before:?}");
    let pod = before.iter().find(|(_, node)| node == "pi-1").map(|(pod, _)| pod).expect("one on the first board");
    let mut answers = BTreeSet::new();
    one.eventually("pods of all boards answer", 60, || {
        let line = format!("exec {pod} -- curl -sS --max-time 5 http://teller.default.svc.cluster.local/");
        answers.insert(one.kubectl(&line));
        (answers.len() == BOARDS).then_some(())
    });

    boards[..LOST].iter().for_each(|board| signal(board, Signal::STOP));
    one.eventually("they count as lost", 60, || {
        (readiness(&one).iter().filter(|ready| *ready == "Unknown").count() == LOST).then_some(())
    });
    // A taint follows its condition.
    one.eventually("nothing new is sent to them", 30, || {
        let taints = one.kubectl("get nodes -o jsonpath={.items[*].spec.taints[*].effect}");
        assert!(!taints.contains("NoExecute"), "{taints}");
        (taints.matches("NoSchedule").count() == LOST).then_some(())
    });
    assert_eq!(places(&one), before, "nobody is sent away");
    boards[..LOST].iter().for_each(|board| signal(board, Signal::CONT));
    wait_for_readiness(&one, &["True"; BOARDS]);
    let _ = one.kubectl("rollout status deployment teller --timeout=60s");
    assert_eq!(places(&one), before, "nor afterwards");
}
