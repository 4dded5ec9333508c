//! Shell: wires the agent of one board together and runs it.
//!
//! ```text
//!  checkpoint -> pods at once         join (token, or the certificate of an earlier run) -> link -> node, pods, services
//! ```
//! Nothing here waits for the API server before pods run: the link is there from the start, and connects later.

mod pod_net;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bramble_runtime::{Layout, Runtime};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tracing::{error, warn};

use self::pod_net::{PodNet, watch_node};
use crate::announce;
use crate::checkpoint::Checkpoint;
use crate::cni::{self, Plugins};
use crate::images::{BoardImages, Registries};
use crate::instance::Instance;
use crate::join::{self, JoinError, JoinOptions, Joined, Rotation, ServingNames};
use crate::link::backoff::Backoff;
use crate::link::{Clock, Endpoint, KeyPin, Link, LinkError, Sending, Transport};
use crate::network::{self, Cidr, Network, Overlay};
use crate::node::{self, ClusterAddresses, Health, NodeOptions, NodeSignals, Registration, Reserved};
use crate::pods::{self, BoardOptions, BoardRuntime, PodNetwork, Table};
use crate::serve::{self, Server};
use crate::services::{self, Policies, Proxy};
use crate::tunnel::Tunnels;

/// Everything that an agent is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names and places on this host.
    pub instance: Instance,
    /// The node's name.
    pub node_name: String,
    /// API servers of the cluster, asked in turn; none: they are looked for on the link.
    pub servers: Vec<Endpoint>,
    /// A one-time token; not needed once joined.
    pub token: Option<String>,
    /// Until when it is good, where that is known, in Unix milliseconds.
    pub token_until_ms: Option<i64>,
    /// The pins of the cluster's authority; not needed once joined.
    pub pins: Vec<KeyPin>,
    /// `--node-ip`; empty means found by itself.
    pub node_ips: Vec<IpAddr>,
    /// `--node-labels`.
    pub labels: Vec<(String, String)>,
    /// `--register-with-taints`: key, value, effect.
    pub taints: Vec<(String, String, String)>,
    /// Pods of the whole cluster: one range, or one of each family, the primary one first.
    pub cluster_cidrs: Vec<Cidr>,
    /// Services.
    pub service_cidrs: Vec<Cidr>,
    /// Cluster DNS, usually the tenth address of each service range.
    pub dns_addresses: Vec<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// How registries are reached; below the data directory `certs.d` may hold further authorities.
    pub registries: Registries,
    /// Where CNI plugins and their configuration are; none: pods are connected by ourselves.
    pub cni: Option<CniFolders>,
    /// What joins boards that are apart.
    pub overlay: Overlay,
    /// Seconds after which an idle board gives a sign of life through WireGuard; zero for never.
    pub overlay_keepalive_s: u16,
    /// The board's resolvers: for foreign names, and for pods whose DNS policy is `Default`.
    pub resolv_conf: PathBuf,
    /// Where the kubelet's server listens.
    pub kubelet_port: u16,
    /// The system's clock follows the controller's.
    pub set_clock: bool,
    /// For how long the board's Lease is good.
    pub lease_duration: Duration,
}

/// Where CNI plugins and their configuration are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniFolders {
    /// The folder whose first file is the network.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
}

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Something of this host is not as it must be.
    #[error("{0}")]
    Host(String),
    /// The board is not, and cannot become, part of the cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Memory that is kept back from pods: the agent, the kernel, and upstream's hard eviction threshold of 100 MiB.
const RESERVED: Reserved = Reserved { cpu_milli: 0, memory_bytes: 100 << 20 };

/// Reads a join file: the token and the pin, a line each.
///
/// # Errors
/// A sentence for the user.
pub fn read_join_file(text: &str) -> Result<(String, Vec<KeyPin>), String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let token = lines.next().ok_or("the join file is empty")?.to_owned();
    let pins: Option<Vec<KeyPin>> = lines.map(KeyPin::parse).collect();
    let pins = pins.filter(|pins| !pins.is_empty()).ok_or("the join file has no pin, sha256: and 64 hex digits")?;
    Ok((token, pins))
}

/// A file below the run directory: who ends this host makes it before the agent's end, which then says so of its node.
pub const SHUTDOWN_MARK: &str = "shutdown";
/// The host's end waits this long for the controller to hear of it.
const GOODBYE: Duration = Duration::from_secs(3);

/// The taint with which a node waits for its cloud provider, as upstream's kubelet registers.
#[must_use]
pub fn awaits_provider() -> (String, String, String) {
    ("node.cloudprovider.kubernetes.io/uninitialized".into(), "true".into(), "NoSchedule".into())
}

/// Runs until `end`; calls `ready` when the node is registered. Containers go on without it.
///
/// # Errors
/// What makes it pointless to go on: a host that cannot run pods, a token that is refused.
pub async fn run(
    options: Options,
    end: impl Future<Output = ()>,
    ready: impl FnOnce() + Send + 'static,
) -> Result<(), AgentError> {
    let mark = options.instance.run_dir.join(SHUTDOWN_MARK);
    // Of a host that is up again.
    drop(std::fs::remove_file(&mark));
    let (leave, leaving) = watch::channel(false);
    let ended = async {
        end.await;
        if std::fs::remove_file(&mark).is_ok() {
            leave.send_replace(true);
            tokio::time::sleep(GOODBYE).await;
        }
    };
    tokio::select! {
        result = work(options, leaving, ready) => result,
        () = ended => Ok(()),
    }
}

async fn work(
    options: Options,
    leaving: watch::Receiver<bool>,
    ready: impl FnOnce() + Send + 'static,
) -> Result<(), AgentError> {
    let (proxy, policies, network) =
        open_network(&options).map_err(|error| AgentError::Host(services::chain(&error)))?;
    let plugins = open_plugins(&options, &proxy, &policies).await?;
    let agent = Agent::open(options, network, plugins)?;
    let server = resolve(agent.options.servers.first()).await;
    agent.start_work(proxy.clone(), policies, server);
    agent.join_cluster(server, proxy, leaving, ready).await
}

/// What lives as long as the agent does.
struct Agent {
    options: Options,
    dir: PathBuf,
    clock: Arc<Clock>,
    transport: Arc<LateTransport>,
    link: Link,
    table: Table,
    runtime: Arc<Runtime>,
    images: Arc<BoardImages>,
    network: Network,
    /// Who connects pods, where it is not `network`.
    plugins: Option<Plugins>,
}

impl Agent {
    fn open(options: Options, network: Network, plugins: Option<Plugins>) -> Result<Self, AgentError> {
        let runtime = open_runtime(&options.instance).map_err(|error| AgentError::Host(error.chain()))?;
        let registries =
            Registries { authorities: Some(options.instance.data_dir.join("certs.d")), ..options.registries.clone() };
        let images = BoardImages::open(&options.instance.data_dir, registries)
            .map_err(|error| AgentError::Host(crate::images::chain(&error)))?;
        let transport = Arc::new(LateTransport::default());
        let dir = options.instance.data_dir.join("agent");
        Ok(Self {
            clock: Arc::new(Clock::kept(dir.join("clock"), options.set_clock)),
            dir,
            options,
            link: Link::new(transport.clone()),
            transport,
            table: Table::default(),
            runtime: Arc::new(runtime),
            images: Arc::new(images),
            network,
            plugins,
        })
    }

    /// Starts what needs no API server: pods from the checkpoint, services, names, the board's own socket.
    fn start_work(&self, proxy: Proxy, policies: Policies, server: Option<SocketAddr>) {
        let checkpoint = Checkpoint::open(&self.dir)
            .map_err(|error| warn!(%error, "no checkpoint: this board needs its controller to start"))
            .ok();
        let options = &self.options;
        let facts = node::gather(&options.instance.data_dir, server, &options.node_ips, &cluster_addresses(options));
        let board = BoardOptions {
            runtime: Arc::new(BoardRuntime::new(self.runtime.clone(), self.images.store())),
            images: self.images.clone(),
            network: self.pod_network(),
            table: self.table.clone(),
            node_name: options.node_name.clone(),
            agent_dir: self.dir.clone(),
            run_dir: options.instance.run_dir.clone(),
            log_root: options.instance.data_dir.join("logs"),
            dns_servers: options.dns_addresses.clone(),
            cluster_domain: options.cluster_domain.clone(),
            resolv_conf: options.resolv_conf.clone(),
            host_ips: facts.addresses.clone(),
            node: facts,
        };
        let services = checkpoint.as_ref().map(Checkpoint::share);
        let kept = checkpoint.as_ref().map(Checkpoint::share);
        tokio::spawn(pods::run(board, self.link.clone(), self.clock.clone(), checkpoint));
        match &self.plugins {
            Some(plugins) => tokio::spawn(plugins.clone().run()),
            None => {
                tokio::spawn(network::peering::run(self.link.clone(), self.network.clone(), options.node_name.clone()))
            }
        };
        let announcing =
            announce::run(self.link.clone(), self.clock.clone(), options.node_name.clone(), proxy.announced());
        tokio::spawn(announcing);
        tokio::spawn(services::tell_health(proxy.healths()));
        tokio::spawn(services::run_policies(self.link.clone(), policies, options.node_name.clone(), kept));
        tokio::spawn(services::run(self.link.clone(), proxy.clone(), services));
        tokio::spawn(answer_names(dns_options(options), proxy));
        tokio::spawn(answer_locally(options.instance.run_dir.clone(), self.images.clone(), self.table.clone()));
    }

    fn pod_network(&self) -> Arc<dyn PodNetwork> {
        match &self.plugins {
            Some(plugins) => Arc::new(plugins.clone()),
            None => Arc::new(self.network.clone()),
        }
    }

    /// Joins, serves the kubelet's paths, and keeps the Node for as long as the agent runs, or until its host ends.
    async fn join_cluster(
        self,
        server: Option<SocketAddr>,
        proxy: Proxy,
        leaving: watch::Receiver<bool>,
        ready: impl FnOnce() + Send + 'static,
    ) -> Result<(), AgentError> {
        let join = JoinOptions {
            dir: join::dir_below(&self.dir),
            servers: self.options.servers.clone(),
            node_name: self.options.node_name.clone(),
            token: self.options.token.clone(),
            token_until_ms: self.options.token_until_ms,
            pins: self.options.pins.clone(),
        };
        // Told before the board joins: with an address that somebody else has it may never come so far.
        let names = Arc::new(watch::Sender::new(own_names(&self.options, server)));
        let health = watch::Sender::new(Health::default());
        tokio::spawn(announce::guard(names.subscribe(), health.clone()));
        let joined = joined(&join, &self.clock).await?;
        joined.connection.asked_every(node::renewed_every(self.options.lease_duration));
        self.transport.set(joined.connection.clone());
        let pod_network =
            PodNet { network: self.network, plugins: self.plugins, cluster: self.options.cluster_cidrs.clone() };
        // A board that was here before has its range already.
        let not_ready = pod_network.not_ready(&pod_network.network.ranges());
        health.send_modify(|health| health.not_ready = not_ready);
        let signals = NodeSignals {
            health: health.subscribe(),
            node: Arc::new(watch::Sender::new(Arc::new(Value::Null))),
            names,
            leaving,
        };
        let (known, authorities) = watch::channel(joined.authority.clone());
        let rotation = Rotation {
            dir: join.dir,
            node_name: join.node_name,
            clock: self.clock.clone(),
            link: self.link.clone(),
            authorities: authorities.clone(),
        };
        let (serving, certificates) = watch::channel(None);
        tokio::spawn(join::follow_authorities(rotation.clone(), joined.connection.clone(), known));
        let connection = joined.connection.clone();
        tokio::spawn(join::rotate_client(rotation.clone(), joined));
        tokio::spawn(join::rotate_serving(rotation, signals.names.subscribe(), serving));
        let clock = self.clock.clone();
        let kubelet = Server::new(self.table, self.runtime, move || clock.now_ms());
        let tls = serve::follow_tls(certificates, authorities).map_err(AgentError::Host)?;
        serve_kubelet(&self.options, tls.clone(), kubelet.clone()).await?;
        let tunnels = Tunnels { connection, kubelet, tls, node_name: self.options.node_name.clone() };
        tokio::spawn(tunnels.run(signals.node.subscribe()));
        tokio::spawn(watch_node(signals.node.subscribe(), health, pod_network, proxy, self.images, ready));
        node::run(node_options(&self.options, server), self.link, self.clock, signals).await;
        Ok(())
    }
}

/// The certificate of an earlier run, else the token, as long as it takes.
async fn joined(options: &JoinOptions, clock: &Arc<Clock>) -> Result<Joined, AgentError> {
    match join::saved(options, clock) {
        Ok(Some(joined)) => return Ok(joined),
        Ok(None) => {}
        Err(error) => error!(%error, "the certificate of an earlier run cannot be used, joining anew"),
    }
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        match join::join(options, clock).await {
            Ok(joined) => return Ok(joined),
            Err(error) if error.is_transient() => {
                warn!(%error, "joining");
                tokio::time::sleep(backoff.advance(crate::link::random())).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn open_runtime(instance: &Instance) -> Result<Runtime, bramble_runtime::Error> {
    Runtime::open(Layout {
        data_dir: instance.data_dir.clone(),
        run_dir: instance.run_dir.clone(),
        cgroup_root: instance.cgroup_root.clone(),
        instance: instance.name.clone(),
    })
}

fn open_network(options: &Options) -> Result<(Proxy, Policies, Network), network::Error> {
    let proxy = Proxy::new(&services::Options {
        instance: options.instance.clone(),
        node_name: options.node_name.clone(),
        cluster_ranges: options.cluster_cidrs.clone(),
        service_ranges: options.service_cidrs.clone(),
        dns_addresses: options.dns_addresses.clone(),
    });
    let policies = Policies::new(proxy.clone());
    let network = Network::open(
        network::Options {
            instance: options.instance.clone(),
            node_name: options.node_name.clone(),
            service_ranges: options.service_cidrs.clone(),
            dns_addresses: options.dns_addresses.clone(),
            mtu: None,
            foreign: options.cni.is_some(),
            overlay: options.overlay,
            keepalive_s: options.overlay_keepalive_s,
        },
        proxy.clone(),
        policies.clone(),
    )?;
    Ok((proxy, policies, network))
}

/// The plugins, if they are to connect pods; if not, what they made for pods earlier goes.
async fn open_plugins(options: &Options, proxy: &Proxy, policies: &Policies) -> Result<Option<Plugins>, AgentError> {
    let instance = options.instance.clone();
    let Some(CniFolders { conf_dir, bin_dirs }) = options.cni.clone() else {
        if let Err(error) = cni::down(&instance).await {
            warn!(error = %services::chain(&error), "what CNI plugins made for pods is not all taken away");
        }
        return Ok(None);
    };
    let plugins = Plugins::open(cni::Options { instance, conf_dir, bin_dirs }, proxy.clone(), policies.clone());
    plugins.map(Some).map_err(|error| AgentError::Host(services::chain(&error)))
}

fn dns_options(options: &Options) -> crate::dns::Options {
    crate::dns::Options {
        addresses: options.dns_addresses.clone(),
        port: 53,
        domain: options.cluster_domain.clone(),
        ranges: [&options.cluster_cidrs[..], &options.service_cidrs].concat(),
        resolv_conf: options.resolv_conf.clone(),
    }
}

async fn answer_names(options: crate::dns::Options, proxy: Proxy) {
    if let Err(error) = crate::dns::run(options, proxy.index()).await {
        error!(%error, "names of the cluster are not answered");
    }
}

async fn answer_locally(run_dir: PathBuf, images: Arc<BoardImages>, table: Table) {
    if let Err(error) = crate::local::serve(&run_dir, images, table).await {
        error!(%error, "the board's own socket");
    }
}

/// Listens on the kubelet's port; handshakes fail until the cluster has signed the serving certificate, as upstream's do.
async fn serve_kubelet(
    options: &Options,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    server: Arc<Server>,
) -> Result<(), AgentError> {
    let six = options.cluster_cidrs.iter().any(|range| !range.is_ipv4());
    let any = if six { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
    // An unspecified address of IPv6 takes callers of both families.
    let address = SocketAddr::new(any, options.kubelet_port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| AgentError::Host(format!("cannot listen on {address}: {error}; choose --kubelet-port")))?;
    tokio::spawn(server.run(listener, tls));
    Ok(())
}

fn node_options(options: &Options, server: Option<SocketAddr>) -> NodeOptions {
    NodeOptions {
        registration: Registration {
            name: options.node_name.clone(),
            labels: options.labels.clone(),
            taints: options.taints.clone(),
        },
        reserved: RESERVED,
        data_dir: options.instance.data_dir.clone(),
        server,
        node_ips: options.node_ips.clone(),
        lease_duration: options.lease_duration,
        cluster: cluster_addresses(options),
    }
}

/// The names that this board has before it has joined.
fn own_names(options: &Options, server: Option<SocketAddr>) -> ServingNames {
    let ips = node::addresses(server, &options.node_ips, &cluster_addresses(options), &[]);
    ServingNames { dns: vec![options.node_name.clone()], ips }
}

fn cluster_addresses(options: &Options) -> ClusterAddresses {
    ClusterAddresses { pods: options.cluster_cidrs.clone(), services: options.service_cidrs.clone() }
}

async fn resolve(server: Option<&Endpoint>) -> Option<SocketAddr> {
    let server = server?;
    tokio::net::lookup_host((server.host.as_str(), server.port)).await.ok()?.next()
}

/// A transport that is there before the board has joined; whoever asks too early is told to come again.
#[derive(Default)]
struct LateTransport {
    connection: OnceLock<Arc<dyn Transport>>,
    set: Notify,
}

impl LateTransport {
    fn set(&self, connection: Arc<dyn Transport>) {
        // Set once: a second joining in one run does not happen.
        let _ = self.connection.set(connection);
        self.set.notify_waiters();
    }
}

impl Transport for LateTransport {
    fn send(&self, request: Request<Full<Bytes>>) -> Sending<'_> {
        match self.connection.get() {
            Some(connection) => connection.send(request),
            None => Box::pin(async { Err(LinkError::Unreachable("this board has not joined yet".to_owned())) }),
        }
    }

    fn reconnected(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        match self.connection.get() {
            Some(connection) => connection.reconnected(),
            None => Box::pin(self.set.notified()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_file_has_a_token_and_pins() {
        let pin = format!("sha256:{}", "ab".repeat(32));
        let (token, pins) = read_join_file(&format!("abcdef.0123456789abcdef\n{pin}\n")).unwrap();
        assert_eq!((token.as_str(), pins.len()), ("abcdef.0123456789abcdef", 1));
        assert!(read_join_file("abcdef.0123456789abcdef\n").is_err());
    }
}
