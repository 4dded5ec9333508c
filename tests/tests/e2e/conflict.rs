//! Two boards with one address, as a wrong line of `bramble.toml` makes them: who was there first keeps it and tells, nobody is
//! asked in another's place, and it ends when the other one has its own again.

use std::time::Instant;

use bramble_tests::board::Board;
use bramble_tests::lan::Lan;

use crate::teller::teller;

/// Boards that look at their addresses each eight seconds.
const QUICK: [&str; 2] = ["--node-lease-duration", "20s"];
const OWN: [&str; 3] = ["10.99.0.1", "10.99.0.2", "10.99.0.3"];
const NODES: [&str; 2] = ["pi-2", "pi-3"];

fn run(board: &Board, line: &str) -> String {
    board.succeed(&line.split(' ').collect::<Vec<_>>())
}

fn renumber(board: &Board, from: &str, to: &str) {
    for line in [
        format!("addr del {from}/24 dev eth0"),
        format!("addr add {to}/24 dev eth0"),
        "route add default via 10.99.0.254".into(),
    ] {
        let _ = run(board, &format!("ip {line}"));
    }
}

/// Status, reason and message of a node's condition; nothing while it has none.
fn told(one: &Board, node: &str) -> String {
    let of = "{.status.conditions[?(@.type==\"AddressConflict\")]";
    one.kubectl(&format!("get node {node} -o jsonpath={of}.status}}|{of}.reason}}|{of}.message}}"))
}

/// Who answers for a board: itself, or nobody.
fn asked(one: &Board, node: &str) -> Option<String> {
    let told = one.try_kubectl(&format!("exec teller-{node} -- cat /www/index.html"));
    told.status.success().then(|| String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

#[test]
fn two_boards_with_one_address_are_told_of_and_part_again() {
    let lan = Lan::new(1);
    let mut one = lan.board("conflict", 0);
    one.start(&QUICK);
    let mut others = [lan.board("conflict", 0), lan.board("conflict", 0)];
    for (board, node) in others.iter_mut().zip(NODES) {
        board.always(&QUICK);
        board.join(&one, node);
        board.load_tools();
        one.apply(&teller(node));
    }
    let [two, three] = others;
    let _ = one.kubectl("wait pod --all --for=condition=Ready --timeout=60s");
    for node in NODES {
        assert_eq!(asked(&one, node).as_deref(), Some(node));
        assert_eq!(told(&one, node), "||", "nobody has a board's address, and nothing is said of it");
    }
    let mac = |board: &Board| {
        let told = run(board, "ip -brief link show dev eth0");
        told.split_whitespace().nth(2).expect("name, state, address").to_owned()
    };

    let since = Instant::now();
    renumber(&three, OWN[2], OWN[1]);
    let wanted = format!(
        "True|DuplicateAddress|{} is also at {} on eth0; give one of both another address",
        OWN[1],
        mac(&three)
    );
    one.eventually(&format!("pi-2 tells: {wanted}"), 60, || (told(&one, "pi-2") == wanted).then_some(()));
    println!("told after {:.1} s", since.elapsed().as_secs_f64());
    // Who came later is heard by nobody: its own log says why.
    let words =
        format!("somebody else has this board's address; give one of both another ip={} by=\"{}", OWN[1], mac(&two));
    assert!(three.log().contains(&words), "{}", three.log());
    let answer = asked(&one, "pi-3");
    assert!(answer.as_ref().is_none_or(|name| name == "pi-3"), "{answer:?} was asked in its place");
    one.eventually("who was there first is found", 60, || {
        (asked(&one, "pi-2").as_deref() == Some("pi-2")).then_some(())
    });

    let since = Instant::now();
    renumber(&three, OWN[1], OWN[2]);
    let wanted = "False|NoDuplicateAddress|nobody else has this node's addresses";
    one.eventually("pi-2 has its own again", 60, || (told(&one, "pi-2") == wanted).then_some(()));
    println!("and that it is over after {:.1} s", since.elapsed().as_secs_f64());
    let _ = one.kubectl("wait node --all --for=condition=Ready --timeout=60s");
    for node in NODES {
        one.eventually(&format!("{node} answers"), 60, || (asked(&one, node).as_deref() == Some(node)).then_some(()));
    }
    println!("all is well after {:.1} s", since.elapsed().as_secs_f64());
    let restarts = one.kubectl("get pods -o jsonpath={.items[*].status.containerStatuses[0].restartCount}");
    assert_eq!(restarts, "0 0", "no container noticed");
}
