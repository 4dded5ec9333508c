//! Shell: names answered over real sockets, asked by `dig` from inside a pod's namespace.

use super::forward::Forwarder;
use super::serve::Answerer;
use super::zone::{Answer, Data, Kind, Zone};
use crate::network::board::{Board, LAN_IP};
use crate::network::namespace::Namespace;
use crate::services::{Collection, Index, Proxy};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;

fn cluster(proxy: &Proxy) {
    let service = |name: &str, spec: Value| json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
    let services = [
        service(
            "web",
            json!({"clusterIPs": ["10.43.0.100", "fd43::100"],
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        ),
        service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        service("big", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        service("none", json!({"clusterIP": "None"})),
        service("out", json!({"type": "ExternalName", "externalName": "1-2-3-4.x.pod.example.test"})),
        service("again", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
        service("round", json!({"type": "ExternalName", "externalName": "round.default.svc.cluster.local"})),
    ];
    let slice = |name: &str, endpoints: Value| {
        json!({"metadata": {"namespace": "default", "name": name,
        "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
        "ports": [{"name": if name == "db" { "sql" } else { "http" }, "port": 5432}], "endpoints": endpoints})
    };
    let many: Vec<Value> = (1..=100).map(|n| json!({"addresses": [format!("10.42.9.{n}")]})).collect();
    let slices = [
        slice(
            "db",
            json!([{"addresses": ["10.42.0.7"], "hostname": "db-0"}, {"addresses": ["10.42.1.8"], "hostname": "db-1"},
            {"addresses": ["10.42.1.9"], "hostname": "db-2", "conditions": {"ready": false}}, {"addresses": ["10.42.1.10"]}]),
        ),
        slice("big", Value::Array(many)),
    ];
    services.iter().for_each(|object| proxy.apply("Service", object));
    slices.iter().for_each(|object| proxy.apply("EndpointSlice", object));
    ["Service", "EndpointSlice"].iter().for_each(|kind| proxy.list_ends(kind));
}

fn zone(domain: &str) -> Zone {
    let ranges = ["10.42.0.0/16", "10.43.0.0/16", "fd43::/112"].map(|range| range.parse().unwrap()).to_vec();
    Zone { domain: domain.to_owned(), ranges }
}

/// Answers in the namespace until the test ends.
fn serve(at: &Namespace, address: &str, zone: Zone, index: Arc<std::sync::RwLock<Index>>, forwarder: Forwarder) {
    let address: SocketAddr = address.parse().unwrap();
    let bind = || (std::net::UdpSocket::bind(address).unwrap(), std::net::TcpListener::bind(address).unwrap());
    let (udp, tcp) = at.enter(bind);
    let path = at.path();
    std::thread::spawn(move || {
        use std::os::fd::AsFd;
        let netns = std::fs::File::open(path).unwrap();
        rustix::thread::move_into_link_name_space(netns.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            udp.set_nonblocking(true).unwrap();
            tcp.set_nonblocking(true).unwrap();
            let waiting = Arc::new(Semaphore::new(64));
            let answerer = Arc::new(Answerer { zone, index, forwarder: Arc::new(forwarder), waiting, turn: 0.into() });
            let udp = Arc::new(UdpSocket::from_std(udp).unwrap());
            tokio::join!(answerer.clone().serve_udp(udp), answerer.serve_tcp(TcpListener::from_std(tcp).unwrap()));
        });
    });
}

struct Setting {
    board: Board,
    pod: Namespace,
}

impl Setting {
    fn new() -> Self {
        let board = Board::new();
        cluster(&board.proxy);
        board.sync();
        let pod = Namespace::new();
        board.attach(&pod, "asker", &[]);
        // Another server on the LAN, which knows names of its own.
        let mut nothing = Index::new("");
        [Collection::Services, Collection::Slices].into_iter().for_each(|of| nothing.list_ends(of));
        let nothing = Arc::new(std::sync::RwLock::new(nothing));
        let elsewhere = Forwarder::fixed(Vec::new());
        serve(&board.lan, &format!("{LAN_IP}:53"), zone("example.test"), nothing, elsewhere);
        let forwarder =
            Forwarder::fixed(vec!["192.168.77.2:54".parse().unwrap(), format!("{LAN_IP}:53").parse().unwrap()]);
        serve(&board.netns, "10.43.0.10:53", zone("cluster.local"), board.proxy.index(), forwarder);
        Self { board, pod }
    }

    fn dig(&self, question: &str) -> Vec<String> {
        let words: Vec<&str> = question.split_whitespace().collect();
        let output = self.pod.run(&[&["dig", "+time=5", "+tries=1", "@10.43.0.10"], words.as_slice()].concat());
        output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    fn short(&self, question: &str) -> Vec<String> {
        let mut lines = self.dig(&format!("+short {question}"));
        lines.sort();
        lines
    }

    /// Status and the counts of the sections.
    fn status(&self, question: &str) -> String {
        let lines = self.dig(question);
        let find = |start: &str| lines.iter().find(|line| line.starts_with(start)).cloned().unwrap_or_default();
        let status = find(";; ->>HEADER")
            .split("status: ")
            .nth(1)
            .unwrap_or_default()
            .split(',')
            .next()
            .unwrap_or_default()
            .to_owned();
        format!("{status} {}", find(";; flags").split("; ").nth(2).unwrap_or_default())
    }
}

#[test]
fn dig_in_a_pod_gets_what_the_cluster_says() {
    let setting = Setting::new();
    for (question, answers) in [
        ("web.default.svc.cluster.local", &["10.43.0.100"][..]),
        ("WEB.default.SVC.cluster.local A", &["10.43.0.100"]),
        ("web.default.svc.cluster.local AAAA", &["fd43::100"]),
        ("_http._tcp.web.default.svc.cluster.local SRV", &["0 100 80 web.default.svc.cluster.local."]),
        ("-x 10.43.0.100", &["web.default.svc.cluster.local."]),
        ("-x fd43::100", &["web.default.svc.cluster.local."]),
        ("db.default.svc.cluster.local", &["10.42.0.7", "10.42.1.10", "10.42.1.8"]),
        ("db-0.db.default.svc.cluster.local", &["10.42.0.7"]),
        ("10-42-1-10.db.default.svc.cluster.local", &["10.42.1.10"]),
        ("-x 10.42.0.7", &["db-0.db.default.svc.cluster.local."]),
        ("10-42-3-4.default.pod.cluster.local", &["10.42.3.4"]),
        ("dns-version.cluster.local TXT", &["\"1.1.0\""]),
        ("again.default.svc.cluster.local", &["10.43.0.100", "web.default.svc.cluster.local."]),
        ("out.default.svc.cluster.local CNAME", &["1-2-3-4.x.pod.example.test."]),
        ("+tcp web.default.svc.cluster.local", &["10.43.0.100"]),
        // Elsewhere, the first resolver being dead; an alias of ours that leads there; and from the cache.
        ("9-8-7-6.x.pod.example.test", &["9.8.7.6"]),
        ("out.default.svc.cluster.local", &["1-2-3-4.x.pod.example.test.", "1.2.3.4"]),
        ("+noedns 9-8-7-6.x.pod.EXAMPLE.test", &["9.8.7.6"]),
    ] {
        assert_eq!(setting.short(question), answers, "{question}");
    }
    let srv = setting.dig("_sql._tcp.db.default.svc.cluster.local SRV");
    assert!(srv.iter().any(|line| line.ends_with("SRV 0 100 5432 db-1.db.default.svc.cluster.local.")), "{srv:?}");
    assert!(srv.iter().any(|line| line == "db-1.db.default.svc.cluster.local. 5 IN A 10.42.1.8"), "{srv:?}");
}

#[test]
fn what_is_not_there_says_so_with_an_authority() {
    let setting = Setting::new();
    for (question, status) in [
        ("nope.default.svc.cluster.local", "NXDOMAIN QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"),
        ("web.default.svc.cluster.local MX", "NOERROR QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"),
        // What `ndots:5` makes of a foreign name before it is asked as it is.
        ("example.test.default.svc.cluster.local", "NXDOMAIN QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"),
        ("+noedns default.svc.cluster.local", "NOERROR QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 0"),
        ("other.svc.cluster.local", "NXDOMAIN QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"),
        ("none.default.svc.cluster.local", "NXDOMAIN QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"),
        ("db-2.db.default.svc.cluster.local", "NXDOMAIN QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"),
        ("-x 10.43.0.250", "NXDOMAIN QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"),
        ("cluster.local SOA", "NOERROR QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1"),
        ("-c CH web.default.svc.cluster.local", "REFUSED QUERY: 1, ANSWER: 0, AUTHORITY: 0, ADDITIONAL: 1"),
        ("nope.pod.example.test", "NXDOMAIN QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"),
        ("not.there.at.all", "SERVFAIL QUERY: 1, ANSWER: 0, AUTHORITY: 0, ADDITIONAL: 1"),
    ] {
        assert_eq!(setting.status(question), status, "{question}");
    }
    assert!(setting.status("round.default.svc.cluster.local").starts_with("NOERROR"), "an alias of itself ends");
}

#[test]
fn what_does_not_fit_comes_over_tcp() {
    let setting = Setting::new();
    let flags = |question: &str| setting.dig(question).into_iter().find(|line| line.starts_with(";; flags")).unwrap();
    assert!(flags("+ignore big.default.svc.cluster.local").contains(" tc "));
    assert!(flags("+ignore +noedns big.default.svc.cluster.local").contains(" tc "));
    assert_eq!(
        setting.short("big.default.svc.cluster.local").iter().filter(|line| line.starts_with("10.42.9.")).count(),
        100
    );
    assert!(setting.short("+tcp _http._tcp.big.default.svc.cluster.local SRV").len() == 100);
    drop(setting.board);
}

#[test]
fn before_the_services_are_known_nothing_is_denied() {
    let index = Index::new("n1");
    assert!(!index.is_listed());
    let answer = zone("cluster.local").answer(&index, "web.default.svc.cluster.local", Kind::A);
    assert_eq!(answer, Answer::NoSuchName, "which the shell turns into SERVFAIL");
    let foreign = zone("cluster.local").answer(&index, "xcluster.local", Kind::A);
    assert_eq!(foreign, Answer::Foreign);
    let pod = zone("cluster.local").answer(&index, "fd42--7.x.pod.cluster.local", Kind::Aaaa);
    let expected = vec![("fd42--7.x.pod.cluster.local".to_owned(), Data::Address("fd42::7".parse().unwrap()))];
    assert_eq!(pod, Answer::Records { answers: expected, additional: Vec::new() });
}

#[test]
fn the_boards_own_resolvers_are_asked_and_their_file_may_change() {
    let setting = Setting::new();
    let file = std::env::temp_dir().join(format!("{}-resolv.conf", setting.board.netns.name()));
    std::fs::write(&file, format!("nameserver 10.42.0.1\nnameserver {LAN_IP}\n")).unwrap();
    let options = super::Options {
        addresses: vec!["10.42.0.1".parse().unwrap()],
        port: 53,
        domain: "Cluster.Local.".to_owned(),
        ranges: Vec::new(),
        resolv_conf: file.clone(),
    };
    let (index, path) = (setting.board.proxy.index(), setting.board.netns.path());
    std::thread::spawn(move || {
        use std::os::fd::AsFd;
        let netns = std::fs::File::open(path).unwrap();
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(netns.as_fd(), network).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(super::run(options, index)).unwrap();
    });
    let ask = |name: &str| {
        let question = ["dig", "+short", "+time=5", "+tries=3", "@10.42.0.1", name];
        setting.pod.run(&question).trim().to_owned()
    };
    assert_eq!(ask("web.default.svc.cluster.local"), "10.43.0.100");
    assert_eq!(ask("1-1-1-1.x.pod.example.test"), "1.1.1.1");
    std::fs::write(&file, "# no resolver\n").unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    assert_eq!(ask("2-2-2-2.x.pod.example.test"), "", "nobody is left to ask");
    assert_eq!(ask("1-1-1-1.x.pod.example.test"), "1.1.1.1", "what was answered is kept");
    std::fs::remove_file(file).unwrap();
}
