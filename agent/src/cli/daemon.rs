//! Shell: the two daemons, each one thread; they say `ready` on standard output, which the supervisor reads.

#[cfg(feature = "controller")]
use std::net::UdpSocket;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bramble_agent::agent;
use bramble_agent::images::{AuthorityFile, Registries};
use bramble_agent::instance::Instance;
use bramble_agent::join;
use bramble_agent::link::{Endpoint, KeyPin};
use bramble_agent::node::LEASE_DURATION;
use bramble_agent::platform;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::signal::unix::{SignalKind, signal};

use super::{Options, ranges, up};

/// Blocking work (the card, namespaces, netlink) happens on a few threads with small stacks, so that memory stays bounded.
const BLOCKING_THREADS: usize = 16;
/// The deepest blocking work is unpacking and JSON, both iterative.
const STACK_BYTES: usize = 512 * 1024;
/// A blocking thread that has nothing to do ends soon.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The place of the cluster's name server in the service range, as kubeadm and k3s have it.
const DNS_PLACE: u32 = 10;
/// The domain of the cluster.
const DOMAIN: &str = "cluster.local";

pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    platform::keep_one_heap();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .on_thread_park(platform::at_rest())
        .build()
        .context("cannot start the event loop")
}

/// With `--die-with-parent` the kernel tells this process when the supervisor is gone.
pub(crate) fn bind_to_parent(options: &Options) -> anyhow::Result<()> {
    if options.die_with_parent {
        set_parent_process_death_signal(Some(Signal::TERM)).context("cannot ask for the parent's death signal")?;
        // It may have died before it was asked for; then nobody reads what this process says.
        let stdout = std::io::stdout();
        let mut polls = [PollFd::new(&stdout, PollFlags::empty())];
        let _ = rustix::event::poll(&mut polls, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        if polls[0].revents().contains(PollFlags::ERR) {
            bail!("the supervisor is gone");
        }
    }
    Ok(())
}

/// Runs `work`, which is told by the future's end that a signal asks for its own.
fn with_end<F: Future<Output = anyhow::Result<()>>>(
    work: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>) -> F,
) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let end = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        work(Box::pin(end)).await
    });
    // What still runs on a blocking thread is either atomic or taken up again at the next start.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result.map(|()| ExitCode::SUCCESS)
}

fn node_name(options: &Options) -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    options.node_name.clone().unwrap_or_else(host)
}

/// The address with which this board speaks to others: that of the default route; else loopback's own.
#[cfg(feature = "controller")]
fn own_address(ipv4: bool) -> IpAddr {
    let probe = |from: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((from, 0))?;
        // Nothing is sent: the kernel only chooses the source address.
        socket.connect((to, 9))?;
        socket.local_addr()
    };
    // TEST-NET-1 (RFC 5737), and the prefix for documentation (RFC 3849).
    let found = if ipv4 {
        probe(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())
    } else {
        probe(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())
    };
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

#[cfg(feature = "controller")]
fn advertised(options: &Options) -> anyhow::Result<IpAddr> {
    match &options.advertise_address {
        Some(text) => text.parse().with_context(|| format!("--advertise-address {text:?} is no address")),
        // Pods reach the API at an address of the primary family.
        None => {
            Ok(own_address(!ranges::of_controller(options)[1].split(',').next().is_some_and(|it| it.contains(':'))))
        }
    }
}

fn listeners(options: &Options) -> anyhow::Result<Vec<SocketAddr>> {
    if options.listen.is_empty() {
        // An unspecified address of IPv6 takes callers of both families.
        let six = ranges::of_controller(options)[1].contains(':');
        let any = if six { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
        return Ok(vec![SocketAddr::new(any, 6443)]);
    }
    let parse = |text: &String| text.parse().with_context(|| format!("--listen {text:?} is no ADDRESS:PORT"));
    options.listen.iter().map(parse).collect()
}

/// The URL at which the agent beside a controller finds it.
pub(crate) fn local_server(options: &Options) -> anyhow::Result<String> {
    let listeners = listeners(options)?;
    let loopback = listeners.iter().find(|it| it.ip().is_unspecified() || it.ip().is_loopback());
    Ok(match (loopback, listeners.first()) {
        (Some(address), _) => format!("https://127.0.0.1:{}", address.port()),
        (None, Some(address)) => format!("https://{address}"),
        (None, None) => bail!("no address to listen on"),
    })
}

/// What the command line says of a controller.
#[cfg(feature = "controller")]
pub(crate) fn controller_options(options: &Options) -> anyhow::Result<bramble_controller::serve::Options> {
    use bramble_controller::cidr::Cidr;
    use bramble_controller::serve;
    let [cluster, service] = ranges::of_controller(options);
    let read = |text: &str, option| Cidr::list(text).map_err(|why| anyhow!("{option}: {why}"));
    let mut settings = serve::Options::new(options.data_dir.clone(), advertised(options)?, &node_name(options));
    settings.listen = listeners(options)?;
    settings.cluster_cidrs = read(&cluster, "--cluster-cidr")?;
    settings.service_cidrs = read(&service, "--service-cidr")?;
    for range in &options.load_balancer_pool {
        settings.load_balancer_pool.add(range).map_err(|why| anyhow!("--load-balancer-pool: {why}"))?;
    }
    if let Some(period) = options.node_monitor_grace_period {
        settings.node_monitor_grace_period = period;
    }
    settings.join_file.clone_from(&options.join_file);
    settings.encryption_provider_config.clone_from(&options.encryption_provider_config);
    settings.snapshots = schedules(options)?;
    settings.etcd = Some(etcd_servers(options)).filter(|etcd| !etcd.servers.is_empty());
    settings.token_file.clone_from(&options.token_file);
    Ok(settings)
}

/// Snapshots by the clock: one schedule for each place.
#[cfg(feature = "controller")]
fn schedules(options: &Options) -> anyhow::Result<Vec<bramble_controller::backup::Schedule>> {
    use bramble_controller::backup::{Place, Schedule};
    let snapshots = &options.snapshots;
    let folder = snapshots.folder(&options.data_dir).map(Place::Folder);
    let places = folder.into_iter().chain(snapshots.bucket()?.map(Place::Bucket));
    let every = snapshots.every.into_iter();
    let keep = snapshots.keep;
    let all = every.flat_map(|every| places.clone().map(move |place| Schedule { every, keep, place }));
    Ok(all.collect())
}

/// The site that the file of `--site` describes. One mistake, and a controller does not start.
#[cfg(feature = "controller")]
pub(crate) fn site(options: &Options) -> anyhow::Result<Option<std::sync::Arc<bramble_controller::controllers::Site>>> {
    use std::io::Read;

    use bramble_controller::controllers::{SITE_BYTES_MAX, Site};
    let Some(path) = &options.site else { return Ok(None) };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("--site: cannot open {}", path.display()))?;
    let read = file.take(SITE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("--site: cannot read {}", path.display()))?;
    let site = Site::parse(&bytes).map_err(|mistakes| {
        let told: Vec<String> = mistakes.iter().map(|mistake| format!("{}, {mistake}", path.display())).collect();
        anyhow!("--site: {}", told.join("\n"))
    })?;
    Ok(Some(std::sync::Arc::new(site)))
}

#[cfg(feature = "controller")]
pub(crate) fn controller(options: &Options) -> anyhow::Result<ExitCode> {
    use bramble_agent::discovery::{self, Announcement};
    use bramble_controller::serve;
    let _only = up::succeed(&options.data_dir, "controller")?;
    let mut settings = controller_options(options)?;
    settings.site = site(options)?;
    let node_name = node_name(options);
    let port = settings.listen.first().map_or(6443, SocketAddr::port);
    let announced =
        Some(SocketAddr::new(settings.advertise_address, port)).filter(|it| options.mdns && !it.ip().is_loopback());
    with_end(|end| async move {
        serve::run(settings, end, move |ready| {
            println!("ready; kubeconfig {}", ready.kubeconfig.display());
            if let Some(address) = announced {
                let announcement = Announcement { address, pins: ready.pins.borrow().clone(), node_name };
                tokio::spawn(discovery::announce(announcement, ready.pins));
            }
        })
        .await?;
        Ok(())
    })
}

/// The etcd that the command line names.
#[cfg(feature = "controller")]
fn etcd_servers(options: &Options) -> bramble_controller::serve::EtcdServers {
    let super::options::EtcdOptions { servers, cafile, certfile, keyfile, prefix } = options.etcd.clone();
    bramble_controller::serve::EtcdServers { servers, cafile, certfile, keyfile, prefix }
}

#[cfg(not(feature = "controller"))]
pub(crate) fn controller(_options: &Options) -> anyhow::Result<ExitCode> {
    bail!("this is a worker-only build; the controller is in the full one")
}

/// What a board joins with.
#[derive(Default)]
struct Credentials {
    servers: Vec<Endpoint>,
    token: Option<String>,
    token_until_ms: Option<i64>,
    pins: Vec<KeyPin>,
    ranges: Option<[String; 2]>,
}

/// From the join file, from a bundle, or from the command line, which knows better where the servers are.
fn credentials(options: &Options) -> anyhow::Result<Credentials> {
    let mut found = Credentials::default();
    let pin = |text: &String| KeyPin::parse(text).ok_or_else(|| anyhow!("--ca-pin must be sha256: and 64 hex digits"));
    let pin = options.ca_pin.as_ref().map(pin).transpose()?;
    if let Some(path) = options.join_file.as_ref().filter(|path| path.exists()) {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (token, pins) = agent::read_join_file(&text).map_err(|message| anyhow!(message))?;
        (found.token, found.pins) = (Some(token), pins);
    } else if let Some(path) = &options.bundle.file {
        let bundle = join::read_bundle(path).with_context(|| format!("the join bundle {}", path.display()))?;
        if let Some(pin) = &pin {
            bundle.expect(pin)?;
        }
        found.pins.extend(bundle.pin());
        found.ranges.clone_from(&bundle.ranges);
        (found.token, found.token_until_ms) = (Some(bundle.token), Some(bundle.expires_ms));
        for server in &bundle.servers {
            found.servers.push(Endpoint::parse(server).map_err(|message| anyhow!(message))?);
        }
    } else {
        (found.token, found.pins) = (options.token.clone(), pin.into_iter().collect());
    }
    if let Some(servers) = &options.server {
        let servers = servers.split(',').map(|text| Endpoint::parse(text).map_err(|message| anyhow!(message)));
        found.servers = servers.collect::<Result<_, _>>()?;
    }
    Ok(found)
}

/// What the command line says of registries.
fn registries(options: &Options) -> anyhow::Result<Registries> {
    let mut registries = Registries { insecure: options.insecure_registries.clone(), ..Registries::default() };
    for mirror in &options.registry_mirrors {
        registries.mirrors.add(mirror).map_err(|message| anyhow!("--registry-mirror: {message}"))?;
    }
    for authority in &options.registry_authorities {
        let file = AuthorityFile::parse(authority).map_err(|message| anyhow!("--registry-ca: {message}"))?;
        // Found out now, not at the first pull.
        let readable = CertificateDer::pem_file_iter(&file.path)
            .is_ok_and(|mut found| found.next().is_some_and(|one| one.is_ok()));
        if !readable {
            bail!("--registry-ca: {} holds no certificate in PEM", file.path.display());
        }
        registries.authority_files.push(file);
    }
    Ok(registries)
}

pub(crate) fn agent(options: &Options) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("the agent makes namespaces, mounts and cgroups: run it as root (sudo)");
    }
    up::private_dir(&options.data_dir)?;
    up::private_dir(&options.run_dir)?;
    // Under `up` the supervisor holds the lock of the whole data directory.
    let _lock = if options.die_with_parent { None } else { Some(up::lock(&options.data_dir, up::LOCK_FILE)?) };
    let _only = up::succeed(&options.data_dir, "agent")?;
    let found = credentials(options)?;
    let [cluster_cidrs, service_cidrs] = ranges::of_agent(options, found.ranges.as_ref())?;
    let settings = agent::Options {
        instance: Instance::new(&options.data_dir, &options.run_dir, options.cgroup_root.as_deref()),
        node_name: node_name(options),
        servers: found.servers,
        token: found.token,
        token_until_ms: found.token_until_ms,
        pins: found.pins,
        node_ips: Vec::new(),
        labels: Vec::new(),
        taints: if options.external_provider { vec![agent::awaits_provider()] } else { Vec::new() },
        dns_addresses: service_cidrs.iter().filter_map(|range| range.nth(DNS_PLACE)).collect(),
        cluster_cidrs,
        service_cidrs,
        cluster_domain: DOMAIN.to_owned(),
        registries: registries(options)?,
        overlay: options.overlay.unwrap_or_default(),
        overlay_keepalive_s: options.overlay_keepalive_s.unwrap_or_default(),
        cni: options.cni_conf_dir.clone().map(|conf_dir| agent::CniFolders {
            conf_dir,
            bin_dirs: std::env::split_paths(&options.cni_bin_dir).collect(),
        }),
        resolv_conf: options.resolv_conf.clone(),
        kubelet_port: options.kubelet_port,
        set_clock: options.set_clock,
        lease_duration: options.node_lease_duration.unwrap_or(LEASE_DURATION),
    };
    with_end(|end| async move {
        agent::run(settings, end, || println!("ready; the node is registered")).await?;
        Ok(())
    })
}
