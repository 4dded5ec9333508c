//! What an idle board says to its controller and hears from it: the counters of its network interface.

use std::time::Duration;

use bramble_tests::board::Board;
use bramble_tests::lan::Lan;

/// Renewals, and whatever else there is by the clock, come some tens of seconds apart.
const SECONDS: u64 = 600;

/// Bytes and packets of `eth0`, out and in; with Ethernet's 14 bytes a packet.
fn counters(board: &Board) -> [f64; 4] {
    let words = board.succeed(&["cat", "/proc/net/dev"]);
    let line = words.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("its interface");
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    [numbers[8], numbers[0], numbers[9], numbers[1]]
}

/// A board that has joined, without pods of anybody's.
pub(super) fn idle_board(row: impl Fn(&str, &str)) {
    let seconds = std::env::var("BRAMBLE_FIGURES_WIRE_S").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let lan = Lan::new(1);
    let (mut one, mut two) = (lan.board("wire", 0), lan.board("wire", 0));
    one.start(&[]);
    two.join(&one, "pi-2");
    // What joining has set in motion comes to rest.
    std::thread::sleep(Duration::from_secs(30));
    let before = counters(&two);
    std::thread::sleep(Duration::from_secs(seconds));
    let after = counters(&two);
    let [out, into, sent, heard] = [0, 1, 2, 3].map(|at| (after[at] - before[at]) * 3600.0 / seconds as f64);
    row(
        "on the wire of an idle board, an hour: bytes out, in; packets out, in",
        &format!("{out:.0}, {into:.0}; {sent:.0}, {heard:.0}"),
    );
    row("the same, a day", &format!("{:.2} MB", (out + into) * 24.0 / 1e6));
}
