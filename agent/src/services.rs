//! Pure: the map of services: what the cluster says, rendered to one nftables table, and the shell that programs it.
//!
//! `index` holds Services and EndpointSlices compactly (the DNS answerer reads the same index); `render` turns one
//! service into a `Unit` of chains, sets and elements; `difference` turns an old and a new unit into one transaction.
//! Everything stands in `table inet bramble-<instance>`; no other table is ever touched.
//!
//! ```text
//!  prerouting, output -> services -> @service-ips  : goto svc/<ns>/<name>/<protocol>/<port>   (one dnat from a map)
//!                                    @node-ports   : goto ext/...                             (masquerade, then svc/)
//!                                    @host-ports-4 : dnat
//!  forward -> policies -> @policy-out-*, @policy-in-* : jump pol-out/<pod>, pol-in/<pod>   (see `policy`)
//!  input, forward, output -> refuse -> @refused-ips : goto refused                            (no endpoints)
//!  postrouting: masquerade what is marked, what comes back to its sender, what leaves the cluster
//! ```

mod atom;
mod conntrack;
mod difference;
mod health;
mod index;
#[cfg(test)]
mod listing;
mod memory;
mod parse;
mod policy;
mod proxy;
mod render;
mod run;
mod select;
mod skeleton;
mod statement;
mod unit;

pub(crate) use health::run as tell_health;
#[cfg(test)]
pub(crate) use index::Collection;
pub use index::{Announced, Endpoint, Index, Service, ServicePort, SlicePort};
pub use policy::Policies;
pub(crate) use policy::run as run_policies;
pub use proxy::{Error, Options, Proxy};
pub(crate) use proxy::{chain, remove_table};
pub use run::run;

#[cfg(test)]
mod tests;

/// Whether this kernel's nf_tables answers.
///
/// # Errors
/// What the kernel said, for a person.
pub fn probe() -> Result<(), String> {
    let generation = crate::netlink::socket::Socket::netfilter().and_then(|socket| socket.generation());
    generation.map(drop).map_err(|error| error.to_string())
}
