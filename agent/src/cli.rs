//! Pure: the command line: what each verb takes, and its help. Each verb is a file below.

mod admin;
pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod config_file;
pub(crate) mod daemon;
pub(crate) mod demo;
pub(crate) mod down;
pub(crate) mod hello;
pub(crate) mod image;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod slot;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod up;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use snapshot::options::{SnapshotOptions, duration};

/// What `bramble` without words, or with `--help`, prints.
pub(crate) const HELP: &str = "\
bramble - Kubernetes for small boards

  bramble up           controller and agent on this board   [--demo]
  bramble controller   the control plane alone
  bramble agent        a worker: --token TOKEN --ca-pin PIN [--server URL[,URL]: not the one found on this link]
                       or --bundle FILE, or --config bramble.toml
  bramble down         stop, and remove every trace on this host   [--purge: the data too]
  bramble check        say what this machine lacks, each with its cure, and what of the stores is damaged
  bramble token        create [--ttl 24h] [--bundle FILE: to carry to a board] | list | revoke ID
  bramble node         list: the boards' keys | revoke NAME: a board that was stolen | readmit NAME
  bramble snapshot     save FILE | inspect FILE | restore FILE   of the store
                       list | fetch NAME FILE: of those that were taken by the clock
  bramble apply        PATH: manifests into this board's own cluster, a file or a folder
  bramble image        import FILE [NAME] | list | rm NAME
                       customise CARD.img [--config FILE] [--add FILE]...: its bramble.toml, manifests, archives
                       flash CARD.img[.zst] DEVICE: writes and verifies a card, in this computer
  bramble store        rotate: new keys for what is sealed at rest
                       salvage FILE: what is whole of a damaged store, into a new one
                       migrate --from file --to etcd, or back: with every controller stopped, and compared
  bramble logs         NAMESPACE/POD[/CONTAINER], without the controller; without words: of a flashed board itself
  bramble slot         status | install FILE | confirm: the two systems of a flashed board   [--card DEVICE]
  bramble reboot       stop pods first, then start a flashed board again; `bramble poweroff` leaves it off

Options that most of them take
  --data-dir DIR            what survives a reboot          (default /var/lib/bramble)
  --run-dir DIR             what does not                   (default /run/bramble)
  --cgroup-root NAME        parent of every pod's cgroup    (default bramble-<instance>)
  --node-name NAME          this board's node               (default: the host name)
  --config FILE             a bramble.toml, for up, controller and agent: options that are not given
Options of up and controller
  --listen ADDR:PORT        repeatable                      (default 0.0.0.0:6443)
  --advertise-address IP    the address others reach        (default: of the default route)
  --no-mdns                 boards of this link are not told where the controller is (multicast DNS)
  --cluster-cidr CIDR       pods                            (default 10.42.0.0/16)
  --service-cidr CIDR       services                        (default 10.43.0.0/16)
  --load-balancer-pool RANGE[,RANGE]   such as 192.168.1.240-192.168.1.250: for Services of type LoadBalancer
  --snapshot-every TIME     such as 12h, 30m: snapshots by the clock, of root alone   (default: none)
  --snapshot-keep N         the newest ones stay            (default 5)
  --snapshot-dir DIR        where                           (default <data dir>/snapshots, if no bucket is named)
  --snapshot-s3 URL         a bucket of S3 or its like: https://host[:port]/bucket[/prefix]
  --snapshot-s3-credentials FILE   its keys, as the AWS tools keep them: root's alone
  --snapshot-s3-region R    (default us-east-1)    --snapshot-s3-ca FILE   who signs its certificate
  --encryption-provider-config FILE   what is sealed at rest, as upstream's   (default: Secrets)
  --etcd-servers URL[,URL]  a shared etcd for several controllers (default: a file; needs a build with --features etcd)
  --etcd-cafile, --etcd-certfile, --etcd-keyfile FILE   for https:// URLs
  --etcd-prefix PATH        what its keys begin with        (default /registry)
  --token-file FILE         what these controllers share    (default: cluster-token in the first one's data directory)
Options of up and agent
  --insecure-registry HOST[:PORT]   plain HTTP for this registry only; repeatable
  --registry-mirror REGISTRY=URL    asked before the registry, in the order given; * is for all others; repeatable
  --registry-ca HOST[:PORT]=FILE    who signs a registry's or mirror's certificate, in PEM; repeatable
  --resolv-conf FILE                resolvers of foreign names (default /etc/resolv.conf)
  --kubelet-port PORT               (default 10250)
Logging: BRAMBLE_LOG=error|warn|info|debug|trace (default info)
";

/// One parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Controller and agent under one supervisor.
    Up,
    /// The control plane.
    Controller,
    /// A worker.
    Agent,
    /// Remove every trace of this instance; with `purge` its data too.
    Down {
        /// Remove the data directory as well.
        purge: bool,
    },
    /// What the machine lacks.
    Check,
    /// Join tokens.
    Token(TokenVerb),
    /// Boards and their keys.
    Node(NodeVerb),
    /// The store as a file.
    Snapshot(SnapshotVerb),
    /// Manifests into this board's own cluster.
    Apply(PathBuf),
    /// Images on this board.
    Image(ImageVerb),
    /// The controller's store.
    Store(StoreVerb),
    /// A container's log, read on the board; none is the board's own.
    Logs(Option<String>),
    /// The two systems of a flashed board.
    Slot(SlotVerb),
    /// Process 1 of a flashed board.
    Init,
    /// The orderly end of a flashed board; with `off` it does not start again.
    Reboot {
        /// Power off.
        off: bool,
    },
    /// Applies the demonstration to a running cluster; `up --demo` calls it.
    Demo,
    /// The demonstration's own container.
    Hello {
        /// The TCP port it listens on.
        port: u16,
    },
    /// The help text.
    Help,
    /// The version line.
    Version,
}

/// `bramble token ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenVerb {
    /// A new token; prints a ready join line.
    Create,
    /// Token ids and when they expire.
    List,
    /// Forget one, by id.
    Revoke(String),
}

/// `bramble node ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeVerb {
    /// Which keys were signed for which node.
    List,
    /// Shuts a board out, with everything that it holds.
    Revoke(String),
    /// Takes that back.
    Readmit(String),
}

/// `bramble snapshot ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapshotVerb {
    /// Into a new file, from the running controller.
    Save(PathBuf),
    /// Checks a file and says what is in it.
    Inspect(PathBuf),
    /// Makes a store of it; there must be none.
    Restore(PathBuf),
    /// Those that were taken by the clock.
    List,
    /// Brings one of them.
    Fetch {
        /// As `list` names it.
        name: String,
        /// A new file.
        file: PathBuf,
    },
}

/// `bramble image ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageVerb {
    /// An OCI layout (folder or tar) or a docker archive, under another name if one is given.
    Import {
        /// Where it lies.
        path: PathBuf,
        /// The reference that it gets.
        name: Option<String>,
    },
    /// References, digests and sizes.
    List,
    /// Forget one reference.
    Remove(String),
    /// Edits a card's image; without options prints its `bramble.toml`.
    Customise(PathBuf),
    /// Writes a card.
    Flash {
        /// The card's image.
        image: PathBuf,
        /// The whole disk.
        device: PathBuf,
    },
}

/// `bramble slot ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SlotVerb {
    /// Which system runs, and which boots next.
    Status,
    /// Write an update into the other one, to be booted once.
    Install(PathBuf),
    /// The running one boots from now on.
    Confirm,
}

/// `bramble store ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreVerb {
    /// New keys at rest, in the running store.
    Rotate,
    /// Write what is whole into a new store.
    Salvage(PathBuf),
    /// From the file of the data directory into a shared etcd, or back.
    Migrate {
        /// Into etcd.
        to_etcd: bool,
    },
}

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
    /// The range of pod addresses.
    pub(crate) cluster_cidr: String,
    /// Ranges of addresses for load balancers.
    pub(crate) load_balancer_pool: Vec<String>,
    /// The range of service addresses.
    pub(crate) service_cidr: String,
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
    /// The board's resolvers.
    pub(crate) resolv_conf: PathBuf,
    /// Port of the kubelet's HTTP server.
    pub(crate) kubelet_port: u16,
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
            cluster_cidr: "10.42.0.0/16".into(),
            service_cidr: "10.43.0.0/16".into(),
            load_balancer_pool: Vec::new(),
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
            resolv_conf: "/etc/resolv.conf".into(),
            kubelet_port: 10250,
            card: None,
            config: None,
            add: Vec::new(),
            demo: false,
            die_with_parent: false,
        }
    }
}

/// Parses everything after the program's name.
///
/// # Errors
/// An unknown verb or option, a missing value, one word too many.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Command, Options), lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut words, mut options, mut purge, mut port) = (Vec::<String>::new(), Options::default(), false, 8080);
    let (mut from, mut to) = (String::new(), String::new());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") | Short('h') => return Ok((Command::Help, options)),
            Long("version") | Short('V') => return Ok((Command::Version, options)),
            Long("purge") => purge = true,
            Long("from") => from = parser.value()?.string()?,
            Long("to") => to = parser.value()?.string()?,
            Long("port") => port = parser.value()?.parse()?,
            Long(name) => {
                let name = name.to_owned();
                option(&mut options, &name, &mut parser)?;
            }
            Value(word) => words.push(word.string()?),
            other @ Short(_) => return Err(other.unexpected()),
        }
    }
    Ok((command(&words, purge, port, (&from, &to))?, options))
}

/// Takes one long option and its value.
fn option(options: &mut Options, name: &str, parser: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
    match name {
        "demo" => options.demo = true,
        "die-with-parent" => options.die_with_parent = true,
        "data-dir" => options.data_dir = parser.value()?.into(),
        "run-dir" => options.run_dir = parser.value()?.into(),
        "cgroup-root" => options.cgroup_root = Some(parser.value()?.string()?),
        "node-name" => options.node_name = Some(parser.value()?.string()?),
        "listen" => options.listen.push(parser.value()?.string()?),
        "advertise-address" => options.advertise_address = Some(parser.value()?.string()?),
        "cluster-cidr" => options.cluster_cidr = parser.value()?.string()?,
        "load-balancer-pool" => {
            let ranges = parser.value()?.string()?;
            options.load_balancer_pool.extend(ranges.split(',').map(|range| range.trim().to_owned()));
        }
        "service-cidr" => options.service_cidr = parser.value()?.string()?,
        "no-mdns" => options.mdns = false,
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
        "resolv-conf" => options.resolv_conf = parser.value()?.into(),
        "config" => options.config = Some(parser.value()?.into()),
        "add" => options.add.push(parser.value()?.into()),
        "card" => options.card = Some(parser.value()?.into()),
        "kubelet-port" => options.kubelet_port = parser.value()?.parse()?,
        other => {
            if !options.snapshots.option(other, parser)? {
                return Err(format!("unknown option --{other}; `bramble --help` lists them").into());
            }
        }
    }
    Ok(())
}

/// Whether a migration goes into etcd.
fn migration(ends: (&str, &str)) -> Result<bool, lexopt::Error> {
    match ends {
        ("file", "etcd") => Ok(true),
        ("etcd", "file") => Ok(false),
        _ => Err("say `--from file --to etcd` or `--from etcd --to file`".into()),
    }
}

/// The verb that the words name.
fn command(words: &[String], purge: bool, port: u16, ends: (&str, &str)) -> Result<Command, lexopt::Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        [] => Command::Help,
        ["up"] => Command::Up,
        ["controller"] => Command::Controller,
        ["agent"] => Command::Agent,
        ["down"] => Command::Down { purge },
        ["check"] => Command::Check,
        ["demo"] => Command::Demo,
        ["hello"] => Command::Hello { port },
        ["token", "create"] => Command::Token(TokenVerb::Create),
        ["token", "list"] => Command::Token(TokenVerb::List),
        ["token", "revoke", id] => Command::Token(TokenVerb::Revoke((*id).to_owned())),
        ["node", "list"] => Command::Node(NodeVerb::List),
        ["node", "revoke", name] => Command::Node(NodeVerb::Revoke((*name).to_owned())),
        ["node", "readmit", name] => Command::Node(NodeVerb::Readmit((*name).to_owned())),
        ["snapshot", "save", file] => Command::Snapshot(SnapshotVerb::Save(file.into())),
        ["snapshot", "inspect", file] => Command::Snapshot(SnapshotVerb::Inspect(file.into())),
        ["snapshot", "restore", file] => Command::Snapshot(SnapshotVerb::Restore(file.into())),
        ["snapshot", "list"] => Command::Snapshot(SnapshotVerb::List),
        ["snapshot", "fetch", name, file] => {
            Command::Snapshot(SnapshotVerb::Fetch { name: (*name).to_owned(), file: file.into() })
        }
        ["store", "rotate"] => Command::Store(StoreVerb::Rotate),
        ["image", "import", path] => Command::Image(ImageVerb::Import { path: path.into(), name: None }),
        ["image", "import", path, name] => {
            Command::Image(ImageVerb::Import { path: path.into(), name: Some((*name).to_owned()) })
        }
        ["image", "list"] => Command::Image(ImageVerb::List),
        ["image", "customise", image] => Command::Image(ImageVerb::Customise(image.into())),
        ["image", "flash", image, device] => {
            Command::Image(ImageVerb::Flash { image: image.into(), device: device.into() })
        }
        ["image", "rm", name] => Command::Image(ImageVerb::Remove((*name).to_owned())),
        ["store", "migrate"] => Command::Store(StoreVerb::Migrate { to_etcd: migration(ends)? }),
        ["store", "salvage", to] => Command::Store(StoreVerb::Salvage(to.into())),
        ["logs"] => Command::Logs(None),
        ["logs", target] => Command::Logs(Some((*target).to_owned())),
        ["slot", "status"] => Command::Slot(SlotVerb::Status),
        ["slot", "install", file] => Command::Slot(SlotVerb::Install(file.into())),
        ["slot", "confirm"] => Command::Slot(SlotVerb::Confirm),
        ["apply", path] => Command::Apply(path.into()),
        ["init"] => Command::Init,
        ["reboot"] => Command::Reboot { off: false },
        ["poweroff"] => Command::Reboot { off: true },
        other => return Err(format!("`bramble {}` is no command; `bramble --help` lists them", other.join(" ")).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Command, Options), lexopt::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn up_takes_its_directories() {
        let (command, options) = parsed("up --demo --data-dir /a --run-dir=/b --listen 127.0.0.1:7443").unwrap();
        assert_eq!(command, Command::Up);
        assert!(options.demo);
        assert_eq!(options.data_dir, PathBuf::from("/a"));
        assert_eq!(options.run_dir, PathBuf::from("/b"));
        assert_eq!(options.listen, ["127.0.0.1:7443"]);
    }

    #[test]
    fn etcd_servers_are_a_list() {
        let (_, options) = parsed("controller --etcd-servers https://a:2379,https://b:2379 --etcd-prefix /x").unwrap();
        assert_eq!(options.etcd.servers, ["https://a:2379", "https://b:2379"]);
        assert_eq!(options.etcd.prefix, "/x");
    }

    #[test]
    fn a_wrong_word_is_named_in_the_error() {
        assert!(parsed("image eat x").unwrap_err().to_string().contains("image eat x"));
        assert!(parsed("up --colour red").unwrap_err().to_string().contains("--colour"));
    }

    #[test]
    fn a_store_is_salvaged_into_a_file() {
        let (command, _) = parsed("store salvage /tmp/new.redb --data-dir /a").unwrap();
        assert_eq!(command, Command::Store(StoreVerb::Salvage("/tmp/new.redb".into())));
        assert!(parsed("store salvage").is_err());
    }

    #[test]
    fn a_store_goes_into_etcd_and_back() {
        let (command, _) = parsed("store migrate --from file --to etcd").unwrap();
        assert_eq!(command, Command::Store(StoreVerb::Migrate { to_etcd: true }));
        assert!(parsed("store migrate --from etcd --to etcd").is_err());
    }

    #[test]
    fn an_image_may_be_renamed_on_import() {
        let (command, _) = parsed("image import x.tar local/x:1").unwrap();
        assert_eq!(command, Command::Image(ImageVerb::Import { path: "x.tar".into(), name: Some("local/x:1".into()) }));
    }
}
