//! Shell: finds out whether somebody else on the LAN has one of this board's addresses: a card that was copied, an address that
//! was given twice. Both then lose connections now and then, and nobody sees why; so it is told.
//!
//! Of IPv4 only: the kernel itself asks for an address of IPv6 before it uses it, and one that somebody has is none of the board's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};

use super::arp;
use super::claim::{Claim, Say};
use super::lan::Lan;
use crate::join::ServingNames;
use crate::node::Health;

/// A link that was pulled out is looked at after so long, then ever more rarely.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(80);

/// Watches over the addresses that the board tells as its own, for ever; `health` gets who else has one of them.
pub async fn guard(mut own: watch::Receiver<ServingNames>, health: watch::Sender<Health>) {
    let mut watched: BTreeMap<Ipv4Addr, AbortHandle> = BTreeMap::new();
    loop {
        let now: Vec<Ipv4Addr> = own.borrow_and_update().ips.iter().filter_map(ipv4).collect();
        watched.retain(|ip, task| {
            now.contains(ip) || {
                task.abort();
                tell(&health, *ip, None);
                false
            }
        });
        for ip in now {
            let start = || tokio::spawn(watch_over(ip, health.clone())).abort_handle();
            watched.entry(ip).or_insert_with(start);
        }
        if own.changed().await.is_err() {
            return;
        }
    }
}

fn ipv4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(*ip),
        _ => None,
    }
}

async fn watch_over(ip: Ipv4Addr, health: watch::Sender<Health>) {
    let mut pause = RETRY;
    loop {
        let begun = Instant::now();
        let Err(error) = match Lan::of(ip).await {
            Ok((lan, own)) => listen(&lan, ip, |mac| own.contains(&mac), &health).await,
            Err(error) => Err(error),
        };
        if begun.elapsed() > RETRY_MAX {
            pause = RETRY;
        }
        tracing::debug!(%ip, %error, "who else has this board's address is not known");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Until the link fails.
async fn listen(
    lan: &Lan,
    ip: Ipv4Addr,
    is_own: impl Fn([u8; 6]) -> bool,
    health: &watch::Sender<Health>,
) -> io::Result<Infallible> {
    let mut claim = Claim::new(Instant::now());
    loop {
        let due = claim.due();
        let said = tokio::select! {
            frame = lan.hear() => match arp::claimant(&frame?, ip).filter(|mac| !is_own(*mac)) {
                Some(rival) => claim.heard(rival, Instant::now()),
                None => None,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => claim.tick(Instant::now()),
        };
        if claim.is_known() {
            tell(health, ip, claim.rival().map(|mac| (mac, &*lan.name)));
        }
        match said {
            Some(Say::Probe) => lan.send(&arp::probe(ip, lan.mac))?,
            Some(Say::Tell(rival)) => lan.send(&arp::answer(ip, lan.mac, (ip, rival)))?,
            Some(Say::Announce) => lan.send(&arp::announcement(ip, lan.mac))?,
            None => {}
        }
    }
}

/// What has changed goes to the Node and into the log.
fn tell(health: &watch::Sender<Health>, ip: Ipv4Addr, rival: Option<([u8; 6], &str)>) {
    let by = rival.map(|(mac, link)| format!("{} on {link}", mac.map(|byte| format!("{byte:02x}")).join(":")));
    let ip = IpAddr::V4(ip);
    let changed = health.send_if_modified(|health| match &by {
        Some(by) => health.shared.insert(ip, by.clone()).as_ref() != Some(by),
        None => health.shared.remove(&ip).is_some(),
    });
    match by {
        _ if !changed => {}
        Some(by) => tracing::error!(%ip, by, "somebody else has this board's address; give one of both another"),
        None => tracing::info!(%ip, "nobody else has this board's address any more"),
    }
}
