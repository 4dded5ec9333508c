//! Shell: the table in namespaces of our own: listed by nft, and real connections through it.

use crate::netlink::socket::Socket;
use crate::network::board::{BOARD_IP, Board, LAN_IP, Pod};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

/// A service `d/<name>` and how its ports look.
fn service(name: &str, ip: &str, spec: &Value) -> Value {
    let six = format!("fd43::{}", ip.rsplit('.').next().unwrap());
    let mut object = json!({"metadata": {"namespace": "d", "name": name}, "spec": {
        "clusterIP": ip, "clusterIPs": [ip, six],
        "ports": [{"name": "t", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 80, "protocol": "UDP"}]}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    if let Some(status) = object["spec"].as_object_mut().unwrap().remove("status") {
        object["status"] = status;
    }
    object
}

/// The slices, one of each family, with these endpoints; the second of a pair is the node.
fn slices(of: &str, pods: &[(&Pod, &str)]) -> [Value; 2] {
    [0, 1].map(|family| {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|(pod, node)| {
                json!({"addresses": [pod.ips[family].to_string()], "nodeName": node,
                "conditions": {"ready": true}})
            })
            .collect();
        json!({"metadata": {"namespace": "d", "name": format!("{of}-{family}"),
            "labels": {"kubernetes.io/service-name": of}}, "addressType": (["IPv4", "IPv6"][family]),
            "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}],
            "endpoints": endpoints})
    })
}

fn put(board: &Board, service: &Value, slices: &[Value]) {
    for kind in ["Service", "EndpointSlice"] {
        board.proxy.list_ends(kind);
    }
    board.proxy.apply("Service", service);
    slices.iter().for_each(|slice| board.proxy.apply("EndpointSlice", slice));
    board.sync();
}

fn both_listed(board: &Board) {
    for kind in ["Service", "EndpointSlice"] {
        board.proxy.list_begins(kind);
        board.proxy.list_ends(kind);
    }
    board.sync();
}

/// Blocks of a table by their first line; elements and their order do not count as text.
fn blocks(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let joined = text.replace(",\n", ", ");
    let mut blocks: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut block = String::new();
    for (number, line) in joined.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "}").enumerate() {
        if line.ends_with('{') && !line.starts_with("elements") {
            line.clone_into(&mut block);
            blocks.entry(block.clone()).or_default();
        } else if let Some(elements) = line.strip_prefix("elements = {") {
            let elements = elements.trim_end_matches('}').split(',').map(|at| format!("element {}", at.trim()));
            blocks.get_mut(&block).unwrap().extend(elements.filter(|_| !block.starts_with("set aff/")));
        } else {
            let order = if block.starts_with("chain") { format!("{number:04} ") } else { String::new() };
            blocks.get_mut(&block).unwrap().insert(order + line);
        }
    }
    // Only the order within a chain counts.
    for lines in blocks.values_mut() {
        let ordered = std::mem::take(lines);
        let strip = |line: &str| line.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        *lines = ordered
            .iter()
            .enumerate()
            .map(
                |(n, line)| {
                    if line.as_bytes()[0].is_ascii_digit() { format!("{n:03} {}", strip(line)) } else { line.clone() }
                },
            )
            .collect();
    }
    blocks
}

/// The kernel's table, printed by nft, is the text that we rendered.
fn assert_listed(board: &Board) {
    let listed = board.netns.run(&["nft", "list", "table", "inet", &board.instance.nft_table()]);
    let (listed, rendered) = (blocks(&listed), blocks(&board.proxy.text()));
    for (name, lines) in &rendered {
        assert_eq!(listed.get(name), Some(lines), "{name}");
    }
    assert_eq!(
        listed.len(),
        rendered.len(),
        "{:?}",
        listed.keys().filter(|k| !rendered.contains_key(*k)).collect::<Vec<_>>()
    );
}

fn names(board: &Board, ask: impl Fn(&Board) -> Result<(String, std::net::IpAddr), ErrorKind>) -> BTreeSet<String> {
    (0..24).map(|_| ask(board).expect("an answer").0).collect()
}

#[test]
fn nft_lists_what_we_render() {
    let board = Board::new();
    let (a, b) = (board.pod("a", &[]), board.pod("b", &[]));
    both_listed(&board);
    assert_listed(&board);
    let kinds = [
        json!({}),
        json!({"type": "NodePort", "ports": [{"name": "t", "port": 80, "nodePort": 30080}]}),
        json!({"sessionAffinity": "ClientIP"}),
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["172.16.0.9"],
            "loadBalancerSourceRanges": ["192.168.77.0/30", "10.128.0.0/9"],
            "ports": [{"name": "t", "port": 80, "nodePort": 30081}],
            "status": {"loadBalancer": {"ingress": [{"ip": "172.16.0.10"}]}}}),
        json!({"internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90}}}),
        json!({"ports": [{"name": "t", "port": 80, "protocol": "SCTP"}]}),
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
    ];
    for (spec, n) in kinds.iter().zip(100..) {
        let name = format!("s{n}");
        put(&board, &service(&name, &format!("10.43.0.{n}"), spec), &slices(&name, &[(&a, "n1"), (&b, "n2")]));
        assert_listed(&board);
    }
    // Fewer endpoints, one, none; and gone.
    for pods in [&[(&a, "n2"), (&b, "n2")][..], &[(&b, "n1")], &[]] {
        for n in 100..107 {
            slices(&format!("s{n}"), pods).iter().for_each(|slice| board.proxy.apply("EndpointSlice", slice));
        }
        board.sync();
        assert_listed(&board);
    }
    both_listed(&board);
    assert_listed(&board);
    assert!(!board.proxy.text().contains("s100"));
}

#[test]
fn a_cluster_address_leads_to_every_endpoint_and_to_no_other() {
    let board = Board::new();
    let (a, b, client) = (board.pod("a", &[]), board.pod("b", &[]), board.pod("client", &[]));
    put(&board, &service("web", "10.43.0.100", &json!({})), &slices("web", &[(&a, "n1"), (&b, "n1")]));
    for at in ["10.43.0.100:80", "[fd43::100]:80"] {
        assert_eq!(names(&board, |_| client.netns.ask(at)), BTreeSet::from(["a".to_owned(), "b".to_owned()]), "{at}");
        assert_eq!(names(&board, |_| client.netns.ask_udp(0, at)).len(), 2, "{at}");
        // Pods see the client itself; the board wears its own address of the pod range.
        let six = usize::from(at.starts_with('['));
        assert_eq!(client.netns.ask(at).unwrap().1, client.ips[six]);
        assert_eq!(board.netns.ask(at).unwrap().1.to_string(), ["10.42.0.1", "fd42::1"][six]);
        // A pod reaches itself: masqueraded, else the answer would never pass the board.
        let own = names(&board, |_| a.netns.ask(at));
        assert_eq!(own.len(), 2, "{at} {own:?}");
    }
    // One endpoint leaves: no connection goes there any more.
    put(&board, &service("web", "10.43.0.100", &json!({})), &slices("web", &[(&b, "n1")]));
    assert_eq!(names(&board, |_| client.netns.ask("10.43.0.100:80")), BTreeSet::from(["b".to_owned()]));
    // None is left, a port that is not there, an address of no service: refused at once.
    put(&board, &service("web", "10.43.0.100", &json!({})), &slices("web", &[]));
    for at in ["10.43.0.100:80", "10.43.0.100:81", "10.43.0.200:80", "[fd43::100]:80"] {
        for from in [&client.netns, &board.netns] {
            assert_eq!(from.ask(at), Err(ErrorKind::ConnectionRefused), "{at}");
            // The board's own datagram fails in the send already.
            let refused = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
            assert!(from.ask_udp(0, at).is_err_and(|kind| refused.contains(&kind)), "{at}");
        }
    }
}

#[test]
fn node_ports_answer_on_every_address_of_the_board() {
    let board = Board::new();
    let (a, client) = (board.pod("a", &[]), board.pod("client", &[]));
    let ports = json!([{"name": "t", "port": 80, "nodePort": 30080}, {"name": "u", "port": 80, "protocol": "UDP", "nodePort": 30080}]);
    let node_port = |policy: &str| json!({"type": "NodePort", "externalTrafficPolicy": policy, "ports": ports});
    put(&board, &service("web", "10.43.0.100", &node_port("Cluster")), &slices("web", &[(&a, "n1")]));
    for at in [format!("{BOARD_IP}:30080"), "127.0.0.1:30080".to_owned(), "10.42.0.1:30080".to_owned()] {
        assert_eq!(board.netns.ask(&at).unwrap().0, "a", "{at}");
        assert_eq!(board.netns.ask_udp(0, &at).unwrap().0, "a", "{at}");
    }
    let at = format!("{BOARD_IP}:30080");
    let seen = board.lan.ask(&at).unwrap().1;
    assert_ne!(seen.to_string(), LAN_IP, "masqueraded, because the endpoint may live elsewhere");
    assert_eq!(board.lan.ask_udp(0, &at).unwrap().0, "a");
    assert_eq!(client.netns.ask(&at).unwrap().0, "a");
    assert_eq!(a.netns.ask(&at).unwrap().0, "a");
    // Local: the client's address is kept, and a board without endpoints does not answer strangers.
    put(&board, &service("web", "10.43.0.100", &node_port("Local")), &slices("web", &[(&a, "n1")]));
    assert_eq!(board.lan.ask(&at).unwrap().1.to_string(), LAN_IP);
    put(&board, &service("web", "10.43.0.100", &node_port("Local")), &slices("web", &[(&a, "elsewhere")]));
    assert_eq!(board.lan.ask(&at), Err(ErrorKind::TimedOut));
    assert_eq!(client.netns.ask(&at).unwrap().0, "a", "pods use every endpoint");
    put(&board, &service("web", "10.43.0.100", &node_port("Cluster")), &slices("web", &[]));
    assert_eq!(board.lan.ask(&at), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn load_balancer_addresses_keep_strangers_out() {
    let board = Board::new();
    let a = board.pod("a", &[]);
    board.lan.run(&["ip", "route", "add", "172.16.0.0/24", "via", BOARD_IP]);
    let balancer = |ranges: &str| {
        json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [ranges],
        "externalIPs": ["172.16.0.8"], "status": {"loadBalancer": {"ingress": [{"ip": "172.16.0.9"}]}}})
    };
    put(&board, &service("web", "10.43.0.100", &balancer("192.168.0.0/16")), &slices("web", &[(&a, "n1")]));
    assert_eq!(board.lan.ask("172.16.0.9:80").unwrap().0, "a");
    put(&board, &service("web", "10.43.0.100", &balancer("192.168.77.4/30")), &slices("web", &[(&a, "n1")]));
    assert_eq!(board.lan.ask("172.16.0.9:80"), Err(ErrorKind::TimedOut));
    assert_eq!(board.lan.ask("172.16.0.8:80").unwrap().0, "a", "external IPs know no source ranges");
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let board = Board::new();
    let (a, b, client) = (board.pod("a", &[]), board.pod("b", &[]), board.pod("client", &[]));
    let sticky = service("web", "10.43.0.100", &json!({"sessionAffinity": "ClientIP"}));
    put(&board, &sticky, &slices("web", &[(&a, "n1"), (&b, "n1")]));
    for at in ["10.43.0.100:80", "[fd43::100]:80"] {
        let first = names(&board, |_| client.netns.ask(at));
        assert_eq!(first.len(), 1, "{at}");
        // A change elsewhere does not part them.
        put(&board, &service("other", "10.43.0.101", &json!({})), &slices("other", &[(&a, "n1")]));
        assert_eq!(names(&board, |_| client.netns.ask(at)), first, "{at}");
        let other = if first.contains("a") { &b } else { &a };
        put(&board, &sticky, &slices("web", &[(other, "n1")]));
        assert_ne!(names(&board, |_| client.netns.ask(at)), first, "its endpoint is gone");
        put(&board, &sticky, &slices("web", &[(&a, "n1"), (&b, "n1")]));
    }
}

#[test]
fn udp_flows_leave_an_endpoint_that_is_gone() {
    let mut board = Board::new();
    let (a, b, client) = (board.pod("a", &[]), board.pod("b", &[]), board.pod("client", &[]));
    put(&board, &service("dns", "10.43.0.100", &json!({})), &slices("dns", &[(&a, "n1")]));
    assert_eq!(client.netns.ask_udp(5353, "10.43.0.100:80").unwrap().0, "a");
    put(&board, &service("dns", "10.43.0.100", &json!({})), &slices("dns", &[(&b, "n1")]));
    assert_eq!(client.netns.ask_udp(5353, "10.43.0.100:80").unwrap().0, "b", "the same flow from the same port");
    // It leaves while no agent runs.
    board.restart();
    put(&board, &service("dns", "10.43.0.100", &json!({})), &slices("dns", &[(&a, "n1")]));
    assert_eq!(client.netns.ask_udp(5353, "10.43.0.100:80").unwrap().0, "a");
}

#[test]
fn only_our_table_is_ours_and_it_comes_back() {
    let board = Board::new();
    let (a, client) = (board.pod("a", &[]), board.pod("client", &[]));
    board.netns.run(&["nft", "add table inet foreign; add chain inet foreign keep; add rule inet foreign keep accept"]);
    let foreign = board.netns.run(&["nft", "list", "table", "inet", "foreign"]);
    put(&board, &service("web", "10.43.0.100", &json!({})), &slices("web", &[(&a, "n1")]));
    let monitor = board.netns.enter(Socket::ruleset_changes).unwrap();
    put(&board, &service("more", "10.43.0.101", &json!({})), &slices("more", &[(&a, "n1")]));
    let before = board.netns.enter(|| Socket::netfilter().unwrap().generation().unwrap());
    let settle = || {
        board.netns.enter(|| board.proxy.hear(&monitor)).unwrap();
        board.sync();
    };
    settle();
    assert_eq!(
        board.netns.enter(|| Socket::netfilter().unwrap().generation().unwrap()),
        before,
        "our own changes are no news"
    );
    board.netns.run(&["nft", "add rule inet foreign keep drop"]);
    settle();
    let after = board.netns.enter(|| Socket::netfilter().unwrap().generation().unwrap());
    assert_eq!(after, before + 1, "another table's change is none of our business");
    assert!(board.netns.run(&["nft", "list", "table", "inet", "foreign"]).contains(foreign.lines().nth(2).unwrap()));
    let table = board.instance.nft_table();
    for damage in
        [format!("flush chain inet {table} services"), format!("delete table inet {table}"), "flush ruleset".to_owned()]
    {
        board.netns.run(&["nft", &damage]);
        assert!(client.netns.ask("10.43.0.100:80").is_err());
        settle();
        assert_listed(&board);
        assert_eq!(client.netns.ask("10.43.0.100:80").unwrap().0, "a");
    }
}

#[test]
fn a_restart_keeps_the_table_until_both_lists_are_read() {
    let mut board = Board::new();
    let (a, client) = (board.pod("a", &[]), board.pod("client", &[]));
    put(&board, &service("web", "10.43.0.100", &json!({})), &slices("web", &[(&a, "n1")]));
    board.restart();
    board.sync();
    assert_eq!(client.netns.ask("10.43.0.100:80").unwrap().0, "a");
    put(&board, &service("web", "10.43.0.100", &json!({})), &slices("web", &[(&a, "n1")]));
    assert_listed(&board);
}

#[test]
fn two_services_with_one_external_address_do_not_break_the_rest() {
    let board = Board::new();
    let (a, b) = (board.pod("a", &[]), board.pod("b", &[]));
    board.lan.run(&["ip", "route", "add", "172.16.0.0/24", "via", BOARD_IP]);
    let external = json!({"externalIPs": ["172.16.0.9"]});
    put(&board, &service("one", "10.43.0.100", &external), &slices("one", &[(&a, "n1")]));
    put(&board, &service("two", "10.43.0.101", &external), &slices("two", &[(&b, "n1")]));
    assert_eq!(names(&board, |board| board.lan.ask("172.16.0.9:80")).len(), 1);
    assert_eq!(board.netns.ask("10.43.0.101:80").unwrap().0, "b");
    put(&board, &service("two", "10.43.0.101", &json!({})), &slices("two", &[(&b, "n1")]));
    assert_eq!(names(&board, |board| board.lan.ask("172.16.0.9:80")), BTreeSet::from(["a".to_owned()]));
    assert_listed(&board);
}

#[test]
fn the_loop_programs_what_it_watches_and_repairs_what_others_break() {
    use crate::link::Link;
    use crate::link::fakes::FakeTransport;
    use bytes::Bytes;
    use std::time::{Duration, Instant};

    let board = Board::new();
    let (a, client) = (board.pod("a", &[]), board.pod("client", &[]));
    let lists = [
        json!({"kind": "ServiceList", "metadata": {"resourceVersion": "1"}, "items": [service("web", "10.43.0.100", &json!({}))]}),
        json!({"kind": "EndpointSliceList", "metadata": {"resourceVersion": "1"}, "items": slices("web", &[(&a, "n1")])}),
    ]
    .map(|list| Bytes::from(list.to_string()));
    let transport = FakeTransport::new(move |_, path, _| {
        let watch = path.contains("watch=true");
        (200, if watch { Vec::new() } else { vec![lists[usize::from(path.contains("endpointslices"))].clone()] })
    });
    let proxy = board.proxy.clone();
    let file = std::fs::File::open(board.netns.path()).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = std::thread::spawn(move || {
        use std::os::fd::AsFd;
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), network).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = super::run(Link::new(transport), proxy, None) => {}
                _ = stopped => {}
            }
        });
    });
    let answered = |what: &str| {
        let until = Instant::now() + Duration::from_secs(5);
        while client.netns.ask("10.43.0.100:80").is_err() {
            assert!(Instant::now() < until, "{what}");
        }
    };
    answered("what was listed is programmed");
    board.netns.run(&["nft", "flush ruleset"]);
    answered("what others removed is back");
    let _ = stop.send(());
    running.join().unwrap();
}

/// A small generator of numbers (Knuth's), so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

#[test]
fn any_way_of_changes_leads_to_the_same_table() {
    let board = Board::new();
    let pods = [board.pod("a", &[]), board.pod("b", &[]), board.pod("c", &[])];
    both_listed(&board);
    let mut numbers = Numbers(7);
    for step in 0..60 {
        for _ in 0..=numbers.below(3) {
            let number = numbers.below(4);
            let (name, ip) = (format!("s{number}"), format!("10.43.0.{}", 100 + number));
            // Node ports wander between services, as after a deletion and a creation.
            let ports = json!([{"name": "t", "port": 80, "nodePort": 30000 + (number + step / 7) % 4}]);
            let policy = |local: usize| if local == 0 { "Local" } else { "Cluster" };
            let affinity = if numbers.below(3) == 0 { "ClientIP" } else { "None" };
            let object = service(
                &name,
                &ip,
                &json!({"type": "NodePort", "ports": ports, "sessionAffinity": affinity,
                "externalTrafficPolicy": policy(numbers.below(2)), "internalTrafficPolicy": policy(numbers.below(3))}),
            );
            let chosen: Vec<(&Pod, &str)> =
                pods.iter().filter(|_| numbers.below(2) == 0).map(|pod| (pod, "n1")).collect();
            match numbers.below(5) {
                0 => board.proxy.delete("Service", &object),
                1 => slices(&name, &[]).iter().for_each(|slice| board.proxy.delete("EndpointSlice", slice)),
                2 => board.proxy.apply("Service", &object),
                _ => slices(&name, &chosen).iter().for_each(|slice| board.proxy.apply("EndpointSlice", slice)),
            }
        }
        board.sync();
        if !board.proxy.is_contested() {
            assert_listed(&board);
        }
    }
    for number in 0..4 {
        let ports = json!([{"name": "t", "port": 80, "nodePort": 30000 + number}]);
        let object = service(&format!("s{number}"), &format!("10.43.0.{}", 100 + number), &json!({"ports": ports}));
        board.proxy.apply("Service", &object);
    }
    board.sync();
    assert!(!board.proxy.is_contested(), "every port has one owner again");
    assert_listed(&board);
}

fn pod_object(name: &str, pod: &Pod) -> Value {
    let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    json!({"metadata": {"namespace": "d", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"podIPs": ips}})
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "d", "name": name}, "spec": spec})
}

#[test]
fn policies_close_pods_and_what_is_let_through_passes() {
    let board = Board::new();
    let (web, one, two) = (board.pod("web", &[]), board.pod("one", &[]), board.pod("two", &[]));
    let pods = [pod_object("web", &web), pod_object("one", &one), pod_object("two", &two)];
    let program = |policies: &[Value]| {
        board.proxy.set_policies(crate::services::policy::units_of(policies, &pods));
        board.sync();
        assert_listed(&board);
    };
    let selects = |app: &str| json!({"matchLabels": {"app": app}});
    let reaches = |from: &Pod, to: &Pod| -> Vec<bool> {
        to.ips.iter().map(|ip| from.netns.ask(&std::net::SocketAddr::new(*ip, 8080).to_string()).is_ok()).collect()
    };
    let (yes, no) = (vec![true; 2], vec![false; 2]);
    both_listed(&board);
    assert_eq!(reaches(&one, &web), yes);

    let from = |app: &str| {
        policy(
            "in",
            json!({"podSelector": selects("web"), "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "d"}}, "podSelector": selects(app)}], "ports": [{"port": "web"}]}]}),
        )
    };
    program(&[from("one")]);
    assert_eq!((reaches(&one, &web), reaches(&two, &web), reaches(&two, &one)), (yes.clone(), no.clone(), yes.clone()));
    let own = web.ips.iter().map(|ip| board.netns.ask(&std::net::SocketAddr::new(*ip, 8080).to_string()).is_ok());
    assert_eq!(own.collect::<Vec<_>>(), yes, "the board reaches its pods");
    program(&[from("two")]);
    assert_eq!((reaches(&one, &web), reaches(&two, &web)), (no.clone(), yes.clone()));

    // What one may reach: by port range of a block, and by the receiver's name for its port.
    let block = json!({"to": [{"ipBlock": {"cidr": "10.42.0.0/16"}}], "ports": [{"port": 8000, "endPort": 8079}]});
    let named = json!({"to": [{"podSelector": selects("two")}], "ports": [{"port": "web"}]});
    let out = |rules: Value| {
        policy("out", json!({"podSelector": selects("one"), "policyTypes": ["Egress"], "egress": rules}))
    };
    program(&[out(json!([block, named]))]);
    assert_eq!((reaches(&one, &web), reaches(&one, &two), reaches(&two, &web)), (no, yes.clone(), yes.clone()));
    program(&[]);
    assert_eq!((reaches(&one, &web), reaches(&two, &web)), (yes.clone(), yes));
}

#[test]
fn a_pod_is_closed_before_it_is_connected() {
    let board = Board::new();
    both_listed(&board);
    let asks = |from: &Pod, to: &Pod| from.netns.ask(&format!("{}:8080", to.ip())).is_ok();
    let selects = |app: &str| json!({"matchLabels": {"app": app}});
    let lets_in = json!({"podSelector": selects("web"), "ingress": [{"from": [{"podSelector": selects("friend")}]}]});
    board.policies.set(&[policy("in", lets_in)]);
    // Nobody but the board itself knows these pods, and nobody has the table programmed after they are there.
    let (web, stranger, friend) = (board.pod("web", &[]), board.pod("stranger", &[]), board.pod("friend", &[]));
    assert!(!asks(&stranger, &web) && asks(&friend, &web) && asks(&friend, &stranger));
    assert_listed(&board);
    board.netns.enter(|| board.network.disconnect(&friend.id)).unwrap();
    board.sync();
    assert!(!board.proxy.text().contains(&friend.ip()), "{}", board.proxy.text());
}
