//! Images, sandboxes, containers: what a board runs, synchronously, without Kubernetes and without tokio.
//!
//! A pod is a *sandbox*: namespaces held by bind mounts, a cgroup, and one tiny *shim* process. A container is
//! libcontainer's, made by a one-shot *verb* of the same binary; the shim owns its stdio, its log and its exit code.
//!
//! ```text
//!  agent (tokio) --Runtime--> shim (one a pod, poll)  --fork+exec--> verb: container-start | container-exec
//!       ^                        | reaps, logs, stamps                     | libcontainer, single-threaded
//!       '---- Events (inotify) --' <id>.exit by rename                     '--> container's init, child of the shim
//! ```
//!
//! **Architecture invariant:** only `verbs` calls libcontainer, and only in a single-threaded one-shot process.
//! **Architecture invariant:** nothing here knows an API object; the agent translates.

pub mod config;
pub mod error;
pub mod layout;
pub mod runtime;
pub mod session;
pub mod status;

// Images: a name -> a manifest -> layers in their folders -> a container's root.
pub mod archive;
pub mod content;
pub mod image;
pub mod pull;
pub mod reference;
pub mod unpack;

// Containers: the shim and its words, the verbs, and what a specification is made from.
mod cgroup;
mod devices;
mod host;
mod passwd;
mod record;
mod rootfs;
mod shim;
mod spec;
mod verbs;
mod wire;

pub use config::{
    Capabilities, ContainerConfig, DeviceMapping, ExecConfig, IdMap, ImageId, Mount, PodIdentity, Propagation,
    Resources, Rlimit, Rootfs, SandboxConfig, Seccomp, Security, Size,
};
pub use error::Error;
pub use layout::Layout;
pub use runtime::{Events, Runtime, new_id};
pub use session::{ExitStatus, Session};
pub use status::{ContainerState, ContainerStatus, EventKind, RuntimeEvent, SandboxStatus, Stats, SweepReport};
pub use verbs::{SHIM as SHIM_VERB, helper_main};
