//! Shell: puts the control plane together and listens.

mod backing;
mod certificates;
mod common_keys;
mod front;
pub(crate) mod listener;
mod migrate;
mod peers;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bramble_store::Store;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::{Api, Kubelets};
use crate::authn::Authenticator;
use crate::authn::tokens::Tokens;
use crate::authz::Authorizer;
use crate::backup::{self, Schedule};
use crate::bootstrap::{self, Facts};
use crate::cidr::Cidr;
use crate::client::{Client, ClientError};
use crate::controllers::{self, Pool, Site, node_bits};
use crate::election::{Candidate, lead};
use crate::encryption::{Encryption, EncryptionError};
use crate::identity::Identity;
use crate::kinds::Kinds;
use crate::object::time;
use crate::pki::tls::ServingNames;
use crate::pki::{self, Pki, PkiError};
use crate::registry::{Registry, ServiceRanges, uuid};
use crate::scheduler;

pub use self::backing::EtcdServers;
use self::certificates::{Keys, publish_authorities, write_kubeconfig};
use self::front::Front;
pub use self::migrate::{Migration, migrate_store};

/// How long the token in the join file is good for: the agent beside us takes it at once.
const JOIN_TOKEN_S: i64 = 24 * 3600;
/// Upstream's node-monitor-grace-period.
pub const NODE_GRACE: Duration = Duration::from_secs(50);
/// The administrator's kubeconfig in the data directory.
const KUBECONFIG: &str = "admin.kubeconfig";
/// For giving back Leases when this control plane is stopped; a supervisor waits longer.
const HANDING_OVER: Duration = Duration::from_secs(3);

/// The place of cluster DNS in the service ranges, as kubeadm and k3s have it.
const DNS_PLACE: u128 = 10;
/// A service range has room for the API's own Service and for DNS.
const LEAST_SERVICE_BITS: u8 = 4;

/// What a control plane is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the store and the keys lie; made when it is missing.
    pub data_dir: PathBuf,
    /// Addresses to listen on; at least one.
    pub listen: Vec<SocketAddr>,
    /// The address that nodes and pods reach this server by; never loopback. The port is that of the first listener.
    pub advertise_address: IpAddr,
    /// This board's name, for the serving certificate.
    pub node_name: String,
    /// Service addresses: one range, or one of each family, the primary one first.
    pub service_cidrs: Vec<Cidr>,
    /// Pod addresses, as many ranges in the same order; each node gets a /24 of IPv4 and a /64 of IPv6.
    pub cluster_cidrs: Vec<Cidr>,
    /// Addresses for Services of type LoadBalancer.
    pub load_balancer_pool: Pool,
    /// The boards and where they stand, if the site is described.
    pub site: Option<Arc<Site>>,
    /// A node may be silent this long before it counts as lost.
    pub node_monitor_grace_period: Duration,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Node ports.
    pub node_port_range: RangeInclusive<u16>,
    /// Where a one-time token and the CA's pin are written (0600) for the agent beside us.
    pub join_file: Option<PathBuf>,
    /// Upstream's EncryptionConfiguration; without one, Secrets are sealed with a key of our own.
    pub encryption_provider_config: Option<PathBuf>,
    /// Snapshots by the clock, where somebody wants them.
    pub snapshots: Vec<Schedule>,
    /// An etcd that several controllers share, in place of a file of this board's.
    pub etcd: Option<EtcdServers>,
    /// The token that these controllers share; without one, `cluster-token` in the data directory.
    pub token_file: Option<PathBuf>,
}

impl Options {
    /// The usual cluster with everything under a directory, listening on every address.
    pub fn new(data_dir: PathBuf, advertise_address: IpAddr, node_name: &str) -> Self {
        Self {
            data_dir,
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 6443))],
            advertise_address,
            node_name: node_name.to_owned(),
            service_cidrs: ServiceRanges::default().addresses,
            cluster_cidrs: vec![Cidr::new(IpAddr::from([10, 42, 0, 0]), 16)],
            load_balancer_pool: Pool::default(),
            site: None,
            node_monitor_grace_period: NODE_GRACE,
            cluster_domain: "cluster.local".to_owned(),
            node_port_range: 30_000..=32_767,
            join_file: None,
            encryption_provider_config: None,
            snapshots: Vec::new(),
            etcd: None,
            token_file: None,
        }
    }

    fn ranges(&self) -> ServiceRanges {
        ServiceRanges { addresses: self.service_cidrs.clone(), ports: self.node_port_range.clone() }
    }

    /// The addresses at a place of the service ranges.
    fn service_addresses(&self, place: u128) -> Vec<IpAddr> {
        self.service_cidrs.iter().filter_map(|range| range.nth(place)).collect()
    }

    /// The address of the Service `kubernetes`.
    fn api_service(&self) -> Result<IpAddr, ServeError> {
        let cidrs = [&self.cluster_cidrs, &self.service_cidrs];
        let [pods, services] = cidrs.map(|ranges| ranges.iter().map(Cidr::family).collect::<Vec<_>>());
        if pods != services {
            return Err(ServeError::Families(
                "--cluster-cidr and --service-cidr must name the same families in one order",
            ));
        }
        let fits = |range: &&Cidr, bits: u8| range.bits() <= bits;
        if !self.cluster_cidrs.iter().all(|range| fits(&range, node_bits(range))) {
            return Err(ServeError::Families(
                "--cluster-cidr is too small: a board gets a /24 of IPv4 and a /64 of IPv6",
            ));
        }
        if self.service_cidrs.iter().any(|range| range.size() < 1 << LEAST_SERVICE_BITS) {
            return Err(ServeError::Families("--service-cidr is too small: give it 16 addresses or more"));
        }
        let first =
            self.service_addresses(1).first().copied().ok_or(ServeError::Families("--service-cidr is missing"))?;
        if first.is_ipv4() != self.advertise_address.is_ipv4() && !self.advertise_address.is_loopback() {
            return Err(ServeError::Families(
                "--advertise-address must be of the family of the first --service-cidr, or pods do not reach the API",
            ));
        }
        Ok(first)
    }
}

/// What a control plane tells when it serves.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The pins that boards may know the cluster by, the newest authority's first; they change with the authorities.
    pub pins: watch::Receiver<Vec<String>>,
    /// A client with all rights, in this process.
    pub admin: AdminClient,
}

/// A client in `system:masters`.
#[derive(Clone)]
pub struct AdminClient(pub Client);

impl std::fmt::Debug for AdminClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminClient")
    }
}

/// Why a control plane does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be made.
    #[error("cannot make {}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be opened with the keys that are there.
    #[error("the store and its keys")]
    Store(#[from] EncryptionError),
    /// The store cannot be read.
    #[error("cannot read the store")]
    Read(#[from] bramble_store::ReadError),
    /// Keys or certificates.
    #[error("keys and certificates")]
    Pki(#[from] PkiError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The first objects cannot be made.
    #[error("cannot make the objects that a cluster starts with")]
    Bootstrap(#[from] ClientError),
    /// No token for the agent beside us.
    #[error("cannot make a join token")]
    Token(#[from] bootstrap::tokens::TokenError),
    /// A file cannot be read or moved.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing to migrate.
    #[error("there is no store at {}", .0.display())]
    NoFile(PathBuf),
    /// A cluster's memory could not be moved.
    #[error("cannot migrate the store")]
    Migrate(#[from] bramble_store::MigrateError),
    /// Ranges of addresses that do not fit together.
    #[error("{0}")]
    Families(&'static str),
    /// Flags that do not fit together.
    #[error("{0}")]
    EtcdFlags(&'static str),
    /// This build has no etcd.
    #[error("this bramble was built without etcd: `cargo build --release --features etcd` makes one that has it")]
    NoEtcd,
    /// What controllers share is not what it should be.
    #[error("the keys that controllers share")]
    CommonKeys(#[source] serde_json::Error),
    /// The store cannot be written.
    #[error("cannot write the store")]
    Write(#[source] bramble_store::WriteError),
    /// Other controllers kept changing the keys that they share.
    #[error(
        "other controllers renewed certificates at the same time: look with `bramble certificate check`, try again"
    )]
    Contended,
    /// No address to listen on was given.
    #[error("no address to listen on")]
    NoListener,
}

/// By how much the control plane's clock is ahead of the system's, in seconds: for tests of what days do to a cluster.
const CLOCK_AHEAD: &str = "BRAMBLE_CLOCK_AHEAD_S";

/// Time since 1970 by the system's clock; the one place of the control plane that asks it.
pub fn wall_clock() -> Duration {
    static AHEAD: LazyLock<Duration> = LazyLock::new(|| {
        let seconds = std::env::var(CLOCK_AHEAD).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
        if seconds > 0 {
            tracing::warn!(seconds, "the clock is ahead, as {CLOCK_AHEAD} says");
        }
        Duration::from_secs(seconds)
    });
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + *AHEAD
}

/// The same as Leases have it.
pub(crate) fn micro_time() -> String {
    time::format_micros(i64::try_from(wall_clock().as_micros()).unwrap_or(i64::MAX))
}

fn now() -> i64 {
    i64::try_from(wall_clock().as_secs()).unwrap_or(i64::MAX)
}

/// Runs a control plane until it fails, or until `stop` ends and what others wait for is handed over; the future may also be
/// dropped. `ready` is called once when it serves.
pub async fn run(
    options: Options,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), ServeError> {
    let api_service = options.api_service()?;
    let make = |source| ServeError::DataDir { path: options.data_dir.clone(), source };
    std::fs::create_dir_all(&options.data_dir).map_err(make)?;
    let listeners = bind(&options).await?;
    let port = options.listen.first().ok_or(ServeError::NoListener)?.port();
    let advertised = SocketAddr::new(options.advertise_address, port);
    let (store, encryption) = backing::open(&options).await?;
    let pki = match &options.etcd {
        Some(_) => common_keys::open(&store, &options.data_dir, now()).await?,
        None => Pki::open(&options.data_dir, now())?,
    };
    let pki = Arc::new(pki);
    let keys = Arc::new(Keys { pki: pki.clone(), shared: options.etcd.as_ref().map(|_| store.clone()) });
    let front = Arc::new(assemble(&options, &keys, store.clone(), advertised, encryption.clone()));
    front.authorizer.follow(&store).await?;
    front.authenticator.follow(&store).await?;

    let mut tasks = JoinSet::new();
    let registry = front.api.registry().clone();
    tasks.spawn(async move { registry.expire_events().await });
    for schedule in &options.snapshots {
        tasks.spawn(backup::run(store.clone(), schedule.clone()));
    }
    let api = front.api.clone();
    let well = move |all_well| api.readiness().set("kms-providers", all_well);
    tasks.spawn(encryption.services()?.follow(store, well));
    let admin = front.client("system:apiserver");
    let facts = Facts {
        advertised,
        api_service,
        dns_service: options.service_addresses(DNS_PLACE),
        ranges: [&options.cluster_cidrs, &options.service_cidrs].map(|ranges| Cidr::written(ranges)),
        authority_pem: pki.authorities().bundle_pem(),
        peers: options.etcd.is_some(),
    };
    bootstrap::ensure(&admin, &facts).await?;
    write_files(&options, &pki, &admin, advertised).await?;
    tasks.spawn(keys.follow());
    let pins = watch::Sender::new(pki.authorities().pins());
    let pins_told = pins.subscribe();
    tasks.spawn(publish_authorities(pki.clone(), admin.clone(), facts, options.data_dir.clone(), pins));

    let names = [advertised.ip()];
    let names = ServingNames::new(&options.node_name, &names, api_service, &options.cluster_domain);
    let tls = pki.server_config(&names, now())?;
    for listener in listeners {
        tasks.spawn(listener::listen(listener, tls.clone(), front.clone()));
    }
    let (stopping, shutdown) = watch::channel(false);
    let mut handing_over = JoinSet::new();
    let identity = format!("{}_{}", options.node_name, uuid());
    // One controller over a file leads by itself; several elect, each component for itself.
    let those = if options.etcd.is_some() {
        handing_over.spawn(peer(&options, &front, advertised, &identity).run(shutdown.clone()));
        &mut handing_over
    } else {
        &mut tasks
    };
    start_controllers(those, &options, &front, &pki, &shutdown, &identity);
    front.api.readiness().set("poststarthook/bramble-bootstrap", true);
    ready(Ready { kubeconfig: options.data_dir.join(KUBECONFIG), pins: pins_told, admin: AdminClient(admin) });
    tokio::select! {
        () = ended(&mut tasks) => {}
        () = stop => {
            let _ = stopping.send(true);
            // What is not handed over by then, others find out.
            let _ = timeout(HANDING_OVER, ended(&mut handing_over)).await;
        }
    }
    Ok(())
}

/// Until all of them have.
async fn ended(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// This API server among the others of its cluster.
fn peer(options: &Options, front: &Front, advertised: SocketAddr, identity: &str) -> peers::Peer {
    let api = front.api.clone();
    peers::Peer {
        client: front.client("system:apiserver"),
        advertised,
        node_name: options.node_name.clone(),
        identity: identity.to_owned(),
        readiness: Arc::new(move |ready| api.readiness().set("etcd", ready)),
    }
}

async fn bind(options: &Options) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = Vec::new();
    for address in &options.listen {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|source| ServeError::Listen { address: *address, source })?);
    }
    Ok(listeners)
}

fn assemble(
    options: &Options,
    keys: &Arc<Keys>,
    store: Store,
    advertised: SocketAddr,
    encryption: Encryption,
) -> Front {
    let pki = &keys.pki;
    let tokens = Tokens::new(pki, &options.cluster_domain);
    let authenticator = Authenticator::new(store.clone(), pki.follow_authorities(), tokens, wall_clock);
    let authorizer = Authorizer::new();
    let registry = Registry::new(store, Kinds::builtin(), wall_clock, options.ranges(), authorizer.clone());
    let api = Api::new(Arc::new(registry), authorizer.clone(), Some(authenticator.clone()), wall_clock, advertised)
        .with_kubelets(Kubelets::new(pki.kubelet_client(), advertised))
        .with_encryption(encryption)
        .with_certificates(keys.clone());
    Front { api: Arc::new(api), authenticator, authorizer, authorities: pki.follow_authorities() }
}

/// The administrator's kubeconfig, and what the agent beside us joins with: the token and the pin, a line each.
async fn write_files(options: &Options, pki: &Pki, admin: &Client, advertised: SocketAddr) -> Result<(), ServeError> {
    write_kubeconfig(&options.data_dir, pki, advertised)?;
    if let Some(path) = &options.join_file {
        let token = bootstrap::tokens::create(admin, Some(now() + JOIN_TOKEN_S), "the agent on this board").await?;
        pki::write_secret_file(path, &format!("{}\n{}\n", token.reveal(), pki.authorities().newest.pin()))?;
    }
    Ok(())
}

fn start_controllers(
    tasks: &mut JoinSet<()>,
    options: &Options,
    front: &Arc<Front>,
    pki: &Arc<Pki>,
    shutdown: &watch::Receiver<bool>,
    identity: &str,
) {
    let (signer, issuer) = (pki.clone(), front.authenticator.clone());
    let settings = controllers::Options {
        root_ca: pki.authorities().bundle_pem(),
        cluster_cidrs: options.cluster_cidrs.clone(),
        load_balancer_pool: options.load_balancer_pool.clone(),
        site: options.site.clone(),
        node_grace: options.node_monitor_grace_period,
        sign: Arc::new(move |request: &Value, now| signer.authorities().newest.sign_object(request, now)),
        account_token: Arc::new(move |namespace: &str, name: &str, uid: &str, secret: &str| {
            let token = issuer.tokens().issue_legacy(namespace, (name, uid), secret);
            token.map(|token| token.reveal().to_owned()).map_err(|error| error.to_string())
        }),
    };
    let elects = options.etcd.is_some();
    let candidate =
        |lease, component: &str| Candidate { client: front.client(component), lease, identity: identity.to_owned() };
    let of_scheduler = candidate("kube-scheduler", "system:kube-scheduler");
    let (client, stop, told) = (front.client("system:kube-scheduler"), shutdown.clone(), shutdown.clone());
    let schedule = move || scheduler::run(client.clone(), stop.clone());
    tasks.spawn(async move { if elects { lead(of_scheduler, told, schedule).await } else { schedule().await } });

    let of_controllers = candidate("kube-controller-manager", "system:kube-controller-manager");
    let (clients, stop, told) = (front.clone(), shutdown.clone(), shutdown.clone());
    let authorities = pki.follow_authorities();
    let control = move || {
        let (clients, mut settings, stop) = (clients.clone(), settings.clone(), stop.clone());
        let mut authorities = authorities.clone();
        async move {
            if elects {
                clients.api.registry().adopt_events().await;
            }
            let client = |name: &str| match name {
                "kube-controller-manager" => clients.client("system:kube-controller-manager"),
                account => clients.as_identity(Identity::service_account("kube-system", account)),
            };
            // What they publish of the authorities is theirs from the start, so with others they start again.
            loop {
                settings.root_ca = authorities.borrow_and_update().bundle_pem();
                tokio::select! {
                    () = controllers::run(client, settings.clone(), stop.clone()) => return,
                    Ok(()) = authorities.changed() => {}
                }
            }
        }
    };
    tasks.spawn(async move { if elects { lead(of_controllers, told, control).await } else { control().await } });
}
