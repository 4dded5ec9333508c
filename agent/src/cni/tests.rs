//! Shell: pods connected by real plugins (Debian's `containernetworking-plugins`), in namespaces of their own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::attach::{Options, Plugins, down};
use super::record::records;
use crate::instance::Instance;
use crate::network::namespace::Namespace;
use crate::pods::{PodNetRequest, PodNetwork};
use crate::services::{self, Policies, Proxy};

const BIN_DIR: &str = "/usr/lib/cni";

/// A board on which plugins connect pods.
struct Board {
    netns: Namespace,
    dir: PathBuf,
    instance: Instance,
}

impl Board {
    fn new() -> Self {
        let needed = ["ptp", "host-local", "tuning"].iter().all(|name| PathBuf::from(BIN_DIR).join(name).is_file());
        assert!(needed, "this test needs CNI plugins in {BIN_DIR}: apt-get install containernetworking-plugins");
        let netns = Namespace::new();
        let dir = std::env::temp_dir().join(netns.name());
        let instance = Instance::new(&dir.join("data"), &dir.join("run"), None);
        Self { netns, dir, instance }
    }

    fn conf_dir(&self) -> PathBuf {
        self.dir.join("net.d")
    }

    /// The network `wire`: point to point, addresses of 10.77.0.0/24 that the plugin remembers below our folder, and
    /// what `further` plugins add.
    fn configure(&self, further: &[Value]) {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]],
            "dataDir": self.dir.join("ipam"), "routes": [{"dst": "0.0.0.0/0"}]});
        let mut plugins = vec![json!({"type": "ptp", "ipam": ipam})];
        plugins.extend_from_slice(further);
        let list = json!({"cniVersion": "1.0.0", "name": "wire", "plugins": plugins});
        std::fs::write(self.conf_dir().join("10-wire.conflist"), list.to_string()).unwrap();
    }

    /// As after each start of the agent; `work` runs in the board's namespace.
    fn run<T: Send>(&self, work: impl AsyncFnOnce(Plugins) -> T + Send) -> T {
        self.netns.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let proxy = Proxy::new(&services::Options {
                    instance: self.instance.clone(),
                    node_name: "n1".to_owned(),
                    cluster_ranges: vec!["10.77.0.0/16".parse().unwrap()],
                    service_ranges: vec!["10.43.0.0/16".parse().unwrap()],
                    dns_addresses: Vec::new(),
                });
                let policies = Policies::none(proxy.clone());
                let instance = self.instance.clone();
                let options = Options { instance, conf_dir: self.conf_dir(), bin_dirs: vec![BIN_DIR.into()] };
                work(Plugins::open(options, proxy, policies).unwrap()).await
            })
        })
    }

    /// The addresses that the plugin holds for taken.
    fn taken(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("ipam/wire")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("10.77.")).collect()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.netns.enter(|| services::remove_table(&self.instance));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn request() -> PodNetRequest {
    PodNetRequest { namespace: "d".into(), name: "web".into(), uid: "u".into(), ..PodNetRequest::default() }
}

#[test]
fn a_pod_has_the_plugins_address_until_it_goes_also_over_restarts_of_the_agent() {
    let (board, pod) = (Board::new(), Namespace::new());
    let tuning = json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "77"}});
    let ips = board.run(async |plugins| {
        assert!(plugins.not_ready().unwrap().ends_with("cni plugin not initialized"));
        let none = plugins.attach(&pod.path(), "sandbox", &request()).await.unwrap_err();
        assert_eq!(none.to_string(), "cni plugin not initialized");
        // The folder is followed: nobody starts the agent again for a configuration.
        let (mut changes, following) = (plugins.changes(), tokio::spawn(plugins.clone().run()));
        board.configure(std::slice::from_ref(&tuning));
        changes.wait_for(|initialized| *initialized).await.unwrap();
        following.abort();
        assert_eq!(plugins.not_ready(), None);
        plugins.attach(&pod.path(), "sandbox", &request()).await.unwrap()
    });
    assert_eq!(ips, [IpAddr::from([10, 77, 0, 2])]);
    assert_eq!(pod.run(&["sysctl", "-n", "net.core.somaxconn"]).trim(), "77", "the second plugin was called too");
    pod.serve("web", SocketAddr::new(ips[0], 8080));
    assert_eq!(board.netns.ask("10.77.0.2:8080").unwrap().0, "web");
    assert_eq!(board.taken(), ["10.77.0.2"]);

    std::fs::remove_file(board.conf_dir().join("10-wire.conflist")).unwrap();
    board.run(async |plugins| {
        assert_eq!(plugins.attached(), ["sandbox"]);
        let again = plugins.attach(&pod.path(), "sandbox", &request()).await.unwrap();
        assert_eq!(again, ips, "a pod that lives keeps what it has");
        // What it was attached by is remembered, although the configuration is gone.
        plugins.detach("sandbox").await.unwrap();
        plugins.detach("sandbox").await.unwrap();
        assert!(plugins.attached().is_empty());
    });
    assert!(board.taken().is_empty());
    assert!(!board.netns.run(&["ip", "-o", "link"]).contains("veth"));
}

#[test]
fn what_fails_half_way_leaves_nothing_and_what_a_crash_left_is_taken_away() {
    let (board, pod) = (Board::new(), Namespace::new());
    std::fs::create_dir_all(board.conf_dir()).unwrap();
    board.configure(&[json!({"type": "absent"})]);
    board.run(async |plugins| {
        let error = plugins.attach(&pod.path(), "sandbox", &request()).await.unwrap_err().to_string();
        let words = r#"plugin type="absent" failed (add): failed to find plugin "absent" in path ["/usr/lib/cni"]"#;
        assert_eq!(error, words);
        assert!(plugins.attached().is_empty());
    });
    assert!(board.taken().is_empty(), "the first plugin was asked to take back what it gave");

    // Power cut between the plugins' work and the record of it; the pod's namespace went with the boot.
    board.configure(&[]);
    let records = records(&board.instance.data_dir);
    let mut torn = board.run(async |plugins| {
        plugins.attach(&pod.path(), "other", &request()).await.unwrap();
        records.load("other").unwrap()
    });
    (torn.result, torn.netns) = (None, "/run/netns/gone".into());
    records.save("other", &torn).unwrap();
    assert_eq!(board.taken().len(), 1);
    board.netns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(down(&board.instance)).unwrap();
    });
    assert!(board.taken().is_empty() && records.sandboxes().is_empty());
}
