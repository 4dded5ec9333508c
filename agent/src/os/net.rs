//! Shell: the board's own network: loopback, a static address or DHCP on every wire and on the radio, resolvers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::config::wifi::Wifi;
use super::config::{Network, interface_address};
use super::dhcp::{self, Answer, Lease, Question};
use crate::netlink::route::{self, Route};
use crate::netlink::socket::{Error, Socket};
use crate::netlink::wire::Batch;

mod radio;

/// Where the resolvers stand; `/etc/resolv.conf` leads here.
pub const RESOLV_CONF: &str = "/run/resolv.conf";
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// For an answer; doubled with each try that had none, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// A shorter lease is renewed no more often than this.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(30);

/// Routes over wires.
const WIRE_METRIC: u32 = 0;
/// What resolv(5) reads.
const RESOLVERS_MAX: usize = 3;
/// Each interface's resolvers, the preferred interface's first.
static RESOLVERS: Mutex<BTreeMap<(u32, String), Vec<IpAddr>>> = Mutex::new(BTreeMap::new());

/// Brings loopback, the wires and, if a network is to be joined by it, the radio up, and keeps their addresses for ever;
/// `name` is shown by DHCP servers. `found` gets the radio, for who joins.
pub async fn run((network, wifi): (Network, Option<Wifi>), name: String, found: oneshot::Sender<String>) {
    if let Err(error) = up("lo") {
        tracing::warn!(%error, "loopback");
    }
    let wires = wires();
    if wires.is_empty() && wifi.is_none() {
        tracing::warn!("no wire: this board has no network interface that its kernel knows");
    }
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(wifi) = wifi {
        let _ = tasks.spawn(radio::keep(wifi, network.dns.clone(), name.clone(), found));
    }
    for (at, wire) in wires.into_iter().enumerate() {
        if let Err(error) = up(&wire) {
            tracing::warn!(wire, %error, "a wire that does not come up");
            continue;
        }
        prepare(&wire);
        // An address that a person gave is the first wire's.
        match network.address.as_deref().and_then(interface_address).filter(|_| at == 0) {
            Some((address, prefix)) => {
                let Network { gateway, dns, .. } = network.clone();
                settle(&wire, &Settings { address, prefix, gateway, dns, seconds: None, metric: WIRE_METRIC });
            }
            None => drop(tasks.spawn(keep_leased(wire, name.clone(), network.dns.clone(), WIRE_METRIC))),
        }
    }
    while tasks.join_next().await.is_some() {}
    std::future::pending().await
}

/// What the kernel does differently by default on a host that forwards, and with two ways out.
fn prepare(name: &str) {
    // Routers keep announcing IPv6 to us although pods make us forward.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "2");
    // A wire that is pulled out leaves its way to the radio.
    let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{name}/ignore_routes_with_linkdown"), "1");
}

/// Ethernet interfaces with a device behind them, by name.
fn wires() -> Vec<String> {
    interfaces().into_iter().filter(|name| !radio::is_one(name)).collect()
}

fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let real = entries.filter(|entry| entry.path().join("device").exists());
    let mut names: Vec<String> = real.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn up(name: &str) -> Result<(), Error> {
    let mut batch = Batch::default();
    route::set_up(&mut batch, name);
    Socket::route()?.execute(&batch)
}

/// What an interface gets.
struct Settings {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    dns: Vec<IpAddr>,
    seconds: Option<u32>,
    /// The smaller the more its routes are preferred.
    metric: u32,
}

fn settle(wire: &str, settings: &Settings) {
    if let Err(error) = assign(wire, settings) {
        tracing::warn!(wire, %error, "an address is not assigned");
        return;
    }
    let mut known = RESOLVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = known.insert((settings.metric, wire.to_owned()), settings.dns.clone());
    let mut all: Vec<IpAddr> = Vec::new();
    for ip in known.values().flatten() {
        if !all.contains(ip) && all.len() < RESOLVERS_MAX {
            all.push(*ip);
        }
    }
    let lines: String = all.iter().map(|ip| format!("nameserver {ip}\n")).collect();
    if let Err(error) = fs::write(Path::new(RESOLV_CONF), lines) {
        tracing::warn!(%error, "resolvers are not written");
    }
    let Settings { address, prefix, .. } = settings;
    eprintln!("bramble: {wire} has {address}/{prefix}");
}

fn assign(wire: &str, settings: &Settings) -> Result<(), Error> {
    let socket = Socket::route()?;
    let index = crate::netlink::socket::index_of(&socket, wire)?;
    let mut batch = Batch::default();
    let address = (settings.address, settings.prefix);
    route::add_network_address(&mut batch, index, address, settings.seconds, settings.metric);
    if let Some(gateway) = settings.gateway {
        let to = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let default = Route { to, bits: 0, index, via: Some(gateway.into()), source: None };
        route::add_metric_route(&mut batch, &default, settings.metric);
    }
    socket.execute(&batch)
}

/// Asks for an address, and for longer before it ends, for ever.
async fn keep_leased(wire: String, name: String, own_dns: Vec<IpAddr>, metric: u32) {
    let Some(mac) = mac_of(&wire) else { return tracing::warn!(wire, "a wire without an Ethernet address") };
    let client = Client { wire, mac, name, metric };
    let mut wait = FIRST_WAIT;
    loop {
        match client.lease(wait).await {
            Ok(Some(lease)) => {
                wait = FIRST_WAIT;
                client.live_on(lease, &own_dns).await;
            }
            Ok(None) => wait = (wait * 2).min(LONGEST_WAIT),
            Err(error) => {
                tracing::warn!(wire = client.wire, %error, "asking for an address");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

fn mac_of(wire: &str) -> Option<[u8; 6]> {
    let text = fs::read_to_string(format!("/sys/class/net/{wire}/address")).ok()?;
    let bytes: Option<Vec<u8>> = text.trim().split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

struct Client {
    wire: String,
    mac: [u8; 6],
    name: String,
    metric: u32,
}

impl Client {
    /// One try: an offer, and its grant.
    async fn lease(&self, wait: Duration) -> io::Result<Option<Lease>> {
        let socket = self.socket()?;
        let Some(Answer::Offer(offer)) = self.ask(&socket, Question::Discover, Ipv4Addr::BROADCAST, wait).await? else {
            return Ok(None);
        };
        let request = Question::Request { address: offer.address, server: offer.server };
        Ok(match self.ask(&socket, request, Ipv4Addr::BROADCAST, wait).await? {
            Some(Answer::Granted(lease)) => Some(lease),
            _ => None,
        })
    }

    /// Uses the lease until it is refused or over. Renewed at its half, by the one who gave it; later by anybody.
    async fn live_on(&self, mut lease: Lease, own_dns: &[IpAddr]) {
        loop {
            let dns = lease.dns.iter().copied().map(IpAddr::V4);
            settle(
                &self.wire,
                &Settings {
                    address: lease.address,
                    prefix: lease.prefix,
                    gateway: lease.gateway,
                    dns: if own_dns.is_empty() { dns.collect() } else { own_dns.to_vec() },
                    seconds: Some(lease.seconds),
                    metric: self.metric,
                },
            );
            let end = Instant::now() + Duration::from_secs(lease.seconds.into());
            match self.renewed(&lease, end).await {
                Some(next) => lease = next,
                None => return,
            }
        }
    }

    async fn renewed(&self, lease: &Lease, end: Instant) -> Option<Lease> {
        let whole = end.duration_since(Instant::now());
        let mut pause = (whole / 2).max(SHORTEST_RENEWAL);
        loop {
            tokio::time::sleep_until((Instant::now() + pause).min(end)).await;
            let left = end.duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let to = if left > whole / 8 { lease.server } else { Ipv4Addr::BROADCAST };
            let question = Question::Renew { address: lease.address };
            let asked = async { self.ask(&self.socket()?, question, to, FIRST_WAIT * 4).await };
            match asked.await {
                Ok(Some(Answer::Granted(lease))) => return Some(lease),
                Ok(Some(Answer::Refused)) => return None,
                Ok(_) => {}
                Err(error) => tracing::warn!(wire = self.wire, %error, "renewing an address"),
            }
            pause = (left / 2).max(SHORTEST_RENEWAL);
        }
    }

    fn socket(&self) -> io::Result<UdpSocket> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.bind_device(Some(self.wire.as_bytes()))?;
        Ok(socket)
    }

    async fn ask(
        &self,
        socket: &UdpSocket,
        question: Question,
        to: Ipv4Addr,
        wait: Duration,
    ) -> io::Result<Option<Answer>> {
        let transaction = crate::link::random_number();
        let message = dhcp::encode(question, transaction, self.mac, &self.name);
        socket.send_to(&message, SocketAddrV4::new(to, SERVER_PORT)).await?;
        let mut buffer = vec![0; dhcp::MESSAGE_BYTES_MAX];
        let answer = async {
            loop {
                let (length, _) = socket.recv_from(&mut buffer).await?;
                if let Some(answer) = dhcp::decode(&buffer[..length], transaction, self.mac) {
                    return Ok(answer);
                }
            }
        };
        timeout(wait, answer).await.ok().transpose()
    }
}
