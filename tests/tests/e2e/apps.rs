//! Real software on a real board: nginx, Redis and curl from Debian's packages, in pods as users write them.

use bramble_tests::board::Board;
use bramble_tests::host::succeed;
use bramble_tests::image::TOOLS;

mod images;
mod life;
mod mirrors;
mod resources;
mod security;
mod two_tiers;

/// A board that is up and has the tools.
fn board(test: &str, options: &[&str]) -> Board {
    let board = Board::up(test, options);
    board.load_tools();
    board
}

/// Standard output of a shell line in a container, which must succeed.
fn sh(board: &Board, target: &str, line: &str) -> String {
    let mut exec = board.command(&board.kubectl.path);
    exec.arg("exec").args(target.split(' ')).args(["--", "sh", "-c", line]);
    succeed(&mut exec)
}

/// Waits with kubectl's own watch until a pod is as told.
fn wait(board: &Board, what: &str, condition: &str) {
    let _ = board.kubectl(&format!("wait {what} --for={condition} --timeout=60s"));
}

fn wait_ready(board: &Board, what: &str) {
    wait(board, what, "condition=Ready");
}

/// Waits until a field has a value.
fn wait_field(board: &Board, what: &str, path: &str, value: &str) {
    wait(board, what, &format!("jsonpath={{{path}}}={value}"));
}

fn field(board: &Board, what: &str, path: &str) -> String {
    board.kubectl(&format!("get {what} -o jsonpath={{{path}}}"))
}

/// Waits for an event of a pod: events are told beside the work, not before it.
fn wait_event(board: &Board, pod: &str, reason: &str, words: &str) {
    let line = format!(
        "get events --field-selector involvedObject.name={pod},reason={reason} -o jsonpath={{.items[*].message}}"
    );
    let mut told = String::new();
    let found = board.try_eventually(30, || {
        told = board.kubectl(&line);
        told.contains(words).then_some(())
    });
    assert!(found.is_some(), "{pod} has no event {reason} with {words:?}, but {told:?}");
}
