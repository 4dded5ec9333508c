//! Shell: a controller tells its link where it is, and a board that was given no address asks the link (multicast DNS,
//! RFC 6762; service discovery, RFC 6763).
//!
//! ```text
//!  board: who is _bramble._tcp.local?  -> 224.0.0.251:5353 ->  controller: its address, its port, the authority's pin
//! ```
//! Anybody on the link may answer anything: an answer is only a place to ask, where the pinned authority must be shown.

mod message;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::link::{Endpoint, KeyPin};
pub use message::Announcement;
use message::{Found, parse, query};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
/// Packets never leave the link, and say so (RFC 6762, 11).
const TTL: u32 = 255;
/// No message of multicast DNS is longer (RFC 6762, 17).
const MESSAGE_BYTES_MAX: usize = 9000;
/// How long answers are waited for after a question; the question is asked twice in it.
const PATIENCE: Duration = Duration::from_millis(1000);
const SECOND_ASK: Duration = Duration::from_millis(250);
/// A link with more controllers than this has somebody on it who talks nonsense.
const FOUND_MAX: usize = 16;

/// Answers the link's questions for a controller, on the link of the address at which it is reached, until the future is
/// dropped. Where that cannot be, it says so once and ends: boards need to be told the address then. `pins` are those of the
/// moment.
pub async fn announce(announcement: Announcement, pins: watch::Receiver<Vec<String>>) {
    let IpAddr::V4(address) = announcement.address.ip() else {
        debug!("no discovery over IPv6");
        return;
    };
    if let Err(error) = answer(announcement, &pins, address).await {
        warn!(%error, "boards on this link cannot find this controller by themselves: give them its address");
    }
}

async fn answer(
    mut announcement: Announcement,
    pins: &watch::Receiver<Vec<String>>,
    address: Ipv4Addr,
) -> io::Result<()> {
    // Bound to the group, so that nothing from beyond the link comes in.
    let socket = open(SocketAddrV4::new(GROUP, PORT), address)?;
    sockopt::set_ip_add_membership(&socket, &GROUP, &address)?;
    info!(service = message::SERVICE, "announced on this link");
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let (length, from) = socket.recv_from(&mut bytes).await?;
        let legacy = from.port() != PORT;
        announcement.pins.clone_from(&pins.borrow());
        let Some(answer) = announcement.answer(&bytes[..length], legacy) else { continue };
        let to = if legacy { from } else { SocketAddr::from((GROUP, PORT)) };
        if let Err(error) = socket.send_to(&answer, to).await {
            debug!(%error, %to, "an answer of multicast DNS");
        }
    }
}

/// The controllers that answer on the link of this board's address, those of the pinned authority alone if there are pins.
///
/// # Errors
/// A sentence for the user: nobody answers, or the network is not there.
pub async fn find(pins: &[KeyPin]) -> Result<Vec<Endpoint>, String> {
    let found =
        ask().await.map_err(|error| format!("no controller was given, and the link cannot be asked: {error}"))?;
    if found.is_empty() {
        return Err(
            "no controller was given, and none answers on this link (multicast DNS): say --server https://ADDRESS:6443"
                .to_owned(),
        );
    }
    let is_known = |pin: &String| KeyPin::parse(pin).is_some_and(|pin| pins.contains(&pin));
    let wanted = |one: &&Found| pins.is_empty() || one.pins.iter().any(is_known);
    let mut endpoints: Vec<Endpoint> = found.iter().filter(wanted).map(Found::endpoint).collect();
    endpoints.dedup();
    if endpoints.is_empty() {
        let names: Vec<String> = found.iter().map(|one| one.endpoint().authority()).collect();
        return Err(format!("the controllers on this link are of other clusters: {}", names.join(", ")));
    }
    Ok(endpoints)
}

async fn ask() -> io::Result<Vec<Found>> {
    let Some(IpAddr::V4(address)) = crate::node::own_address() else {
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "this board has no IPv4 address yet"));
    };
    // From a port of its own: whoever answers answers it alone.
    let socket = open(SocketAddrV4::new(address, 0), address)?;
    let (begun, mut asked) = (Instant::now(), 0);
    let (mut found, mut bytes) = (Vec::new(), vec![0; MESSAGE_BYTES_MAX]);
    loop {
        if begun.elapsed() >= SECOND_ASK * asked && asked < 2 {
            socket.send_to(&query(), (GROUP, PORT)).await?;
            asked += 1;
        }
        let until = begun + if asked < 2 { SECOND_ASK } else { PATIENCE };
        match timeout_at(until, socket.recv_from(&mut bytes)).await {
            Ok(received) => {
                for one in parse(&bytes[..received?.0]) {
                    if !found.contains(&one) && found.len() < FOUND_MAX {
                        found.push(one);
                    }
                }
            }
            Err(_) if asked < 2 => {}
            Err(_) => break,
        }
        // Several controllers are not slower than this to answer.
        if !found.is_empty() && begun.elapsed() > SECOND_ASK {
            break;
        }
    }
    found.sort();
    Ok(found)
}

/// A socket that sends to the group on the link of `address`. Others on this host may use the same port.
fn open(at: SocketAddrV4, address: Ipv4Addr) -> io::Result<UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    if at.port() == PORT {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &at)?;
    sockopt::set_ip_multicast_if(&socket, &address)?;
    sockopt::set_ip_multicast_ttl(&socket, TTL)?;
    sockopt::set_ip_ttl(&socket, TTL)?;
    UdpSocket::from_std(socket.into())
}
