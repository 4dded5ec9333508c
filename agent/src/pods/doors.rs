//! Pure: the doors of the pod machine as traits, and the data that passes them.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;

/// What a door answers later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Gives a pod's network namespace its addresses and takes them away again.
///
/// Not called for pods of the host's network.
pub trait PodNetwork: Send + Sync {
    /// Connects the namespace at `netns_path` and answers the pod's addresses, the primary one first.
    ///
    /// Called again after a restart of the agent for a sandbox that lives: it must then answer the same addresses and
    /// repair what is missing (idempotent by `sandbox_id`).
    fn attach<'a>(
        &'a self,
        netns_path: &'a Path,
        sandbox_id: &'a str,
        request: &'a PodNetRequest,
    ) -> Pending<'a, Result<Vec<IpAddr>, NetworkError>>;

    /// Frees the addresses and whatever else stands on the host; a sandbox that is unknown is no error.
    fn detach<'a>(&'a self, sandbox_id: &'a str) -> Pending<'a, Result<(), NetworkError>>;

    /// The sandboxes that hold addresses. A crash may have come between a sandbox's end and its detachment.
    fn attached(&self) -> Vec<String>;
}

/// What the pod network is told about a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNetRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's labels, which policies select it by.
    pub labels: BTreeMap<String, String>,
    /// The addresses that it had before, which it keeps if they are free.
    pub former_ips: Vec<IpAddr>,
    /// Its ports that have names.
    pub ports: Vec<NamedPort>,
    /// Ports of the host that lead into this pod.
    pub host_ports: Vec<HostPort>,
    /// `kubernetes.io/ingress-bandwidth` in bits a second.
    pub ingress_bits_per_second: Option<u64>,
    /// `kubernetes.io/egress-bandwidth` in bits a second.
    pub egress_bits_per_second: Option<u64>,
}

/// A port of a container that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// One `hostPort` of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The address of the host on which it listens; none is all of them.
    pub host_ip: Option<IpAddr>,
    /// The port on the host.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// By its name in a manifest; TCP where that says nothing.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "UDP" => Self::Udp,
            "SCTP" => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    /// IANA's number of it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// Why a pod has no network; the text ends in an event `FailedCreatePodSandBox`.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The node has no pod range yet, or it is used up: try again.
    #[error("{0}")]
    NotReady(String),
    /// The kernel or the state refused.
    #[error("{0}")]
    Failed(String),
}

/// Brings images onto the board. One call is one attempt: back-off belongs to the pod machine.
pub trait Images: Send + Sync {
    /// Makes sure that the image is present as the policy wants.
    fn ensure<'a>(&'a self, request: &'a ImageRequest) -> Pending<'a, Result<ImageRef, PullError>>;

    /// The image if it is present; never goes to the network.
    fn status<'a>(&'a self, reference: &'a str) -> Pending<'a, Option<ImageRef>>;

    /// What is present, for the node's status.
    fn list(&self) -> Pending<'_, Vec<NodeImage>>;
}

/// One attempt to bring an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageRequest {
    /// As written in the pod, e.g. `nginx:1.27` or `localhost:5000/app@sha256:...`.
    pub reference: String,
    /// When to go to the registry.
    pub policy: PullPolicy,
    /// From the pod's `imagePullSecrets`, in order; several may match one registry.
    pub credentials: Vec<Credential>,
}

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time (bytes that are present are not fetched again).
    Always,
    /// Only when it is not present.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

/// An entry of a `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// As written: `registry.example:5000`, `https://index.docker.io/v1/`, `*.example.com/team`.
    pub registry: String,
    /// May be empty when only a token is given.
    pub username: String,
    /// The secret half.
    pub password: String,
    /// An identity token for OAuth2 exchange, else empty.
    pub identity_token: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credential").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// An image that is present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageRef {
    /// The digest of the image's configuration, `sha256:...`; names the image to the runtime.
    pub id: String,
    /// `repository@sha256:...` where a registry said so; shown as the container status' `imageID`.
    pub repo_digest: Option<String>,
    /// Bytes, compressed as fetched.
    pub size: u64,
    /// True when this call fetched something from a registry.
    pub pulled: bool,
    /// What the image says about how it is to be run.
    pub config: ImageConfig,
}

/// The part of the OCI image configuration that decides how a container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `ENV`, as `NAME=value`.
    pub env: Vec<String>,
    /// `USER`: `uid`, `uid:gid`, `name` or `name:group`; empty is root.
    pub user: String,
    /// `WORKDIR`; empty is `/`.
    pub working_dir: String,
    /// `STOPSIGNAL`, e.g. `SIGQUIT` or `3`.
    pub stop_signal: Option<String>,
    /// `VOLUME` paths.
    pub volumes: Vec<String>,
}

/// An image in the node's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeImage {
    /// `repository:tag` and `repository@digest`.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
}

/// Why an image is not there; each is a waiting reason of the container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// `ErrImageNeverPull`.
    #[error("Container image \"{0}\" is not present with pull policy of Never")]
    NeverPull(String),
    /// `InvalidImageName`: holds the whole message.
    #[error("{0}")]
    InvalidName(String),
    /// `ErrImagePull`: holds the whole message, e.g. `failed to pull and unpack image "x": not found`.
    #[error("{0}")]
    Failed(String),
    /// `RegistryUnavailable`: nobody answered.
    #[error("{0}")]
    RegistryUnavailable(String),
    /// `SignatureValidationFailed`: the registry's policy refused the image.
    #[error("{0}")]
    SignatureRefused(String),
}

impl PullError {
    /// The container's waiting reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NeverPull(_) => "ErrImageNeverPull",
            Self::InvalidName(_) => "InvalidImageName",
            Self::Failed(_) => "ErrImagePull",
            Self::RegistryUnavailable(_) => "RegistryUnavailable",
            Self::SignatureRefused(_) => "SignatureValidationFailed",
        }
    }
}

#[cfg(test)]
pub(crate) mod fakes {
    //! Doors that remember what they were asked.

    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use super::*;

    /// Hands out 10.42.0.2, .3, ... and remembers who holds what.
    #[derive(Default)]
    pub(crate) struct FakeNetwork {
        pub(crate) attached: Mutex<BTreeMap<String, IpAddr>>,
    }

    impl PodNetwork for FakeNetwork {
        fn attach<'a>(
            &'a self,
            _netns_path: &'a Path,
            sandbox_id: &'a str,
            _request: &'a PodNetRequest,
        ) -> Pending<'a, Result<Vec<IpAddr>, NetworkError>> {
            let mut attached = self.attached.lock().expect("no test panics while it holds this lock");
            let next =
                IpAddr::V4(Ipv4Addr::new(10, 42, 0, u8::try_from(attached.len() + 2).expect("few pods in a test")));
            let address = *attached.entry(sandbox_id.to_owned()).or_insert(next);
            Box::pin(async move { Ok(vec![address]) })
        }

        fn detach<'a>(&'a self, sandbox_id: &'a str) -> Pending<'a, Result<(), NetworkError>> {
            self.attached.lock().expect("no test panics while it holds this lock").remove(sandbox_id);
            Box::pin(async { Ok(()) })
        }

        fn attached(&self) -> Vec<String> {
            self.attached.lock().expect("no test panics while it holds this lock").keys().cloned().collect()
        }
    }

    /// Has the images it was given.
    #[derive(Default)]
    pub(crate) struct FakeImages {
        pub(crate) present: Mutex<BTreeMap<String, ImageRef>>,
    }

    impl FakeImages {
        pub(crate) fn with(reference: &str) -> Self {
            let images = Self::default();
            let image = ImageRef { id: format!("sha256:{reference}"), ..ImageRef::default() };
            images.present.lock().expect("fresh").insert(reference.to_owned(), image);
            images
        }
    }

    impl Images for FakeImages {
        fn ensure<'a>(&'a self, request: &'a ImageRequest) -> Pending<'a, Result<ImageRef, PullError>> {
            let found = self.present.lock().expect("unpoisoned").get(&request.reference).cloned();
            Box::pin(async move { found.ok_or_else(|| PullError::Failed(format!("{}: not found", request.reference))) })
        }

        fn status<'a>(&'a self, reference: &'a str) -> Pending<'a, Option<ImageRef>> {
            let found = self.present.lock().expect("unpoisoned").get(reference).cloned();
            Box::pin(async move { found })
        }

        fn list(&self) -> Pending<'_, Vec<NodeImage>> {
            let present = self.present.lock().expect("unpoisoned");
            let all =
                present.iter().map(|(name, image)| NodeImage { names: vec![name.clone()], size: image.size }).collect();
            Box::pin(async move { all })
        }
    }
}
