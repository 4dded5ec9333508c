//! Shell: one of the boards announces each address of the site's load balancer on the LAN.
//!
//! ```text
//!  status of the Service -> every board that may serve it -> silence for a while? -> it announces, twice a second
//!                                       ^                         | somebody else's announcement (ARP, in IPv6 NDP)
//!                                       +-------------------------+ wait for the next silence
//! ```
//! There is no list of boards and no leader to ask: the announcement itself is the sign of life, so that an address moves
//! although the controller is away. Every board has the Service in its table; who announces only draws the traffic.
//!
//! `own` is the other use of the same frames: whether somebody else has one of the board's own addresses.

mod arp;
mod claim;
mod duty;
mod lan;
mod ndp;
mod own;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};

use self::duty::{Duty, Say};
use self::lan::Lan;
use crate::link::{Clock, Link};
use crate::netlink::route::Mac;
use crate::pods::Recorder;
use crate::services::Announced;

pub use own::guard;

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
        let Err(error) = match Lan::towards(ip).await {
            Ok(lan) => take_part(&lan, ip, &service, &recorder, &node_name).await,
            Err(error) => Err(error),
        };
        tracing::warn!(%ip, %error, "the address is not announced from here; trying again");
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

/// Takes part in one address' announcement until the link fails.
async fn take_part(
    lan: &Lan,
    ip: IpAddr,
    service: &(Arc<str>, Arc<str>),
    recorder: &Recorder,
    node_name: &str,
) -> io::Result<Infallible> {
    let mut duty = Duty::new(ip, lan.mac, Instant::now());
    loop {
        let said = tokio::select! {
            frame = lan.hear() => match parse(&frame?, ip, lan.mac) {
                Heard::Announcement(mac) => duty.heard(mac, Instant::now()),
                Heard::Question { mac, ip: asker } => {
                    let answer = duty.is_announcing().then(|| answer_to(ip, lan.mac, (asker, mac))).flatten();
                    answer.map_or(Ok(()), |frame| lan.send(&frame))?;
                    None
                }
                Heard::Nothing => None,
            },
            () = sleep_until(duty.due().into()) => duty.tick(Instant::now()),
        };
        match said {
            None => continue,
            Some(Say::Left) => {
                tracing::info!(%ip, service = %service.0, "another board announces the address");
                continue;
            }
            Some(Say::Took) => {
                tracing::info!(%ip, service = %service.0, "announcing the address");
                tell(recorder, service, format!("announcing {ip} from node {node_name:?}"));
            }
            Some(Say::Again) => {}
        }
        lan.send(&announcement(ip, lan.mac))?;
    }
}

fn tell(recorder: &Recorder, (service, uid): &(Arc<str>, Arc<str>), message: String) {
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let object = json!({ "kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": **uid });
    recorder.about(object, namespace, "nodeAssigned", message);
}
