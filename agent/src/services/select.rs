//! Pure: which endpoints take a service port's traffic (KEP-1669 for the terminating ones, KEP-2433 for hints).

use super::index::{Endpoint, Service, ServicePort, Snapshot};
use core::net::SocketAddr;

/// The endpoints of one port in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// For traffic that may go to any board.
    pub(crate) cluster: Vec<SocketAddr>,
    /// For traffic that must stay on this board.
    pub(crate) local: Vec<SocketAddr>,
    /// The pods of this board among both: they may reach themselves through the service.
    pub(crate) own: Vec<SocketAddr>,
}

/// `zone` is this board's; empty where it has none.
pub(crate) fn choose(snapshot: &Snapshot, port: &ServicePort, ipv4: bool, zone: &str) -> Chosen {
    let mut all: Vec<(SocketAddr, &Endpoint)> = Vec::new();
    for slice in &snapshot.slices {
        let Some((_, _, target)) = slice.ports.iter().find(|at| at.0 == port.name && at.1 == port.protocol) else {
            continue;
        };
        let of_family = slice.endpoints.iter().filter(|endpoint| endpoint.ip.is_ipv4() == ipv4);
        all.extend(of_family.map(|endpoint| (SocketAddr::new(endpoint.ip, *target), endpoint)));
    }
    all.sort_by_key(|(address, _)| *address);
    all.dedup_by_key(|(address, _)| *address);
    let local: Vec<_> = all.iter().filter(|(_, endpoint)| endpoint.local).copied().collect();
    let chosen = Chosen {
        cluster: usable(&snapshot.service, &near(&snapshot.service, &all, zone)),
        local: usable(&snapshot.service, &local),
        own: Vec::new(),
    };
    let own = local.iter().map(|(address, _)| *address);
    let own = own.filter(|address| chosen.cluster.contains(address) || chosen.local.contains(address)).collect();
    Chosen { own, ..chosen }
}

/// The ready ones; when there is none, those that still serve although they terminate.
fn usable(service: &Service, endpoints: &[(SocketAddr, &Endpoint)]) -> Vec<SocketAddr> {
    let pick = |fit: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        endpoints.iter().filter(|(_, endpoint)| fit(endpoint)).map(|(address, _)| *address).collect()
    };
    let ready = pick(&|endpoint| endpoint.ready || service.publish_not_ready);
    if ready.is_empty() { pick(&|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

/// Those that hints give to this board, else those of its zone: if every ready endpoint has such a hint and one of them is
/// for us.
fn near<'a>(service: &Service, all: &[(SocketAddr, &'a Endpoint)], zone: &str) -> Vec<(SocketAddr, &'a Endpoint)> {
    let ready: Vec<_> =
        all.iter().filter(|(_, endpoint)| endpoint.ready || service.publish_not_ready).copied().collect();
    let for_zone = |endpoint: &Endpoint| {
        (!endpoint.zones.is_empty()).then(|| endpoint.zones.iter().any(|hinted| **hinted == *zone))
    };
    let for_node = |endpoint: &Endpoint| endpoint.for_our_node;
    for hint in [&for_node as &dyn Fn(&Endpoint) -> Option<bool>, &for_zone] {
        let ours: Vec<_> = ready.iter().filter(|(_, endpoint)| hint(endpoint) == Some(true)).copied().collect();
        if !ours.is_empty() && ready.iter().all(|(_, endpoint)| hint(endpoint).is_some()) {
            return ours;
        }
    }
    all.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::index::Slice;
    use std::sync::Arc;

    fn endpoint(last: u8, state: &str) -> Endpoint {
        Endpoint {
            ip: [10, 42, 0, last].into(),
            hostname: None,
            ready: state.contains('r'),
            serving: state.contains('s'),
            terminating: state.contains('t'),
            local: state.contains('l'),
            zones: [('z', "here"), ('o', "there")]
                .iter()
                .filter(|(at, _)| state.contains(*at))
                .map(|(_, zone)| (*zone).into())
                .collect(),
            for_our_node: state.contains('n').then_some(true).or(state.contains('m').then_some(false)),
        }
    }

    fn chosen(states: &[&str], publish_not_ready: bool) -> (Vec<u8>, Vec<u8>) {
        let endpoints = states.iter().zip(1..).map(|(state, last)| endpoint(last, state)).collect();
        let slice = Slice { service: None, ports: vec![("".into(), 6, 80)], endpoints };
        let service = Arc::new(Service { publish_not_ready, ..Service::default() });
        let snapshot = Snapshot { service, slices: vec![Arc::new(slice.clone()), Arc::new(slice)] };
        let port = ServicePort { name: "".into(), protocol: 6, port: 80, node_port: 0 };
        let chosen = choose(&snapshot, &port, true, "here");
        let last = |list: Vec<SocketAddr>| list.iter().map(|at| at.to_string().as_bytes()[8] - b'0').collect();
        (last(chosen.cluster), last(chosen.local))
    }

    #[test]
    fn the_table() {
        for (states, publish, cluster, local) in [
            (&["rs", "rsl", ""][..], false, &[1, 2][..], &[2][..]),
            (&["", ""], false, &[], &[]),
            (&["", ""], true, &[1, 2], &[]),
            (&["st", "t", ""], false, &[1], &[]),
            (&["rs", "stl"], false, &[1], &[2]),
            (&["rsz", "rso"], false, &[1], &[]),
            (&["rsz", "rs"], false, &[1, 2], &[]),
            (&["rso", "rso"], false, &[1, 2], &[]),
            (&["rsn", "rsm"], false, &[1], &[]),
            (&["rsmz", "rsmo"], false, &[1], &[]),
            (&["rsn", "rs"], false, &[1, 2], &[]),
        ] {
            assert_eq!(chosen(states, publish), (cluster.to_vec(), local.to_vec()), "{states:?}");
        }
    }
}
