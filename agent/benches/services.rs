//! CPU that 1,000 services of 10 endpoints cost: the whole table from nothing, and one endpoint that changes.
//!
//! `nft -f` does the same in the same run as the yardstick. Needs root: it works in a network namespace of its own.

use bramble_agent::instance::Instance;
use bramble_agent::services::{Options, Proxy};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Instant;

const SERVICES: usize = 1000;
const ENDPOINTS: usize = 10;
const CHANGES: usize = 20;

/// A namespace with a name of its own, removed at the end.
struct Namespace(String);

impl Namespace {
    fn enter() -> Self {
        let name = format!("bramble-bench-{}", std::process::id());
        let added = Command::new("ip").args(["netns", "add", &name]).status().is_ok_and(|status| status.success());
        assert!(added, "this bench needs root and iproute2");
        let file = std::fs::File::open(format!("/run/netns/{name}")).expect("the namespace was just made");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter");
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn service(number: usize) -> Value {
    let ip = format!("10.43.{}.{}", 1 + number / 250, 1 + number % 250);
    json!({"metadata": {"namespace": "bench", "name": format!("service-{number}")},
        "spec": {"clusterIPs": [ip], "ports": [{"name": "http", "port": 80}]}})
}

fn slice(number: usize, shift: usize) -> Value {
    let endpoint =
        |at: usize| json!({"addresses": [format!("10.42.{}.{}", (number + at) % 250, 1 + (at + shift) % 250)]});
    let endpoints: Vec<Value> = (0..ENDPOINTS).map(|at| endpoint(if at == 0 { shift } else { at })).collect();
    json!({"metadata": {"namespace": "bench", "name": format!("slice-{number}"),
        "labels": {"kubernetes.io/service-name": format!("service-{number}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
}

fn own_cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds * 1e3 + nanos / 1e6
}

/// CPU of children that have ended, from /proc/self/stat in ticks of 10 ms.
fn children_cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    [13, 14].iter().map(|at| fields[*at].parse::<f64>().expect("ticks")).sum::<f64>() * 10.0
}

fn measured(cpu: impl Fn() -> f64, work: impl FnOnce()) -> (f64, f64) {
    let (wall, before) = (Instant::now(), cpu());
    work();
    (cpu() - before, wall.elapsed().as_secs_f64() * 1e3)
}

fn nft(script: &str) {
    let path = std::env::temp_dir().join(format!("bramble-bench-{}.nft", std::process::id()));
    std::fs::write(&path, script).expect("a temporary file");
    let done = Command::new("nft").arg("-f").arg(&path).status().expect("nft is installed");
    let _ = std::fs::remove_file(&path);
    assert!(done.success(), "nft refused its own listing");
}

fn report(what: &str, (cpu, wall): (f64, f64)) {
    println!("{what:<56} {cpu:9.2} ms CPU {wall:9.2} ms wall");
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}

fn main() {
    let _namespace = Namespace::enter();
    let range = |text: &str| text.parse().expect("a range");
    let dir = std::env::temp_dir().join("bramble-bench");
    let instance = Instance::new(&dir.join("data"), &dir.join("run"), None);
    let table = instance.nft_table();
    let proxy = Proxy::new(&Options {
        instance,
        node_name: "bench".to_owned(),
        cluster_ranges: vec![range("10.42.0.0/16")],
        service_ranges: vec![range("10.43.0.0/16")],
        dns_addresses: vec![],
    });
    let before_kb = resident_kb();
    let taken_in = measured(own_cpu_ms, || {
        for number in 0..SERVICES {
            proxy.apply("Service", &service(number));
            proxy.apply("EndpointSlice", &slice(number, 0));
        }
        proxy.list_ends("Service");
        proxy.list_ends("EndpointSlice");
    });
    println!("{SERVICES} services x {ENDPOINTS} endpoints");
    report("objects taken in", taken_in);
    report("whole table, netlink", measured(own_cpu_ms, || proxy.sync().expect("the kernel takes the table")));
    println!("{:<56} {:9} kB", "resident memory added", resident_kb().saturating_sub(before_kb));

    let changes = measured(own_cpu_ms, || {
        for number in 0..CHANGES {
            proxy.apply("EndpointSlice", &slice(number * 7, 100 + number));
            proxy.sync().expect("the kernel takes the change");
        }
    });
    report("one endpoint changes, netlink", (changes.0 / CHANGES as f64, changes.1 / CHANGES as f64));

    let listed = Command::new("nft").args(["list", "table", "inet", &table]).output().expect("nft is installed").stdout;
    let listed = String::from_utf8(listed).expect("nft prints text");
    let scratch = format!("delete table inet {table}\n{listed}");
    report("whole table, nft -f", measured(children_cpu_ms, || nft(&scratch)));
    let changes = measured(children_cpu_ms, || {
        for number in 0..CHANGES {
            let chain = format!("svc/bench/service-{number}/tcp/80");
            let targets: Vec<_> = (0..ENDPOINTS).map(|at| format!("{at} : 10.42.7.{} . 8080", at + 1)).collect();
            let map = format!("numgen random mod {ENDPOINTS} map {{ {} }}", targets.join(", "));
            nft(&format!(
                "flush chain inet {table} {chain}\nadd rule inet {table} {chain} meta l4proto tcp dnat ip to {map}\n"
            ));
        }
    });
    report("one endpoint changes, nft -f", (changes.0 / CHANGES as f64, changes.1 / CHANGES as f64));
}
