//! Shell: boards on one link and behind a router, with real packets.

use std::net::{IpAddr, SocketAddr};

use super::super::namespace::Namespace;
use super::super::peers::Peer;
use super::super::{Network, Options, Overlay, down};
use crate::instance::Instance;
use crate::pods::PodNetRequest;
use crate::services::{self, Proxy};

/// A board with one pod whose server on 8080 answers with the board's name.
struct Board {
    netns: Namespace,
    instance: Instance,
    network: Network,
    pod: Namespace,
    pod_ips: Vec<IpAddr>,
    peer: Peer,
}

fn board(name: &str, number: u8, addresses: &[&str], netns: Namespace) -> Board {
    let range = |text: String| text.parse().unwrap();
    let dir = std::env::temp_dir().join(netns.name());
    let instance = Instance::new(&dir.join("data"), &dir.join("run"), None);
    let proxy = Proxy::new(&services::Options {
        instance: instance.clone(),
        node_name: name.to_owned(),
        cluster_ranges: vec![range("10.42.0.0/16".into()), range("fd42::/48".into())],
        service_ranges: vec![range("10.43.0.0/16".into())],
        dns_addresses: Vec::new(),
    });
    let options = Options {
        instance: instance.clone(),
        node_name: name.to_owned(),
        service_ranges: vec![range("10.43.0.0/16".into())],
        dns_addresses: Vec::new(),
        mtu: None,
        foreign: false,
        overlay: Overlay::default(),
        keepalive_s: 0,
    };
    let ranges = [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number}::/64")];
    let network = netns.enter(|| {
        let network = Network::open(options, proxy.clone(), services::Policies::new(proxy)).unwrap();
        network.set_ranges(&ranges.clone().map(range)).unwrap();
        network
    });
    let pod = Namespace::new();
    let pod_ips = netns.enter(|| network.connect(&pod.path(), "sandbox", &PodNetRequest::default())).unwrap();
    pod_ips.iter().for_each(|ip| pod.serve(name, SocketAddr::new(*ip, 8080)));
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Board {
        netns,
        instance,
        network,
        pod,
        pod_ips,
        peer: Peer { name: name.into(), ranges: ranges.into(), addresses, key: None },
    }
}

impl Board {
    fn route(&self, peers: &[&Board]) {
        let peers: Vec<Peer> = peers.iter().map(|board| board.peer.clone()).collect();
        self.netns.enter(|| self.network.route_peers(&peers)).unwrap();
    }

    /// Asks the pod of another board from this one's pod over IPv4; who answered, and which address it saw.
    fn ask(&self, other: &Board) -> Result<(String, IpAddr), std::io::ErrorKind> {
        self.pod.ask(&format!("{}:8080", other.pod_ips[0]))
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.netns.enter(|| down(&self.instance));
        let _ = std::fs::remove_dir_all(std::env::temp_dir().join(self.netns.name()));
    }
}

/// `a` and `b` on one link, `c` on another behind a router that knows nothing of pods.
fn three() -> (Namespace, [Board; 3]) {
    let router = Namespace::new();
    let plug = |name: &str, bridge: &str| {
        let name = &format!("port-{name}");
        let netns = Namespace::new();
        router.run(&["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", netns.name()]);
        router.run(&["ip", "link", "set", name, "master", bridge, "up"]);
        netns
    };
    for (bridge, four, six) in [("lan0", "10.88.0.254/24", "fd88::fe/64"), ("lan1", "10.89.0.254/24", "fd89::fe/64")] {
        router.run(&["ip", "link", "add", bridge, "type", "bridge"]);
        router.run(&["ip", "address", "add", four, "dev", bridge]);
        router.run(&["ip", "address", "add", six, "dev", bridge, "nodad"]);
        router.run(&["ip", "link", "set", bridge, "up"]);
    }
    router.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    let boards =
        [("a", 0, "lan0", "10.88.0", "fd88"), ("b", 1, "lan0", "10.88.0", "fd88"), ("c", 2, "lan1", "10.89.0", "fd89")]
            .map(|(name, number, bridge, four, six)| {
                let netns = plug(name, bridge);
                let host = number + 1;
                let addresses = [format!("{four}.{host}"), format!("{six}::{host}")];
                netns.run(&["ip", "link", "set", "eth0", "up"]);
                netns.run(&["ip", "address", "add", &format!("{}/24", addresses[0]), "dev", "eth0"]);
                netns.run(&["ip", "address", "add", &format!("{}/64", addresses[1]), "dev", "eth0", "nodad"]);
                netns.run(&["ip", "route", "add", "default", "via", &format!("{four}.254")]);
                board(name, number, &[&addresses[0], &addresses[1]], netns)
            });
    (router, boards)
}

#[test]
fn pods_of_different_boards_see_each_others_own_addresses() {
    let (_router, [a, b, c]) = three();
    assert!(a.ask(&b).is_err() && a.ask(&c).is_err(), "without routes there is no way");
    a.route(&[&b, &c]);
    b.route(&[&a, &c]);
    c.route(&[&a, &b]);
    for (from, to, name) in [(&a, &b, "b"), (&b, &a, "a"), (&a, &c, "c"), (&c, &a, "a"), (&b, &c, "c")] {
        assert_eq!(from.ask(to), Ok((name.to_owned(), from.pod_ips[0])));
    }
    let six = a.pod.ask(&format!("[{}]:8080", b.pod_ips[1]));
    assert_eq!(six, Ok(("b".to_owned(), a.pod_ips[1])), "IPv6 over the shared link");
    // The board itself reaches pods of others too, and is answered.
    assert_eq!(a.netns.ask(&format!("{}:8080", b.pod_ips[0])), Ok(("b".to_owned(), a.peer.addresses[0])));
    assert_eq!(a.netns.ask(&format!("{}:8080", c.pod_ips[0])), Ok(("c".to_owned(), "10.42.0.1".parse().unwrap())));
    let tunnel = a.netns.run(&["ip", "-d", "link", "show", "type", "vxlan"]);
    assert!(tunnel.contains("mtu 1450") && tunnel.contains("nolearning"), "{tunnel}");
}

#[test]
fn routes_follow_boards_that_move_and_go_with_those_that_leave() {
    let (_router, [a, b, c]) = three();
    a.route(&[&b, &c]);
    b.route(&[&a]);
    let before = a.netns.run(&["ip", "route", "show", "proto", "67"]);
    a.route(&[&b, &c]);
    assert_eq!(a.netns.run(&["ip", "route", "show", "proto", "67"]), before, "the second time nothing changes");
    // The kernel drops the routes with the address; the board hears of it and makes them anew.
    b.netns.run(&["ip", "address", "del", "10.88.0.2/24", "dev", "eth0"]);
    b.netns.run(&["ip", "address", "add", "10.88.0.77/24", "dev", "eth0"]);
    b.route(&[&a]);
    let moved = Peer { addresses: ["10.88.0.77", "fd88::2"].map(|ip| ip.parse().unwrap()).into(), ..b.peer.clone() };
    a.netns.enter(|| a.network.route_peers(&[moved])).unwrap();
    assert_eq!(a.ask(&b), Ok(("b".to_owned(), a.pod_ips[0])));
    assert_eq!(a.netns.run(&["ip", "link", "show", "type", "vxlan"]), "", "nobody is behind the tunnel any more");
    a.route(&[]);
    assert_eq!(a.netns.run(&["ip", "route", "show", "proto", "67"]), "");
}
