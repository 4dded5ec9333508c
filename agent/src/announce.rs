//! Shell: one of the boards announces each address of the site's load balancer on the LAN.
//!
//! ```text
//!  status of the Service -> every board that may serve it -> silence for a while? -> it announces, twice a second
//!                                       ^                         | somebody else's announcement (ARP, in IPv6 NDP)
//!                                       +-------------------------+ wait for the next silence
//! ```
//! There is no list of boards and no leader to ask: the announcement itself is the sign of life, so that an address moves
//! although the controller is away. Every board has the Service in its table; who announces only draws the traffic.

mod arp;
mod duty;
mod ndp;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::net::sockopt::set_ipv6_add_membership;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use serde_json::json;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};

use self::duty::{Duty, Say};
use crate::link::{Clock, Link};
use crate::netlink::route::Mac;
use crate::netlink::socket::{Socket, link_towards};
use crate::platform;
use crate::pods::Recorder;
use crate::services::{Announced, chain};

/// Where the LAN cannot be reached it is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);

/// Takes part in the announcement of every address that this board may serve, for ever.
pub async fn run(link: Link, clock: Arc<Clock>, node_name: String, mut wanted: watch::Receiver<Announced>) {
    let recorder = Recorder::start(link, clock, &node_name);
    let mut held: BTreeMap<IpAddr, AbortHandle> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        held.retain(|ip, task| {
            now.contains_key(ip) || {
                task.abort();
                false
            }
        });
        for (ip, service) in now {
            let start = || tokio::spawn(hold(ip, service.clone(), recorder.clone(), node_name.clone())).abort_handle();
            held.entry(ip).or_insert_with(start);
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Announces one address whenever nobody else does.
async fn hold(ip: IpAddr, service: (Arc<str>, Arc<str>), recorder: Recorder, node_name: String) {
    loop {
        let ended = match Lan::open(ip).await {
            Ok(lan) => lan.take_part(&service, &recorder, &node_name).await,
            Err(error) => error,
        };
        tracing::warn!(%ip, error = %ended, "the address is not announced from here; trying again");
        sleep(RETRY).await;
    }
}

/// What a frame says of our address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Another board has it.
    Announcement(Mac),
    /// Somebody asks for it.
    Question {
        /// Who.
        mac: Mac,
        /// By its own address; unspecified where somebody only wants to know whether it is free.
        ip: IpAddr,
    },
    /// No concern of ours.
    Nothing,
}

fn announcement(ip: IpAddr, mac: Mac) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp::announcement(ip, mac).to_vec(),
        IpAddr::V6(ip) => ndp::announcement(ip, mac).to_vec(),
    }
}

/// None where nobody asked: who asks is of the address' own family.
fn answer_to(ip: IpAddr, mac: Mac, asker: (IpAddr, Mac)) -> Option<Vec<u8>> {
    match (ip, asker) {
        (IpAddr::V4(ip), (IpAddr::V4(asker), its)) => Some(arp::answer(ip, mac, (asker, its)).to_vec()),
        (IpAddr::V6(ip), (IpAddr::V6(asker), its)) => Some(ndp::answer(ip, mac, (asker, its)).to_vec()),
        _ => None,
    }
}

fn parse(frame: &[u8], ip: IpAddr, own: Mac) -> Heard {
    match ip {
        IpAddr::V4(ip) => arp::parse(frame, ip, own),
        IpAddr::V6(ip) => ndp::parse(frame, ip, own),
    }
}

/// The longest frame that concerns us.
const FRAME_BYTES: usize = ndp::FRAME_BYTES;
const _: () = assert!(arp::FRAME_BYTES <= FRAME_BYTES);

/// The link on which an address is announced.
struct Lan {
    ip: IpAddr,
    mac: Mac,
    socket: AsyncFd<OwnedFd>,
    /// Keeps this board, as switches see it, in the group in which questions for the address are asked.
    _group: Option<OwnedFd>,
}

impl Lan {
    async fn open(ip: IpAddr) -> Result<Self, io::Error> {
        let look = move || {
            let link = Socket::route().and_then(|socket| link_towards(&socket, ip));
            let link = link.map_err(|error| io::Error::other(chain(&error)))?;
            let mac = link.mac.ok_or_else(|| io::Error::other(format!("{} is no Ethernet", link.name)))?;
            let (socket, group) = match ip {
                IpAddr::V4(ip) => (platform::frame_socket(link.index, platform::ARP, &arp::wanted(ip))?, None),
                IpAddr::V6(ip) => {
                    let socket = platform::frame_socket(link.index, platform::IPV6, &ndp::wanted(ip))?;
                    (socket, Some(join(ndp::group(ip), link.index)?))
                }
            };
            Ok::<_, io::Error>((mac, socket, group))
        };
        let (mac, socket, group) = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)??;
        Ok(Self { ip, mac, socket: platform::pollable(socket, Interest::READABLE)?, _group: group })
    }

    async fn take_part(self, service: &(Arc<str>, Arc<str>), recorder: &Recorder, node_name: &str) -> io::Error {
        let mut duty = Duty::new(self.ip, self.mac, Instant::now());
        loop {
            let said = tokio::select! {
                heard = self.hear() => match heard {
                    Err(error) => return error,
                    Ok(Heard::Announcement(mac)) => duty.heard(mac, Instant::now()),
                    Ok(Heard::Question { mac, ip }) => {
                        let answer = Some((ip, mac)).filter(|_| duty.is_announcing());
                        let answer = answer.and_then(|asker| answer_to(self.ip, self.mac, asker));
                        if let Err(error) = answer.map_or(Ok(()), |frame| self.send(&frame)) {
                            return error;
                        }
                        None
                    }
                    Ok(Heard::Nothing) => None,
                },
                () = sleep_until(duty.due().into()) => duty.tick(Instant::now()),
            };
            match said {
                None => continue,
                Some(Say::Left) => {
                    tracing::info!(ip = %self.ip, service = %service.0, "another board announces the address");
                    continue;
                }
                Some(Say::Took) => {
                    tracing::info!(ip = %self.ip, service = %service.0, "announcing the address");
                    tell(recorder, service, format!("announcing {} from node {node_name:?}", self.ip));
                }
                Some(Say::Again) => {}
            }
            if let Err(error) = self.send(&announcement(self.ip, self.mac)) {
                return error;
            }
        }
    }

    async fn hear(&self) -> io::Result<Heard> {
        let mut ready = self.socket.readable().await?;
        let mut frame = [0; FRAME_BYTES];
        match recv(self.socket.get_ref(), &mut frame, RecvFlags::DONTWAIT) {
            Ok((length, _)) => Ok(parse(&frame[..length.min(FRAME_BYTES)], self.ip, self.mac)),
            Err(rustix::io::Errno::AGAIN) => {
                ready.clear_ready();
                Ok(Heard::Nothing)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        match send(self.socket.get_ref(), frame, SendFlags::DONTWAIT) {
            // A queue that is full is no reason to give the address up.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Hears a group of the link for as long as the descriptor is open.
fn join(group: Ipv6Addr, interface: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_ipv6_add_membership(&socket, &group, interface)?;
    Ok(socket)
}

fn tell(recorder: &Recorder, (service, uid): &(Arc<str>, Arc<str>), message: String) {
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let object = json!({ "kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": **uid });
    recorder.about(object, namespace, "nodeAssigned", message);
}
