//! Shell: connects pods by CNI plugins and takes them off again; the pod network's door where `--cni-conf-dir` is given.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::inotify;
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::configuration::{self, Command, Configuration, INTERFACE};
use super::record::{Attachment, records};
use super::{execute, result};
use crate::instance::Instance;
use crate::platform::pollable;
use crate::pods::{NetworkError, Pending, PodNetRequest, PodNetwork};
use crate::records::{FileError, Records, file};
use crate::services::{self, Policies, Proxy};

/// More files than anybody keeps networks in.
const FILES_MAX: usize = 64;
/// A folder that went and cannot be made again is looked for after so long.
const RETRY: Duration = Duration::from_secs(5);
/// Upstream's words for a folder without a network.
const NOT_INITIALIZED: &str = "cni plugin not initialized";

/// Why plugins did not do what they were asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no network in the folder.
    #[error("{NOT_INITIALIZED}")]
    NotInitialized,
    /// In upstream's words, with the plugin's own.
    #[error("plugin type={kind:?} failed ({command}): {message}")]
    Plugin {
        /// Which program.
        kind: String,
        /// `add`, `check` or `del`.
        command: String,
        /// What it said.
        message: String,
    },
    /// All plugins went well, and the pod has no address.
    #[error("the result of the CNI plugins gives {INTERFACE} no address")]
    NoAddress,
    /// A configuration that was good when the pod was attached.
    #[error("the record of sandbox {0} holds no network: {1}")]
    Record(String, String),
    /// A folder or file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The services' table refused the pod's policies or ports.
    #[error(transparent)]
    Table(#[from] services::Error),
}

/// Where plugins and their configuration are.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose pods these are.
    pub instance: Instance,
    /// The folder whose first file is the network.
    pub conf_dir: PathBuf,
    /// Where the plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
}

/// The pod network by plugins; clones share it.
#[derive(Clone)]
pub struct Plugins(Arc<Inner>);

struct Inner {
    options: Options,
    proxy: Proxy,
    policies: Policies,
    records: Records<Attachment>,
    /// Those that this run knows to stand, so that CHECK is asked once after a start.
    checked: Mutex<BTreeSet<String>>,
    initialized: watch::Sender<bool>,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Plugins").field(&self.0.options.conf_dir).finish()
    }
}

impl Plugins {
    /// Makes the folder of configurations where there is none, for whoever comes later to put one in.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(options: Options, proxy: Proxy, policies: Policies) -> Result<Self, Error> {
        let folder = &options.conf_dir;
        let what = format!("cannot make {}; name another folder by --cni-conf-dir", folder.display());
        std::fs::create_dir_all(folder).map_err(file(what))?;
        let records = records(&options.instance.data_dir);
        let (checked, initialized) = (Mutex::default(), watch::Sender::new(false));
        let plugins = Self(Arc::new(Inner { options, proxy, policies, records, checked, initialized }));
        plugins.look();
        Ok(plugins)
    }

    /// Why no pod can be connected now, in upstream's words for a Node's `Ready` condition.
    #[must_use]
    pub fn not_ready(&self) -> Option<&'static str> {
        (!*self.0.initialized.borrow()).then_some(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
             message:Network plugin returns error: cni plugin not initialized",
        )
    }

    /// Changes when [`Plugins::not_ready`] may.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.0.initialized.subscribe()
    }

    /// Follows the folder for ever.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.follow().await {
                let folder = self.0.options.conf_dir.display();
                tracing::warn!(%error, %folder, "the folder of CNI configurations is not followed");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Until the folder is gone.
    async fn follow(&self) -> io::Result<()> {
        let folder = &self.0.options.conf_dir;
        std::fs::create_dir_all(folder)?;
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let events = inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&fd, folder, events)?;
        let fd: AsyncFd<OwnedFd> = pollable(fd, tokio::io::Interest::READABLE)?;
        loop {
            self.look();
            if !folder.is_dir() {
                return Ok(());
            }
            let mut ready = fd.readable().await?;
            let mut events = [0; 4096];
            while rustix::io::read(fd.get_ref(), &mut events).is_ok_and(|count| count > 0) {}
            ready.clear_ready();
        }
    }

    fn look(&self) {
        let (found, wrong) = configuration::choose(files(&self.0.options.conf_dir));
        wrong.iter().for_each(|message| tracing::warn!(message, "a CNI configuration is not used"));
        self.0.initialized.send_if_modified(|known| std::mem::replace(known, found.is_some()) != found.is_some());
    }

    async fn connect(&self, netns: &Path, sandbox_id: &str, pod: &PodNetRequest) -> Result<Vec<IpAddr>, Error> {
        let records = &self.0.records;
        match records.load(sandbox_id) {
            Some(attachment) if attachment.result.is_some() => {
                self.check(sandbox_id, &attachment).await;
                self.open_to_cluster(sandbox_id, pod, &attachment)?;
                return Ok(attachment.ips);
            }
            // An agent died while plugins were at work.
            Some(_) => self.disconnect(sandbox_id).await?,
            None => {}
        }
        let found = configuration::choose(files(&self.0.options.conf_dir)).0.ok_or(Error::NotInitialized)?;
        let mut attachment = Attachment {
            netns: netns.to_owned(),
            folders: self.0.options.bin_dirs.clone(),
            configuration: found,
            arguments: configuration::arguments(sandbox_id, pod),
            runtime: configuration::runtime_config(pod),
            result: None,
            ips: Vec::new(),
        };
        let saved = |attachment: &Attachment| {
            records.save(sandbox_id, attachment).map_err(file(format!("the record of sandbox {sandbox_id}")))
        };
        saved(&attachment)?;
        let connected = async {
            let answer = ask(sandbox_id, &attachment, Command::Add).await?.ok_or(Error::NoAddress)?;
            attachment.ips = result::addresses(&answer, INTERFACE);
            attachment.result = Some(answer);
            if attachment.ips.is_empty() {
                return Err(Error::NoAddress);
            }
            saved(&attachment)?;
            self.open_to_cluster(sandbox_id, pod, &attachment)
        };
        match connected.await {
            Ok(()) => {
                self.checked().insert(sandbox_id.to_owned());
                Ok(attachment.ips)
            }
            Err(error) => {
                if let Err(left) = self.disconnect(sandbox_id).await {
                    tracing::warn!(sandbox_id, error = %services::chain(&left), "a failed attachment is not cleaned up");
                }
                Err(error)
            }
        }
    }

    /// Policies hold, and host ports that no plugin leads lead into the pod. Nothing runs in the pod before this.
    fn open_to_cluster(&self, sandbox_id: &str, pod: &PodNetRequest, attachment: &Attachment) -> Result<(), Error> {
        self.0.policies.connect(sandbox_id, pod, &attachment.ips)?;
        if !pod.host_ports.is_empty() && !network(sandbox_id, attachment)?.maps_ports() {
            self.0.proxy.set_host_ports(sandbox_id, &attachment.ips, &pod.host_ports);
            self.0.proxy.sync()?;
        }
        Ok(())
    }

    /// After a start of the agent. A pod that lives keeps what it has, but whoever looks for the reason finds it told.
    async fn check(&self, sandbox_id: &str, attachment: &Attachment) {
        if self.checked().insert(sandbox_id.to_owned())
            && let Err(error) = ask(sandbox_id, attachment, Command::Check).await
        {
            tracing::warn!(sandbox_id, error = %services::chain(&error), "the network of a pod is not as it was");
        }
    }

    async fn disconnect(&self, sandbox_id: &str) -> Result<(), Error> {
        self.0.policies.disconnect(sandbox_id);
        self.0.proxy.set_host_ports(sandbox_id, &[], &[]);
        self.checked().remove(sandbox_id);
        delete(&self.0.records, sandbox_id).await
    }

    fn checked(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn network(sandbox_id: &str, attachment: &Attachment) -> Result<Configuration, Error> {
    Configuration::parse(&attachment.configuration).map_err(|message| Error::Record(sandbox_id.to_owned(), message))
}

/// Asks one plugin after the other, and answers the last result of an ADD. A DEL goes on to the end, whatever fails.
async fn ask(sandbox_id: &str, attachment: &Attachment, command: Command) -> Result<Option<Value>, Error> {
    let network = network(sandbox_id, attachment)?;
    let programs = network.programs();
    // Of a namespace that went with a reboot only what is outside of it is left to be removed.
    let netns = if attachment.netns.exists() { attachment.netns.to_string_lossy() } else { "".into() };
    let folders = attachment.folders.iter().map(|folder| folder.to_string_lossy()).collect::<Vec<_>>().join(":");
    let variables = [
        ("CNI_COMMAND", command.word().to_owned()),
        ("CNI_CONTAINERID", sandbox_id.to_owned()),
        ("CNI_NETNS", netns.into_owned()),
        ("CNI_IFNAME", INTERFACE.to_owned()),
        ("CNI_ARGS", attachment.arguments.clone()),
        ("CNI_PATH", folders),
    ];
    let mut previous = attachment.result.clone();
    let mut first = Ok(());
    for place in network.order(command) {
        let kind = programs[place];
        let failed = |message| Error::Plugin { kind: kind.to_owned(), command: command.word().to_lowercase(), message };
        let input = network.input(place, command, &attachment.runtime, previous.as_ref()).to_string();
        let answered = match execute::find(kind, &attachment.folders) {
            Ok(program) => execute::run(&program, &variables, input.as_bytes()).await,
            // ADD ended at the latest where one is missing, so that one has nothing to take back.
            Err(_) if command == Command::Delete && attachment.result.is_none() => continue,
            Err(message) => Err(message),
        };
        let parsed = answered.and_then(|stdout| {
            let added = command == Command::Add;
            added.then(|| result::parse(&stdout, previous.as_ref(), network.version())).transpose()
        });
        match parsed {
            Ok(Some(result)) => previous = Some(result),
            Ok(None) => {}
            Err(message) if command == Command::Delete => first = first.and(Err(failed(message))),
            Err(message) => return Err(failed(message)),
        }
    }
    first.map(|()| previous)
}

/// Takes away what a record tells of, and then the record, which stays for the next try otherwise.
async fn delete(records: &Records<Attachment>, sandbox_id: &str) -> Result<(), Error> {
    if let Some(attachment) = records.load(sandbox_id) {
        ask(sandbox_id, &attachment, Command::Delete).await?;
    }
    Ok(records.remove(sandbox_id).map_err(file(format!("the record of sandbox {sandbox_id}")))?)
}

/// Takes away what plugins made for pods of this instance: when it goes, and when it is told to have a network of its own
/// again. All of it is tried, the first error returned.
///
/// # Errors
/// The first [`Error`].
pub async fn down(instance: &Instance) -> Result<(), Error> {
    let records = records(&instance.data_dir);
    let mut first = Ok(());
    for sandbox_id in records.sandboxes() {
        first = first.and(delete(&records, &sandbox_id).await);
    }
    first
}

/// The files of a folder as far as they are worth reading.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    use std::io::Read;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let read = |path: PathBuf| {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&path).ok()?;
        file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        file.take(configuration::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        Some((path.file_name()?.to_str()?.to_owned(), bytes))
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().take(FILES_MAX).filter_map(read).collect()
}

impl PodNetwork for Plugins {
    fn attach<'a>(
        &'a self,
        netns_path: &'a Path,
        sandbox_id: &'a str,
        request: &'a PodNetRequest,
    ) -> Pending<'a, Result<Vec<IpAddr>, NetworkError>> {
        Box::pin(async move {
            self.0.policies.soon_known(&request.name).await;
            self.connect(netns_path, sandbox_id, request).await.map_err(told)
        })
    }

    fn detach<'a>(&'a self, sandbox_id: &'a str) -> Pending<'a, Result<(), NetworkError>> {
        Box::pin(async move { self.disconnect(sandbox_id).await.map_err(told) })
    }

    fn attached(&self) -> Vec<String> {
        self.0.records.sandboxes()
    }
}

fn told(error: Error) -> NetworkError {
    match error {
        Error::NotInitialized => NetworkError::NotReady(error.to_string()),
        other => NetworkError::Failed(services::chain(&other)),
    }
}
