//! Pure: the options of the command line; each verb takes what concerns it.

use std::path::PathBuf;
use std::time::Duration;

use bramble_agent::network::Overlay;
use lexopt::prelude::*;

use super::snapshot::options::{SnapshotOptions, duration};

/// Where distributions of plugins put them.
pub(crate) const CNI_BIN_DIR: &str = "/opt/cni/bin";

/// A controller waits no longer for any board.
const LEASE_MAX: Duration = Duration::from_secs(3600);

/// Options shared by the verbs; each takes what concerns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// What survives a reboot.
    pub(crate) data_dir: PathBuf,
    /// What does not.
    pub(crate) run_dir: PathBuf,
    /// Parent of every pod's cgroup.
    pub(crate) cgroup_root: Option<String>,
    /// This board's node name.
    pub(crate) node_name: Option<String>,
    /// Where the API server listens, `address:port`.
    pub(crate) listen: Vec<String>,
    /// The address others reach.
    pub(crate) advertise_address: Option<String>,
    /// The ranges of pod addresses, if they are said.
    pub(crate) cluster_cidr: Option<String>,
    /// Ranges of addresses for load balancers.
    pub(crate) load_balancer_pool: Vec<String>,
    /// Describes the boards and where they stand, for a controller.
    pub(crate) site: Option<PathBuf>,
    /// How long a board may be silent.
    pub(crate) node_monitor_grace_period: Option<Duration>,
    /// The ranges of service addresses, if they are said.
    pub(crate) service_cidr: Option<String>,
    /// Whether a controller answers who looks for it on the link.
    pub(crate) mdns: bool,
    /// A bundle to join with, or to make.
    pub(crate) bundle: BundleOptions,
    /// The API server's URL, for an agent.
    pub(crate) server: Option<String>,
    /// A one-time token, for an agent.
    pub(crate) token: Option<String>,
    /// The cluster CA's pin, `sha256:<hex>`, for an agent.
    pub(crate) ca_pin: Option<String>,
    /// A file with token and pin, written by the controller and removed once used.
    pub(crate) join_file: Option<PathBuf>,
    /// Upstream's EncryptionConfiguration, for a controller.
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// The etcd that several controllers share; no servers: a file of this board's.
    pub(crate) etcd: EtcdOptions,
    /// The token that these controllers share.
    pub(crate) token_file: Option<PathBuf>,
    /// Snapshots by the clock, for a controller.
    pub(crate) snapshots: SnapshotOptions,
    /// Registries spoken to without TLS.
    pub(crate) insecure_registries: Vec<String>,
    /// `registry=url` of mirrors.
    pub(crate) registry_mirrors: Vec<String>,
    /// `host=file` of who signs their certificates.
    pub(crate) registry_authorities: Vec<String>,
    /// Where CNI configurations are, if plugins connect pods.
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Where CNI plugins are, `DIR[:DIR]`.
    pub(crate) cni_bin_dir: String,
    /// What joins boards that are apart, if it is said.
    pub(crate) overlay: Option<Overlay>,
    /// Seconds between signs of life through it.
    pub(crate) overlay_keepalive_s: Option<u16>,
    /// The board's resolvers.
    pub(crate) resolv_conf: PathBuf,
    /// The node waits until a provider has said where it stands.
    pub(crate) external_provider: bool,
    /// Port of the kubelet's HTTP server.
    pub(crate) kubelet_port: u16,
    /// How long a board may be silent, by its own Lease.
    pub(crate) node_lease_duration: Option<Duration>,
    /// The system's clock follows the controller's.
    pub(crate) set_clock: bool,
    /// The card of a flashed board, where it is not the one that was booted.
    pub(crate) card: Option<PathBuf>,
    /// `bramble.toml`: of a daemon, or what takes its place in an image.
    pub(crate) config: Option<PathBuf>,
    /// Files to put into an image.
    pub(crate) add: Vec<PathBuf>,
    /// Deploy the demonstration after start.
    pub(crate) demo: bool,
    /// End when the parent process ends; the supervisor asks its children for it.
    pub(crate) die_with_parent: bool,
}

/// Everything to join with in one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BundleOptions {
    /// The file, which an agent reads and `token create` writes.
    pub(crate) file: Option<PathBuf>,
    /// How long a new token is good.
    pub(crate) ttl: Option<Duration>,
}

/// Where an etcd is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdOptions {
    /// URLs of its members.
    pub(crate) servers: Vec<String>,
    /// Who signs their certificates.
    pub(crate) cafile: Option<PathBuf>,
    /// Our certificate.
    pub(crate) certfile: Option<PathBuf>,
    /// Its key.
    pub(crate) keyfile: Option<PathBuf>,
    /// What all keys begin with.
    pub(crate) prefix: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/bramble".into(),
            run_dir: "/run/bramble".into(),
            cgroup_root: None,
            node_name: None,
            listen: Vec::new(),
            advertise_address: None,
            cluster_cidr: None,
            service_cidr: None,
            load_balancer_pool: Vec::new(),
            site: None,
            node_monitor_grace_period: None,
            mdns: true,
            bundle: BundleOptions::default(),
            server: None,
            token: None,
            ca_pin: None,
            join_file: None,
            encryption_provider_config: None,
            etcd: EtcdOptions {
                servers: Vec::new(),
                cafile: None,
                certfile: None,
                keyfile: None,
                prefix: "/registry".into(),
            },
            token_file: None,
            snapshots: SnapshotOptions::default(),
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            registry_authorities: Vec::new(),
            cni_conf_dir: None,
            cni_bin_dir: CNI_BIN_DIR.into(),
            overlay: None,
            overlay_keepalive_s: None,
            resolv_conf: "/etc/resolv.conf".into(),
            external_provider: false,
            kubelet_port: 10250,
            node_lease_duration: None,
            set_clock: false,
            card: None,
            config: None,
            add: Vec::new(),
            demo: false,
            die_with_parent: false,
        }
    }
}

/// Other processes of ours are told, and work elsewhere: a path from the root.
fn directory(parser: &mut lexopt::Parser) -> Result<PathBuf, lexopt::Error> {
    let path = PathBuf::from(parser.value()?);
    std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Takes one long option and its value.
pub(super) fn option(options: &mut Options, name: &str, parser: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
    match name {
        "demo" => options.demo = true,
        "die-with-parent" => options.die_with_parent = true,
        "data-dir" => options.data_dir = directory(parser)?,
        "run-dir" => options.run_dir = directory(parser)?,
        "cgroup-root" => options.cgroup_root = Some(parser.value()?.string()?),
        "node-name" => options.node_name = Some(parser.value()?.string()?),
        "listen" => options.listen.push(parser.value()?.string()?),
        "advertise-address" => options.advertise_address = Some(parser.value()?.string()?),
        "cluster-cidr" => options.cluster_cidr = Some(parser.value()?.string()?),
        "load-balancer-pool" => {
            let ranges = parser.value()?.string()?;
            options.load_balancer_pool.extend(ranges.split(',').map(|range| range.trim().to_owned()));
        }
        "site" => options.site = Some(directory(parser)?),
        "node-monitor-grace-period" => {
            options.node_monitor_grace_period = Some(duration(&parser.value()?.string()?)?);
        }
        "node-lease-duration" => {
            let given = duration(&parser.value()?.string()?)?;
            if given > LEASE_MAX {
                return Err("--node-lease-duration: an hour is the most".into());
            }
            options.node_lease_duration = Some(given);
        }
        "service-cidr" => options.service_cidr = Some(parser.value()?.string()?),
        "no-mdns" => options.mdns = false,
        "set-clock" => options.set_clock = true,
        "bundle" => options.bundle.file = Some(parser.value()?.into()),
        "ttl" => options.bundle.ttl = Some(duration(&parser.value()?.string()?)?),
        "server" => options.server = Some(parser.value()?.string()?),
        "token" => options.token = Some(parser.value()?.string()?),
        "ca-pin" => options.ca_pin = Some(parser.value()?.string()?),
        "join-file" => options.join_file = Some(parser.value()?.into()),
        "encryption-provider-config" => options.encryption_provider_config = Some(parser.value()?.into()),
        "etcd-servers" => {
            let servers = parser.value()?.string()?;
            options
                .etcd
                .servers
                .extend(servers.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned));
        }
        "etcd-cafile" => options.etcd.cafile = Some(parser.value()?.into()),
        "etcd-certfile" => options.etcd.certfile = Some(parser.value()?.into()),
        "etcd-keyfile" => options.etcd.keyfile = Some(parser.value()?.into()),
        "etcd-prefix" => options.etcd.prefix = parser.value()?.string()?,
        "token-file" => options.token_file = Some(parser.value()?.into()),
        "insecure-registry" => options.insecure_registries.push(parser.value()?.string()?),
        "registry-mirror" => options.registry_mirrors.push(parser.value()?.string()?),
        "registry-ca" => options.registry_authorities.push(parser.value()?.string()?),
        "cni-conf-dir" => options.cni_conf_dir = Some(directory(parser)?),
        "cni-bin-dir" => options.cni_bin_dir = parser.value()?.string()?,
        "overlay" => options.overlay = Some(parser.value()?.parse()?),
        "overlay-keepalive" => options.overlay_keepalive_s = Some(parser.value()?.parse()?),
        "resolv-conf" => options.resolv_conf = parser.value()?.into(),
        "config" => options.config = Some(parser.value()?.into()),
        "add" => options.add.push(parser.value()?.into()),
        "card" => options.card = Some(parser.value()?.into()),
        "cloud-provider" => match parser.value()?.string()?.as_str() {
            "external" => options.external_provider = true,
            other => return Err(format!("--cloud-provider {other}: the only one is `external`").into()),
        },
        "kubelet-port" => options.kubelet_port = parser.value()?.parse()?,
        other => {
            if !options.snapshots.option(other, parser)? {
                return Err(format!("unknown option --{other}; `bramble --help` lists them").into());
            }
        }
    }
    Ok(())
}
