//! Shell: the board's own network: loopback, a static address or DHCP on every wire, resolvers.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use super::config::{Network, interface_address};
use super::dhcp::{self, Answer, Lease, Question};
use crate::netlink::route::{self, Route};
use crate::netlink::socket::{Error, Socket};
use crate::netlink::wire::Batch;

/// Where the resolvers stand; `/etc/resolv.conf` leads here.
pub const RESOLV_CONF: &str = "/run/resolv.conf";
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// For an answer; doubled with each try that had none, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// A shorter lease is renewed no more often than this.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(30);

/// Brings loopback and the wires up and keeps their addresses for ever; `name` is shown by DHCP servers.
pub async fn run(network: Network, name: String) {
    if let Err(error) = up("lo") {
        tracing::warn!(%error, "loopback");
    }
    let wires = wires();
    if wires.is_empty() {
        tracing::warn!("no wire: this board has no network interface that its kernel knows");
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (at, wire) in wires.into_iter().enumerate() {
        if let Err(error) = up(&wire) {
            tracing::warn!(wire, %error, "a wire that does not come up");
            continue;
        }
        // Routers keep announcing IPv6 to us although pods make us forward.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{wire}/accept_ra"), "2");
        // An address that a person gave is the first wire's.
        match network.address.as_deref().and_then(interface_address).filter(|_| at == 0) {
            Some((address, prefix)) => settle(&wire, &fixed(&network, address, prefix)),
            None => drop(tasks.spawn(keep_leased(wire, name.clone(), network.dns.clone()))),
        }
    }
    while tasks.join_next().await.is_some() {}
    std::future::pending().await
}

/// Ethernet interfaces with a device behind them, by name.
fn wires() -> Vec<String> {
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

/// What a wire gets.
struct Settings {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    dns: Vec<IpAddr>,
    seconds: Option<u32>,
}

fn fixed(network: &Network, address: Ipv4Addr, prefix: u8) -> Settings {
    Settings { address, prefix, gateway: network.gateway, dns: network.dns.clone(), seconds: None }
}

fn settle(wire: &str, settings: &Settings) {
    if let Err(error) = assign(wire, settings) {
        tracing::warn!(wire, %error, "an address is not assigned");
        return;
    }
    let lines: String = settings.dns.iter().map(|ip| format!("nameserver {ip}\n")).collect();
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
    route::add_network_address(&mut batch, index, settings.address, settings.prefix, settings.seconds);
    if let Some(gateway) = settings.gateway {
        let to = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        route::add_route(&mut batch, &Route { to, bits: 0, index, via: Some(gateway.into()), source: None });
    }
    socket.execute(&batch)
}

/// Asks for an address, and for longer before it ends, for ever.
async fn keep_leased(wire: String, name: String, own_dns: Vec<IpAddr>) {
    let Some(mac) = mac_of(&wire) else { return tracing::warn!(wire, "a wire without an Ethernet address") };
    let client = Client { wire, mac, name };
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
