//! Pure: the map of the pod machine: desired pods and observed containers to actions, and the doors through which
//! its shell carries them out.
//!
//! One task a pod applies what [`plan`](crate::pods) decides. The doors to the outside are traits with a fake each:
//! [`PodNetwork`] (addresses), [`Images`] (bytes of images), [`ContainerRuntime`] (sandboxes and containers).
//! Whoever serves logs, exec or statistics finds containers through a [`Table`].

mod backoff;
mod board;
mod config;
mod dispatch;
mod doors;
pub(crate) mod env;
mod events;
#[cfg(test)]
pub(crate) mod fixtures;
mod hosts;
mod plan;
mod post;
pub(crate) mod quantity;
pub(crate) mod references;
mod resources;
mod rotation;
mod runtime;
pub(crate) mod spec;
mod state;
mod status;
mod table;
pub mod time;
mod worker;

pub use board::BoardOptions;
pub use dispatch::run;
pub use doors::{
    Credential, HostPort, ImageConfig, ImageRef, ImageRequest, Images, NamedPort, NetworkError, NodeImage, Pending,
    PodNetRequest, PodNetwork, Protocol, PullError, PullPolicy,
};
pub(crate) use events::Recorder;
pub use runtime::{BoardRuntime, ContainerRuntime, ExecOutcome};
pub use table::{ContainerEntry, ContainerInstance, ContainerKind, InstanceState, LookupError, PodEntry, Table};

#[cfg(test)]
pub(crate) use doors::fakes;
