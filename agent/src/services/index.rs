//! Pure: Services and EndpointSlices of the whole cluster, kept compactly: what routing and names need, no more.

use super::health::Healths;
use super::parse;
use crate::network::Cidr;
use core::net::IpAddr;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A service's namespace and name as `namespace/name`.
pub(crate) type Key = Arc<str>;

/// Addresses of the site's load balancer, with the service (`namespace/name`) and its uid.
pub type Announced = BTreeMap<IpAddr, (Arc<str>, Arc<str>)>;

/// One service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Its virtual addresses; none when it is headless or an alias.
    pub cluster_ips: Vec<IpAddr>,
    /// Names lead to the endpoints themselves.
    pub headless: bool,
    /// The name that an ExternalName service stands for.
    pub external_name: Option<Box<str>>,
    /// External IPs that the user lists.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of the load balancer, from its status.
    pub ingress_ips: Vec<IpAddr>,
    /// The Service's uid, where boards announce the load balancer's addresses.
    pub announced: Option<Arc<str>>,
    /// Who may use the load balancer's addresses; none is everybody.
    pub source_ranges: Vec<Cidr>,
    /// In the order of the manifest.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP` with its seconds.
    pub affinity_s: Option<u32>,
    /// `externalTrafficPolicy: Local`
    pub external_local: bool,
    /// `healthCheckNodePort`; 0 is none.
    pub health_port: u16,
    /// `internalTrafficPolicy: Local`
    pub internal_local: bool,
    /// Endpoints count before they are ready.
    pub publish_not_ready: bool,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when the service has only one.
    pub name: Box<str>,
    /// IANA's number: 6, 17 or 132.
    pub protocol: u8,
    /// On the service's address.
    pub port: u16,
    /// On every board; 0 is none.
    pub node_port: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Of the slice's family.
    pub ip: IpAddr,
    /// The name that a headless service gives it.
    pub hostname: Option<Box<str>>,
    /// Takes new connections.
    pub ready: bool,
    /// Works, though it may be on its way out.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// Lives on this board.
    pub local: bool,
    /// The zones that a hint gives it to; none without a hint.
    pub zones: Box<[Box<str>]>,
    /// A hint gives it to this board, or to others; none without a hint.
    pub for_our_node: Option<bool>,
}

/// Name, protocol (IANA's number) and port of a slice.
pub type SlicePort = (Box<str>, u8, u16);

/// One EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The service it belongs to.
    pub(crate) service: Option<Key>,
    /// Name, protocol, port.
    pub(crate) ports: Vec<SlicePort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A service with what stands behind it; cheap to clone and to compare.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) service: Arc<Service>,
    pub(crate) slices: Vec<Arc<Slice>>,
}

/// The collections that make the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collection {
    Services,
    Slices,
}

/// The index; a synchronous reducer.
#[derive(Debug, Default)]
pub struct Index {
    node_name: String,
    services: BTreeMap<Key, Arc<Service>>,
    slices: BTreeMap<Key, Arc<Slice>>,
    /// Service to the names of its slices.
    behind: BTreeMap<Key, BTreeSet<Key>>,
    /// Cluster addresses and endpoint addresses are found back for PTR through these.
    by_ip: BTreeMap<IpAddr, Key>,
    changed: BTreeSet<Key>,
    /// What a list that is running has named so far.
    listing: [Option<BTreeSet<Key>>; 2],
    /// Which lists have been read to their end once.
    listed: [bool; 2],
}

impl Index {
    /// An index on the board with this name.
    #[must_use]
    pub fn new(node_name: &str) -> Self {
        Self { node_name: node_name.to_owned(), ..Self::default() }
    }

    /// A service by namespace and name.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(format!("{namespace}/{name}").as_str()).map(Arc::as_ref)
    }

    /// Whether both lists have been read once: what is not there then does not exist.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed == [true; 2]
    }

    /// Whether any service lives in the namespace.
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let prefix = format!("{namespace}/");
        self.services.range(Key::from(prefix.as_str())..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    /// The service that has this cluster address.
    #[must_use]
    pub fn by_cluster_ip(&self, ip: IpAddr) -> Option<&str> {
        self.by_ip.get(&ip).map(AsRef::as_ref)
    }

    /// Every endpoint of a service with the ports of its slice.
    pub fn endpoints(&self, namespace: &str, name: &str) -> impl Iterator<Item = (&Endpoint, &[SlicePort])> {
        let names = self.behind.get(format!("{namespace}/{name}").as_str());
        let slices = names.into_iter().flatten().filter_map(|slice| self.slices.get(slice));
        slices.flat_map(|slice| slice.endpoints.iter().map(|endpoint| (endpoint, slice.ports.as_slice())))
    }

    /// The headless service that names this endpoint, with the endpoint's hostname.
    #[must_use]
    pub fn named_endpoint(&self, ip: IpAddr) -> Option<(&str, &str)> {
        self.slices.values().find_map(|slice| {
            let service = slice.service.as_ref()?;
            let endpoint = slice.endpoints.iter().find(|endpoint| endpoint.ip == ip)?;
            let hostname = endpoint.hostname.as_deref()?;
            self.services.get(service).filter(|service| service.headless).map(|_| (service.as_ref(), hostname))
        })
    }

    /// What routing needs of a service; none when it is gone.
    pub(crate) fn snapshot(&self, key: &str) -> Option<Snapshot> {
        let service = self.services.get(key)?.clone();
        let names = self.behind.get(key).into_iter().flatten();
        Some(Snapshot { service, slices: names.filter_map(|name| self.slices.get(name).cloned()).collect() })
    }

    fn local_endpoints(&self, key: &Key, service: &Service) -> usize {
        let names = self.behind.get(key).into_iter().flatten().filter_map(|name| self.slices.get(name));
        let fits = |endpoint: &&Endpoint| endpoint.local && (endpoint.ready || service.publish_not_ready);
        let ips: BTreeSet<IpAddr> = names.flat_map(|slice| &slice.endpoints).filter(fits).map(|one| one.ip).collect();
        ips.len()
    }

    /// Where load balancers ask, for which service, and how many of its endpoints are here.
    pub(crate) fn healths(&self) -> Healths {
        let asked = self.services.iter().filter(|(_, service)| service.health_port != 0);
        asked.map(|(key, service)| (service.health_port, (key.clone(), self.local_endpoints(key, service)))).collect()
    }

    /// The addresses that this board may announce.
    pub(crate) fn announced(&self) -> Announced {
        let wanted =
            self.services.iter().filter_map(|(key, service)| Some((key, service, service.announced.as_ref()?)));
        let serves = |key: &Key, service: &Service| !service.external_local || self.local_endpoints(key, service) > 0;
        let mine = wanted.filter(|(key, service, _)| serves(key, service));
        let addresses = mine.flat_map(|(key, service, uid)| service.ingress_ips.iter().map(move |ip| (*ip, key, uid)));
        addresses.map(|(ip, key, uid)| (ip, (key.clone(), uid.clone()))).collect()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// The services that changed since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.changed)
    }

    /// A list begins: what it does not name is gone at its end.
    pub(crate) fn list_begins(&mut self, of: Collection) {
        self.listing[of as usize] = Some(BTreeSet::new());
    }

    /// A list is complete.
    pub(crate) fn list_ends(&mut self, of: Collection) {
        self.listed[of as usize] = true;
        let Some(seen) = self.listing[of as usize].take() else { return };
        let known: Vec<Key> = match of {
            Collection::Services => self.services.keys().filter(|key| !seen.contains(*key)).cloned().collect(),
            Collection::Slices => self.slices.keys().filter(|key| !seen.contains(*key)).cloned().collect(),
        };
        for key in known {
            self.forget(of, &key);
        }
    }

    /// An object is new or changed.
    pub(crate) fn apply(&mut self, of: Collection, object: &Value) {
        let Some(key) = parse::key(object) else { return };
        if let Some(seen) = &mut self.listing[of as usize] {
            seen.insert(key.clone());
        }
        match of {
            Collection::Services => self.put_service(key, parse::service(object)),
            Collection::Slices => match parse::slice(object, &self.node_name) {
                Some(slice) => self.put_slice(key, slice),
                None => self.forget(of, &key),
            },
        }
    }

    /// An object is gone.
    pub(crate) fn delete(&mut self, of: Collection, object: &Value) {
        if let Some(key) = parse::key(object) {
            self.forget(of, &key);
        }
    }

    fn put_service(&mut self, key: Key, service: Service) {
        if self.services.get(&key).is_some_and(|old| **old == service) {
            return;
        }
        self.forget(Collection::Services, &key);
        for ip in &service.cluster_ips {
            self.by_ip.insert(*ip, key.clone());
        }
        self.services.insert(key.clone(), Arc::new(service));
        self.changed.insert(key);
    }

    fn put_slice(&mut self, key: Key, slice: Slice) {
        if self.slices.get(&key).is_some_and(|old| **old == slice) {
            return;
        }
        self.forget(Collection::Slices, &key);
        if let Some(service) = &slice.service {
            self.behind.entry(service.clone()).or_default().insert(key.clone());
            self.changed.insert(service.clone());
        }
        self.slices.insert(key, Arc::new(slice));
    }

    fn forget(&mut self, of: Collection, key: &Key) {
        match of {
            Collection::Services => {
                let Some(old) = self.services.remove(key) else { return };
                for ip in &old.cluster_ips {
                    if self.by_ip.get(ip) == Some(key) {
                        self.by_ip.remove(ip);
                    }
                }
                self.changed.insert(key.clone());
            }
            Collection::Slices => {
                let Some(service) = self.slices.remove(key).and_then(|old| old.service.clone()) else { return };
                if let Some(names) = self.behind.get_mut(&service) {
                    names.remove(key);
                    if names.is_empty() {
                        self.behind.remove(&service);
                    }
                }
                self.changed.insert(service);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(name: &str, ip: &str) -> Value {
        json!({"metadata": {"namespace": "d", "name": name}, "spec": {"clusterIP": ip, "clusterIPs": [ip],
            "ports": [{"port": 80, "protocol": "TCP"}]}})
    }

    fn slice(name: &str, of: &str, ip: &str) -> Value {
        json!({"metadata": {"namespace": "d", "name": name, "labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}, "nodeName": "n1"}]})
    }

    #[test]
    fn only_what_changes_is_named() {
        let mut index = Index::new("n1");
        index.apply(Collection::Services, &service("web", "10.43.0.7"));
        index.apply(Collection::Slices, &slice("web-1", "web", "10.42.0.5"));
        assert_eq!(index.take_changed().into_iter().collect::<Vec<_>>(), ["d/web".into()]);
        index.apply(Collection::Services, &service("web", "10.43.0.7"));
        index.apply(Collection::Slices, &slice("web-1", "web", "10.42.0.5"));
        assert!(index.take_changed().is_empty());
        assert_eq!(index.by_cluster_ip("10.43.0.7".parse().unwrap()), Some("d/web"));
        assert!(index.endpoints("d", "web").next().unwrap().0.local);
    }

    #[test]
    fn a_new_list_forgets_what_it_does_not_name() {
        let mut index = Index::new("n1");
        for (name, ip) in [("a", "10.43.0.1"), ("b", "10.43.0.2")] {
            index.apply(Collection::Services, &service(name, ip));
            index.apply(Collection::Slices, &slice(&format!("{name}-1"), name, "10.42.0.5"));
        }
        index.take_changed();
        for of in [Collection::Services, Collection::Slices] {
            index.list_begins(of);
        }
        index.apply(Collection::Services, &service("a", "10.43.0.1"));
        index.apply(Collection::Slices, &slice("a-1", "a", "10.42.0.5"));
        for of in [Collection::Services, Collection::Slices] {
            index.list_ends(of);
        }
        assert_eq!(index.take_changed().into_iter().collect::<Vec<_>>(), ["d/b".into()]);
        assert!(index.snapshot("d/b").is_none() && index.by_cluster_ip("10.43.0.2".parse().unwrap()).is_none());
    }

    #[test]
    fn a_slice_may_move_to_another_service() {
        let mut index = Index::new("n2");
        index.apply(Collection::Slices, &slice("s", "a", "10.42.0.5"));
        index.apply(Collection::Slices, &slice("s", "b", "10.42.0.5"));
        assert_eq!(index.endpoints("d", "a").count(), 0);
        assert_eq!(index.endpoints("d", "b").count(), 1);
        assert!(!index.endpoints("d", "b").next().unwrap().0.local);
    }
}
