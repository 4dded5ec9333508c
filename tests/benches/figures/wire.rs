//! What an idle board says to its controller and hears from it: IP packets, which a line is paid by, and all that passes its
//! network interface, with Ethernet's heads and ARP.

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

/// Bytes of IPv4 packets out and in; loopback's not among them.
fn packets(board: &Board) -> [f64; 2] {
    let told = board.succeed(&["nft", "list", "table", "ip", "figure"]);
    let words: Vec<&str> = told.split_whitespace().collect();
    let mut bytes = words.windows(2).filter(|pair| pair[0] == "bytes").filter_map(|pair| pair[1].parse().ok());
    [bytes.next().expect("a counter"), bytes.next().expect("a counter")]
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
    for (chain, way) in [("output", "oifname"), ("input", "iifname")] {
        let hook = format!("add chain ip figure {chain} {{ type filter hook {chain} priority 300 ; }}");
        let rule = format!("add rule ip figure {chain} {way} eth0 counter");
        for line in ["add table ip figure", &hook, &rule] {
            let _ = two.succeed(&[&["nft"], &line.split(' ').collect::<Vec<_>>()[..]].concat());
        }
    }
    let (before, first) = (counters(&two), packets(&two));
    std::thread::sleep(Duration::from_secs(seconds));
    let (after, last) = (counters(&two), packets(&two));
    let hourly = |before: f64, after: f64| (after - before) * 3600.0 / seconds as f64;
    let [out, into, sent, heard] = [0, 1, 2, 3].map(|at| hourly(before[at], after[at]));
    let [ip_out, ip_in] = [0, 1].map(|at| hourly(first[at], last[at]));
    row("an idle board's line, IP bytes an hour: out, in", &format!("{ip_out:.0}, {ip_in:.0}"));
    row("the same, a day", &format!("{:.2} MB", (ip_out + ip_in) * 24.0 / 1e6));
    row(
        "its interface, with Ethernet and ARP, an hour: bytes out, in; packets out, in",
        &format!("{out:.0}, {into:.0}; {sent:.0}, {heard:.0}"),
    );
}
