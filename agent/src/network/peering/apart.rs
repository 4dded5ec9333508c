//! Shell: boards behind different routers, joined by WireGuard where the kernel has it. Everything is made by our own
//! netlink, so that it runs on a board, where there is nothing else: `images/boot-test` does that, and asks for WireGuard.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::attach::Error;
use super::super::overlay::encode;
use super::super::peers::Peer;
use super::super::{Network, Options, Overlay, down, plan, sysctl};
use crate::instance::Instance;
use crate::netlink::route::{self, Route, Veth};
use crate::netlink::socket::{Socket, index_of, links};
use crate::netlink::wire::Batch;
use crate::netlink::wireguard::Device;
use crate::platform;
use crate::pods::PodNetRequest;
use crate::services::{Options as ProxyOptions, Policies, Proxy};

const PATIENCE: Duration = Duration::from_secs(5);
/// Set where WireGuard must be there: on the boards' own kernel.
const NEEDED: &str = "BRAMBLE_NEEDS_WIREGUARD";
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A network namespace that lives as long as this file is open.
struct Place(File);

impl Place {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root: it makes network namespaces of its own");
        let place = Self(platform::new_net_namespace());
        place.enter(|| tell(|batch| route::set_up(batch, "lo")));
        place
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A wire from here to `eth0` there; this end has the name and the last address of the /24.
    fn wire(&self, name: &str, there: &Place, network: [u8; 3], host: u8) {
        let ip = |last| Ipv4Addr::new(network[0], network[1], network[2], last);
        self.enter(|| {
            let (mac, peer_mac) = ([2, 0, 0, 0, network[2], 254], [2, 0, 0, 0, network[2], host]);
            let peer_netns = Some(there.0.as_raw_fd());
            let veth = Veth { name, mac, peer_name: "eth0", peer_mac, peer_netns, mtu: 1500 };
            tell(|batch| route::add_veth(batch, &veth));
            let index = index(name);
            tell(|batch| route::add_network_address(batch, index, (ip(254), 24), None, 0));
        });
        there.enter(|| {
            tell(|batch| route::set_up(batch, "eth0"));
            let index = index("eth0");
            tell(|batch| route::add_network_address(batch, index, (ip(host), 24), None, 0));
            let (to, via) = (Ipv4Addr::UNSPECIFIED.into(), Some(ip(254).into()));
            tell(|batch| route::add_route(batch, &Route { to, bits: 0, index, via, source: None }));
        });
    }

    /// Answers each connection with a name and the address that it sees, until the test ends.
    fn serve(&self, name: &'static str, at: SocketAddr) {
        let listener = self.enter(|| TcpListener::bind(at).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = writeln!(stream, "{name} {}", peer.ip());
            }
        });
    }

    fn ask(&self, ip: IpAddr) -> Result<String, std::io::ErrorKind> {
        self.enter(|| {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, 8080), PATIENCE).map_err(|it| it.kind())?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).map_err(|error| error.kind())?;
            Ok(line.trim().to_owned())
        })
    }
}

fn tell(message: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    message(&mut batch);
    Socket::route().unwrap().execute(&batch).unwrap();
}

fn index(name: &str) -> u32 {
    index_of(&Socket::route().unwrap(), name).unwrap()
}

/// A board with one pod that answers on 8080.
struct Board {
    place: Place,
    dir: PathBuf,
    instance: Instance,
    network: Network,
    pod: Place,
    ips: Vec<IpAddr>,
    peer: Peer,
}

impl Board {
    fn new(name: &'static str, number: u8, address: &str, place: Place, overlay: Overlay) -> Self {
        let unique = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bramble-apart-{}-{unique}", std::process::id()));
        let instance = Instance::new(&dir.join("data"), &dir.join("run"), None);
        let ranges = [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number}::/64")];
        let network = place.enter(|| {
            let network = open(&instance, name, overlay).unwrap();
            network.set_ranges(&ranges.clone().map(|range| range.parse().unwrap())).unwrap();
            network
        });
        let pod = Place::new();
        let ips = place.enter(|| network.connect(&pod.path(), "sandbox", &PodNetRequest::default())).unwrap();
        ips.iter().for_each(|ip| pod.serve(name, SocketAddr::new(*ip, 8080)));
        let key = network.encryption().map(|encryption| encode(&encryption.public));
        let addresses = vec![address.parse().unwrap()];
        let peer = Peer { name: name.into(), ranges: ranges.into(), addresses, key };
        Self { place, dir, instance, network, pod, ips, peer }
    }

    fn route(&self, peers: &[&Peer]) {
        let peers: Vec<Peer> = peers.iter().map(|peer| (*peer).clone()).collect();
        self.place.enter(|| self.network.route_peers(&peers)).unwrap();
    }

    /// The board's interface of a kind; zero for its size where there is none.
    fn mtu(&self, name: impl Fn(&Instance) -> String) -> u32 {
        let all = self.place.enter(|| links(&Socket::route().unwrap())).unwrap();
        all.iter().find(|link| link.name == name(&self.instance)).map_or(0, |link| link.mtu)
    }

    fn device(&self) -> Device {
        self.place.enter(|| self.network.encryption().unwrap().device(&Socket::generic().unwrap())).unwrap()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.place.enter(|| down(&self.instance));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn open(instance: &Instance, name: &str, overlay: Overlay) -> Result<Network, Error> {
    let range = |text: &str| text.parse().unwrap();
    let proxy = Proxy::new(&ProxyOptions {
        instance: instance.clone(),
        node_name: name.to_owned(),
        cluster_ranges: vec![range("10.42.0.0/16"), range("fd42::/48")],
        service_ranges: vec![range("10.43.0.0/16")],
        dns_addresses: Vec::new(),
    });
    let options = Options {
        instance: instance.clone(),
        node_name: name.to_owned(),
        service_ranges: vec![range("10.43.0.0/16")],
        dns_addresses: Vec::new(),
        mtu: None,
        foreign: false,
        overlay,
        keepalive_s: 0,
    };
    Network::open(options, proxy.clone(), Policies::none(proxy))
}

/// Two boards, each on a link of its own, and the router between.
fn two() -> (Place, [Board; 2]) {
    let (router, a, c) = (Place::new(), Place::new(), Place::new());
    router.enter(|| sysctl::set("ipv4/ip_forward", "1")).unwrap();
    router.wire("to-a", &a, [10, 88, 0], 1);
    router.wire("to-c", &c, [10, 89, 0], 3);
    let a = Board::new("a", 0, "10.88.0.1", a, Overlay::Auto);
    let c = Board::new("c", 2, "10.89.0.3", c, Overlay::Auto);
    (router, [a, c])
}

fn reach(from: &Board, to: &Board) {
    for (place, source) in [(&from.pod, &from.ips), (&to.pod, &to.ips)] {
        let other = if place.0.as_raw_fd() == from.pod.0.as_raw_fd() { to } else { from };
        for (mine, its) in source.iter().zip(&other.ips) {
            assert_eq!(place.ask(*its), Ok(format!("{} {mine}", other.peer.name)));
        }
    }
}

#[test]
fn boards_that_are_apart_speak_in_secret_where_the_kernel_can() {
    let (_router, [a, c]) = two();
    a.route(&[&c.peer]);
    c.route(&[&a.peer]);
    reach(&a, &c);
    // What the board itself sends wears its pod address, and is answered.
    assert_eq!(a.place.ask(c.ips[0]), Ok("c 10.42.0.1".to_owned()));
    if a.network.encryption().is_none() {
        assert!(std::env::var_os(NEEDED).is_none(), "{NEEDED} is set, and this kernel has no WireGuard");
        eprintln!("this kernel has no WireGuard: the boards spoke through VXLAN; images/boot-test tries the other");
        assert_eq!((a.mtu(plan::tunnel_interface), a.mtu(plan::encrypted_interface)), (1450, 0));
        let strict = a.place.enter(|| open(&a.instance, "a", Overlay::Wireguard)).unwrap_err();
        assert!(strict.to_string().contains("--overlay auto"), "{strict}");
        return;
    }
    assert_eq!((a.mtu(plan::tunnel_interface), a.mtu(plan::encrypted_interface)), (0, 1440));
    let device = a.device();
    let [known] = &device.peers[..] else { panic!("{device:?}") };
    assert!(known.handshake_s > 0 && known.peer.allowed.len() == 2, "{known:?}");
    assert_eq!(known.peer.endpoint, Some("10.89.0.3:51820".parse().unwrap()));

    // The second time nothing changes: whoever listens would be woken up for ever. The kernel's own addresses settle meanwhile.
    let heard = a.place.enter(Socket::route_changes).unwrap();
    let changes_nothing = || {
        heard.forget_heard();
        a.route(&[&c.peer]);
        let quiet = recv(&heard, &mut [0_u8; 64][..], RecvFlags::empty()) == Err(Errno::AGAIN);
        quiet || {
            std::thread::sleep(Duration::from_secs(1));
            false
        }
    };
    assert!((0..10).any(|_| changes_nothing()), "each look changes something");
    assert_eq!(a.device(), device);

    // A board that has no key is spoken to in the clear, or not at all where that is asked for.
    let keyless = Peer { key: None, ..a.peer.clone() };
    c.route(&[&keyless]);
    a.route(&[&Peer { key: None, ..c.peer.clone() }]);
    reach(&a, &c);
    assert_eq!((a.mtu(plan::tunnel_interface), a.device().peers.len()), (1450, 0));
    let strict = c.place.enter(|| open(&c.instance, "c", Overlay::Wireguard)).unwrap();
    assert_eq!(strict.encryption().unwrap().public, c.network.encryption().unwrap().public, "the board is its key");
    c.place.enter(|| strict.route_peers(&[keyless])).unwrap();
    assert!(a.pod.ask(c.ips[0]).is_err());
    assert_eq!(c.mtu(plan::tunnel_interface), 0);

    // Somebody removes the device: the next look makes it again.
    a.place.enter(|| tell(|batch| route::delete_link(batch, &plan::encrypted_interface(&a.instance))));
    a.route(&[&c.peer]);
    c.place.enter(|| strict.route_peers(std::slice::from_ref(&a.peer))).unwrap();
    reach(&a, &c);
}
