//! Shell: connects pods and takes them off again; the pod network's door.

use super::addresses::Addresses;
use super::cidr::Cidr;
use super::encryption::Encryption;
use super::overlay::Overlay;
use super::record::{Ranges, Record};
use super::sysctl;
use super::{peering, plan};
use crate::instance::Instance;
use crate::netlink::route::{self, Route, Scope};
use crate::netlink::socket::{
    Error as NetlinkError, Socket, execute_unless, index_of, link_towards, links, route_socket_in,
};
use crate::netlink::wire::Batch;
use crate::pods::{NetworkError, Pending, PodNetRequest, PodNetwork};
use crate::records::{FileError, Records, file};
use crate::services::{self, Policies, Proxy};
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ethernet's own, where no interface says otherwise.
const DEFAULT_MTU: u32 = 1500;
/// IPv6 asks for that much; an interface with less is not the one that pods talk through.
const LEAST_MTU: u32 = 1280;

/// Addresses that nobody has (TEST-NET-1, and the prefix for documentation): the way there is the way to everywhere.
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Why the network of a pod or of the board is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `Node.spec.podCIDRs` is not known yet.
    #[error("the node has no pod range yet")]
    NoRange,
    /// Every address of the range is taken.
    #[error("the node's pod range {0} is used up")]
    UsedUp(String),
    /// A file of ours, a namespace, or a knob of the kernel.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel refused a message.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// `--overlay wireguard` on a kernel that has none.
    #[error("this kernel has no WireGuard: load its module, or take --overlay auto, which uses VXLAN then")]
    NoWireguard(#[source] NetlinkError),
    /// The services' table refused host ports.
    #[error(transparent)]
    Table(#[from] services::Error),
}

/// What the pod network of a board depends on.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose interfaces these are.
    pub instance: Instance,
    /// The name of this board's Node; its hardware address in the tunnel to other boards follows from it.
    pub node_name: String,
    /// Ranges of cluster addresses of services; the board routes them to itself.
    pub service_ranges: Vec<Cidr>,
    /// Cluster DNS; the board has these addresses itself.
    pub dns_addresses: Vec<IpAddr>,
    /// The pods' MTU; none takes the smallest of the board's interfaces.
    pub mtu: Option<u32>,
    /// Pods are somebody else's to connect ([`cni`](crate::cni)): the board has its cluster addresses and nothing more.
    pub foreign: bool,
    /// What joins boards that are apart.
    pub overlay: Overlay,
    /// Seconds after which an idle board gives a sign of life through WireGuard, so that a NAT before it remembers it;
    /// zero for never.
    pub keepalive_s: u16,
}

/// The pod network of a board; clones share it.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    options: Options,
    proxy: Proxy,
    policies: Policies,
    records: Records<Record>,
    ranges: Ranges,
    encryption: Option<Encryption>,
    state: Mutex<State>,
}

struct State {
    addresses: Addresses,
    attached: BTreeMap<String, Record>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Network").field(&self.0.options.instance.name).finish()
    }
}

impl Network {
    /// Takes up what an earlier run left, makes the board's own interface and lets the kernel forward; blocks for
    /// milliseconds.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn open(options: Options, proxy: Proxy, policies: Policies) -> Result<Self, Error> {
        let run_dir = &options.instance.run_dir;
        let records: Records<Record> = Records::below(&run_dir.join("net"));
        let attached =
            records.load_all().map_err(file(format!("the records of attached pods below {}", run_dir.display())))?;
        let mut addresses = Addresses::default();
        for (sandbox_id, record) in &attached {
            record.ips.iter().for_each(|ip| addresses.take(*ip));
            proxy.set_host_ports(sandbox_id, &record.ips, &record.host_ports());
        }
        sysctl::set("ipv4/ip_forward", "1").map_err(file("forwarding of IPv4"))?;
        let name = plan::board_interface(&options.instance);
        let socket = Socket::route()?;
        let mut batch = Batch::default();
        plan::make_board_pair(&mut batch, &options.instance, DEFAULT_MTU);
        execute_unless(&socket, &batch, &[Errno::EXIST])?;
        let index = index_of(&socket, &name)?;
        let mut batch = Batch::default();
        route::set_up(&mut batch, &plan::board_peer(&options.instance));
        for ip in &options.dns_addresses {
            route::add_address(&mut batch, index, *ip, Scope::Host);
        }
        socket.execute(&batch)?;
        let ranges = Ranges::below(&options.instance.data_dir);
        let known = ranges.load();
        let state = Mutex::new(State { addresses, attached });
        let overlay = if options.foreign { Overlay::Vxlan } else { options.overlay };
        let encryption = Encryption::open(&options.instance, overlay)?;
        let network = Self(Arc::new(Inner { options, proxy, policies, records, ranges, encryption, state }));
        if network.0.options.foreign {
            network.give_way(&socket, index, &known)?;
        } else if !known.is_empty() {
            network.apply_ranges(&known)?;
        }
        Ok(network)
    }

    /// Takes away what a run with a pod network of our own left: the pods' interfaces, the board's address among them,
    /// the ways to other boards. The service range stays routed to this board, which rewrites what goes there.
    fn give_way(&self, socket: &Socket, index: u32, known: &[Cidr]) -> Result<(), Error> {
        self.sweep(&[])?;
        remove_link(socket, &plan::tunnel_interface(self.instance()))?;
        peering::down(self.instance())?;
        let mut batch = Batch::default();
        known.iter().filter_map(|range| plan::board_address(*range)).for_each(|ip| {
            route::delete_address(&mut batch, index, ip);
        });
        execute_unless(socket, &batch, &[Errno::ADDRNOTAVAIL])?;
        let mut batch = Batch::default();
        for service in &self.0.options.service_ranges {
            let (to, bits) = (service.base(), service.bits());
            route::add_route(&mut batch, &Route { to, bits, index, via: None, source: None });
        }
        Ok(socket.execute(&batch)?)
    }

    /// Takes the pod ranges of `Node.spec.podCIDRs`; called again with the same it does nothing anew.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn set_ranges(&self, ranges: &[Cidr]) -> Result<(), Error> {
        self.apply_ranges(ranges)?;
        Ok(self.0.ranges.save(ranges).map_err(file("the record of the pod ranges"))?)
    }

    fn apply_ranges(&self, ranges: &[Cidr]) -> Result<(), Error> {
        let former: Vec<Cidr> = {
            let mut state = self.state();
            let former = state.addresses.ranges().collect();
            state.addresses.set_ranges(ranges);
            former
        };
        let socket = Socket::route()?;
        if ranges.iter().any(|range| !range.is_ipv4()) {
            keep_advertisements(&socket).map_err(file("what routers advertise"))?;
            sysctl::set("ipv6/conf/all/forwarding", "1").map_err(file("forwarding of IPv6"))?;
        }
        let index = index_of(&socket, &plan::board_interface(&self.0.options.instance))?;
        let mut gone = Batch::default();
        for ip in former.iter().filter(|range| !ranges.contains(range)).filter_map(|range| plan::board_address(*range))
        {
            route::delete_address(&mut gone, index, ip);
        }
        execute_unless(&socket, &gone, &[Errno::ADDRNOTAVAIL])?;
        let mut batch = Batch::default();
        for ip in ranges.iter().filter_map(|range| plan::board_address(*range)) {
            route::add_address(&mut batch, index, ip, Scope::Universe);
        }
        for service in &self.0.options.service_ranges {
            // A family that pods do not have may be missing from the kernel too.
            if let Some(own) = ranges.iter().find(|range| range.is_ipv4() == service.is_ipv4()) {
                let (to, bits, source) = (service.base(), service.bits(), plan::board_address(*own));
                route::add_route(&mut batch, &Route { to, bits, index, via: None, source });
            }
        }
        socket.execute(&batch)?;
        self.0.proxy.set_own_ranges(ranges);
        self.0.proxy.sync()?;
        Ok(())
    }

    /// Connects the namespace at `netns`, or repairs a connection that stands; blocks for milliseconds.
    pub(crate) fn connect(&self, netns: &Path, sandbox_id: &str, pod: &PodNetRequest) -> Result<Vec<IpAddr>, Error> {
        let known = self.state().attached.get(sandbox_id).cloned();
        if let Some(record) = known {
            // A pod that lives keeps what it has, even when the repair fails.
            self.0.policies.connect(sandbox_id, pod, &record.ips)?;
            self.wire(netns, sandbox_id, &record)?;
            return Ok(record.ips);
        }
        let record = self.reserve(sandbox_id, pod)?;
        let closed = self.0.policies.connect(sandbox_id, pod, &record.ips).map_err(Error::from);
        match closed.and_then(|()| self.wire(netns, sandbox_id, &record)) {
            Ok(()) => Ok(record.ips),
            Err(error) => {
                if let Err(left) = self.disconnect(sandbox_id) {
                    tracing::warn!(sandbox_id, error = %services::chain(&left), "a failed attachment is not cleaned up");
                }
                Err(error)
            }
        }
    }

    fn reserve(&self, sandbox_id: &str, pod: &PodNetRequest) -> Result<Record, Error> {
        let mut state = self.state();
        let ranges: Vec<_> = state.addresses.ranges().map(|range| range.to_string()).collect();
        if ranges.is_empty() {
            return Err(Error::NoRange);
        }
        let ips = state.addresses.claim(&pod.former_ips).or_else(|| state.addresses.allocate());
        let ips = ips.ok_or_else(|| Error::UsedUp(ranges.join(",")))?;
        let record = Record::new(plan::pod_interface(&self.0.options.instance, sandbox_id), ips, &pod.host_ports);
        if let Err(source) = self.0.records.save(sandbox_id, &record) {
            record.ips.iter().for_each(|ip| state.addresses.free(*ip));
            return Err(file(format!("the record of sandbox {sandbox_id}"))(source).into());
        }
        state.attached.insert(sandbox_id.to_owned(), record.clone());
        Ok(record)
    }

    fn wire(&self, netns: &Path, sandbox_id: &str, record: &Record) -> Result<(), Error> {
        let name = &record.interface;
        let namespace = std::fs::File::open(netns).map_err(file(netns.display().to_string()))?;
        let socket = Socket::route()?;
        let mtu = self.0.options.mtu.map_or_else(|| smallest_mtu(&socket, &self.0.options.instance), Ok)?;
        let mut pair = Batch::default();
        plan::make_pair(&mut pair, name, namespace.as_raw_fd(), mtu);
        // It stands already when an attachment is repaired; both ends live and die together.
        execute_unless(&socket, &pair, &[Errno::EXIST])?;
        for (knob, value) in plan::knobs(name, &record.ips) {
            sysctl::set(&knob, value).map_err(file("a knob of the pod's interface"))?;
        }
        let inner = route_socket_in(namespace.as_fd())?;
        let mut inside = Batch::default();
        plan::inside(&mut inside, name, index_of(&inner, plan::POD_INTERFACE)?, &record.ips);
        inner.execute(&inside)?;
        let mut outside = Batch::default();
        plan::outside(&mut outside, name, index_of(&socket, name)?, &record.ips);
        socket.execute(&outside)?;
        let ports = record.host_ports();
        if !ports.is_empty() {
            self.0.proxy.set_host_ports(sandbox_id, &record.ips, &ports);
            self.0.proxy.sync()?;
        }
        Ok(())
    }

    /// Frees everything of a sandbox; all of it is tried, the first error returned.
    pub(crate) fn disconnect(&self, sandbox_id: &str) -> Result<(), Error> {
        let record = self.state().attached.get(sandbox_id).cloned();
        let name = plan::pod_interface(&self.0.options.instance, sandbox_id);
        let name = record.as_ref().map_or(&name, |record| &record.interface);
        let link = remove_link(&Socket::route()?, name);
        let table = match &record {
            Some(record) if !record.host_ports().is_empty() => {
                self.0.proxy.set_host_ports(sandbox_id, &[], &[]);
                self.0.proxy.sync().map_err(Error::from)
            }
            _ => Ok(()),
        };
        link?;
        self.0.policies.disconnect(sandbox_id);
        self.0.records.remove(sandbox_id).map_err(file(format!("the record of sandbox {sandbox_id}")))?;
        let mut state = self.state();
        if let Some(record) = state.attached.remove(sandbox_id) {
            record.ips.iter().for_each(|ip| state.addresses.free(*ip));
        }
        table
    }

    /// Removes what no sandbox of `keep` owns: after a start, when the runtime has said which live.
    ///
    /// # Errors
    /// The first [`Error`]; all of it is tried.
    pub fn sweep(&self, keep: &[String]) -> Result<(), Error> {
        let mut first = Ok(());
        let stale: Vec<String> = self.state().attached.keys().filter(|id| !keep.contains(id)).cloned().collect();
        for sandbox_id in stale {
            first = first.and(self.disconnect(&sandbox_id));
        }
        let mut kept: Vec<String> = self.state().attached.values().map(|record| record.interface.clone()).collect();
        let own = [plan::board_interface, plan::board_peer, plan::tunnel_interface, plan::encrypted_interface];
        kept.extend(own.map(|name| name(&self.0.options.instance)));
        first.and(remove_links(&self.0.options.instance, |name| !kept.iter().any(|at| at == name)))
    }

    pub(super) fn instance(&self) -> &Instance {
        &self.0.options.instance
    }

    pub(super) fn encryption(&self) -> Option<&Encryption> {
        self.0.encryption.as_ref()
    }

    pub(super) fn keepalive_s(&self) -> u16 {
        self.0.options.keepalive_s
    }

    pub(super) fn node_name(&self) -> &str {
        &self.0.options.node_name
    }

    /// This board's pod ranges, as far as it knows them.
    pub(crate) fn ranges(&self) -> Vec<Cidr> {
        self.state().addresses.ranges().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel believes no router any more once it forwards itself, unless it is told to, so a board would lose the address
/// and the way out that it has of one: it goes on where the board's own traffic goes.
pub(super) fn keep_advertisements(socket: &Socket) -> io::Result<()> {
    for ip in OUTSIDE {
        // No way out, or none in this family.
        let Ok(link) = link_towards(socket, ip) else { continue };
        let knob = format!("ipv6/conf/{}/accept_ra", link.name);
        if sysctl::get(&knob).is_some_and(|now| now == "1") {
            sysctl::set(&knob, "2")?;
        }
    }
    Ok(())
}

fn remove_link(socket: &Socket, name: &str) -> Result<(), Error> {
    let mut batch = Batch::default();
    route::delete_link(&mut batch, name);
    Ok(execute_unless(socket, &batch, &[Errno::NODEV])?)
}

/// Removes the instance's interfaces that `fits` names.
fn remove_links(instance: &Instance, fits: impl Fn(&str) -> bool) -> Result<(), Error> {
    let prefix = plan::interface_prefix(instance);
    let socket = Socket::route()?;
    let mut first = Ok(());
    for link in links(&socket)?.iter().filter(|link| link.name.starts_with(&prefix) && fits(&link.name)) {
        first = first.and(remove_link(&socket, &link.name));
    }
    first
}

/// The smallest MTU of the board's own interfaces: what passes there passes everywhere.
pub(super) fn smallest_mtu(socket: &Socket, instance: &Instance) -> Result<u32, Error> {
    let prefix = plan::interface_prefix(instance);
    let own = |name: &str| name == "lo" || name.starts_with(&prefix);
    let mtus = links(socket)?.into_iter().filter(|link| !own(&link.name)).map(|link| link.mtu);
    Ok(mtus.filter(|mtu| *mtu >= LEAST_MTU).min().unwrap_or(DEFAULT_MTU))
}

/// Removes everything of the instance from the host's network: interfaces with their routes and addresses, the
/// nftables table, the records. All of it is tried, the first error returned.
///
/// # Errors
/// Any [`Error`].
pub fn down(instance: &Instance) -> Result<(), Error> {
    let links = remove_links(instance, |_| true);
    let table = services::remove_table(instance).map_err(Error::from);
    let records: PathBuf = instance.run_dir.join("net");
    let records = match std::fs::remove_dir_all(&records) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(records.display().to_string())(error).into()),
        _ => Ok(()),
    };
    peering::down(instance).and(links).and(table).and(records)
}

impl PodNetwork for Network {
    fn attach<'a>(
        &'a self,
        netns_path: &'a Path,
        sandbox_id: &'a str,
        request: &'a PodNetRequest,
    ) -> Pending<'a, Result<Vec<IpAddr>, NetworkError>> {
        let (network, netns, sandbox_id) = (self.clone(), netns_path.to_owned(), sandbox_id.to_owned());
        let request = request.clone();
        Box::pin(async move {
            network.0.policies.soon_known(&request.name).await;
            blocking(move || network.connect(&netns, &sandbox_id, &request)).await
        })
    }

    fn detach<'a>(&'a self, sandbox_id: &'a str) -> Pending<'a, Result<(), NetworkError>> {
        let (network, sandbox_id) = (self.clone(), sandbox_id.to_owned());
        blocking(move || network.disconnect(&sandbox_id))
    }

    fn attached(&self) -> Vec<String> {
        self.state().attached.keys().cloned().collect()
    }
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Pending<'static, Result<T, NetworkError>> {
    Box::pin(async move {
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error @ (Error::NoRange | Error::UsedUp(_)))) => Err(NetworkError::NotReady(error.to_string())),
            Ok(Err(error)) => Err(NetworkError::Failed(services::chain(&error))),
            Err(error) => Err(NetworkError::Failed(error.to_string())),
        }
    })
}
