//! The first five minutes of a newcomer: `up --demo`, a look with kubectl, stop, again, `down`.

use bramble_tests::board::{Board, Traces};

#[test]
fn the_demonstration_serves_survives_a_restart_and_leaves_nothing() {
    let mut board = Board::up("demo", &["--demo"]);
    board.wait_for_line("bramble: demo: http://127.0.0.1:30080/");
    for address in ["127.0.0.1", "10.99.0.1"] {
        let answer = board.succeed(&["curl", "-sS", "--max-time", "5", &format!("http://{address}:30080/")]);
        assert!(answer.starts_with("Hello from hello-"), "{answer}");
    }
    assert_eq!(board.kubectl("get deployment hello -o jsonpath={.status.readyReplicas}"), "3");
    let before = board.kubectl("get pods -o jsonpath={.items[*].status.containerStatuses[*].containerID}");

    board.stop();
    let answer = board.succeed(&["curl", "-sS", "--max-time", "5", "http://10.99.0.1:30080/"]);
    assert!(answer.starts_with("Hello from hello-"), "containers go on without controller and agent: {answer}");

    board.start(&[]);
    board.eventually("the agent has adopted all three", 30, || {
        let ready = board.kubectl("get deployment hello -o jsonpath={.status.readyReplicas}");
        (ready == "3").then_some(())
    });
    let after = board.kubectl("get pods -o jsonpath={.items[*].status.containerStatuses[*].containerID}");
    assert_eq!(before, after, "no container was restarted");

    board.stop();
    let _ = board.bramble("down");
    assert_eq!(board.traces(), Traces::default());
}
