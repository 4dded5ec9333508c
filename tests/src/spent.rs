//! What processes cost: CPU, memory, wake-ups, bytes; and how figures are printed.

use std::fs;
use std::time::Duration;

/// One line of a table.
pub fn row(name: &str, value: &str) {
    println!("| {name} | {value} |");
}

/// One field of a file below `/proc` in its own unit.
#[must_use]
pub fn field(pid: i32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// CPU milliseconds, voluntary context switches of all threads, bytes written to disks.
#[must_use]
pub fn spent(pid: i32) -> (u64, u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let switches = threads.map(|thread| {
        let text = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0)
    });
    // 100 ticks a second on every Linux that Rust runs on.
    (ticks * 10, switches.sum(), field(pid, "io", "write_bytes"))
}

/// Resident, proportional and private memory in MB.
#[must_use]
pub fn memory(pid: i32) -> [f64; 3] {
    let of = |name: &str| field(pid, "smaps_rollup", name) as f64 / 1024.0;
    [of("Rss"), of("Pss"), of("Private_Dirty") + of("Private_Clean")]
}

/// Median and 99th percentile in milliseconds.
///
/// # Panics
/// There are none.
#[must_use]
pub fn quantiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    format!("{:.0} ms, {:.0} ms", at(50), at(99))
}
