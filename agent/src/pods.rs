//! Pure: the map of the pod machine: desired pods and observed containers to actions, and the doors through which
//! its shell carries them out.
//!
//! One task a pod applies what [`plan`](crate::pods) decides. The doors to the outside are traits with a fake each:
//! [`PodNetwork`] (addresses), [`Images`] (bytes of images), [`ContainerRuntime`] (sandboxes and containers).
//! Whoever serves logs, exec or statistics finds containers through a [`Table`].

mod doors;
mod table;
pub(crate) mod time;

pub use doors::{
    Credential, HostPort, ImageConfig, ImageRef, ImageRequest, Images, NetworkError, NodeImage, Pending, PodNetRequest,
    PodNetwork, Protocol, PullError, PullPolicy,
};
pub use table::{ContainerEntry, ContainerInstance, ContainerKind, InstanceState, LookupError, PodEntry, Table};

#[cfg(test)]
pub(crate) use doors::fakes;
