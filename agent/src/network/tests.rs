//! Shell: the pod network in namespaces of our own, with real packets.

use super::board::{BOARD_IP, Board, LAN_IP};
use super::namespace::Namespace;
use super::{down, plan};
use crate::pods::{HostPort, PodNetRequest, Protocol};

#[test]
fn pods_board_and_lan_reach_each_other() {
    let board = Board::new();
    let (a, b) = (board.pod("a", &[]), board.pod("b", &[]));
    assert_eq!(a.ip(), "10.42.0.2");
    for at in [format!("{}:8080", b.ips[0]), format!("[{}]:8080", b.ips[1])] {
        let (name, seen) = a.netns.ask(&at).unwrap();
        assert_eq!((name.as_str(), seen), ("b", if at.starts_with('[') { a.ips[1] } else { a.ips[0] }));
    }
    assert_eq!(board.netns.ask(&format!("{}:8080", a.ip())).unwrap().0, "a");
    // What leaves the cluster wears the board's address: the LAN has no route back to pods.
    board.lan.serve("lan", format!("{LAN_IP}:9000").parse().unwrap());
    assert_eq!(a.netns.ask(&format!("{LAN_IP}:9000")), Ok(("lan".to_owned(), BOARD_IP.parse().unwrap())));
    assert_eq!(a.netns.ask_udp(0, &format!("{LAN_IP}:9000")), Ok(("lan".to_owned(), BOARD_IP.parse().unwrap())));
}

#[test]
fn a_pod_may_not_reach_the_boards_loopback() {
    let board = Board::new();
    let pod = board.pod("a", &[]);
    board.netns.serve("secret", "127.0.0.1:7000".parse().unwrap());
    pod.netns.run(&["ip", "link", "set", "lo", "down"]);
    pod.netns.run(&["ip", "route", "add", "127.0.0.1/32", "via", "169.254.1.1", "dev", "eth0", "onlink"]);
    pod.netns.run(&["sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"]);
    assert!(pod.netns.ask_udp(0, "127.0.0.1:7000").is_err());
}

#[test]
fn a_restart_hands_no_address_out_twice_and_repairs() {
    let mut board = Board::new();
    let a = board.pod("a", &[]);
    board.restart();
    let b = board.pod("b", &[]);
    assert_ne!(a.ips, b.ips);
    board.netns.run(&["ip", "route", "del", &a.ip()]);
    assert_eq!(board.attach(&a.netns, &a.id, &[]), a.ips, "the same addresses again");
    assert_eq!(b.netns.ask(&format!("{}:8080", a.ip())).unwrap().0, "a");
}

#[test]
fn what_is_detached_swept_or_taken_down_is_gone() {
    let board = Board::new();
    let (a, b, c) = (board.pod("a", &[]), board.pod("b", &[]), board.pod("c", &[]));
    assert_eq!(board.interfaces().len(), 5);
    board.netns.enter(|| board.network.disconnect(&a.id)).unwrap();
    board.netns.enter(|| board.network.disconnect(&a.id)).expect("twice is no error");
    board.netns.enter(|| board.network.disconnect("never seen")).unwrap();
    assert_eq!(board.interfaces().len(), 4);
    board.netns.run(&["ip", "link", "add", &board.instance.interface("left"), "type", "veth"]);
    board.netns.run(&["ip", "link", "add", "foreign", "type", "veth"]);
    board.netns.enter(|| board.network.sweep(std::slice::from_ref(&b.id))).unwrap();
    let own = [plan::board_interface, plan::board_peer].map(|name| name(&board.instance));
    let mut left = [own[0].clone(), own[1].clone(), plan::pod_interface(&board.instance, &b.id)];
    let mut now = board.interfaces();
    left.sort();
    now.sort();
    assert_eq!(now, left, "c and what nobody owns are gone");
    drop(c);
    board.netns.enter(|| down(&board.instance)).unwrap();
    board.netns.enter(|| down(&board.instance)).expect("twice is no error");
    assert_eq!(board.interfaces(), [""; 0]);
    assert_eq!(board.netns.run(&["nft", "list", "tables"]), "");
    assert!(!board.netns.run(&["ip", "route"]).contains("10.4"));
    assert!(board.netns.run(&["ip", "link"]).contains("foreign"));
}

#[test]
fn a_pods_namespace_that_is_gone_leaves_nothing() {
    let board = Board::new();
    let missing = Namespace::new();
    let path = missing.path();
    drop(missing);
    assert!(board.netns.enter(|| board.network.connect(&path, "x", &PodNetRequest::default())).is_err());
    assert_eq!(board.interfaces().len(), 2);
    // The address is free again.
    for _ in 0..300 {
        assert!(board.netns.enter(|| board.network.connect(&path, "x", &PodNetRequest::default())).is_err());
    }
    assert_eq!(board.pod("a", &[]).ips.len(), 2);
}

#[test]
fn host_ports_lead_into_the_pod() {
    let mut board = Board::new();
    let port = |host_port, protocol, host_ip: Option<&str>| HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port: 8080,
        protocol,
    };
    let ports = [
        port(4000, Protocol::Tcp, None),
        port(4000, Protocol::Udp, None),
        port(4001, Protocol::Tcp, Some(BOARD_IP)),
        port(4002, Protocol::Tcp, Some("10.99.9.9")),
    ];
    let pod = board.pod("a", &ports);
    for _ in 0..2 {
        assert_eq!(board.lan.ask(&format!("{BOARD_IP}:4000")).unwrap(), ("a".to_owned(), LAN_IP.parse().unwrap()));
        assert_eq!(board.lan.ask_udp(0, &format!("{BOARD_IP}:4000")).unwrap().0, "a");
        assert_eq!(board.lan.ask(&format!("{BOARD_IP}:4001")).unwrap().0, "a");
        assert!(board.lan.ask(&format!("{BOARD_IP}:4002")).is_err());
        assert_eq!(board.netns.ask("127.0.0.1:4000").unwrap().0, "a");
        assert_eq!(pod.netns.ask(&format!("{BOARD_IP}:4000")).unwrap().0, "a", "itself through the board");
        board.restart();
    }
    board.netns.enter(|| board.network.disconnect(&pod.id)).unwrap();
    assert!(board.lan.ask(&format!("{BOARD_IP}:4000")).is_err());
}

#[test]
fn a_board_that_forwards_believes_its_router_and_no_pod() {
    let mut board = Board::new();
    board.netns.run(&["ip", "link", "add", "foreign", "type", "veth"]);
    board.netns.run(&["ip", "route", "add", "default", "via", LAN_IP]);
    board.restart();
    let pod = board.pod("a", &[]);
    let believes = |interface: &str| {
        board.netns.run(&["sysctl", "-n", &format!("net.ipv6.conf.{interface}.accept_ra")]).trim().to_owned()
    };
    // Two: although it forwards. One: not, as it does.
    assert_eq!([believes("lan0"), believes("foreign")], ["2", "1"]);
    assert_eq!(believes(&plan::pod_interface(&board.instance, &pod.id)), "0");
}
