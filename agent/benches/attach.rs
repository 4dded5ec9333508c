//! What connecting a pod costs: 50 pods, one after the other, through the door that the pod machine uses.
//!
//! Needs root: it works in network namespaces of its own.

use bramble_agent::instance::Instance;
use bramble_agent::network::{Network, Options, Overlay, down};
use bramble_agent::pods::{PodNetRequest, PodNetwork};
use bramble_agent::services::{self, Proxy};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

const PODS: usize = 50;

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status().is_ok_and(|status| status.success());
    assert!(done, "this bench needs root and iproute2: ip {arguments:?}");
}

/// Namespaces with names of their own, removed at the end.
struct Namespaces(Vec<String>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| ip(&["netns", "delete", name]));
    }
}

fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn main() {
    let names = (0..=PODS).map(|number| format!("bramble-bench-{}-{number}", std::process::id()));
    let namespaces = Namespaces(names.inspect(|name| ip(&["netns", "add", name])).collect());
    let path = |number: usize| PathBuf::from("/run/netns").join(&namespaces.0[number]);
    let board = std::fs::File::open(path(0)).expect("the namespace was just made");
    move_into_link_name_space(board.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter");

    let range = |text: &str| text.parse().expect("a range");
    let dir = std::env::temp_dir().join(&namespaces.0[0]);
    let instance = Instance::new(&dir.join("data"), &dir.join("run"), None);
    let proxy = Proxy::new(&services::Options {
        instance: instance.clone(),
        node_name: "bench".to_owned(),
        cluster_ranges: vec![range("10.42.0.0/16")],
        service_ranges: vec![range("10.43.0.0/16")],
        dns_addresses: vec![],
    });
    let options = Options {
        instance: instance.clone(),
        node_name: "n1".to_owned(),
        service_ranges: vec![range("10.43.0.0/16")],
        dns_addresses: vec![],
        mtu: None,
        foreign: false,
        overlay: Overlay::default(),
        keepalive_s: 0,
    };
    let network =
        Network::open(options, proxy.clone(), services::Policies::none(proxy)).expect("the board's own interface");
    network.set_ranges(&[range("10.42.0.0/24")]).expect("a pod range");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let request = PodNetRequest::default();
    let mut walls = Vec::new();
    let cpu = cpu_ms();
    for pod in 1..=PODS {
        let begun = Instant::now();
        let (path, id) = (path(pod), format!("sandbox-{pod}"));
        runtime.block_on(network.attach(&path, &id, &request)).expect("a pod is connected");
        walls.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = (cpu_ms() - cpu) / PODS as f64;
    walls.sort_by(f64::total_cmp);
    println!("a pod is connected: {:.2} ms median, {:.2} ms worst, {cpu:.2} ms CPU", walls[PODS / 2], walls[PODS - 1]);
    down(&instance).expect("everything is taken away");
    let _ = std::fs::remove_dir_all(dir);
}
