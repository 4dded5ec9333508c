//! Shell: one of the boards announces each address of the site's load balancer on the LAN.
//!
//! ```text
//!  status of the Service -> every board that may serve it -> silence for a while? -> it announces, twice a second
//!                                       ^                         | somebody else's announcement (ARP)
//!                                       +-------------------------+ wait for the next silence
//! ```
//! There is no list of boards and no leader to ask: the announcement itself is the sign of life, so that an address moves
//! although the controller is away. Every board has the Service in its table; who announces only draws the traffic.

mod arp;
mod duty;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::json;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};

use self::arp::{FRAME_BYTES, Heard};
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
    let mut held: BTreeMap<Ipv4Addr, AbortHandle> = BTreeMap::new();
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
async fn hold(ip: Ipv4Addr, service: (Arc<str>, Arc<str>), recorder: Recorder, node_name: String) {
    loop {
        let ended = match Lan::open(ip).await {
            Ok(lan) => lan.take_part(&service, &recorder, &node_name).await,
            Err(error) => error,
        };
        tracing::warn!(%ip, error = %ended, "the address is not announced from here; trying again");
        sleep(RETRY).await;
    }
}

/// The link on which an address is announced.
struct Lan {
    ip: Ipv4Addr,
    mac: Mac,
    socket: AsyncFd<OwnedFd>,
}

impl Lan {
    async fn open(ip: Ipv4Addr) -> Result<Self, io::Error> {
        let look = move || {
            let link = Socket::route().and_then(|socket| link_towards(&socket, IpAddr::V4(ip)));
            let link = link.map_err(|error| io::Error::other(chain(&error)))?;
            let mac = link.mac.ok_or_else(|| io::Error::other(format!("{} is no Ethernet", link.name)))?;
            Ok::<_, io::Error>((mac, platform::arp_socket(link.index, ip)?))
        };
        let (mac, socket) = tokio::task::spawn_blocking(look).await.map_err(io::Error::other)??;
        Ok(Self { ip, mac, socket: platform::pollable(socket, Interest::READABLE)? })
    }

    async fn take_part(self, service: &(Arc<str>, Arc<str>), recorder: &Recorder, node_name: &str) -> io::Error {
        let mut duty = Duty::new(self.ip, self.mac, Instant::now());
        loop {
            let said = tokio::select! {
                heard = self.hear() => match heard {
                    Err(error) => return error,
                    Ok(Heard::Announcement(mac)) => duty.heard(mac, Instant::now()),
                    Ok(Heard::Question { mac, ip }) => {
                        let answer = duty.is_announcing().then(|| arp::answer(self.ip, self.mac, (ip, mac)));
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
            if let Err(error) = self.send(&arp::announcement(self.ip, self.mac)) {
                return error;
            }
        }
    }

    async fn hear(&self) -> io::Result<Heard> {
        let mut ready = self.socket.readable().await?;
        let mut frame = [0; FRAME_BYTES];
        match recv(self.socket.get_ref(), &mut frame, RecvFlags::DONTWAIT) {
            Ok((length, _)) => Ok(arp::parse(&frame[..length.min(FRAME_BYTES)], self.ip, self.mac)),
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

fn tell(recorder: &Recorder, (service, uid): &(Arc<str>, Arc<str>), message: String) {
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let object = json!({ "kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": **uid });
    recorder.about(object, namespace, "nodeAssigned", message);
}
