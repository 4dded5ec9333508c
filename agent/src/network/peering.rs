//! Shell: keeps the routes to other boards' pods as the cluster's Nodes and this board's own links want them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::attach::{Error, Network, keep_advertisements, smallest_mtu};
use super::cidr::Cidr;
use super::overlay;
use super::peers::{Encrypted, PEERS_MAX, Peer, Tunnels, Wanted, carriers, wanted};
use super::plan;
use crate::instance::Instance;
use crate::link::{Delta, Interest, Link, PatchKind};
use crate::netlink::route::{self, Reach, Route};
use crate::netlink::socket::{Socket, execute_unless, index_of, routes};
use crate::netlink::tunnel::{self, Entry};
use crate::netlink::wire::Batch;
use crate::platform;
use crate::records::file;
use crate::services::chain;

/// A change of the board's links rarely comes alone.
const SETTLE: Duration = Duration::from_millis(200);
/// What the kernel refused is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// What VXLAN adds to a packet: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
const OVERHEAD_BYTES: u32 = 50;

/// Where the peers that were known last are kept, so that a board that starts without its controller reaches them.
#[derive(Debug, Clone)]
struct Known(PathBuf);

impl Known {
    fn below(instance: &Instance) -> Self {
        Self(instance.data_dir.join("agent").join("peers.json"))
    }

    fn load(&self) -> Vec<Peer> {
        std::fs::read(&self.0).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Called only when the peers changed: boards come, go and move rarely.
    fn save(&self, peers: &[Peer]) -> io::Result<()> {
        if let Some(folder) = self.0.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let aside = self.0.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(peers)?)?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.0)
    }
}

/// Watches Nodes and this board's links, and keeps the routes for ever. `own` is the name of this board's Node.
pub async fn run(link: Link, network: Network, own: String) {
    let known = Known::below(network.instance());
    let mut peers: BTreeMap<String, Peer> = known.load().into_iter().map(|peer| (peer.name.clone(), peer)).collect();
    let mut listed: Option<BTreeMap<String, Peer>> = None;
    let mut nodes = link.reflect(Interest::all("/api/v1/nodes"));
    let monitor = monitor();
    let mut due = Some(Instant::now());
    loop {
        let at = due.unwrap_or_else(Instant::now);
        tokio::select! {
            delta = nodes.next() => {
                announce(&link, &network, &delta, &own);
                let before = peers.clone();
                take(&mut peers, &mut listed, delta, &own);
                if peers != before {
                    keep(&known, &peers);
                    due = Some(Instant::now());
                }
            }
            () = heard(monitor.as_ref()), if !peers.is_empty() => due = due.or(Some(Instant::now() + SETTLE)),
            () = sleep_until(at), if due.is_some() => {
                due = (!sync(&network, &peers).await).then(|| Instant::now() + RETRY);
            }
        }
    }
}

/// Takes one change of the Nodes in; what a list does not have is gone when it ends.
fn take(peers: &mut BTreeMap<String, Peer>, listed: &mut Option<BTreeMap<String, Peer>>, delta: Delta, own: &str) {
    let target = listed.as_mut().unwrap_or(peers);
    match delta {
        Delta::Restarted => *listed = Some(BTreeMap::new()),
        Delta::Synced => *peers = listed.take().unwrap_or_default(),
        Delta::Deleted(node) => drop(target.remove(&node.identity().name)),
        Delta::Applied(node) => {
            let name = node.identity().name;
            match Peer::read(&node.value()).filter(|_| name != own && target.len() < PEERS_MAX) {
                Some(peer) => drop(target.insert(name, peer)),
                None => drop(target.remove(&name)),
            }
        }
    }
}

/// Tells the other boards this one's key, on its Node; takes it back where it has none any more.
fn announce(link: &Link, network: &Network, delta: &Delta, own: &str) {
    let Delta::Applied(node) = delta else { return };
    if node.identity().name != own {
        return;
    }
    let Some(patch) = overlay::announcement(&node.value(), network.encryption().map(|one| &one.public)) else { return };
    let (link, path) = (link.clone(), format!("/api/v1/nodes/{own}"));
    tokio::spawn(async move {
        // The next change of the Node brings the next try.
        if let Err(error) = link.patch(&path, PatchKind::Merge, &patch).await {
            tracing::warn!(%error, "this board's WireGuard key is not told");
        }
    });
}

fn keep(known: &Known, peers: &BTreeMap<String, Peer>) {
    let all: Vec<Peer> = peers.values().cloned().collect();
    if let Err(error) = known.save(&all) {
        tracing::warn!(%error, path = %known.0.display(), "the other boards are not remembered");
    }
}

async fn sync(network: &Network, peers: &BTreeMap<String, Peer>) -> bool {
    let (network, peers) = (network.clone(), peers.values().cloned().collect::<Vec<_>>());
    let done = tokio::task::spawn_blocking(move || network.route_peers(&peers)).await;
    match done {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!(error = %chain(&error), "routes to other boards");
            false
        }
        Err(error) => {
            tracing::error!(%error, "routes to other boards");
            false
        }
    }
}

/// Hears of every change to links, addresses and routes of our namespace.
fn monitor() -> Option<Arc<AsyncFd<Socket>>> {
    let registered = Socket::route_changes().map_err(|error| chain(&error));
    let registered = registered.and_then(|socket| platform::pollable_socket(socket).map_err(|error| error.to_string()));
    registered
        .map_err(|error| tracing::warn!(error, "changes of this board's links are not noticed"))
        .ok()
        .map(Arc::new)
}

/// Resolves after a change that somebody else than us may have made; ours change nothing the second time.
async fn heard(monitor: Option<&Arc<AsyncFd<Socket>>>) {
    let Some(monitor) = monitor else { return std::future::pending().await };
    let Ok(mut ready) = monitor.readable().await else { return std::future::pending().await };
    ready.clear_ready();
    monitor.get_ref().forget_heard();
}

impl Network {
    /// Makes the kernel's routes to other boards these; blocks for milliseconds. Called again with the same it changes
    /// nothing.
    pub(crate) fn route_peers(&self, peers: &[Peer]) -> Result<(), Error> {
        let socket = Socket::route()?;
        if self.ranges().iter().any(|range| !range.is_ipv4()) {
            // A link may have come since the board began to forward.
            keep_advertisements(&socket).map_err(file("what routers advertise"))?;
        }
        let own: Vec<(Cidr, IpAddr)> =
            self.ranges().iter().filter_map(|range| Some((*range, plan::board_address(*range)?))).collect();
        let mut reach = BTreeMap::new();
        for carrier in carriers(peers) {
            reach.extend(reach_of(&socket, carrier)?.map(|reach| (carrier, reach)));
        }
        let encrypted = |index| {
            let encryption = self.encryption()?;
            Some(Encrypted { index, required: encryption.required, keepalive_s: self.keepalive_s() })
        };
        let first = wanted(peers, &own, &reach, Tunnels { vxlan: None, encrypted: encrypted(0) });
        let tunnel = (!first.tunnelled.is_empty()).then(|| self.tunnel(&socket)).transpose()?;
        let mut tunnels = Tunnels { vxlan: tunnel, encrypted: None };
        if let Some(encryption) = self.encryption() {
            let addresses: Vec<IpAddr> = own.iter().map(|(_, ip)| *ip).collect();
            tunnels.encrypted = encrypted(encryption.interface(&socket, &addresses, &first.partners)?);
            encryption.speak_with(&first.partners)?;
        }
        let wanted = wanted(peers, &own, &reach, tunnels);
        apply(&socket, &wanted, tunnel)?;
        if !wanted.keyless.is_empty() {
            tracing::warn!(boards = ?wanted.keyless, "they have no WireGuard, and are not spoken to in the clear");
        }
        if tunnel.is_none() {
            let mut batch = Batch::default();
            route::delete_link(&mut batch, &plan::tunnel_interface(self.instance()));
            execute_unless(&socket, &batch, &[Errno::NODEV])?;
        }
        Ok(())
    }

    /// The number of the tunnel's interface, which is made at first use.
    fn tunnel(&self, socket: &Socket) -> Result<u32, Error> {
        let name = plan::tunnel_interface(self.instance());
        let mtu = smallest_mtu(socket, self.instance())?.saturating_sub(OVERHEAD_BYTES);
        let mut batch = Batch::default();
        tunnel::add_tunnel(&mut batch, &name, plan::tunnel_mac(self.node_name()), mtu);
        execute_unless(socket, &batch, &[Errno::EXIST])?;
        Ok(index_of(socket, &name)?)
    }
}

fn reach_of(socket: &Socket, to: IpAddr) -> Result<Option<Reach>, Error> {
    let mut question = Batch::default();
    route::get_route(&mut question, to);
    let mut reach = None;
    match socket.dump(&question, |message| reach = route::parse_reach(message.payload)) {
        // No way there now: a change of the links is heard.
        Err(error) if error.errno().is_some_and(|errno| [Errno::NETUNREACH, Errno::HOSTUNREACH].contains(&errno)) => {
            Ok(None)
        }
        other => Ok(other.map(|()| reach)?),
    }
}

fn apply(socket: &Socket, wanted: &Wanted, tunnel: Option<u32>) -> Result<(), Error> {
    let listed = routes(socket)?;
    let kept = |route: &&Route| wanted.routes().any(|want| Route { source: None, ..*want } == **route);
    let mut gone = Batch::default();
    for route in listed.iter().filter(|route| !kept(route)) {
        route::delete_peer_route(&mut gone, route);
    }
    execute_unless(socket, &gone, &[Errno::SRCH, Errno::NOENT])?;
    let mut batch = Batch::default();
    if let Some(index) = tunnel {
        let known = entries(socket, index)?;
        for entry in known.iter().filter(|entry| !wanted.entries.contains(entry)) {
            tunnel::delete_entry(&mut batch, index, *entry);
        }
        for entry in wanted.entries.iter().filter(|entry| !known.contains(entry)) {
            tunnel::add_entry(&mut batch, index, *entry);
        }
    }
    let missing = wanted.routes();
    for route in missing.filter(|want| !listed.contains(&Route { source: None, ..**want })) {
        route::add_peer_route(&mut batch, route);
    }
    Ok(socket.execute(&batch)?)
}

fn entries(socket: &Socket, index: u32) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    for forwards in [false, true] {
        let mut question = Batch::default();
        tunnel::list_entries(&mut question, forwards);
        socket.dump(&question, |message| found.extend(tunnel::parse_entry(message.payload, index)))?;
    }
    Ok(found)
}

/// Removes the routes that this instance added: of the boards that it knew.
pub(super) fn down(instance: &Instance) -> Result<(), Error> {
    let known = Known::below(instance).load();
    let ranges: Vec<Cidr> = known.iter().flat_map(|peer| &peer.ranges).filter_map(|range| range.parse().ok()).collect();
    let socket = Socket::route()?;
    let mut batch = Batch::default();
    for route in routes(&socket)?.iter().filter(|route| ranges.contains(&Cidr::new(route.to, route.bits))) {
        route::delete_peer_route(&mut batch, route);
    }
    Ok(execute_unless(&socket, &batch, &[Errno::SRCH])?)
}

#[cfg(test)]
mod apart;
#[cfg(test)]
mod tests;
